"""The command: what it accepts, what it refuses and how, and that it leaves nothing half-done."""

import errno
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.testing import assert_close

from data.audio import info, load, save
from data.manifest import Row, write_manifest
from engine.checkpoint import export
from w2w import Converter
from w2w.convert import Job, main
from w2w.networks.network import ConverterNetwork

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch, buzz, model):
    """A folder to work in: a source, two references, and the released weights where none are asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("w2w.weights.RELEASED", model)
    save("me.wav", buzz(12_345, f0=(120.0,)), 16_000)
    save("her.wav", buzz(9_000, f0=(200.0,)), 16_000)
    save("voices/his.flac", buzz(9_000, f0=(100.0,)), 16_000)
    return tmp_path


def files_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def run(line: str) -> None:
    main(line.split())


def refusal(capsys, line: str) -> str:
    """The one sentence a command line is refused with; nothing was written."""
    before = files_under(Path())
    with pytest.raises(SystemExit) as end:
        run(line)
    said = capsys.readouterr()
    assert end.value.code == 2
    assert not said.out
    assert files_under(Path()) == before
    lines = said.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def incomplete(capsys, line: str) -> str:
    """What a command says that did a part of what it was asked."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run(line)
    assert end.value.code == 1
    return capsys.readouterr().err


def test_one_source_becomes_one_file_of_its_length(here):
    run("me.wav --reference her.wav --out as_her.wav")
    assert info("as_her.wav").samples == 12_345


def test_what_is_written_is_what_the_library_gives(here, model):
    run("me.wav --reference her.wav voices --out out --pitch 2 --no-watermark")
    converter = Converter.from_pretrained(model)
    voice = converter.embed([load("her.wav"), load("voices/his.flac")])
    known = converter.source_log_f0(load("me.wav"))
    assert known is not None
    expected = converter.convert(load("me.wav"), voice, semitones=2.0, source_log_f0=known)
    expected = expected.clamp(-1, 1 - 2**-15)
    assert_close(load("out/me.wav"), expected, rtol=0, atol=2**-16 + 1e-5)


def test_a_blend_is_the_blend_of_the_voices(here, model):
    save("odd:0.2/name:3.wav", load("her.wav"), 16_000)  # colons in names
    run("me.wav --blend odd:0.2:3 voices:1 --out out --no-watermark")
    run("me.wav --blend odd:0.2/name:3.wav:0.75 --blend voices/his.flac:0.25 --out again --no-watermark")
    assert_close(load("out/me.wav"), load("again/me.wav"), rtol=0, atol=1e-4)
    converter = Converter.from_pretrained(model)
    voice = converter.blend([converter.embed(load(p)) for p in ("her.wav", "voices/his.flac")], [3.0, 1.0])
    known = converter.source_log_f0(load("me.wav"))
    expected = converter.convert(load("me.wav"), voice, source_log_f0=known).clamp(-1, 1)
    assert_close(load("out/me.wav"), expected, rtol=0, atol=1e-4)


def test_speakers_of_a_manifest_are_voices(here):
    rows = [Row(path=Path("her.wav"), speaker="p1"), Row(path=Path("voices/his.flac"), speaker="p2")]
    write_manifest("list.csv", rows)
    run("me.wav --speaker p1 --data list.csv --out known")
    run("me.wav --reference her.wav --out named")
    assert torch.equal(load("known/me.wav"), load("named/me.wav"))
    run("me.wav --blend p1:1 p2:1 --data list.csv --out a")
    run("me.wav --reference her.wav voices --out b")
    assert_close(load("a/me.wav"), load("b/me.wav"), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("rate", "subtype", "channels"),
    [
        (16_000, "PCM_U8", 1),
        (44_100, "PCM_24", 2),
        (8_000, "PCM_16", 6),
        (96_000, "FLOAT", 1),
        (22_050, "DOUBLE", 1),
    ],
)
def test_any_kind_of_recording_keeps_its_length_to_the_sample(here, rate, subtype, channels):
    samples = rate // 3 + 1
    sound = 0.1 * np.sin(np.arange(samples)[:, None] * np.ones(channels) / 9)
    soundfile.write("odd.wav", sound, rate, subtype)
    run("odd.wav --reference her.wav --out source --rate source")
    run("odd.wav --reference her.wav --out other --rate 11025")
    assert (info("source/odd.wav").samples, info("source/odd.wav").sample_rate) == (samples, rate)
    assert info("other/odd.wav").samples == round(samples * 11_025 / rate)
    assert info("source/odd.wav").channels == 1


