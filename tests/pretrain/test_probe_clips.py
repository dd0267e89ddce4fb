"""Labelled clips, their folds, and fractions of them."""

import csv
from itertools import pairwise

import pytest

from data.manifest import Row, write_manifest
from engine.user_error import UserError
from pretrain.probe.classification import some_of
from pretrain.probe.clips import Clip, clips_from, is_multi_label, label_names, rotations, splits_of


def manifest(folder, rows):
    write_manifest(folder / "metadata.csv", [Row(path=folder / name, extra=extra) for name, extra in rows])
    return folder


def test_labels_folds_and_recordings_are_read_from_manifest_and_file_names(tmp_path):
    rows = [
        ("2-77-A.wav", {"label": "dog; rain", "caption": "a dog in the rain"}),
        ("x.wav", {"label": "dog"}),
    ]
    first, second = clips_from(manifest(tmp_path, rows))
    assert first.labels == ("dog", "rain")
    assert (first.fold, first.recording, first.caption) == (2, "2-77", "a dog in the rain")
    assert second.fold is None
    assert is_multi_label([first, second])
    assert label_names([first, second]) == ["dog", "rain"]


def test_labels_are_read_from_a_given_column(tmp_path):
    folder = manifest(tmp_path, [("a.wav", {"shape": "ring", "label": "x"})])
    assert clips_from(folder, "shape")[0].labels == ("ring",)
    with pytest.raises(UserError, match=r"no label in the column 'colour'"):
        clips_from(folder, "colour")


def written(path, names, *rows):
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])


def test_esc50_is_read_as_published(tmp_path):
    names = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    written(tmp_path / "meta" / "esc50.csv", names, ["1-100-A-0.wav", 1, 0, "dog", "True", 100, "A"])
    (clip,) = clips_from(tmp_path)
    assert clip == Clip(tmp_path / "audio" / "1-100-A-0.wav", ("dog",), None, 1, "1-100")


def test_urbansound_is_read_as_published(tmp_path):
    names = ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]
    row = ["7-3-0-0.wav", 7, 0, 4, 1, 5, 3, "dog_bark"]
    written(tmp_path / "metadata" / "UrbanSound8K.csv", names, row)
    (clip,) = clips_from(tmp_path)
    assert clip == Clip(tmp_path / "audio" / "fold5" / "7-3-0-0.wav", ("dog_bark",), None, 5, "7")


def corpus(n_folds=5, n_clips=4):
    return [
        Clip(f"{f}/{label}{i}", (label,), None, f, f"{f}{i}")  # pyright: ignore[reportArgumentType]
        for f in range(1, n_folds + 1)
        for label in ("cat", "dog")
        for i in range(n_clips)
    ]


def test_every_fold_is_the_test_once_and_not_in_training_then():
    clips = corpus()
    rounds = rotations(clips, "data")
    assert sorted(clip.path for one in rounds for clip in one.test) == sorted(clip.path for clip in clips)
    for one in rounds:
        assert {c.fold for c in one.test} == {one.fold}
        assert len({c.path for part in one[1:] for c in part}) == len(clips)
    assert ({c.fold for c in rounds[-1].validation}, rounds[-1].fold) == ({4}, 5)


def test_splits_are_derived_from_folds():
    assert [{c.fold for c in part} for part in splits_of(corpus(), "data")] == [{1, 2, 3}, {4}, {5}]
    with pytest.raises(UserError, match="neither a 'split' column"):
        splits_of(corpus(2), "data")
    with pytest.raises(UserError, match="has no fold 7"):
        rotations(corpus(), "data", only=[7])
    with pytest.raises(UserError, match="no clips of split 'validation'"):
        splits_of([clip._replace(split="train") for clip in corpus()], "data")


def test_smaller_fractions_are_subsets_of_larger_ones_with_all_classes():
    clips = corpus(n_clips=20)
    kept = [some_of(clips, percent, seed=3) for percent in (1.0, 10.0, 50.0, 100.0)]
    assert [len(k) for k in kept] == [2, 20, 100, 200]
    assert all(set(a) < set(b) for a, b in pairwise(kept))
    assert all(label_names(k) == ["cat", "dog"] for k in kept)
    assert some_of(clips, 10.0, seed=4) != kept[1]
