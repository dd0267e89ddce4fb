"""The convert command refuses bad files and options in one sentence each, and leaves nothing half-done."""

import errno
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data.audio import info, load, save
from data.manifest import Row, write_manifest
from engine.checkpoint import export
from w2w.convert import Job, main
from w2w.networks.network import ConverterNetwork

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def refused(here, refusal, files_under):
    """Return the message of a refused command line, which writes nothing."""

    def message(line: str) -> str:
        before = files_under(here)
        found = refusal(main, line)
        assert files_under(here) == before
        return found

    return message


@pytest.fixture
def incomplete(here, capsys):
    """Return the messages of a command that does only a part of its work."""

    def messages(line: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(line.split())
        assert end.value.code == 1
        return capsys.readouterr().err

    return messages


SPOILT = {
    "missing.wav": "there is no source missing.wav",
    "folder.wav": "holds no audio files",
    "empty.wav": "is empty",
    "text.wav": "is not audio",
    "short.flac": "truncated",
    "nan.wav": "NaN or infinity",
    "late_nan.wav": "NaN or infinity",
    "one.wav": "single sample",
    "brief.wav": "too short",
}


def spoil() -> None:
    Path("folder.wav").mkdir()
    Path("empty.wav").touch()
    Path("text.wav").write_text("This is a letter, not a recording. " * 20)
    whole = Path("voices/his.flac").read_bytes()
    Path("short.flac").write_bytes(whole[: len(whole) // 2])
    for name, samples, bad in [("nan.wav", 4_000, 0), ("late_nan.wav", 200_000, 199_999)]:
        wave = np.zeros(samples, np.float32)
        wave[bad] = np.nan
        soundfile.write(name, wave, 16_000, "FLOAT")
    soundfile.write("one.wav", np.zeros(1), 16_000)
    soundfile.write("brief.wav", np.zeros(100), 16_000)


def test_bad_sources_are_listed_and_the_others_converted(here, refused, incomplete, files_under):
    spoil()
    told = incomplete(f"me.wav {' '.join(SPOILT)} her.wav --reference her.wav --out out")
    assert files_under(Path("out")) == {"me.wav", "her.wav"}
    lines = told[told.index(f"2 done, {len(SPOILT)} left out:\n") :].splitlines()[1:]
    for bad, line in zip(SPOILT, lines, strict=True):
        assert SPOILT[bad] in line
        assert bad in line
        assert bad in refused(f"{bad} --reference her.wav --out again")


def test_all_reasons_are_listed_if_nothing_is_converted(here, capsys):
    spoil()
    with pytest.raises(SystemExit) as end:
        main(["text.wav", "empty.wav", "--reference", "her.wav", "--out", "out"])
    assert end.value.code == 2
    assert "0 done, 2 left out:\n  text.wav" in capsys.readouterr().err
    assert not Path("out").exists()


def test_bad_references_are_named(here, refused):
    spoil()
    save("silence.wav", torch.zeros(1, 1, 16_000), 16_000)
    for bad in [*(name for name in SPOILT if name != "late_nan.wav"), "silence.wav"]:
        assert bad in refused(f"me.wav --reference her.wav {bad} --out out")


def test_failure_during_conversion_leaves_no_file(here, monkeypatch, capsys, files_under):
    wave = load("me.wav").repeat(1, 1, 20).numpy().ravel()
    wave[150_000] = math.nan
    soundfile.write("late.wav", wave, 16_000, "FLOAT")
    found = info("late.wav")  # as if the file had been whole when it was checked
    job = Job(source=Path("late.wav"), out=Path("out/late.wav"), sample_rate=16_000, samples=found.samples)
    monkeypatch.setattr("w2w.convert.job_of", lambda *_: job)
    before = files_under(here)
    with pytest.raises(SystemExit):
        main(["late.wav", "--reference", "her.wav", "--out", "out"])
    assert "NaN" in capsys.readouterr().err
    assert files_under(here) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--out out", "nothing was given"),
        ("--reference her.wav", "--out"),
        ("--reference her.wav --speaker p1 --out out", "--reference and --speaker were given"),
        ("--refrence her.wav --out out", "did you mean --reference"),
        ("--reference her.wav --out out --pitch high", "--pitch"),
        ("--reference her.wav --out out --pitch nan", "--pitch nan"),
        ("--reference her.wav --out out --pitch 90", "36 semitones"),
        ("--reference her.wav --out out --rate 44k", "--rate 44k"),
        ("--reference her.wav --out out --rate 1", "--rate 1"),
        ("--reference her.wav --data list.csv --out out", "--data goes with"),
        ("--text x --reference her.wav --out out", "--reference and --text were given"),
        ("--reference her.wav --variety 1 --out out", "--variety goes with"),
        ("--text old --data list.csv --out out", "--data goes with"),
        ("--reference nobody.wav --out out", "nobody.wav does not exist"),
        ("--speaker p1 --out out", "needs --data"),
        ("--speaker p3 --data list.csv --out out", "no speaker 'p3': the nearest names are p"),
        ("--speaker p1 --data bare.csv --out out", "names no speakers"),
        ("--speaker p1 --data nothing.csv --out out", "nothing.csv"),
        ("--blend her.wav --out out", "VOICE:WEIGHT"),
        ("--blend her.wav:much --out out", "VOICE:WEIGHT"),
        ("--blend her.wav:nan --out out", "VOICE:WEIGHT"),
        ("--blend her.wav:0 voices:0 --out out", "not all 0"),
        ("--blend her.wav:2 voices:-1 --out out", "0 or more"),
        ("--blend p3:1 p1:1 --data list.csv --out out", "no speaker of list.csv"),
        ("--reference her.wav --out me.wav", "written over me.wav"),
        ("her.wav --reference voices --out two.wav", "2 sources"),
        ("--reference her.wav --out her.wav", "written over her.wav"),
        ("--reference her.wav --out .", "written over me.wav"),
        ("voices --reference her.wav --out voices", "folder of the sources"),
        ("--reference her.wav --out list.csv", "list.csv is a file"),
        ("--reference her.wav --out result.aiff", ".wav"),
        ("--reference her.wav --out list.csv/deeper/x.wav", "list.csv: a file is where a folder is expected"),
    ],
)  # fmt: skip
def test_wrong_command_line_is_refused_in_one_sentence(here, options, words, refused):
    write_manifest("list.csv", [Row(path=Path("her.wav"), speaker=name) for name in ("p1", "p2")])
    write_manifest("bare.csv", [Row(path=Path("her.wav"))])
    assert words in refused(f"me.wav {options}")


def test_weights_that_are_no_converter_are_refused(here, model, tiny, monkeypatch, refused):
    other = tiny()
    export(
        "wrong_shape",
        other,
        {**ConverterNetwork(other).state_dict(), "decoder.token_query.weight": torch.zeros(2, 2, 1)},
    )
    torch.save({"weights": torch.zeros(3)}, "model.pt")
    Path("pickled").mkdir()
    (Path("pickled") / "config.json").write_text((model / "config.json").read_text())
    torch.save({"weights": torch.zeros(3)}, "pickled/model.pt")
    Path("disguised").mkdir()
    (Path("disguised") / "config.json").write_text((model / "config.json").read_text())
    torch.save({"weights": torch.zeros(3)}, "disguised/model.safetensors")
    Path("bare").mkdir()
    Path("typo").mkdir()
    (Path("typo") / "config.json").write_text('{"sample_rat": 16000}')
    (Path("typo") / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    for folder, words in [
        ("wrong_shape", "decoder.token_query.weight has shape (2, 2, 1)"),
        ("model.pt", "pickled"),
        ("pickled", "pickled weights (model.pt)"),
        ("disguised", "pickled"),
        ("bare", "config.json is missing"),
        ("typo", "sample_rat"),
        ("./nowhere", "there is no folder"),
    ]:
        line = f"me.wav --reference her.wav --out out --checkpoint {folder}"
        assert words in refused(line), folder
    monkeypatch.setattr("w2w.weights.RELEASED", Path("bare"))
    assert "--checkpoint" in refused("me.wav --reference her.wav --out out")


def test_partial_success_exits_with_status_1(here, model):
    spoil()
    line = f"-m w2w.convert me.wav text.wav --reference her.wav --out out --checkpoint {model}"
    around = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *line.split()], capture_output=True, text=True, env=around, timeout=300
    )
    assert done.returncode == 1, done.stderr
    assert "times real time" in done.stderr
    assert "text.wav is not audio" in done.stderr
    assert "Traceback" not in done.stderr
    assert Path("out/me.wav").exists()


