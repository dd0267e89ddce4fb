"""User errors and signals end a command with one sentence and without unfinished files."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.user_error import UserError, exits_cleanly, within

ROOT = Path(__file__).resolve().parents[2]


def command(body: str, *arguments: str) -> list[str]:
    code = "from engine.user_error import *\nfrom engine.files import *\nimport os, sys, time\n"
    code += "@exits_cleanly\ndef main():\n" + textwrap.indent(textwrap.dedent(body), "    ") + "\nmain()"
    return [sys.executable, "-c", code, *arguments]


def ran(body: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    options = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, **options}
    return subprocess.run(command(body, *arguments), capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("open('n' * 300)", "the name is too long"),
        ("open('file/inside')", "file/inside: a file is where a folder is expected"),
        ("os.makedirs('file')", "file: a file is where a folder is expected"),
        ("open('.')", ".: a folder is where a file is expected"),
        ("open('nowhere')", "nowhere: there is no such file or folder"),
        ("open('circle')", "circle: symbolic links form a cycle"),
        ("check_writable('file/x.wav')", "file: a file is where a folder is expected"),
        ("check_writable('n' * 300)", "the name is too long"),
        ("open('/dev/full', 'wb', 0).write(b'x')", "the disk is full"),
        ("raise UserError('say what to do')", "error: say what to do"),
    ],
)
def test_operating_system_errors_are_one_sentence(tmp_path, body, words):
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    done = ran(body, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_internal_errors_keep_their_traceback():
    assert "ZeroDivisionError" in ran("1 / 0").stderr


def test_error_without_a_file_is_no_user_error():
    @exits_cleanly
    def main():
        raise OSError(errno.EBADF, "bad file descriptor")

    with pytest.raises(OSError, match="bad file"):
        main()


def test_closed_pipe_exits_quietly():
    running = subprocess.Popen(
        command("for i in range(100_000): print(i)"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    assert running.stderr.read() == b""
    assert running.wait(timeout=60) == 141


def test_unprintable_names_are_escaped():
    done = ran(
        r"print(os.fsdecode(b'caf\xe9'), 'ł')", env={"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    )
    assert done.stdout == "caf\\udce9 \\u0142\n"


@pytest.mark.usefixtures("signals_of_a_terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stopped_command_leaves_no_unfinished_file(tmp_path, number):
    body = """
        with atomic('x.wav') as temporary:
            temporary.write_text('half')
            print('begun', flush=True)
            time.sleep(60)
    """
    running = subprocess.Popen(
        command(body), stdout=subprocess.PIPE, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"begun\n"
    assert list(tmp_path.iterdir()) != []
    running.send_signal(number)
    assert running.wait(timeout=60) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_signal_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    exits_cleanly(lambda: None)()
    assert signal.getsignal(signal.SIGTERM) is before


def test_user_error_exits_with_2(capsys):
    @exits_cleanly
    def main():
        raise UserError("a.wav is missing")

    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, capsys.readouterr().err) == (2, "error: a.wav is missing\n")


@pytest.mark.parametrize(
    ("interval", "value", "refusal"),
    [
        ("[0, 1)", 0, None),
        ("[0, 1)", 1, r"loss_rate=1 must lie in \[0, 1\)"),
        ("(0, 1]", 1, None),
        ("(0, 1]", 0, r"loss_rate=0 must lie in \(0, 1\]"),
        ("(0, inf)", 9, None),
        ("(0, inf)", float("nan"), "loss_rate=nan must be above 0"),
    ],
)
def test_intervals_include_or_exclude_their_ends(interval, value, refusal):
    config = SimpleNamespace(loss_rate=value)
    if refusal is None:
        within(interval, config, "loss_rate")
    else:
        with pytest.raises(UserError, match=refusal):
            within(interval, config, "loss_rate")