def test_results_lie_as_their_sources_and_clashing_names_are_told_apart(here, capsys):
    for name in ("in/a/x.wav", "in/b/x.wav", "in/b/y.1.wav", "in/c/z.wav", "in/c/z.flac"):
        save(name, load("me.wav")[..., :2_000], 16_000)
    run("in in/b/y.1.wav --reference her.wav --out out")
    assert files_under(Path("out")) == {"a/x.wav", "b/x.wav", "b/y.1.wav", "c/z_wav.wav", "c/z_flac.wav"}
    told = capsys.readouterr().err
    assert "note: in/c/z.wav becomes out/c/z_wav.wav" in told
    assert told.count("note: ") == 2
    assert told.endswith("5 done, none left out\n")
    Path("in/b/link.wav").symlink_to("y.1.wav")
    run("in/a in/b --reference her.wav --out two")
    assert files_under(Path("two")) == {"a/x.wav", "b/x.wav", "link.wav"}
    assert "note: in/b/y.1.wav leads to in/b/link.wav" in capsys.readouterr().err


def test_results_inside_the_source_folder_are_not_converted_again(here):
    save("in/x.wav", load("me.wav"), 16_000)
    for overwrite in ("", " --overwrite"):
        run("in --reference her.wav --out in/converted" + overwrite)
    assert files_under(Path("in")) == {"x.wav", "converted/x.wav"}


def test_earlier_results_stay_unless_they_are_to_be_overwritten(here, capsys):
    Path("out").mkdir()
    Path("out/me.wav").write_bytes(b"earlier")
    assert "out/me.wav is there already; --overwrite" in refusal(
        capsys, "me.wav --reference her.wav --out out"
    )
    assert "1 done, 1 left out:\n  me.wav: out/me.wav is there" in incomplete(
        capsys, "me.wav voices --reference her.wav --out out"
    )
    assert Path("out/me.wav").read_bytes() == b"earlier"
    run("me.wav voices --reference her.wav --out out --overwrite")
    assert info("out/me.wav").samples == 12_345


def test_a_file_that_is_named_is_replaced_and_that_is_said(here, capsys):
    for said in (False, True):
        run("me.wav --reference her.wav --out as_her.wav")
        assert ("note: as_her.wav is replaced\n" in capsys.readouterr().err) == said


def test_whatever_is_no_sound_in_a_folder_is_named_and_the_rest_converted(here, capsys, monkeypatch):
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
    told = incomplete(capsys, "voices --reference her.wav voices --out out --rate source")
    assert files_under(Path("out")) == {"his.wav", "deep/good.wav"}
    assert "2 done, 20 left out:" in told
    spoilt = (name for name in SPOILT if name not in ("missing.wav", "folder.wav"))
    for name in (*spoilt, "gone.wav", "circle.wav", "deep/locked"):
        assert f"\n  voices/{name}" in told
        assert f"\n  reference voices/{name}" in told


def test_names_of_any_kind_are_told_on_one_line(here, capsys):
    Path("voices/two\nlines\x1b.wav").write_text("no sound")
    assert "  voices/two\\nlines\\x1b.wav is not audio" in incomplete(
        capsys, "voices --reference her.wav --out out"
    )


