"""MelGAN's generator equals the published one; its presets, gradients and halo."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from vocoders import cpu, melgan
from vocoders.melgan import MELGAN, MelGAN, MelGANConfig
from vocoders.published.layout import from_published

PRESETS = {name: value for name, value in vars(melgan).items() if isinstance(value, MelGANConfig)}


def test_published_output_with_and_without_weight_norm(published):
    golden = published("melgan_generator_tiny")
    network, mel = MelGAN(MelGANConfig(channels=golden["config"]["ngf"])), golden["input"]
    network.load_state_dict(from_published(golden["state_dict"]))
    for _ in range(2):
        assert_close(network(mel), golden["output"], rtol=0, atol=1e-5)
        assert_close(cpu.generate(network, mel), golden["output"], rtol=0, atol=1e-5)
        network.fold()


def test_published_size():
    n = sum(parameter.numel() for parameter in MelGAN().fold().parameters())
    assert n / 1e6 == pytest.approx(4.260, abs=5e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_hop_samples_of_a_frame_and_learn(name):
    network = MelGAN(replace(PRESETS[name], channels=2))
    assert network.hop in {256, 160, 240}
    wave = network(torch.randn(2, network.n_mels, 5))
    assert wave.shape == (2, 1, 5 * network.hop)
    wave.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_halo_is_what_a_frame_depends_on(name):
    network = MelGAN(replace(PRESETS[name], channels=2)).fold().double()
    middle = network.halo + 4
    mel = torch.randn(1, network.n_mels, 2 * middle + 1, dtype=torch.float64, requires_grad=True)
    network(mel)[..., middle * network.hop : (middle + 1) * network.hop].sum().backward()
    assert mel.grad is not None
    reached = mel.grad.abs().sum((0, 1)).nonzero().flatten()
    assert max(middle - reached.min(), reached.max() - middle) == network.halo


def test_chunks_with_halo_equal_the_whole():
    network = MelGAN(replace(MELGAN, channels=2)).fold()
    mel, halo, hop = torch.randn(1, 80, 60), network.halo, network.hop
    whole = network(mel)
    for start in range(0, 60, 20):
        first = max(start - halo, 0)
        chunk = network(mel[..., first : start + 20 + halo])[..., (start - first) * hop :][..., : 20 * hop]
        assert_close(chunk, whole[..., start * hop : (start + 20) * hop], rtol=0, atol=1e-6)
