"""Manifests read as tables give the same rows, splits, speakers and batches as lists."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from data import rows as row_lists
from data.batches import Address, DataConfig, SpeechCrops
from data.manifest import read_manifest
from data.rows import Groups, speaker_labels, split_rows
from data.tables import TableRows
from engine.user_error import UserError

RATE = 8_000


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """Two speakers, rows without speaker, a text with a line break, and one row of the test split."""
    monkeypatch.setenv("TIMBRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(row_lists, "LONG_BYTES", 0)
    rng, lines = np.random.default_rng(0), ["path,client_id,sentence,split,duration,accent"]
    for number in range(9):
        soundfile.write(tmp_path / f"{number}.wav", rng.normal(size=4000 + 100 * number) * 0.1, RATE)
        speaker, split = ["zoe", "ann", ""][number % 3], ["train", "", "test"][number % 4 % 3]
        seconds = (4000 + 100 * number) / RATE
        lines.append(f'{number}.wav,{speaker},"a, ""b""\n{number}",{split},{seconds:.4f},{number % 2 or ""}')
    (tmp_path / "m.csv").write_text("﻿" + "\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "m.csv"


def config(manifest, **fields) -> DataConfig:
    start = DataConfig(path=str(manifest), sample_rate=RATE, crop_samples=1000, batch=4)
    return replace(start, **fields)


def test_table_rows_equal_those_of_a_list(manifest):
    table, rows = TableRows.open(manifest), read_manifest(manifest)
    assert list(table) == rows
    assert list(table[2:7:2]) == rows[2:7:2]
    assert list(TableRows.open(manifest)) == rows  # from the cache


@pytest.mark.parametrize("split", ["train", "test", ""])
def test_table_splits_equal_those_of_a_list(manifest, split, monkeypatch):
    table = split_rows(str(manifest), split)
    assert isinstance(table, TableRows)
    monkeypatch.setattr(row_lists, "LONG_BYTES", 1 << 30)
    assert list(table) == split_rows(str(manifest), split)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_table_speakers_equal_those_of_a_list(manifest, share):
    (names, codes), (others, numbers) = (
        speaker_labels(rows, share) for rows in (TableRows.open(manifest), read_manifest(manifest))
    )
    assert names == others
    assert codes.tolist() == numbers.tolist()


@pytest.mark.parametrize("equal_speakers", [False, True])
def test_batches_are_drawn_without_opening_other_files(manifest, equal_speakers):
    for path in manifest.parent.glob("[3-8].wav"):
        path.rename(path.with_suffix(".gone"))
    crops = SpeechCrops(config(manifest, equal_speakers=equal_speakers))
    for path in manifest.parent.glob("*.gone"):
        path.rename(path.with_suffix(".wav"))
    batch = crops[Address(0, 0)]
    assert batch.wave.shape == (4, 1, 1000)
    for speaker, utterance in zip(batch.speaker.tolist(), batch.utterance.tolist()):
        assert crops.rows[utterance].speaker == (crops.speakers[speaker] if speaker >= 0 else None)


def test_without_durations_files_are_opened(manifest):
    text = manifest.read_text().replace("duration", "note")
    manifest.write_text(text)
    crops = SpeechCrops(config(manifest))
    lengths = [soundfile.info(row.path).frames for row in crops.rows]
    assert crops.recordings.lengths.tolist() == lengths


def test_a_changed_manifest_is_read_again(manifest):
    before = len(TableRows.open(manifest))
    with manifest.open("a") as file:
        file.write("8.wav,ann,x,train,0.6,\n")
    assert len(TableRows.open(manifest)) == before + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("path", "colour"), "no 'path' column"),
        (lambda text: text + "8.wav,ann\n", "not valid CSV"),
        (lambda text: text.replace("0.5000", "long"), "no number"),
    ],
)
def test_mistakes_are_refused(manifest, change, message):
    manifest.write_text(change(manifest.read_text()))
    with pytest.raises(UserError, match=message):
        TableRows.open(manifest).durations()


def test_missing_split_is_refused(manifest):
    with pytest.raises(UserError, match="no recordings in split 'x'; it has test, train"):
        split_rows(str(manifest), "x")


def test_groups_are_ordered_by_their_first_member():
    groups = Groups(np.array([10, 11, 12, 13, 14, 15]), np.array([7, -1, 2, 7, -1, 2]))
    assert [group.tolist() for group in groups] == [[10, 13], [11], [12, 15], [14]]
    assert groups.sums(np.arange(16)).tolist() == [23, 11, 27, 14]
    assert torch.tensor([len(group) for group in groups]).sum() == 6
