"""StarGAN's spectrogram: size, range, recovery of magnitudes."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from engine.user_error import UserError
from w2w.baselines.stargan.presets import PRESETS, STARGAN
from w2w.baselines.stargan.spectrogram import Spectrogram, SpectrogramConfig, at_full_scale

CONFIG = SpectrogramConfig()


def test_crop_of_66304_samples_is_a_square_of_256():
    assert CONFIG.crop_samples == 66_304
    assert Spectrogram(CONFIG)(torch.randn(2, 1, 66_304)).shape == (2, 1, 256, 256)


def test_hop_of_512_gives_half_the_frames():
    halved = Spectrogram(SpectrogramConfig(hop=512, n_frames=128))
    assert halved(torch.randn(1, 1, 66_304)).shape == (1, 1, 256, 128)


def test_spectrogram_is_the_floored_log_power_above_dc():
    wave = 0.3 * torch.randn(1, 1, 4_096)
    frame = wave[0, 0, 512 : 512 + 1024].double().numpy() * (
        0.54 - 0.46 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    )
    power = np.abs(np.fft.rfft(frame)) ** 2 / 1024
    level = np.log(np.maximum(power[1:257], 1e-3))
    expected = (level - math.log(1e-3)) / (math.log(552.96**2 / 1024) - math.log(1e-3))
    assert_close(
        Spectrogram(CONFIG)(wave)[0, 0, :, 2].double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-4
    )


def test_scale_ends_at_the_given_maximum():
    """A sine at full scale, on a bin, has the published preset's maximum; louder is 1, the floor 0."""
    shape = STARGAN.stargan.spectrogram
    at = torch.arange(shape.crop_samples)
    sine = torch.cos(2 * math.pi * 40 * at / 1024)[None, None]
    spectrogram = Spectrogram(shape)
    assert spectrogram(sine)[0, 0, 39].mean().item() == pytest.approx(1.0, abs=1e-3)
    assert spectrogram(3 * sine).max() == 1
    assert spectrogram(0.1 * sine)[0, 0, 39].mean().item() == pytest.approx(
        1 - math.log(100) / math.log(shape.maximum / 1e-3), abs=1e-3
    )
    assert PRESETS["own"].stargan.spectrogram == CONFIG


def test_values_lie_between_zero_and_one():
    at = torch.arange(66_304)
    loudest = torch.cos(2 * math.pi * 40 * at / 1024).sign()[None, None]
    spectrogram = Spectrogram(CONFIG)
    assert not spectrogram(torch.zeros(1, 1, 66_304)).any()
    brightest = spectrogram(loudest).max().item()
    assert 0.9 < brightest < 1.0


def test_magnitudes_can_be_recovered():
    wave = at_full_scale(torch.randn(1, 1, 8_192))
    spectrogram = Spectrogram(CONFIG)
    window = torch.hamming_window(1024)
    true = torch.stft(wave[0], 1024, 256, 1024, window, center=False, return_complex=True).abs()[:, 1:257]
    level = spectrogram(wave)[:, 0] * (CONFIG.high - CONFIG.low) + CONFIG.low
    magnitudes = (0.5 * level).exp() * math.sqrt(1024)
    assert_close(magnitudes, true.clamp_min(math.sqrt(1e-3 * 1024)), rtol=1e-3, atol=1e-3)


def test_clips_are_scaled_to_full_scale_and_silence_stays():
    wave = torch.stack([torch.full((1, 8), -0.2), torch.zeros(1, 8)])
    assert_close(at_full_scale(wave).abs().amax(dim=-1), torch.tensor([[1.0], [0.0]]))


def test_sizes_that_cannot_be_halved_twice_are_refused():
    with pytest.raises(UserError, match="multiples of 4"):
        SpectrogramConfig(n_frames=130)
    with pytest.raises(UserError, match="maximum"):
        SpectrogramConfig(maximum=1e-4)
