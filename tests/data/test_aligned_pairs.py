"""Time-aligned pairs: equal segments of two voices, references of another sentence, addressed batches."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.testing import assert_close

from data.audio import resample
from data.batches import Address, Batches, DataConfig
from data.pairs import PairConfig, PairCrops, batches_together
from engine.user_error import UserError

RATE = 8_000
Spoken = tuple[str, str, int]
"""Group, speaker, samples."""
CORPUS: list[Spoken] = [
    ("0", "ann", 9000), ("0", "bob", 9000), ("0", "cat", 9000),
    ("1", "ann", 7000), ("1", "bob", 7000),
    ("2", "dan", 6000), ("2", "eve", 6000),
]  # fmt: skip


def write(folder: Path, spoken: Sequence[Spoken], columns: Sequence[str] = ("speaker", "parallel")) -> Path:
    """Ramps whose values identify the position and whose offsets identify the recording."""
    folder.mkdir(exist_ok=True)
    with (folder / "manifest.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(["path", *columns])
        for number, (group, speaker, samples) in enumerate(spoken):
            wave = (np.arange(samples) + 1 + 10_000 * (number % 3)) / 32_768
            soundfile.write(folder / f"{number}.wav", wave * (-1) ** number, RATE, "PCM_16")
            known = {"speaker": speaker, "parallel": group, "text": "hello"}
            table.writerow([f"{number}.wav", *(known[column] for column in columns)])
    return folder / "manifest.csv"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "pairs", CORPUS)


def config(path: Path, **fields) -> PairConfig:
    start = PairConfig(path=str(path), sample_rate=RATE, crop_samples=1000, reference_samples=800, batch=40)
    return replace(start, **fields)


def places(crops: torch.Tensor) -> tuple[list[int], list[int]]:
    """Return the ramp that each crop is from, and its first sample."""
    steps = (crops[:, 0, 0].abs() * 32_768).round().long() - 1
    return (steps // 10_000).tolist(), (steps % 10_000).tolist()


def test_source_and_target_crops_start_at_the_same_sample(corpus):
    crops = PairCrops(config(corpus))
    seen = set()
    for step in range(5):
        batch = crops[Address(0, step)]
        (sources, source_starts), (targets, target_starts) = places(batch.source), places(batch.target)
        assert source_starts == target_starts
        seen.update(source_starts)
        for source, target, utterance in zip(sources, targets, batch.utterance.tolist()):
            assert target == utterance % 3
            assert source != target
            assert any(
                i % 3 == source and i != utterance and CORPUS[i][0] == CORPUS[utterance][0]
                for i in range(len(CORPUS))
            )
    assert len(seen) > 100


def test_reference_is_another_sentence_of_the_targets_speaker(corpus):
    crops = PairCrops(config(corpus, batch=200))
    batch = crops[Address(0, 0)]
    ramps, starts = places(batch.reference)
    _, target_starts = places(batch.target)
    elsewhere = {"ann": {0: 3, 3: 0}, "bob": {1: 4, 4: 1}}
    for index, ramp, start, target in zip(batch.utterance.tolist(), ramps, starts, target_starts):
        speaker = CORPUS[index][1]
        if speaker in elsewhere:
            assert ramp == elsewhere[speaker][index] % 3
        else:  # the speaker has one sentence: another segment of it
            assert ramp == index % 3
            assert start + 800 <= target or start >= target + 1000
    assert [crops.speakers[label] for label in batch.speaker] == [CORPUS[i][1] for i in batch.utterance]
    assert set(batch.utterance.tolist()) == set(range(len(CORPUS)))


def test_shapes_and_types(corpus):
    batch = PairCrops(config(corpus, reference_samples=0))[Address(0, 0)]
    assert batch.source.shape == batch.target.shape == batch.reference.shape == (40, 1, 1000)
    assert batch.source.dtype == batch.target.dtype == torch.float32


def test_recordings_shorter_than_the_crop_stay_aligned(corpus):
    batch = PairCrops(config(corpus, crop_samples=12_000))[Address(0, 0)]
    _, source = places(batch.source)
    _, target = places(batch.target)
    assert source == target
    assert batch.target.shape == (40, 1, 12_000)


@pytest.mark.parametrize("kind", ["wav", "ogg"])
def test_resampled_members_keep_equal_lengths_and_positions(tmp_path, kind):
    rng = np.random.default_rng(0)
    common = rng.normal(size=24_001) * 0.1
    with (tmp_path / "manifest.csv").open("w") as file:
        file.write("path,speaker,parallel\n")
        for name, gain in {"a": 1.0, "b": -0.5, "c": 0.25}.items():
            subtype = "OPUS" if kind == "ogg" else "PCM_16"
            soundfile.write(tmp_path / f"{name}.{kind}", common * gain, 24_000, subtype)
            file.write(f"{name}.{kind},{name},0\n")
    crops = PairCrops(config(tmp_path, sample_rate=16_000, silence_db=-60.0))
    assert set(crops.recordings.lengths.tolist()) == {16_001}
    batch = crops[Address(0, 0)]
    source, target = batch.source[:, 0], batch.target[:, 0]
    alike = torch.cosine_similarity(source, target).abs()
    shifted = torch.cosine_similarity(source[:, 1:], target[:, :-1]).abs()
    assert (alike > shifted + 0.3).all()  # Opus is lossy
    if kind == "wav":
        whole = resample(torch.tensor(common, dtype=torch.float32)[None, None], 24_000, 16_000)[0, 0]
        gain = {0: 1.0, 1: -0.5, 2: 0.25}
        for crop, index in zip(target[:4], batch.utterance.tolist()):
            errors = (whole.unfold(0, 1000, 1) * gain[index] - crop).abs().amax(1)
            assert errors.min() < 1e-3


def test_pairs_depend_on_every_part_of_the_address_only(corpus):
    crops, again = PairCrops(config(corpus)), PairCrops(config(corpus, cache_gib=0.0))
    for a, b in zip(crops[Address(3, 7, 1, 0)], again[Address(3, 7, 1, 0)]):
        assert_close(a, b, rtol=0, atol=1e-4)  # the cache rounds to 16 bits
    for other in [(4, 7, 1, 0), (3, 8, 1, 0), (3, 7, 0, 0), (3, 7, 1, 1)]:
        assert not torch.equal(crops[Address(3, 7, 1, 0)].source, crops[Address(*other)].source)


def test_workers_and_resuming_do_not_change_the_sequence(corpus):
    alone = list(islice(Batches(PairCrops(config(corpus)), seed=5)(0), 6))
    helped = Batches(PairCrops(config(corpus)), seed=5, workers=2)
    for a, b in zip(alone, islice(helped(0), 6)):
        assert all(torch.equal(one, two) for one, two in zip(a, b))
    assert torch.equal(next(helped(4)).reference, alone[4].reference)


def test_speech_and_pairs_of_one_address_do_not_depend_on_workers(corpus):
    speech = DataConfig(path=str(corpus), sample_rate=RATE, crop_samples=500, batch=3)
    alone = list(islice(batches_together(speech, config(corpus), seed=5)(0), 4))
    helped = batches_together(speech, config(corpus), seed=5, workers=2, accumulate=1)
    for a, b in zip(alone[2:], islice(helped(2), 2)):
        assert torch.equal(a.human.wave, b.human.wave)
        assert a.pairs is not None
        assert torch.equal(a.pairs.source, b.pairs.source)
    without = next(batches_together(speech, PairConfig(), seed=5, workers=2)(0))
    assert without.pairs is None
    assert torch.equal(without.human.wave, alone[0].human.wave)


def test_different_sample_rates_of_the_two_corpora_are_refused(corpus):
    speech = DataConfig(path=str(corpus), sample_rate=16_000)
    with pytest.raises(UserError, match="sample_rate=8000 Hz and the data's sample_rate=16000 Hz differ"):
        batches_together(speech, config(corpus), seed=0)


@pytest.mark.parametrize(
    ("spoken", "columns", "sentence"),
    [
        ([("7", 900), ("7", 901)], ("speaker", "parallel"), r"group 7 .*0\.wav has 900 .*1\.wav 901"),
        ([("7", 900), ("8", 900)], ("speaker", "parallel"), r"group 7 .*only one member.*0\.wav"),
        ([("7", 900), ("7", 900)], ("speaker", "text"), "no column 'parallel'"),
    ],
)
@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_refusals(tmp_path, spoken, columns, sentence, cache_gib):
    path = write(tmp_path / "bad", [(group, "ann", samples) for group, samples in spoken], columns)
    with pytest.raises(UserError, match=sentence) as refusal:
        PairCrops(config(path, cache_gib=cache_gib))
    assert "\n" not in str(refusal.value)


def test_unreadable_member_is_dropped_and_its_group_is_used_without_it(corpus, capsys):
    (corpus.parent / "1.wav").write_bytes(b"no audio")
    (corpus.parent / "5.wav").write_bytes(b"no audio")
    crops = PairCrops(config(corpus))
    assert "5 recordings read, 2 left out:" in capsys.readouterr().err
    assert [group.tolist() for group in crops.groups] == [[0, 2], [3, 4]]
    assert set(crops[Address(0, 0)].utterance.tolist()) == {0, 2, 3, 4}


def test_missing_pairs_path_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--pairs\.path"):
        PairCrops(PairConfig())
