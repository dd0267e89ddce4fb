"""The denoiser equals the published definition and keeps lengths."""

import pytest
import torch
from torch.testing import assert_close

from vocoders import cpu
from vocoders.vocoder import Denoiser
from vocoders.waveglow import WaveGlow, WaveGlowConfig

CONFIG = WaveGlowConfig(n_mels=6, n_flows=2, n_early_every=1, n_layers=2, n_channels=8, hop=16, window=40)


@pytest.fixture
def network() -> WaveGlow:
    network = WaveGlow(CONFIG)
    for coupling in network.WN:
        torch.nn.init.normal_(coupling.end.weight, std=0.02)
        torch.nn.init.normal_(coupling.end.bias, std=0.3)
    return network


def frames(wave: torch.Tensor) -> torch.Tensor:
    """Windows of 1024 every 256 samples, the wave mirrored at its ends."""
    padded = torch.nn.functional.pad(wave, (512, 512), mode="reflect")[:, 0]
    return padded.unfold(-1, 1024, 256) * torch.hann_window(1024)


def test_denoiser_equals_the_published_definition(network):
    wave = 0.1 * torch.randn(2, 1, 4096)
    silence = network.inverse(torch.zeros(1, 6, 88), torch.zeros(1, 8, 176))
    hum = torch.fft.rfft(frames(silence)).abs()[0, 0]
    spectrum = torch.fft.rfft(frames(wave))
    magnitude = (spectrum.abs() - 0.3 * hum).clamp(min=0)
    rebuilt = torch.fft.irfft(torch.polar(magnitude, spectrum.angle())) * torch.hann_window(1024)
    total, weight = torch.zeros(2, 4096 + 1024), torch.zeros(4096 + 1024)
    for i in range(rebuilt.shape[1]):
        total[:, 256 * i : 256 * i + 1024] += rebuilt[:, i]
        weight[256 * i : 256 * i + 1024] += torch.hann_window(1024).square()
    published = (total / weight)[:, 512:-512]
    assert hum.max() > 0.1
    assert_close(Denoiser(network)(wave, 0.3)[:, 0], published, rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 100, 1023, 1024, 5000, 5120])
def test_length_is_kept_and_strength_0_changes_nothing(network, samples):
    wave, denoise = torch.randn(1, 1, samples), Denoiser(network)
    assert denoise(wave, 0.1).shape == wave.shape
    assert torch.equal(denoise(wave, 0.0), wave)
    assert_close(denoise(wave, 1e-9), wave, rtol=0, atol=1e-4)


def test_constant_noise_of_the_network_is_removed(network):
    mel, noise = torch.zeros(1, 6, 640), torch.zeros(1, 8, 1280)
    hum = cpu.generate(network, mel, noise)
    assert Denoiser(network)(hum, 1.0)[..., 2048:-2048].abs().max() < 0.1 * hum.abs().max()
