"""The live command on files and on a simulated sound card: results, refusals, signals, keys."""

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
import torch
from played_card import Sound, wait_for
from torch.testing import assert_close

from data.audio import info, load, save
from engine.user_error import UserError
from w2w import Converter
from w2w.convert import main as convert
from w2w.live.__main__ import main
from w2w.live.console import Console, keyboard
from w2w.live.session import Session

ROOT = Path(__file__).resolve().parents[2]
RATE = 16_000


@pytest.fixture
def sound(monkeypatch) -> Sound:
    sound = Sound()
    monkeypatch.setitem(sys.modules, "sounddevice", sound)
    return sound


@pytest.fixture
def here(tmp_path, monkeypatch, buzz, model):
    monkeypatch.chdir(tmp_path)
    for released in ("RELEASED", "RELEASED_LIVE"):
        monkeypatch.setattr(f"w2w.weights.{released}", model)
    save("me.wav", buzz(12_345, f0=(120.0,)), RATE)
    save("her.wav", buzz(9_000, f0=(200.0,)), RATE)
    save("his.wav", buzz(9_000, f0=(100.0,)), RATE)
    return tmp_path


def run(line: str) -> None:
    main(line.split())


def test_missing_devices_or_packages_are_reported_with_a_remedy(here, monkeypatch, sound, refusal):
    sound.devices = []
    assert "no audio device was found: use --input-file" in refusal(main, "--list-devices", alone=False)
    assert "no audio device was found: use --input-file" in refusal(main, "--reference her.wav", alone=False)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert "pip install 'timbre[live]'" in refusal(main, "--reference her.wav", alone=False)


def test_missing_portaudio_is_reported(here, monkeypatch, refusal):
    (here / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    assert "apt install libportaudio2" in refusal(main, "--list-devices", alone=False)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "no target voice is given: use --voice"),
        (f"--reference {'a.wav ' * 10}", "10 voices are given"),
        ("--reference her.wav --input-file me.wav", "--input-file me.wav needs --output-file"),
        ("--reference her.wav --output-file o.wav", "--output-file o.wav needs --input-file"),
        ("--reference her.wav --input-file me.wav --output-file o.wav --input-device 1", "exclude"),
        ("--reference her.wav --pace live", "--pace applies only with --input-file"),
        ("--reference her.wav --chunk-ms 0", "--chunk-ms 0 must be within 1 and 1000"),
        ("--reference her.wav --chunk-ms nan", "--chunk-ms nan must be within"),
        ("--reference her.wav --buffer-ms -1", "--buffer-ms -1 must be within"),
        ("--reference her.wav --pitch nan", "--pitch nan must be within"),
        ("--reference her.wav --rate 4000", "--rate 4000 must be within"),
        ("--reference none.wav --input-file me.wav --output-file o.wav", "none.wav does not exist"),
        ("--reference her.wav --input-file none.wav --output-file o.wav", "none.wav does not exist"),
        (
            "--reference her.wav --input-file me.wav --output-file me.wav",
            "would overwrite the input me.wav",
        ),
        ("--reference her.wav --input-file me.wav --output-file o.wav --record o.wav", "two different names"),
        ("--reference her.wav --input-file me.wav --output-file o.xyz", "name it with one of"),
    ],
)
def test_mistakes_are_told_in_one_sentence(here, line, words, refusal):
    before = sorted(here.iterdir())
    assert words in refusal(main, line, alone=False)
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("options", ["", "--pitch 2 --no-watermark --chunk-ms 13"])
def test_file_mode_equals_the_convert_command(here, capsys, monkeypatch, options):
    """Equal if the file's mean F0 is unknown."""
    monkeypatch.setattr(Converter, "source_log_f0", lambda self, source: None)
    files = "--input-file me.wav --output-file live.wav --record take.wav"
    run(f"--reference her.wav {files} --engine eager {options}")
    shared = options.split(" --chunk-ms")[0]
    convert(f"me.wav --reference her.wav --out file.wav {shared}".split())
    assert info("live.wav") == info("file.wav")
    assert_close(load("live.wav"), load("file.wav"), rtol=0, atol=1.1 * 2**-15)
    assert_close(load("take.wav"), load("live.wav"), rtol=0, atol=0)
    said = capsys.readouterr()
    assert said.out.split()[:2] == ["live.wav", "take.wav"]
    assert "ms, without computing time and devices" in said.err.splitlines()[0]


