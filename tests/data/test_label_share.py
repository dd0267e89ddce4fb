"""A share of the speaker labels: a fixed selection; other labels are not used."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data.batches import Address, DataConfig, SpeechCrops
from data.manifest import Row
from engine.user_error import UserError
from w2w.baselines.stargan.labels import known_speakers

RATE = 8_000


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four speakers with five recordings each, all of different levels, and one without speaker."""
    lines = ["path,speaker"]
    for number in range(21):
        wave = 0.02 * (number + 1) * (-1.0) ** np.arange(3000)
        soundfile.write(tmp_path / f"{number:02}.wav", wave, RATE, "PCM_16")
        lines.append(f"{number:02}.wav," + (f"s{number % 4}" if number < 20 else ""))
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    return tmp_path


def crops(corpus: Path, **fields) -> SpeechCrops:
    return SpeechCrops(
        DataConfig(path=str(corpus), sample_rate=RATE, crop_samples=1000, batch=200, **fields), progress=False
    )


def levels(wave: torch.Tensor) -> torch.Tensor:
    return wave[:, 0].abs().amax(-1)


@pytest.mark.parametrize(("share", "n_labelled"), [(0.0, 0), (0.1, 2), (0.5, 10), (1.0, 20)])
def test_share_of_labels_is_used(corpus, share, n_labelled):
    labels = crops(corpus, label_share=share).labels
    assert (labels >= 0).sum() == n_labelled
    assert labels[20] == -1


def test_share_is_fixed_and_smaller_ones_are_subsets(corpus):
    known = [set(np.flatnonzero(crops(corpus, label_share=share).labels >= 0)) for share in (0.2, 0.2, 0.6)]
    assert known[0] == known[1]
    assert known[0] < known[2]


def test_speakers_without_used_labels_are_dropped():
    rows = [Row(path=Path(f"{i}.wav"), speaker=f"s{i}") for i in range(10)]
    assert sum(name is not None for name in known_speakers(rows, 0.3)) == 3
    assert known_speakers(rows, 1.0) == [row.speaker for row in rows]


def test_unused_labels_give_references_from_the_same_recording(corpus):
    batch = crops(corpus, label_share=0.5)[Address(0, 0)]
    same = (levels(batch.wave) - levels(batch.other)).abs() < 1e-3
    unlabelled = batch.speaker == -1
    assert unlabelled.any()
    assert same[unlabelled].all()
    assert not same[~unlabelled].all()
    assert crops(corpus, label_share=0.0).speakers == []


def test_reference_may_always_be_from_the_same_recording(corpus):
    batch = crops(corpus, other="recording")[Address(0, 0)]
    assert ((levels(batch.wave) - levels(batch.other)).abs() < 1e-3).all()
    assert (batch.speaker >= 0).any()


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_impossible_shares_are_refused(share):
    with pytest.raises(UserError, match="label_share"):
        DataConfig(label_share=share)
