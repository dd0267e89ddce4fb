"""Fast generation equals the networks' equations: any length, batch, dilation, kernel, number of threads."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from vocoders.cpu import generator as fast_generation
from vocoders.cpu.convolution import Convolution
from vocoders.cpu.vectors import minimal_filter
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


@pytest.mark.parametrize("frames", [4, 5, 37])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_forward(networks, name, frames):
    network = networks(name)
    mel = torch.randn(2, network.n_mels, frames) * 2 - 5
    with torch.no_grad():
        expected = network(mel)
    assert expected.abs().max() > 0.3
    assert_close(network.generate(mel), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["V2", "V3", "MelGAN"])
def test_tiles_chunks_and_threads_change_nothing(networks, name, monkeypatch):
    network = networks(name)
    mel = torch.randn(1, network.n_mels, 90)
    expected = network.generate(mel)
    assert_close(network.generate(mel), expected, rtol=0, atol=0)
    monkeypatch.setattr(fast_generation, "TILE", 2**14)
    monkeypatch.setattr(fast_generation, "CHUNK_FRAMES", 40)
    assert_close(network.generate(mel), expected, rtol=0, atol=1e-5)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_close(network.generate(mel), expected, rtol=0, atol=1e-5)
    finally:
        torch.set_num_threads(n_threads)


def test_no_frame_of_hifigan_is_too_short_a_mel(networks):
    mel = torch.randn(1, 80, 1)
    with torch.no_grad():
        assert_close(networks("V2").generate(mel), networks("V2")(mel), rtol=0, atol=1e-5)


def test_changed_weights_are_noticed():
    network, mel = HiFiGAN(replace(V2, channels=16)), torch.randn(1, 80, 6)
    before = network.generate(mel)
    with torch.no_grad():
        network.conv_post.bias += 0.5
    after = network.generate(mel)
    assert (after - before).abs().max() > 0.1
    assert_close(after, network(mel).detach(), rtol=0, atol=1e-5)
    network.load_state_dict({key: value * 0.5 for key, value in network.state_dict().items()})
    assert_close(network.generate(mel), network(mel).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dilation", [1, 3, 12])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 11])
@pytest.mark.parametrize("channels", [2, 8, 12, 16, 48])
def test_convolution_equals_torch(channels, kernel, dilation):
    weight = torch.randn(channels, channels, kernel) / (channels * kernel) ** 0.5
    bias, n = torch.randn(channels), 150
    conv = Convolution(weight, bias, dilation=dilation, slope=0.1)
    x, residual = (torch.randn(n + 2 * conv.margin, channels) for _ in range(2))
    out = torch.zeros_like(x)
    conv(x.numpy(), residual.numpy(), out.numpy(), n)
    expected = F.conv1d(F.leaky_relu(x.T[None], 0.1), weight, bias, dilation=dilation)[0].T[:n] + residual[:n]
    assert_close(out[:n], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("n_taps", [3, 4])
def test_minimal_filter_is_a_convolution(n_taps):
    outer, taps, inner = minimal_filter(4, n_taps)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(3 + n_taps), rng.standard_normal(n_taps)
    np.testing.assert_allclose(outer @ ((taps @ w) * (inner @ x)), np.correlate(x, w), atol=1e-10)


def test_a_long_wave_costs_per_second_what_a_short_one_does(networks):
    network, costs = networks("V2"), {}
    for frames in (86, 860):
        mel = torch.randn(1, 80, frames)
        took = []
        for _ in range(4):
            start = time.perf_counter()
            network.generate(mel)
            took.append((time.perf_counter() - start) / frames)
        costs[frames] = min(took)
    assert costs[860] < 1.5 * costs[86]  # measured equal; the rest is for busy machines