@pytest.mark.usefixtures("signals_of_a_terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_complete_files(here, capsys, monkeypatch, number):
    pushed, push = [], Session.push

    def interrupted(session: Session, chunk: torch.Tensor) -> torch.Tensor:
        pushed.append(chunk)
        if len(pushed) == 15:
            os.kill(os.getpid(), number)
        return push(session, chunk)

    monkeypatch.setattr(Session, "push", interrupted)
    save("long.wav", load("me.wav").repeat(1, 1, 12), RATE)
    before = signal.getsignal(number)
    files = "--input-file long.wav --output-file live.wav --record take.wav"
    with pytest.raises(SystemExit) as end:
        run(f"--reference her.wav {files} --pace live --engine eager")
    assert end.value.code == 130
    assert signal.getsignal(number) is before
    assert 0 < info("live.wav").samples < info("long.wav").samples
    assert info("take.wav").samples == info("live.wav").samples
    assert "ended early" in capsys.readouterr().err
    assert not list(here.glob(".*"))


@pytest.fixture
def terminal(monkeypatch):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield ours
    os.close(ours)


def test_keys_are_read_unbuffered_and_the_terminal_is_restored(terminal):
    before = termios.tcgetattr(sys.stdin.fileno())
    with keyboard() as keys:
        assert not termios.tcgetattr(sys.stdin.fileno())[3] & termios.ICANON
        os.write(terminal, b" 2q")
        assert keys.pressed(1.0) == " 2q"
        assert keys.pressed(0.0) == ""
    assert termios.tcgetattr(sys.stdin.fileno()) == before


def test_without_a_terminal_no_keys_are_read(monkeypatch, tmp_path):
    (tmp_path / "words").write_text("q")
    with (tmp_path / "words").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with keyboard() as keys:
            assert keys.pressed(0.0) == ""
    monkeypatch.setattr("sys.stdin", None)
    with keyboard() as keys:
        assert keys.pressed(0.0) == ""


def test_whole_session_by_keys(here, sound, terminal, capsys, buzz, monkeypatch):
    sound.runs, sound.source = True, buzz(RATE, f0=(150.0,))[0, 0].numpy()
    monkeypatch.setattr("w2w.live.duplex.SILENT_S", 120.0)  # a busy machine's card may pause
    converted, push, press = [], Session.push, Console.press
    pressed: list[str] = []
    monkeypatch.setattr(Session, "push", lambda *given: converted.append(given) or push(*given))

    def noted(console: Console, keys: str) -> bool:
        goes_on = press(console, keys)
        pressed.extend(keys)
        return goes_on

    monkeypatch.setattr(Console, "press", noted)

    def type_keys() -> None:
        for key in "27+ rrq":
            until = len(converted) + 8
            wait_for(lambda: len(converted) >= until)  # noqa: B023 - called at once
            os.write(terminal, key.encode())
            wait_for(lambda: key in pressed)  # noqa: B023
            pressed.clear()

    typist = threading.Thread(target=type_keys)
    typist.start()
    run("--reference her.wav his.wav --record take.wav --engine eager")
    typist.join()
    said = capsys.readouterr()
    assert "keys: space bypass" in said.err
    assert "there is no voice 7: 2 were given" in said.err
    assert said.out.split() == ["take.wav", "take-2.wav"]
    assert info("take.wav").samples > 0.2 * RATE
    assert load("take.wav").abs().max() > 0.001
    assert not sound.cards[0].active
    wait_for(lambda: not any(thread.name == "convert" for thread in threading.enumerate()))
    assert not any(thread.name == "convert" for thread in threading.enumerate())


def test_unplugged_sound_card_leaves_a_complete_recording(here, sound, buzz, refusal):
    sound.runs, sound.source = True, buzz(RATE, f0=(150.0,))[0, 0].numpy()

    def pull() -> None:
        wait_for(lambda: sound.cards and len(sound.cards[0].played) > 15)
        sound.gone = True

    threading.Thread(target=pull).start()
    assert "the audio from Mic" in refusal(
        main, "--reference her.wav --record take.wav --engine eager", alone=False
    )
    assert info("take.wav").samples > 0


@pytest.mark.usefixtures("signals_of_a_terminal")
def test_it_runs_on_a_real_portaudio(here, model, tmp_path):
    """Uses ALSA's null device, which is silent and not paced."""
    library = pytest.importorskip(
        "sounddevice", reason="sounddevice or PortAudio is not installed", exc_type=Exception
    )
    (tmp_path / "alsa").write_text("pcm.!default { type null }\nctl.!default { type null }\n")
    environment = {**os.environ, "ALSA_CONFIG_PATH": str(tmp_path / "alsa"), "PYTHONPATH": str(ROOT)}
    if not any(api["name"] == "ALSA" for api in library.query_hostapis()):
        pytest.skip("this PortAudio has no ALSA")
    command = [sys.executable, "-m", "w2w.live", "--reference", "her.wav", "--record", "take.wav"]
    command += ["--checkpoint", str(model), "--engine", "eager"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: list(here.glob(".take*")) or process.poll() is not None)
        threading.Event().wait(0.5)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    assert "from default to default" in said
    assert "Traceback" not in said
    assert process.returncode == 0
    assert info("take.wav").sample_rate == 44_100


def test_torch_is_used_without_onnxruntime(here, monkeypatch, refusal):
    def missing():
        raise UserError("graphs need the package onnxruntime")

    monkeypatch.setattr("w2w.exported.engine.require_packages", missing)
    monkeypatch.delenv("TIMBRE_ENGINE")
    files = "--input-file me.wav --output-file live.wav"
    assert "need the package onnxruntime" in refusal(
        main, f"--reference her.wav {files} --engine onnx", alone=False
    )
    run(f"--reference her.wav {files}")
    assert info("live.wav").samples == 12_345