def test_a_long_recording_takes_no_more_memory_than_a_short_one(here, monkeypatch):
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("peak memory is read from /proc")
    monkeypatch.setattr("w2w.convert.BLOCK_S", 1.0)
    peaks = []
    for seconds in (4, 4, 64):  # the first fills caches
        save(f"{seconds}.wav", load("me.wav")[..., :12_000].repeat(1, 1, seconds * 4 // 3), 16_000)
        reset.write_text("5")
        run(f"{seconds}.wav --reference her.wav --out out.wav")
        peaks.append(int(re.search(r"VmHWM:\s+(\d+)", status.read_text()).group(1)) / 1024)  # MiB
    # At once, the pitch tracker alone would take over 100 MiB for a minute.
    assert peaks[2] - peaks[1] < 40


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


def test_bad_sources_among_many_are_named_and_the_others_are_converted(here, capsys):
    spoil()
    told = incomplete(capsys, f"me.wav {' '.join(SPOILT)} her.wav --reference her.wav --out out")
    assert files_under(Path("out")) == {"me.wav", "her.wav"}
    lines = told[told.index(f"2 done, {len(SPOILT)} left out:\n") :].splitlines()[1:]
    for bad, line in zip(SPOILT, lines, strict=True):
        assert SPOILT[bad] in line
        assert bad in line
        assert bad in refusal(capsys, f"{bad} --reference her.wav --out again")


def test_where_nothing_can_be_done_all_reasons_are_told(here, capsys):
    spoil()
    with pytest.raises(SystemExit) as end:
        run("text.wav empty.wav --reference her.wav --out out")
    assert end.value.code == 2
    assert "0 done, 2 left out:\n  text.wav" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_bad_reference_is_named(here, capsys):
    spoil()
    save("silence.wav", torch.zeros(1, 1, 16_000), 16_000)
    for bad in [*(name for name in SPOILT if name != "late_nan.wav"), "silence.wav"]:
        assert bad in refusal(capsys, f"me.wav --reference her.wav {bad} --out out")


def test_a_file_that_breaks_off_during_conversion_leaves_nothing(here, monkeypatch, capsys):
    wave = load("me.wav").repeat(1, 1, 20).numpy().ravel()
    wave[150_000] = math.nan
    soundfile.write("late.wav", wave, 16_000, "FLOAT")
    found = info("late.wav")  # as if the file had been whole when it was checked
    job = Job(source=Path("late.wav"), out=Path("out/late.wav"), sample_rate=16_000, samples=found.samples)
    monkeypatch.setattr("w2w.convert.examine", lambda *_: [job])
    before = files_under(here)
    with pytest.raises(SystemExit):
        run("late.wav --reference her.wav --out out")
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
def test_a_wrong_command_line_is_refused_in_one_sentence(here, capsys, options, words):
    write_manifest("list.csv", [Row(path=Path("her.wav"), speaker=name) for name in ("p1", "p2")])
    write_manifest("bare.csv", [Row(path=Path("her.wav"))])
    assert words in refusal(capsys, f"me.wav {options}")


def test_weights_that_are_no_converter_are_refused(here, capsys, model, tiny, monkeypatch):
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
        assert words in refusal(capsys, line), folder
    monkeypatch.setattr("w2w.weights.RELEASED", Path("bare"))
    assert "--checkpoint" in refusal(capsys, "me.wav --reference her.wav --out out")


def test_the_command_itself_ends_with_the_right_code(here, model):
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


def test_a_wrong_preset_is_refused(here, capsys, monkeypatch):
    from w2w import train

    monkeypatch.setattr(sys, "argv", ["train.py", "--preset", "smal"])
    with pytest.raises(SystemExit) as end:
        train.main()
    assert end.value.code == 2
    assert "smal (did you mean small?)" in capsys.readouterr().err.replace("'", "")


def test_real_speech_comes_out_as_speech_length_and_finite(here, speech_pack):
    recordings = sorted(speech_pack.rglob("*.flac"))[:2]
    main([str(recordings[0]), "--reference", str(recordings[1]), "--out", "out", "--rate", "source"])
    out = load(f"out/{recordings[0].stem}.wav")
    assert out.shape[-1] == info(recordings[0]).samples
    assert bool(out.isfinite().all())
    assert float(out.square().mean()) > 0
