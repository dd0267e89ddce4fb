"""Fingerprints of a run's inputs: independent of their path, dependent on their contents."""

import shutil
import wave as wave_files
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from data.batches import DataConfig
from engine.contents import changes, contents_of, folder_contents
from engine.user_error import UserError


@dataclass(frozen=True, kw_only=True)
class Run:
    """A config with a part that names a path."""

    data: DataConfig = field(default_factory=DataConfig)


@pytest.fixture
def corpus(tmp_path):
    """Six recordings of two speakers, and a manifest."""
    folder = tmp_path / "here"
    folder.mkdir()
    rng, lines = np.random.default_rng(0), ["path,speaker"]
    for number in range(6):
        with wave_files.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(rng.integers(-9_999, 9_999, 8_000).astype("<i2").tobytes())
        lines.append(f"{number}.wav,{'bc'[number % 2]}")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder


def found(folder: Path, name: str = "m.csv", **options):
    return contents_of(Run(data=DataConfig(path=str(folder / name), **options)))


def notes(before, after) -> list[str]:
    return list(changes(before, after, Path("run")))


def test_moved_corpus_has_the_same_fingerprint(corpus, tmp_path):
    before, folder = found(corpus), found(corpus, "")
    shutil.move(corpus, tmp_path / "there")
    assert found(tmp_path / "there") == before
    assert found(tmp_path / "there", "") == folder
    assert not notes(before, found(tmp_path / "there"))


def test_changed_recording_is_noted(corpus):
    before = found(corpus)
    data = bytearray((corpus / "3.wav").read_bytes())
    data[44:] = (np.frombuffer(bytes(data[44:]), "<i2") * 2).tobytes()
    (corpus / "3.wav").write_bytes(data)
    (line,) = notes(before, found(corpus))
    assert "--data.path has changed" in line
    assert "6 recordings of 2 speakers as before, with other names or contents" in line


def test_added_recordings_and_speakers_at_the_end_are_accepted(corpus):
    before = found(corpus)
    shutil.copy(corpus / "0.wav", corpus / "7.wav")
    with (corpus / "m.csv").open("a") as file:
        file.write("7.wav,d\n")
    (line,) = notes(before, found(corpus))
    assert "6 recordings of 2 speakers then, 7 recordings of 3 speakers now" in line


def test_speaker_that_shifts_labels_is_refused_if_labels_are_used(corpus):
    before, unlabelled = found(corpus), found(corpus, label_share=0.0)
    text = (corpus / "m.csv").read_text()
    (corpus / "m.csv").write_text(text.replace("0.wav,b", "0.wav,a"))
    with pytest.raises(UserError, match=r"another --data.path .*2 speakers then.*3 speakers now.*--loop.out"):
        notes(before, found(corpus))
    assert notes(unlabelled, found(corpus, label_share=0.0))


def test_runs_without_fingerprints_resume(corpus):
    assert not notes({}, found(corpus))


def test_model_fingerprint_is_of_its_files_or_else_its_name(tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = folder_contents(str(folder), "a teacher")
    assert before == folder_contents(str(shutil.move(folder, tmp_path / "moved")), "a teacher")
    (tmp_path / "moved" / "config.json").write_text("[]")
    assert before != folder_contents(str(tmp_path / "moved"), "a teacher")
    named = folder_contents("released", "a teacher")
    assert named is not None
    assert named == replace(named, summary="released", digest="released", fixed=("released",))
    assert folder_contents("", "a teacher") is None
