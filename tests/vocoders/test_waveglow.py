"""WaveGlow: published outputs, invertibility, likelihood, batches, and errors."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from engine.user_error import UserError
from vocoders import cpu, load_vocoder
from vocoders.waveglow import (
    WAVEGLOW,
    WAVEGLOW_16K,
    WAVEGLOW_24K,
    WAVEGLOW_TINY,
    Invertible1x1,
    WaveGlow,
    WaveGlowConfig,
    negative_log_likelihood,
)


def plain(network: WaveGlow, mel: torch.Tensor, noise: torch.Tensor, temperature: float = 0.6):
    """Generation layer by layer, without kernels."""
    return network.inverse(mel, network.latent(mel, noise, temperature)).detach()


WAYS = [cpu.generate, plain]
SMALL = WaveGlowConfig(n_mels=6, n_flows=4, n_early_every=2, n_layers=3, n_channels=16, hop=16, window=40)


def network_of(stored: dict, folded: bool = False) -> WaveGlow:
    """The network of the published output."""
    return load_vocoder("waveglow", stored["state_dict"], fold=folded).network


def random_network(config: WaveGlowConfig = SMALL, seed: int = 0) -> WaveGlow:
    """A network whose couplings are not the identity."""
    torch.manual_seed(seed)
    network = WaveGlow(config)
    for coupling in network.WN:
        torch.nn.init.normal_(coupling.end.weight, std=0.02)
        torch.nn.init.normal_(coupling.end.bias, std=0.1)
    return network


def example(config: WaveGlowConfig = SMALL, batch: int = 2, frames: int = 9) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(1)
    mel = torch.randn(batch, config.n_mels, frames, generator=rng)
    return mel, 0.3 * torch.randn(batch, 1, frames * config.hop, generator=rng)


@pytest.mark.parametrize("folded", [False, True])
def test_published_likelihood(folded, published):
    stored = published("waveglow_tiny")
    network, out = network_of(stored, folded), stored["output"]
    flow = network(stored["input"]["mel"], stored["input"]["audio"][:, None])
    assert_close(flow.z, out["z"], rtol=0, atol=1e-5)
    assert_close(flow.log_s, out["log_s_list"], rtol=0, atol=1e-5)
    # Of one step: the sum over 256 of them stores the rounding of a rotation's determinant, 256 times.
    one_step = [[one / flow.z.shape[-1] for one in many] for many in (flow.log_det_W, out["log_det_W_list"])]
    assert_close(*one_step, rtol=0, atol=1e-5)
    assert_close(negative_log_likelihood(flow), out["loss"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("generate", WAYS)
def test_published_generation(folded, generate, published):
    stored = published("waveglow_tiny")
    network, given = network_of(stored, folded), stored["input"]
    noise = torch.cat(list(reversed(given["infer_noise"])), dim=1)  # drawn from the deepest flow on
    wave = generate(network, given["mel"], noise, temperature=given["sigma"])
    assert_close(wave[:, 0], stored["output"]["infer_audio"], rtol=0, atol=1e-5)


def test_generation_and_flow_are_inverses():
    network, (mel, wave) = random_network(), example()
    z = network(mel, wave).z
    assert_close(network.inverse(mel, z), wave, rtol=0, atol=1e-4)
    assert_close(cpu.generate(network, mel, z, temperature=1.0), wave, rtol=0, atol=1e-4)
    noise = network.noise(2, 9, torch.Generator().manual_seed(2))
    assert_close(network(mel, cpu.generate(network, mel, noise)).z, 0.6 * noise, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_flows", [1, 3])
def test_log_determinants_equal_the_jacobians(n_flows):
    config = replace(SMALL, n_flows=n_flows, n_early_every=1, hop=8, window=8)
    network, (mel, wave) = random_network(config), example(config, batch=1, frames=2)
    for mix in network.convinv:  # no rotation: their volume counts, too
        mix.conv.weight.data.mul_(1.3)
    flow = network(mel, wave)
    jacobian = torch.autograd.functional.jacobian(lambda w: network(mel, w).z, wave).reshape(16, 16)
    ours = torch.stack([*(one.sum() for one in flow.log_s), *flow.log_det_W]).sum()
    assert_close(ours, torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sigma", [1.0, 0.6])
def test_likelihood_without_couplings_is_gaussian(sigma):
    config = replace(SMALL, n_flows=1)
    network, (mel, wave) = WaveGlow(config), example(config)
    matrix = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    network.convinv[0].conv.weight.data.copy_(matrix[..., None])
    loss = negative_log_likelihood(network(mel, wave), sigma)
    inverse = torch.linalg.inv(matrix.double())
    covariance = sigma**2 * inverse @ inverse.T
    normal = torch.distributions.MultivariateNormal(torch.zeros(8).double(), covariance)
    exact = -normal.log_prob(wave.double().reshape(-1, 8)).mean() / 8
    constant = 0.5 * math.log(2 * math.pi * sigma**2)
    assert_close(loss.double() + constant, exact, rtol=1e-4, atol=1e-4)


def test_initial_mixing_is_a_rotation_and_couplings_are_the_identity():
    for width in (2, 4, 8):
        for _ in range(4):
            matrix = Invertible1x1(width).conv.weight[..., 0]
            assert_close(matrix @ matrix.T, torch.eye(width), rtol=0, atol=1e-5)
            assert_close(torch.det(matrix), torch.tensor(1.0), rtol=1e-5, atol=1e-5)
    mel, wave = example()
    flow = WaveGlow(SMALL)(mel, wave)
    assert not any(one.any() for one in flow.log_s)
    assert_close(flow.z.square().sum(), wave.square().sum(), rtol=1e-4, atol=1e-4)  # volume is kept


@pytest.mark.parametrize("generate", WAYS)
def test_rows_of_a_batch_are_independent(generate):
    network, (mel, _) = random_network(), example(batch=3)
    noise = network.noise(3, mel.shape[-1], torch.Generator().manual_seed(2))
    together = generate(network, mel, noise)
    for row in range(3):
        alone = generate(network, mel[row : row + 1], noise[row : row + 1])
        assert_close(alone, together[row : row + 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("generate", WAYS)
def test_samples_depend_only_on_frames_within_the_halo(generate):
    network, frames = random_network(), 41
    mel, noise = example(batch=1, frames=frames)[0], network.noise(1, frames, torch.Generator())
    halo, groups = network.halo, network.hop // 8
    assert 2 * halo + 3 < frames
    whole = generate(network, mel, noise)
    cut = slice(20 - halo, 21 + halo)
    part = generate(network, mel[..., cut], noise[..., cut.start * groups : cut.stop * groups])
    one = slice(20 * network.hop, 21 * network.hop)
    assert_close(part[..., halo * network.hop :][..., : network.hop], whole[..., one], rtol=0, atol=1e-5)


def test_gradients_reach_every_parameter():
    network, (mel, wave) = random_network(), example()
    negative_log_likelihood(network(mel, wave)).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_one_batch_can_be_learned():
    network, (mel, wave) = WaveGlow(replace(SMALL, n_flows=2)), example()
    wave = 0.1 * torch.sin(torch.arange(wave.shape[-1]) / 5).expand_as(wave)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        loss = negative_log_likelihood(network(mel, wave))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1.0


def test_generation_depends_on_noise_and_current_weights():
    network, (mel, _) = random_network(), example()
    noise = network.noise(2, 9, torch.Generator().manual_seed(2))
    first = cpu.generate(network, mel, noise)
    assert torch.equal(cpu.generate(network, mel, noise), first)
    assert not torch.allclose(cpu.generate(network, mel, noise, temperature=0.3), first)
    with torch.no_grad():
        network.WN[0].in_layers[1].bias.add_(1.0)  # nothing prepared from the old weights may linger
    assert_close(cpu.generate(network, mel, noise), network.inverse(mel, 0.6 * noise), rtol=0, atol=1e-5)
    assert not torch.allclose(cpu.generate(network, mel, noise), first, atol=1e-3)
    assert not torch.equal(cpu.generate(network, mel), cpu.generate(network, mel))


@pytest.mark.parametrize("config", [WAVEGLOW, WAVEGLOW_16K, WAVEGLOW_24K, WAVEGLOW_TINY])
def test_presets_build(config):
    with torch.device("meta"):
        n_parameters = sum(p.numel() for p in WaveGlow(replace(config, n_flows=1)).parameters())
    assert n_parameters > 0


def test_published_model_size():
    with torch.device("meta"):
        network = WaveGlow(WAVEGLOW)
    norms = sum(p.numel() for name, p in network.named_parameters() if name.endswith("original0"))
    assert round((sum(p.numel() for p in network.parameters()) - norms) / 1e6, 2) == 87.73
    assert network.halo == 100


def test_user_errors_are_refused():
    network, (mel, wave) = random_network(), example()
    with pytest.raises(UserError, match="multiple"):
        network(mel, wave[..., :-3])
    with pytest.raises(UserError, match="multiple"):
        network(mel, wave[..., :0])
    with pytest.raises(UserError, match="give the mel of this wave"):
        network(mel[..., :3], wave)
    with pytest.raises(UserError, match="does not fit a mel of 9 frames"):
        cpu.generate(network, mel, torch.zeros(2, 8, 17))
    for wrong in ({"n_group": 7}, {"kernel": 2}, {"hop": 12}, {"window": 8}, {"n_flows": 9}):
        with pytest.raises(UserError):
            replace(SMALL, **wrong)
