"""Vocos' generator: its inverse STFT, size, gradients, halo and presets."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from data.frontends import stft
from vocoders import vocos
from vocoders.vocos import Vocos, VocosConfig

TINY = VocosConfig(n_mels=8, channels=12, hidden=16, n_blocks=2, n_fft=64, hop=16)
PRESETS = {name: value for name, value in vars(vocos).items() if isinstance(value, VocosConfig)}


def test_the_head_inverts_the_stft_of_the_same_frames():
    head = Vocos(TINY).head
    wave = torch.randn(2, 1, 40 * TINY.hop)
    spectrum = stft(wave, n_fft=TINY.n_fft, hop=TINY.hop, padding="same")
    head.out = torch.nn.Identity()  # type: ignore[assignment]
    features = torch.cat([spectrum.abs().log(), spectrum.angle()], dim=1).transpose(1, 2)
    inner = slice(TINY.n_fft, -TINY.n_fft)
    assert_close(head(features)[..., inner], wave[..., inner], rtol=0, atol=1e-4)


def test_published_size():
    n = sum(parameter.numel() for parameter in Vocos().parameters())
    assert n / 1e6 == pytest.approx(13.5, abs=0.05)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_hop_samples_of_a_frame_and_learn(name):
    network = Vocos(replace(PRESETS[name], channels=8, hidden=8, n_blocks=1))
    wave = network(torch.randn(2, network.n_mels, 5))
    assert wave.shape == (2, 1, 5 * network.hop)
    wave.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_halo_is_what_a_frame_depends_on():
    network = Vocos(TINY).double()
    middle = network.halo + 4
    mel = torch.randn(1, network.n_mels, 2 * middle + 1, dtype=torch.float64, requires_grad=True)
    network(mel)[..., middle * network.hop : (middle + 1) * network.hop].sum().backward()
    assert mel.grad is not None
    reached = mel.grad.abs().sum((0, 1)).nonzero().flatten()
    assert max(middle - reached.min(), reached.max() - middle) == network.halo


def test_chunks_with_halo_equal_the_whole():
    network = Vocos(TINY)
    mel, halo, hop = torch.randn(1, TINY.n_mels, 60), network.halo, network.hop
    whole = network(mel)
    for start in range(0, 60, 20):
        first = max(start - halo, 0)
        chunk = network(mel[..., first : start + 20 + halo])[..., (start - first) * hop :][..., : 20 * hop]
        assert_close(chunk, whole[..., start * hop : (start + 20) * hop], rtol=0, atol=1e-5)


def test_a_transform_of_an_odd_number_of_hops_is_refused():
    with pytest.raises(ValueError, match="n_fft=80 must be an even number of hops of 16"):
        VocosConfig(n_fft=80, hop=16)
