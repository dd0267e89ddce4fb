"""HiFi-GAN, MelGAN and Vocos: published outputs and sizes, presets, gradients, halos, and invalid sizes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from data.frontends import stft
from vocoders import cpu, hifigan, melgan, vocos
from vocoders.hifigan import V1, V2, V3, HiFiGAN, HiFiGANConfig
from vocoders.melgan import MELGAN, MelGAN, MelGANConfig
from vocoders.published.layout import from_published
from vocoders.vocos import VOCOS, Vocos, VocosConfig

TINY_VOCOS = VocosConfig(n_mels=8, channels=12, hidden=16, n_blocks=2, n_fft=64, hop=16)
KINDS = {HiFiGANConfig: HiFiGAN, MelGANConfig: MelGAN, VocosConfig: Vocos}
SMALLER = {
    HiFiGANConfig: {"channels": 16},
    MelGANConfig: {"channels": 2},
    VocosConfig: {"channels": 8, "hidden": 8, "n_blocks": 1},
}
PRESETS = {
    f"{module.__name__}.{name}": replace(value, **SMALLER[type(value)])
    for module in (hifigan, melgan, vocos)
    for name, value in vars(module).items()
    if type(value) in KINDS
}


def network_of(config) -> nn.Module:
    return KINDS[type(config)](config)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("hifigan_v1_generator", V1),
        ("hifigan_v2_generator", V2),
        ("hifigan_v3_generator", V3),
        ("melgan_generator_tiny", MELGAN),
    ],
)
def test_published_output_with_and_without_weight_norm(published, name, config):
    golden = published(name)
    channels = golden["config"]["upsample_initial_channel" if "hifigan" in name else "ngf"]
    network, mel = network_of(replace(config, channels=channels)), golden["input"]
    network.load_state_dict(from_published(golden["state_dict"]))
    for _ in range(2):
        assert_close(network(mel), golden["output"], rtol=0, atol=1e-5)
        assert_close(cpu.generate(network, mel), golden["output"], rtol=0, atol=1e-5)
        network.fold()
    if "state_dict_folded" in golden:
        network.load_state_dict(golden["state_dict_folded"])
        assert_close(network(mel), golden["output"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "millions", "tolerance"),
    [(V1, 13.926, 5e-4), (V2, 0.926, 5e-4), (V3, 1.462, 5e-4), (MELGAN, 4.260, 5e-4), (VOCOS, 13.5, 0.05)],
)
def test_published_sizes(config, millions, tolerance):
    n = sum(parameter.numel() for parameter in network_of(config).fold().parameters())
    assert n / 1e6 == pytest.approx(millions, abs=tolerance)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_generate_whole_hops_with_gradients_to_every_parameter(name):
    network = network_of(PRESETS[name])
    assert network.hop in {256, 160, 240}
    wave = network(torch.randn(2, network.n_mels, 5))
    assert wave.shape == (2, 1, 5 * network.hop)
    wave.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("config", [*PRESETS.values(), TINY_VOCOS], ids=[*PRESETS, "tiny vocos"])
def test_frames_depend_on_exactly_the_halo(config):
    network = network_of(config).fold().double()
    middle = network.halo + 4
    mel = torch.randn(1, network.n_mels, 2 * middle + 1, dtype=torch.float64, requires_grad=True)
    network(mel)[..., middle * network.hop : (middle + 1) * network.hop].sum().backward()
    assert mel.grad is not None
    reached = mel.grad.abs().sum((0, 1)).nonzero().flatten()
    assert max(middle - reached.min(), reached.max() - middle) == network.halo


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [(replace(V2, channels=16), 1e-6), (replace(MELGAN, channels=2), 1e-6), (TINY_VOCOS, 1e-5)],
    ids=["hifigan", "melgan", "vocos"],
)
def test_chunks_with_halo_equal_the_whole(config, tolerance):
    network = network_of(config).fold()
    mel, halo, hop = torch.randn(1, config.n_mels, 60), network.halo, network.hop
    whole: Tensor = network(mel)
    for start in range(0, 60, 20):
        first = max(start - halo, 0)
        chunk = network(mel[..., first : start + 20 + halo])[..., (start - first) * hop :][..., : 20 * hop]
        assert_close(chunk, whole[..., start * hop : (start + 20) * hop], rtol=0, atol=tolerance)


def test_vocos_head_inverts_the_stft():
    head, size = Vocos(TINY_VOCOS).head, TINY_VOCOS.n_fft
    wave = torch.randn(2, 1, 40 * TINY_VOCOS.hop)
    spectrum = stft(wave, n_fft=size, hop=TINY_VOCOS.hop, padding="same")
    head.out = nn.Identity()  # type: ignore[assignment]
    features = torch.cat([spectrum.abs().log(), spectrum.angle()], dim=1).transpose(1, 2)
    assert_close(head(features)[..., size:-size], wave[..., size:-size], rtol=0, atol=1e-4)


def test_invalid_sizes_are_refused():
    with pytest.raises(ValueError, match="upsample kernel 10 at rate 5"):
        HiFiGANConfig(upsample_rates=(5,), upsample_kernels=(10,))
    with pytest.raises(ValueError, match="multiple of 16"):
        HiFiGANConfig(channels=24)
    with pytest.raises(ValueError, match="odd"):
        HiFiGANConfig(resblock_kernels=(3, 6, 11))
    with pytest.raises(ValueError, match="n_fft=80 must be an even number of hops of 16"):
        VocosConfig(n_fft=80, hop=16)
