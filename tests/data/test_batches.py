"""Batches: addressed, independent of workers; references, silence, short and unusable files."""

import csv
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.testing import assert_close

from data.batches import Address, DataConfig, SpeechCrops, batches
from data.recordings import Recordings
from data.rows import split_rows
from engine.user_error import UserError

RATE = 8_000


def ramp(samples: int, offset: float = 0.0) -> np.ndarray:
    """A wave whose values identify the position of a crop: 16-bit step n at sample n."""
    return (np.arange(samples) % 30_000 + 1) / 32_767 + offset


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three files of Ann, a long one of Bob, two without speaker, and one of the test split."""
    rng = np.random.default_rng(0)
    sizes = {
        "ann_1": 9000,
        "ann_2": 7000,
        "ann_3": 5000,
        "bob_1": 12_000,
        "x_1": 6000,
        "x_2": 4000,
        "t": 5000,
    }
    with (tmp_path / "manifest.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(["path", "speaker", "split"])
        for name, size in sizes.items():
            soundfile.write(tmp_path / f"{name}.wav", rng.normal(size=size) * 0.1, RATE, "PCM_16")
            speaker = name.split("_")[0] if name[0] in "ab" else ""
            table.writerow([f"{name}.wav", speaker, "test" if name == "t" else "train"])
    return tmp_path / "manifest.csv"


def config(path: Path, **fields) -> DataConfig:
    start = DataConfig(path=str(path), sample_rate=RATE, crop_samples=1000, reference_samples=800, batch=6)
    return replace(start, **fields)


def one_file(folder: Path, wave: np.ndarray, **fields) -> SpeechCrops:
    soundfile.write(folder / "only.wav", wave, RATE, "PCM_16")
    return SpeechCrops(config(folder, **fields))


def starts(crops: torch.Tensor) -> torch.Tensor:
    return (crops[:, 0, 0] * 32_767 - 1).round().long()


def test_an_address_always_gives_the_same_batch(corpus):
    one, two = SpeechCrops(config(corpus)), SpeechCrops(config(corpus))
    for a, b in zip(one[Address(3, 7, 1, 0)], two[Address(3, 7, 1, 0)]):
        assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("other", [(4, 7, 1, 0), (3, 8, 1, 0), (3, 7, 0, 0), (3, 7, 1, 1)])
def test_batches_depend_on_every_part_of_the_address(corpus, other):
    crops = SpeechCrops(config(corpus))
    assert not torch.equal(crops[Address(3, 7, 1, 0)].wave, crops[Address(*other)].wave)


def test_workers_and_resuming_do_not_change_the_sequence(corpus):
    alone = list(islice(batches(config(corpus), seed=5)(0), 8))
    helped = batches(config(corpus), seed=5, workers=2)
    for a, b in zip(alone, islice(helped(0), 8)):
        assert torch.equal(a.wave, b.wave)
        assert torch.equal(a.other, b.other)
        assert torch.equal(a.utterance, b.utterance)
    assert torch.equal(next(helped(6)).wave, alone[6].wave)


def test_reading_batches_leaves_the_global_random_stream_alone(corpus):
    state = torch.get_rng_state()
    next(batches(config(corpus), seed=5)(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_micro_batches_come_in_order(corpus):
    crops = SpeechCrops(config(corpus))
    got = islice(batches(config(corpus), seed=1, rank=1, n_ranks=2, accumulate=2)(3), 4)
    for (step, micro), batch in zip([(3, 0), (3, 1), (4, 0), (4, 1)], got):
        assert torch.equal(batch.wave, crops[Address(1, step, 1, micro)].wave)


def test_shapes_and_labels(corpus):
    crops = SpeechCrops(config(corpus, batch=200))
    batch = crops[Address(0, 0)]
    assert batch.wave.shape == (200, 1, 1000)
    assert batch.other.shape == (200, 1, 800)
    assert batch.wave.dtype == torch.float32
    assert crops.speakers == ["ann", "bob"]
    for utterance, speaker in zip(batch.utterance.tolist(), batch.speaker.tolist()):
        assert speaker == {"a": 0, "b": 1, "x": -1}[crops.rows[utterance].path.name[0]]
    assert set(batch.utterance.tolist()) == set(range(6))


def test_sampling_is_uniform_over_duration_or_speakers(corpus):
    voices = {0: "ann", 1: "ann", 2: "ann", 3: "bob", 4: "x_1", 5: "x_2"}

    def shares(**fields) -> dict[str, float]:
        used = SpeechCrops(config(corpus, batch=4000, **fields))[Address(0, 0)].utterance.tolist()
        names = [voices[index] for index in used]
        return {name: names.count(name) / 4000 for name in ("ann", "bob", "x_1", "x_2")}

    assert shares() == pytest.approx({"ann": 21 / 43, "bob": 12 / 43, "x_1": 6 / 43, "x_2": 4 / 43}, abs=0.04)
    assert shares(equal_speakers=True) == pytest.approx(dict.fromkeys(("ann", "bob", "x_1", "x_2"), 0.25))


def test_equal_speakers_gives_distinct_speakers_per_batch(corpus):
    crops = SpeechCrops(config(corpus, equal_speakers=True, batch=4))
    for step in range(10):
        batch = crops[Address(0, step)]
        assert sorted(batch.speaker.tolist()) == [-1, -1, 0, 1]


def test_reference_crop_is_from_another_recording_of_the_speaker(tmp_path):
    rows = ["path,speaker"]
    for name, level in [("a", 0.1), ("b", 0.2), ("c", 0.3)]:
        soundfile.write(tmp_path / f"{name}.wav", level * (-1.0) ** np.arange(3000), RATE, "PCM_16")
        rows.append(f"{name}.wav,ann")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    batch = SpeechCrops(config(tmp_path, batch=100))[Address(0, 0)]
    levels = batch.wave[:, 0, 0].abs(), batch.other[:, 0, 0].abs()
    assert ((levels[0] - levels[1]).abs() > 0.05).all()


@pytest.mark.parametrize("size", [1800, 1801, 2300, 2599, 2600, 5000])
def test_crops_of_a_long_recording_do_not_overlap(tmp_path, size):
    batch = one_file(tmp_path, ramp(size), batch=200)[Address(0, 0)]
    first, second = starts(batch.wave), starts(batch.other)
    assert ((second + 800 <= first) | (first + 1000 <= second)).all()
    assert first.min() >= 0
    assert (first.max() + 1000).item() <= size
    assert (second.max() + 800).item() <= size


def test_crops_of_a_short_recording_overlap_minimally(tmp_path):
    batch = one_file(tmp_path, ramp(1500), batch=100)[Address(0, 0)]
    first, second = starts(batch.wave), starts(batch.other)
    assert torch.equal(second, torch.where(2 * first > 500, 0, 700))


def test_a_recording_shorter_than_the_crop_is_repeated(tmp_path):
    batch = one_file(tmp_path, ramp(300), batch=20)[Address(0, 0)]
    for crops in (batch.wave, batch.other):
        places = (starts(crops)[:, None] + torch.arange(crops.shape[-1])) % 300
        assert_close(crops[:, 0], torch.tensor(ramp(300), dtype=torch.float32)[places])
    assert len(set(starts(batch.wave).tolist())) > 5


def test_silent_crops_are_redrawn(tmp_path):
    wave = np.zeros(20_000)
    wave[9000:11_000] = 0.1
    batch = one_file(tmp_path, wave, batch=200, silence_db=-40.0)[Address(0, 0)]
    loud = (batch.wave.square().mean((1, 2)) > 1e-4).float().mean()
    assert loud > 0.5  # about 15 % without redrawing


def test_cached_and_uncached_waves_give_the_same_batches(corpus):
    kept, read = SpeechCrops(config(corpus)), SpeechCrops(config(corpus, cache_gib=0.0))
    for a, b in zip(kept[Address(0, 0)], read[Address(0, 0)]):
        assert_close(a, b, rtol=0, atol=1e-4)


def test_cached_and_uncached_waves_are_resampled(tmp_path):
    time = np.arange(32_000) / 16_000
    soundfile.write(tmp_path / "a.flac", np.stack([np.sin(2 * np.pi * 200 * time) * 0.5] * 2, 1), 16_000)
    kept, read = SpeechCrops(config(tmp_path)), SpeechCrops(config(tmp_path, cache_gib=0.0))
    assert kept.recordings.lengths.tolist() == read.recordings.lengths.tolist() == [16_000]
    assert_close(kept[Address(0, 0)].wave, read[Address(0, 0)].wave, rtol=0, atol=1e-3)


def test_levels_above_full_scale_are_kept(tmp_path):
    soundfile.write(tmp_path / "a.wav", 2.5 * (-1.0) ** np.arange(3000), RATE, "FLOAT")
    assert_close(SpeechCrops(config(tmp_path))[Address(0, 0)].wave.max().item(), 2.5)


def test_unusable_files_are_reported_once_and_skipped(corpus, capsys):
    (corpus.parent / "ann_1.wav").write_text("not audio")
    soundfile.write(corpus.parent / "x_1.wav", np.zeros(4000), RATE)
    crops = SpeechCrops(config(corpus, batch=100))
    printed = capsys.readouterr().err
    assert printed.count("4 recordings read, 2 left out:\n") == 1
    assert "ann_1.wav is not audio" in printed
    assert "x_1.wav is silent" in printed
    assert set(crops[Address(0, 0)].utterance.tolist()) == {1, 2, 3, 5}


def test_file_deleted_during_training_is_dropped(corpus, capsys):
    crops = SpeechCrops(config(corpus, batch=50, cache_gib=0.0))
    (corpus.parent / "bob_1.wav").unlink()
    assert 3 not in crops[Address(0, 0)].utterance.tolist()
    crops[Address(0, 1)]
    assert capsys.readouterr().err.count("bob_1.wav does not exist: it is left out from now on") == 1


def test_corpus_without_usable_files_is_refused(tmp_path):
    (tmp_path / "a.wav").write_text("not audio")
    with pytest.raises(UserError, match=r"none of the 1 recordings"):
        SpeechCrops(config(tmp_path))


def test_deletion_of_all_files_raises(corpus):
    crops = SpeechCrops(config(corpus, cache_gib=0.0))
    for path in corpus.parent.glob("*.wav"):
        path.unlink()
    with pytest.raises(UserError, match="no longer be read"):
        crops[Address(0, 0)]


def test_splits(corpus):
    assert [row.path.name for row in split_rows(str(corpus), "test")] == ["t.wav"]
    assert len(split_rows(str(corpus), "")) == 7
    with pytest.raises(UserError, match="it has test, train"):
        split_rows(str(corpus), "validation")
    with pytest.raises(UserError, match=r"--data\.path"):
        split_rows("", "train")


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"crop_samples": -1}, {"reference_samples": -1}])
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        DataConfig(**wrong)


def test_list_of_unusable_files_is_limited(tmp_path, capsys):
    for index in range(105):
        (tmp_path / f"{index}.wav").write_text("no")
    soundfile.write(tmp_path / "good.wav", ramp(1000), RATE)
    rows = split_rows(str(tmp_path), "train")
    assert len(Recordings(rows, sample_rate=RATE, progress=False).usable) == 1
    lines = capsys.readouterr().err.splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("1 recordings read, 105 left out:", "  and 5 more", 102)


@pytest.mark.parametrize(
    ("wave", "words"),
    [
        (np.full(6_000, 0.3), "silent except for an offset of 0.30"),
        (20_000 * np.sin(np.arange(6_000)), "integers stored as floats"),
    ],
)
def test_constant_and_integer_waves_are_refused(tmp_path, wave, words):
    soundfile.write(tmp_path / "a.wav", wave, RATE, "FLOAT")
    with pytest.raises(UserError, match=words):
        SpeechCrops(config(tmp_path))


def test_corpus_without_speech_is_noted(tmp_path, capsys):
    noise = np.random.default_rng(0).normal(size=3 * RATE) * 0.01
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", noise, RATE, "PCM_16")
    SpeechCrops(config(tmp_path))
    assert "note: no voice was found in any of 3 recordings" in capsys.readouterr().err
