"""Hugging Face datasets with audio become files and manifest rows."""

import numpy as np
import pytest
import torch

from data.audio import load, save
from data.corpora.hub import hf_dataset
from engine.user_error import UserError


@pytest.fixture
def hub(tmp_path):
    """A dataset with one embedded clip and one on disk, and class labels for speakers."""
    datasets = pytest.importorskip("datasets")
    for name in ("inside.flac", "outside.ogg"):
        save(tmp_path / name, 0.1 * torch.randn(1, 1, 1_600), 16_000)
    inside = {"bytes": (tmp_path / "inside.flac").read_bytes(), "path": None}
    outside = {"bytes": None, "path": str(tmp_path / "outside.ogg")}
    columns = {
        "sound": [inside, outside],
        "speaker_id": [0, 1],
        "sentence": ["One.", "Two."],
        "age": [30, 40],
    }
    dataset = datasets.Dataset.from_dict(columns).cast_column("sound", datasets.Audio(sampling_rate=16_000))
    return dataset.cast_column("speaker_id", datasets.ClassLabel(names=["anna", "bert"]))


@pytest.mark.parametrize("form", ["object", "streamed", "disk", "splits"])
def test_hf_dataset(tmp_path, hub, form):
    import datasets

    split = "validation" if form == "splits" else None
    match form:
        case "object":
            source = hub
        case "streamed":
            source = hub.to_iterable_dataset()
        case "disk":
            hub.save_to_disk(tmp_path / "disk")
            source = tmp_path / "disk"
        case _:
            datasets.DatasetDict({"dev": hub}).save_to_disk(tmp_path / "disk")
            source = str(tmp_path / "disk")
    rows = hf_dataset(source, tmp_path / "out")
    assert [(r.speaker, r.text, r.split, dict(r.extra)) for r in rows] == [
        ("anna", "One.", split, {"age": "30"}),
        ("bert", "Two.", split, {"age": "40"}),
    ]
    assert rows[0].path.read_bytes() == (tmp_path / "inside.flac").read_bytes()
    assert rows[0].path.suffix == ".flac"
    if form in ("object", "streamed"):  # save_to_disk embeds files
        assert rows[1].path == tmp_path / "outside.ogg"
    assert rows[1].path.read_bytes() == (tmp_path / "outside.ogg").read_bytes()
    assert len(hf_dataset(source, tmp_path / "out", limit=1)) == 1


def test_hf_dataset_of_paths_and_of_arrays(tmp_path):
    datasets = pytest.importorskip("datasets")
    save(tmp_path / "a.wav", 0.1 * torch.randn(1, 1, 1_600), 16_000)
    rows = hf_dataset(datasets.Dataset.from_dict({"path": [str(tmp_path / "a.wav")]}), tmp_path / "out")
    assert [row.path for row in rows] == [tmp_path / "a.wav"]
    array = {"array": np.sin(np.arange(800) / 9).tolist(), "sampling_rate": 8_000}
    unnamed = datasets.IterableDataset.from_generator(lambda: iter([{"audio": array}]))
    rows = hf_dataset(unnamed, tmp_path / "out")
    assert load(rows[0].path).shape == (1, 1, 800)


def test_dataset_without_audio_or_of_unknown_name_is_refused(tmp_path):
    datasets = pytest.importorskip("datasets")
    with pytest.raises(UserError, match="no audio column among title"):
        hf_dataset(datasets.Dataset.from_dict({"title": ["x"]}), tmp_path)
    with pytest.raises(UserError, match="there is no dataset"):
        hf_dataset(str(tmp_path / "nowhere"), tmp_path)
