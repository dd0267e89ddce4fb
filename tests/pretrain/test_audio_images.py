"""Batches of sounds with their images' embeddings: addresses, epochs, short and unreadable clips."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from data.audio import AudioError
from data.audiovisual.scenes import Scene
from data.batches import Address
from engine.user_error import UserError
from pretrain.clip.audio_encoder import AudioEncoderConfig
from pretrain.clip.audio_images import AudioImageClips, AudioImageConfig

ENCODER = AudioEncoderConfig(sample_rate=1000, n_fft=64)
CONFIG = AudioImageConfig(crop_seconds=0.5, batch=4)
IMAGES = torch.arange(24.0)[:, None].repeat(1, 3)
SCENES = [Scene(f"clip {index}", None, ()) for index in range(24)]


def ramp(index: int, samples: int = 900) -> torch.Tensor:
    """Return a clip whose samples encode the clip and the position: index + position / 1000."""
    return (index + torch.arange(samples) / 1000)[None, None]


@pytest.fixture
def clips(monkeypatch):
    """Make batches of 24 clips that ``read(index)`` returns, ramps by default."""

    def make(read=ramp, config=CONFIG, **sizes) -> AudioImageClips:
        monkeypatch.setattr(
            "pretrain.clip.audio_images.wave_of", lambda scene, rate: read(SCENES.index(scene))
        )
        return AudioImageClips(SCENES, IMAGES, config, ENCODER, **sizes)

    return make


def test_batch_is_a_function_of_its_address(clips):
    addresses = [Address(3, 7), Address(3, 8), Address(4, 7)]
    one, other = clips(), clips(config=replace(CONFIG, cache_gib=0.0))
    drawn = [one[address] for address in addresses]
    for address, batch in zip(reversed(addresses), reversed(drawn)):
        assert all(torch.equal(a, b) for a, b in zip(other[address], batch))
    assert not torch.equal(drawn[0].wave, drawn[1].wave)
    assert not torch.equal(drawn[0].wave, drawn[2].wave)


def test_crops_embeddings_and_indices_belong_to_the_same_clips(clips):
    batch = clips()[Address(0, 0)]
    assert batch.wave.shape == (4, 1, 500)
    assert torch.equal(batch.image, IMAGES[batch.index])
    assert torch.equal(batch.wave[:, 0, 0].long(), batch.index)
    assert_close(batch.wave.diff(dim=-1), torch.full((4, 1, 499), 1e-3), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("n_ranks", "accumulate"), [(1, 1), (2, 1), (3, 2)])
def test_epoch_uses_every_clip_once_over_all_processes(clips, n_ranks, accumulate):
    data = clips(n_ranks=n_ranks, accumulate=accumulate)
    seen = [
        index
        for step in range(data.steps_per_epoch)
        for micro in range(accumulate)
        for rank in range(n_ranks)
        for index in data[Address(0, step, rank, micro)].index.tolist()
    ]
    assert len(seen) == len(set(seen)) == 24


def test_short_clips_are_repeated_to_fill_the_crop(clips):
    data = clips(lambda index: ramp(0, 200))
    batch = data[Address(0, 0)]
    assert torch.equal(batch.wave[..., :200], batch.wave[..., 200:400])
    assert torch.equal(batch.wave[..., 400:], batch.wave[..., :100])
    assert {round(float(v), 3) for v in batch.wave[0, 0, :200]} == {n / 1000 for n in range(200)}
    assert torch.equal(data.in_order(1)[0].wave[0, 0, :200], ramp(0, 200)[0, 0])


def test_clip_shorter_than_the_window_is_named(clips):
    with pytest.raises(UserError, match="clip 0 has 63 samples, fewer than the encoder's window of 64"):
        clips(lambda index: ramp(index, 63)).in_order(1)


def test_unreadable_clips_are_replaced_and_named_once(clips, capsys):
    def damaged(index):
        raise AudioError(Path(f"{index}.wav"), "unreadable", "is damaged")

    data = clips(lambda index: ramp(index) if index % 3 else damaged(index))
    for step in range(6):
        batch = data[Address(0, step)]
        assert not (batch.index % 3 == 0).any()
        assert torch.equal(batch.wave[:, 0, 0].long(), batch.index)
    assert [i for batch in data.in_order(9) for i in batch.index.tolist()] == [1, 2, 4, 5, 7, 8]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines)) == 8
    with pytest.raises(AudioError):
        clips(damaged)[Address(0, 0)]


def test_validation_crops_are_the_beginnings_of_the_clips_in_order(clips):
    batches = clips().in_order(10)
    assert [len(batch.wave) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(10))
    assert_close(torch.cat([batch.wave[:, 0, 0] for batch in batches]), torch.arange(10.0))


def test_impossible_batch_and_crop_sizes_are_refused(clips):
    with pytest.raises(UserError, match=r"24 clips, fewer than a batch of 32: set --data\.batch to 24"):
        clips(config=replace(CONFIG, batch=32))
    with pytest.raises(UserError, match=r"window: take crops of at least 0\.064 s"):
        clips(config=replace(CONFIG, crop_seconds=0.05))
    with pytest.raises(UserError, match="at least 2"):
        AudioImageConfig(batch=1)
    with pytest.raises(UserError, match="above 0"):
        AudioImageConfig(crop_seconds=0.0)
