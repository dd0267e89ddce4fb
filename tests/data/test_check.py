"""The check finds each problem, passes good recordings, and writes a clean manifest."""

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data.audio import load, save
from data.audio.listening import measure
from data.check import check, main, measure_all
from data.manifest import Row, read_manifest, rows_from, write_manifest

ROOT = Path(__file__).resolve().parents[2]
RATE = 16_000


def voice(f0: float = 120.0, seconds: float = 2.0, seed: int = 0) -> torch.Tensor:
    """A gliding, pausing, vowel-like buzz, which the check takes for a voice."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    glide = f0 * 2 ** (0.2 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6)))
    phase = np.cumsum(glide) / RATE
    buzz = sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, int(3_000 / (1.2 * f0))))
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * time) + 0.6, 0, 1)
    wave = 0.2 * buzz * syllables + 1e-3 * rng.standard_normal(len(time))
    return torch.from_numpy(wave.astype(np.float32))[None, None]


def checked(rows: list[Row], **options):
    return check(rows, measure_all(rows, workers=1), **options)


def problems(folder: Path, **options) -> dict[str, list[str]]:
    """The problems of each file that has any."""
    found: dict[str, list[str]] = {}
    for finding in checked(rows_from(folder), **options)[0]:
        found.setdefault(finding.row.path.name, []).append(finding.problem)
    return found


def put_all_damages(folder: Path) -> dict[str, list[str]]:
    """Write good files and one with each problem; return the expected problems."""
    for index, extension in enumerate(("wav", "flac", "ogg", "mp3", "opus")):
        save(folder / f"good_{extension}.{extension}", voice(110 + 20 * index, seed=index), RATE)
    save(folder / "copy.flac", load(folder / "good_wav.wav"), RATE)
    (folder / "text.wav").write_text("This is no recording.\n" * 99)
    (folder / "nothing.wav").touch()
    save(folder / "no_samples.wav", torch.zeros(1, 1, 0), RATE)
    for extension in ("wav", "flac", "mp3"):
        save(folder / f"cut.{extension}", voice(125, seed=8), RATE)
        content = (folder / f"cut.{extension}").read_bytes()
        (folder / f"cut.{extension}").write_bytes(content[: len(content) * 2 // 3])
    broken = voice(130, seed=9)[0, 0].numpy().copy()
    broken[5_000] = np.nan
    soundfile.write(folder / "nan.wav", broken, RATE, subtype="FLOAT")
    save(folder / "hush.wav", 1e-4 * torch.randn(1, 1, RATE), RATE)
    save(folder / "offset.wav", torch.full((1, 1, RATE), 0.25), RATE)
    save(folder / "loud.wav", 6 * voice(135, seed=10), RATE)
    save(folder / "loud_made_soft.wav", 0.3 * (6 * voice(145, seed=11)).clamp(-1, 1), RATE, "FLOAT")
    save(folder / "blip.wav", voice(140, seconds=0.2, seed=12), RATE)
    save(folder / "sleepy.wav", voice(150, seed=13), 3_000)
    return {
        "copy.flac": ["duplicate"],
        "text.wav": ["unreadable"],
        "nothing.wav": ["empty"],
        "no_samples.wav": ["empty"],
        "cut.wav": ["truncated"],
        "cut.flac": ["truncated"],
        "cut.mp3": ["truncated"],
        "nan.wav": ["NaN"],
        "hush.wav": ["silent"],
        "offset.wav": ["silent"],
        "loud.wav": ["clipped"],
        "loud_made_soft.wav": ["clipped"],
        "blip.wav": ["too short"],
        "sleepy.wav": ["wrong rate"],
    }


def test_each_problem_is_found_without_false_alarms(tmp_path):
    expected = put_all_damages(tmp_path)
    found = problems(tmp_path)
    original = (
        "copy.flac" if "good_wav.wav" in found else "good_wav.wav"
    )  # the first in order is the original
    expected["good_wav.wav" if original == "copy.flac" else "copy.flac"] = expected.pop("copy.flac")
    assert found == expected


def test_command_prints_a_table_and_writes_a_clean_manifest(tmp_path, capsys):
    expected = put_all_damages(tmp_path / "raw")
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "raw"), "--write", str(tmp_path / "clean" / "m.csv")])
    assert end.value.code == 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in set(expected) - {"copy.flac"})
    assert "19 recordings: 5 sound" in printed
    assert "14 with problems: 3 truncated" in printed
    assert "raw/" not in printed.split("\n\n")[0]  # paths in the table start from the folder
    rows = read_manifest(tmp_path / "clean" / "m.csv")
    assert len(rows) == 5
    assert all(row.path.is_file() and row.duration == 2.0 for row in rows)
    main([str(tmp_path / "clean" / "m.csv")])  # sound: no exit code but 0
    assert "5 recordings: 5 sound (0.00 hours), no problems" in capsys.readouterr().out


def test_clean_manifest_keeps_all_columns(tmp_path):
    save(tmp_path / "a.wav", voice(), RATE)
    row = Row(path=tmp_path / "a.wav", speaker="x", text="Hm", split="test", gender="F", extra={"room": "3"})
    write_manifest(tmp_path / "m.jsonl", [row, Row(path=tmp_path / "gone.wav")])
    with pytest.raises(SystemExit):
        main([str(tmp_path / "m.jsonl"), "--write", str(tmp_path / "clean.csv")])
    (kept,) = read_manifest(tmp_path / "clean.csv")
    assert vars(kept) == {**vars(row), "duration": 2.0}


@pytest.mark.parametrize("claimed", [8_000, 22_050, 44_100, 48_000])
def test_wrong_rate_is_found_by_the_manifests_duration(tmp_path, claimed):
    save(tmp_path / "a.wav", voice(), claimed)
    ((finding,), sound) = checked([Row(path=tmp_path / "a.wav", duration=2.0)])
    assert finding.problem == "wrong rate"
    assert "16000 Hz" in finding.detail
    assert not sound


def test_file_shorter_than_its_manifest_states_is_truncated(tmp_path):
    save(tmp_path / "a.wav", voice(), RATE)
    ((finding,), _) = checked([Row(path=tmp_path / "a.wav", duration=2.7)])
    assert finding.problem == "truncated"
    assert checked([Row(path=tmp_path / "a.wav", duration=2.05)])[0] == []


def test_wrong_rate_is_found_by_equal_samples_at_another_rate(tmp_path):
    for index in range(3):
        save(tmp_path / f"{index}.wav", voice(seed=index), RATE)
    save(tmp_path / "0_first.wav", load(tmp_path / "2.wav"), 22_050)
    assert problems(tmp_path) == {"0_first.wav": ["wrong rate"]}


def test_wrong_rate_is_found_by_implausible_pitch(tmp_path):
    save(tmp_path / "fast.wav", voice(200, seed=1), 48_000)
    save(tmp_path / "slow.wav", voice(105, seed=2), 8_000)
    found = problems(tmp_path, shortest=0.2)
    assert found["slow.wav"] == ["wrong rate"]
    assert found["fast.wav"] == ["wrong rate"]


def test_wrong_rate_is_found_by_the_speakers_other_recordings(tmp_path):
    rows = []
    for index in range(4):
        save(tmp_path / f"{index}.wav", voice(120, seed=index), RATE)
        rows.append(Row(path=tmp_path / f"{index}.wav", speaker="low"))
    save(tmp_path / "wrong.wav", voice(120, seed=7), 32_000)
    soundfile.write(tmp_path / "right.wav", voice(180, seed=8)[0, 0, ::2].numpy(), RATE // 2)
    rows += [
        Row(path=tmp_path / "wrong.wav", speaker="low"),
        Row(path=tmp_path / "right.wav", speaker="high"),
    ]
    findings, _ = checked(rows)
    assert [(finding.row.path.name, finding.problem) for finding in findings] == [("wrong.wav", "wrong rate")]
    assert "suggests 16000 Hz" in findings[0].detail


@pytest.mark.parametrize("subtype", ["PCM_U8", "ULAW", "PCM_24", "FLOAT"])
def test_harmless_sounds_are_not_reported(tmp_path, subtype):
    time = torch.arange(2 * RATE) / RATE
    sounds = {
        "noise": 0.2 * torch.randn(1, 2 * RATE),
        "six": 0.1 * torch.randn(6, 2 * RATE),
        "voice": voice()[0],
    }
    if subtype in ("PCM_24", "FLOAT"):  # in 8 bits the top of a sine is flat indeed
        sounds["tone"] = 0.9 * torch.sin(2 * torch.pi * 440 * time)[None]
        sounds["hum"] = 0.99 * torch.sin(2 * torch.pi * 50 * time)[None]
    for name, wave in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", wave.T.numpy(), RATE, subtype=subtype)
    assert problems(tmp_path) == {}


def test_measurements_do_not_depend_on_duration(tmp_path):
    softer, louder = 0.5 * voice(seed=2), voice(seed=1, seconds=9.0)
    wave = (3 * torch.cat([softer, louder, softer], dim=-1)).clamp(-0.8, 0.8)
    save(tmp_path / "a.wav", wave, RATE, "FLOAT")
    n_flat = 0
    for side in (1, -1):
        runs = groupby(wave[0, 0].tolist(), key=lambda sample, side=side: side * sample > 0.7999)
        n_flat += sum(n for at, run in runs if at and (n := len(list(run))) >= 3)
    assert measure(tmp_path / "a.wav").clipped == pytest.approx(n_flat / wave.shape[-1], rel=0.01)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "there is no manifest or folder nowhere"),
        (["."], "holds no audio files"),
        ([".", "--wirte", "m.csv"], "there is no option --wirte (did you mean --write?)"),
        ([".", "--write", "m.txt"], "m.txt cannot be written"),
        ([".", "--shortest", "-1"], "--shortest"),
        ([".", "--workers", "0"], "--workers 0"),
        ([], "required"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(words)
    printed = capsys.readouterr().err
    assert end.value.code == 2
    assert printed.startswith("error: ")
    assert sentence in printed
    assert printed.count("\n") == 1


def test_no_manifest_is_written_without_good_recordings(tmp_path, capsys):
    (tmp_path / "a.wav").touch()
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path), "--write", str(tmp_path / "m.csv")])
    assert end.value.code == 2
    assert "none of the recordings is sound" in capsys.readouterr().err
    assert not (tmp_path / "m.csv").exists()


def test_real_speech_passes_but_not_at_a_third_of_its_rate(tmp_path, speech_pack):
    rows = [row for row in rows_from(speech_pack) if row.split == "test"][::10]
    found, rows = checked(rows)
    # One reader's room hums at 60 Hz, and nothing else is in the pauses.
    assert {(one.row.speaker, one.problem) for one in found} <= {("librispeech_2609", "hum")}
    for index, row in enumerate(rows):
        save(tmp_path / f"{index}.wav", load(row.path), RATE if index < 6 else 48_000)
    found, _ = checked(rows_from(tmp_path))
    assert {finding.row.path.name for finding in found} <= {f"{index}.wav" for index in range(6, 10)}
    assert len(found) >= 2