def test_unusable_files_in_folders_are_listed_and_the_rest_converted(
    here, monkeypatch, incomplete, files_under
):
    spoil()
    for name in SPOILT:
        if Path(name).exists() and name != "folder.wav":
            Path(name).rename(Path("voices") / name)
    Path("voices/gone.wav").symlink_to("nowhere")
    Path("voices/circle.wav").symlink_to("circle.wav")
    Path("voices/deep/locked").mkdir(parents=True)
    save("voices/deep/good.wav", load("me.wav"), 16_000)
    listed = os.scandir

    def scandir(place):
        if str(place).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    told = incomplete("voices --reference her.wav voices --out out --rate source")
    assert files_under(Path("out")) == {"his.wav", "deep/good.wav"}
    assert "2 done, 20 left out:" in told
    spoilt = (name for name in SPOILT if name not in ("missing.wav", "folder.wav"))
    for name in (*spoilt, "gone.wav", "circle.wav", "deep/locked"):
        assert f"\n  voices/{name}" in told
        assert f"\n  reference voices/{name}" in told


def test_unprintable_names_are_escaped(here, incomplete):
    Path("voices/two\nlines\x1b.wav").write_text("no sound")
    assert "  voices/two\\nlines\\x1b.wav is not audio" in incomplete("voices --reference her.wav --out out")


def test_existing_outputs_are_kept_without_overwrite(here, refused, incomplete):
    Path("out").mkdir()
    Path("out/me.wav").write_bytes(b"earlier")
    assert "out/me.wav is there already; --overwrite" in refused("me.wav --reference her.wav --out out")
    assert "1 done, 1 left out:\n  me.wav: out/me.wav is there" in incomplete(
        "me.wav voices --reference her.wav --out out"
    )
    assert Path("out/me.wav").read_bytes() == b"earlier"
    main(["me.wav", "voices", "--reference", "her.wav", "--out", "out", "--overwrite"])
    assert info("out/me.wav").samples == 12_345
