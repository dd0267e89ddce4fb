"""Batches of unlabelled speech: functions of their address; recordings too short are reported."""

import numpy as np
import pytest
import soundfile
import torch

from data.batches import Address, Batches
from data.manifest import Row, write_manifest
from engine.user_error import UserError
from pretrain.speech.batches import SpeechConfig, UnlabelledSpeech

RATE = 1000


def corpus(folder, seconds, split=None):
    """A manifest of noises of these lengths."""
    rng, rows = np.random.default_rng(0), []
    for i, length in enumerate(seconds):
        path = folder / f"{split}{i}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(int(length * RATE)), RATE, subtype="FLOAT")
        rows.append(Row(path=path, split=split))
    write_manifest(folder / f"{split}.csv", rows)
    return str(folder / f"{split}.csv")


def speech(paths, **options):
    options = {"batch_seconds": 8.0, "shortest_seconds": 1.0, "longest_seconds": 4.0, "split": "", **options}
    return UnlabelledSpeech(SpeechConfig(paths=paths, **options), sample_rate=RATE, progress=False)


def test_batches_depend_on_their_address_only(tmp_path):
    clips = speech((corpus(tmp_path, [1.2, 2.0, 2.2, 3.0, 5.0, 6.0, 9.0]),))
    addresses = [Address(0, 3), Address(0, 4), Address(1, 3), Address(0, 3, rank=1), Address(0, 3, micro=1)]
    waves = [clips[a].wave for a in addresses]
    assert torch.equal(waves[0], clips[addresses[0]].wave)
    for other in waves[1:]:
        assert other.shape != waves[0].shape or not torch.equal(other, waves[0])
    later = next(iter(Batches(clips, seed=0)(4)))
    assert torch.equal(later.wave, waves[1])


def test_batches_have_the_given_duration_in_clips_of_equal_length(tmp_path):
    clips = speech((corpus(tmp_path, np.linspace(1.0, 9.0, 40)),))
    lengths = []
    for step in range(60):
        batch, _, samples = clips[Address(0, step)].wave.shape
        assert RATE <= samples <= 4 * RATE
        assert 2 * RATE < batch * samples <= 8 * RATE
        lengths.append(samples)
    assert max(lengths) == 4 * RATE  # long recordings are cut
    assert min(lengths) < 3 * RATE  # and short ones are among themselves


def test_several_manifests_are_joined(tmp_path):
    paths = (corpus(tmp_path, [2.0] * 3, "a"), corpus(tmp_path, [3.0] * 4, "b"))
    assert len(speech(paths).order) == 7


def test_short_recordings_are_skipped_and_reported(tmp_path):
    with pytest.warns(
        UserWarning, match=r"1 of 3 recordings are shorter than data\.shortest_seconds=1, such as"
    ):
        kept = speech((corpus(tmp_path, [0.5, 2.0, 3.0]),))
    assert len(kept.order) == 2
    with pytest.raises(
        UserError, match=r"2 of 2 recordings are shorter .* lower it, or give longer recordings"
    ):
        speech((corpus(tmp_path, [0.5, 0.7], "short"),))


def test_invalid_configs_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--data\.paths"):
        speech(())
    with pytest.raises(UserError, match="ascending order"):
        SpeechConfig(shortest_seconds=3.0, longest_seconds=2.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        speech((str(tmp_path / "nothing.csv"),))


def test_validation_clips_are_fixed(tmp_path):
    clips = speech((corpus(tmp_path, np.linspace(1.0, 6.0, 20)),))
    first, second = list(clips.in_order(20.0)), list(clips.in_order(20.0))
    assert len(first) == len(second) > 1
    assert all(torch.equal(a.wave, b.wave) for a, b in zip(first, second))
