"""Augmentation of mels, waves and frames: identity when disabled, and within its limits."""

from dataclasses import replace

import torch
from torch.testing import assert_close

from pretrain import spectral_augment
from pretrain.recogniser import RecogniserConfig
from pretrain.spectral_augment import (
    AugmentConfig,
    FrameAugmentConfig,
    change_wave_speed,
    mask,
    mask_frames,
    warp_frequency,
)

UNCHANGED_MELS = AugmentConfig(
    warp=0.0, speed=0.0, noise_share=0.0, equaliser=0.0, time_masks=0, band_masks=0
)
UNCHANGED_FRAMES = FrameAugmentConfig(time_share=0.0, channel_share=0.0, speed=0.0)


def test_masked_frames_are_replaced_by_the_mask_vector():
    frames, vector = torch.randn(3, 50, 32), torch.randn(32)
    unchanged = UNCHANGED_FRAMES
    masked = mask_frames(frames, vector, replace(unchanged, time_share=0.1, time_frames=4))
    changed = (masked != frames).any(-1)
    assert changed.any()
    assert not changed.all()
    assert (masked[changed] == vector).all()
    silent = mask_frames(frames, vector, replace(unchanged, channel_share=0.1, channel_width=3))
    assert ((silent == 0).all(1) | (silent == frames).all(1)).all()
    assert mask_frames(frames, vector, unchanged).equal(frames)


def test_no_augmentation_is_the_identity():
    mel, lengths = torch.randn(2, 80, 30), torch.tensor([30, 20])
    assert_close(warp_frequency(mel, RecogniserConfig().mel, 0.0), mel, atol=1e-4, rtol=1e-4)
    same, new = spectral_augment.change_speed(mel, lengths, 0.0)
    assert_close(same[0], mel[0])
    assert torch.equal(new, lengths)
    assert torch.equal(mask(mel, UNCHANGED_MELS), mel)
    wave, samples = torch.randn(2, 1, 16_000), torch.tensor([16_000, 8_000])
    same, new = change_wave_speed(wave, samples, 0.0)
    assert same.equal(wave)
    assert new.equal(samples)


def test_speed_changes_lengths_within_the_limit():
    mel, new = spectral_augment.change_speed(torch.randn(50, 4, 100), torch.full((50,), 100), 0.25)
    assert mel.shape[-1] == new.max()
    assert 79 <= new.min() < 100 < new.max() <= 125
    wave, lengths = change_wave_speed(torch.randn(2, 1, 16_000), torch.tensor([16_000, 8_000]), 0.2)
    assert lengths[0] == wave.shape[-1] != 16_000
    assert abs(lengths[0] / 2 - lengths[1]) <= 1


def test_masks_cover_at_most_their_share():
    config = replace(UNCHANGED_MELS, time_masks=2, time_mask_frames=10, band_masks=1, band_mask_bands=8)
    masked = mask(torch.ones(20, 80, 100), config) == 0
    assert 0 < masked.all(1).sum(1).max() <= 20
    assert 0 < masked.all(2).sum(1).max() <= 8
