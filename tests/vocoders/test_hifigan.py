"""HiFi-GAN's generator equals the published one; its presets, gradients and halo."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from vocoders import cpu, hifigan
from vocoders.hifigan import V1, V2, V3, HiFiGAN, HiFiGANConfig
from vocoders.published.layout import from_published

PRESETS = {name: value for name, value in vars(hifigan).items() if isinstance(value, HiFiGANConfig)}


@pytest.mark.parametrize(("name", "config"), [("v1", V1), ("v2", V2), ("v3", V3)])
def test_published_output_with_and_without_weight_norm(published, name, config):
    golden = published(f"hifigan_{name}_generator")
    config = replace(config, channels=golden["config"]["upsample_initial_channel"])
    network, mel = HiFiGAN(config), golden["input"]
    network.load_state_dict(from_published(golden["state_dict"]))
    for _ in range(2):
        assert_close(network(mel), golden["output"], rtol=0, atol=1e-5)
        assert_close(cpu.generate(network, mel), golden["output"], rtol=0, atol=1e-5)
        network.fold()
    folded = HiFiGAN(config).fold()
    folded.load_state_dict(golden["state_dict_folded"])
    assert_close(folded(mel), golden["output"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("config", "millions"), [(V1, 13.926), (V2, 0.926), (V3, 1.462)])
def test_published_sizes(config, millions):
    n = sum(parameter.numel() for parameter in HiFiGAN(config).fold().parameters())
    assert n / 1e6 == pytest.approx(millions, abs=5e-4)


@pytest.mark.parametrize("name", ["V1_16K", "V3"])
def test_gradients_reach_every_parameter(name):
    network = HiFiGAN(replace(PRESETS[name], channels=16))
    network(torch.randn(1, 80, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_hop_samples_of_a_frame_that_depend_on_the_halo(name):
    config = replace(PRESETS[name], channels=16)
    network = HiFiGAN(config).fold().double()
    assert network.hop in {256, 160, 240}
    middle = network.halo + 1
    mel = torch.randn(1, config.n_mels, 2 * middle + 1, dtype=torch.float64, requires_grad=True)
    wave = network(mel)
    assert wave.shape == (1, 1, mel.shape[-1] * network.hop)
    wave[..., middle * network.hop : (middle + 1) * network.hop].sum().backward()
    assert mel.grad is not None
    reached = mel.grad.abs().sum((0, 1)).nonzero().flatten()
    assert (middle - reached.min(), reached.max() - middle) <= (network.halo, network.halo)
    assert max(middle - reached.min(), reached.max() - middle) == network.halo


def test_chunks_with_halo_equal_the_whole():
    network = HiFiGAN(replace(V2, channels=16)).fold()
    mel, halo, hop = torch.randn(1, 80, 60), network.halo, network.hop
    whole = network(mel)
    for start in range(0, 60, 20):
        first = max(start - halo, 0)
        chunk = network(mel[..., first : start + 20 + halo])[..., (start - first) * hop :][..., : 20 * hop]
        assert_close(chunk, whole[..., start * hop : (start + 20) * hop], rtol=0, atol=1e-6)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="upsample kernel 10 at rate 5"):
        HiFiGANConfig(upsample_rates=(5,), upsample_kernels=(10,))
    with pytest.raises(ValueError, match="multiple of 16"):
        HiFiGANConfig(channels=24)
    with pytest.raises(ValueError, match="odd"):
        HiFiGANConfig(resblock_kernels=(3, 6, 11))
