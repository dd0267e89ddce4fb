"""CPU kernels of HiFi-GAN and MelGAN equal torch for any length, dilation, kernel and number of threads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from vocoders import cpu
from vocoders.cpu import generator
from vocoders.cpu.convolution import Convolution
from vocoders.cpu.filters import minimal_filter
from vocoders.hifigan import V1, V1_16K, V2, V2_24K, V3, HiFiGAN
from vocoders.melgan import MELGAN, MELGAN_24K, MelGAN

NETWORKS = {
    "V1": (HiFiGAN, replace(V1, channels=256)),
    "V1_16K": (HiFiGAN, replace(V1_16K, channels=48)),
    "V2": (HiFiGAN, V2),
    "V2_24K": (HiFiGAN, replace(V2_24K, channels=64)),
    "V3": (HiFiGAN, replace(V3, channels=128)),
    "MelGAN": (MelGAN, replace(MELGAN, channels=16)),
    "MelGAN_24K": (MelGAN, replace(MELGAN_24K, channels=4)),
}


@pytest.fixture(scope="module")
def networks():
    made = {}

    def get(name):
        if name not in made:
            torch.manual_seed(0)
            kind, config = NETWORKS[name]
            network = made[name] = kind(config).fold()
            with torch.no_grad():  # to the range of a loud wave
                last = network.model[-2] if kind is MelGAN else network.conv_post
                last.weight *= 0.5 / network(torch.randn(1, config.n_mels, 20) * 2 - 5).std()
        return made[name]

    return get


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_forward(networks, name):
    network = networks(name)
    for frames in (1, 4, 5, 37) if isinstance(network, HiFiGAN) else (4, 5, 37):  # MelGAN mirrors three
        mel = torch.randn(2, network.n_mels, frames) * 2 - 5
        with torch.no_grad():
            expected = network(mel)
        assert_close(cpu.generate(network, mel), expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.3


@pytest.mark.parametrize("name", ["V2", "V3", "MelGAN"])
def test_output_does_not_depend_on_tiles_or_threads(networks, name, monkeypatch):
    network = networks(name)
    mel = torch.randn(1, network.n_mels, 90)
    expected = cpu.generate(network, mel)
    assert_close(cpu.generate(network, mel), expected, rtol=0, atol=0)
    monkeypatch.setattr(generator, "TILE", 2**14)

    assert_close(cpu.generate(network, mel), expected, rtol=0, atol=1e-5)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_close(cpu.generate(network, mel), expected, rtol=0, atol=1e-5)
    finally:
        torch.set_num_threads(n_threads)


def test_cost_per_second_does_not_grow_with_length(networks, monkeypatch):
    """Multiplications are counted: what tiles compute twice must not grow with the length."""
    counted = [0]

    def count(self, source, residual, out, n_out):
        counted[0] += n_out * self.width * self.depth * self.kernel

    monkeypatch.setattr(Convolution, "__call__", count)
    costs = {}
    for frames in (86, 2_600):
        counted[0] = 0
        cpu.generate(networks("V2"), torch.randn(1, 80, frames))
        costs[frames] = counted[0] / frames
    assert costs[2_600] < 1.1 * costs[86]


def test_plan_is_rebuilt_when_weights_change():
    network, mel = HiFiGAN(replace(V2, channels=16)), torch.randn(1, 80, 6)
    before = cpu.generate(network, mel)
    with torch.no_grad():
        network.conv_post.bias += 0.5
    after = cpu.generate(network, mel)
    assert (after - before).abs().max() > 0.1
    assert_close(after, network(mel).detach(), rtol=0, atol=1e-5)
    network.load_state_dict({key: value * 0.5 for key, value in network.state_dict().items()})
    assert_close(cpu.generate(network, mel), network(mel).detach(), rtol=0, atol=1e-5)


def test_unsupported_networks_run_in_torch(networks):
    network = HiFiGAN(replace(V2, channels=16)).double()
    mel = torch.randn(1, 80, 6, dtype=torch.float64)
    assert cpu.plan(network, mel) is None
    assert torch.equal(cpu.generate(network, mel), network(mel))


@pytest.mark.parametrize("channels", [2, 8, 12, 16, 48])
def test_convolution_equals_torch(channels):
    n = 150
    for kernel in (1, 3, 5, 7, 11):
        for dilation in (1, 3, 12):
            for width, spare in ((channels, 0), (2 * channels, 5)):
                weight = torch.randn(width, channels, kernel) / (channels * kernel) ** 0.5
                bias = torch.randn(width)
                stride = channels + spare
                conv = Convolution(weight, bias, dilation=dilation, slope=0.1, stride=stride)
                x, residual = (torch.randn(n + 2 * conv.margin, size) for size in (stride, width))
                out = torch.zeros_like(residual)
                conv(x.numpy(), residual.numpy(), out.numpy(), n)
                leaky = F.leaky_relu(x[:, :channels].T[None], 0.1)
                expected = F.conv1d(leaky, weight, bias, dilation=dilation)[0].T[:n] + residual[:n]
                assert_close(out[:n], expected, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("n_taps", [3, 4])
def test_minimal_filter_is_a_convolution(n_taps):
    outer, taps, inner = minimal_filter(4, n_taps)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(3 + n_taps), rng.standard_normal(n_taps)
    np.testing.assert_allclose(outer @ ((taps @ w) * (inner @ x)), np.correlate(x, w), atol=1e-10)
