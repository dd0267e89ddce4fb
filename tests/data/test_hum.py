"""Removal of mains hum preserves voices."""

import math

import pytest
import torch

from data.audio.hum import without_hum

RATE = 16_000


def gliding_voice(seconds: float) -> torch.Tensor:
    """Harmonics of a varying pitch in noise."""
    time = torch.arange(round(seconds * RATE)) / RATE
    f0 = 140.0 + 30.0 * torch.sin(2 * math.pi * 0.7 * time)
    phase = 2 * math.pi * (f0 / RATE).double().cumsum(0)
    wave = 0.05 * torch.stack([torch.sin(k * phase) / k for k in range(1, 12)]).sum(0)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return (wave.float() + 0.002 * noise)[None, None]


def db(wave: torch.Tensor) -> float:
    return 10 * math.log10(float(wave.square().mean()))


@pytest.mark.parametrize("mains", [50.0, 60.0, 49.97])
def test_hum_is_reduced_and_the_voice_preserved(mains):
    wave = gliding_voice(6.0)
    time = torch.arange(wave.shape[-1]) / RATE
    lines = [0.004 / k * torch.sin(2 * math.pi * mains * k * time + k) for k in (1, 2, 3, 5)]
    hum = torch.stack(lines).sum(0)
    left = without_hum(wave + hum, RATE) - without_hum(wave, RATE)
    assert db(left) < db(hum) - 5  # harmonics among the voice's own stay as loud as these
    below_the_voice = torch.fft.rfft(left)[..., : 80 * 6], torch.fft.rfft(hum)[..., : 80 * 6]
    assert db(below_the_voice[0].abs()) < db(below_the_voice[1].abs()) - 15
    assert db(without_hum(wave, RATE) - wave) < db(wave) - 12


def test_short_and_silent_waves_are_unchanged():
    for wave in (torch.randn(1, 1, 8_000), torch.zeros(1, 1, 20_000)):
        assert torch.equal(without_hum(wave, RATE), wave)


def test_monotonous_voice_is_not_removed():
    time = torch.arange(3 * RATE) / RATE
    wave = torch.stack([torch.sin(2 * math.pi * 100 * k * time) / k for k in range(1, 12)]).sum(0)[None, None]
    assert torch.equal(without_hum(wave, RATE), wave)


def test_rows_are_processed_independently():
    wave = torch.cat([gliding_voice(2.0), torch.randn(1, 1, 32_000) * 0.1])
    together = without_hum(wave, RATE)
    for row in range(2):
        torch.testing.assert_close(together[row : row + 1], without_hum(wave[row : row + 1], RATE))
