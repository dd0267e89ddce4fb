"""WaveNet: likelihoods equal closed forms, outputs are causal, and batches can be learned."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from engine.user_error import UserError
from vocoders.tasks.presets import TASKS
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import (
    Gaussian,
    MixtureOfLogistics,
    MuLaw,
    decode,
    delay,
    encode,
    negative_log_likelihood,
    predicted,
)
from vocoders.wavenet.layers import ContextConfig, MaskedConv1d
from vocoders.wavenet.network import GlobalConfig, WaveNet, WaveNetConfig
from vocoders.wavenet.sampling import Draws, Sampler, draw, noise, pick

LOCAL = LocalConfig(n=3, scales=(2, 4), pad=1)
FULL = WaveNetConfig(
    layers=4,
    stacks=2,
    residual=8,
    gate=12,
    skip=6,
    output=MixtureOfLogistics(n=2),
    local=LOCAL,
    global_=GlobalConfig(n_speakers=3, dim=4),
    context=ContextConfig(factor=6, layers=2, residual=4),
    lsb_noise=False,
)


@pytest.mark.parametrize("centre", [-1.2, -0.9995, 0.0, 0.3])
@pytest.mark.parametrize("log_scale", [-12.0, -7.0, -1.0])
def test_mixture_of_logistics_sums_to_one_over_the_16_bit_grid(centre, log_scale):
    output = MixtureOfLogistics(n=2)
    grid = torch.linspace(-1, 1, 65_536, dtype=torch.float64)[None, None]
    parameters = torch.tensor([0.5, -1.0, centre, 0.1, log_scale, -4.0], dtype=torch.float64)
    parameters = parameters[None, :, None].expand(-1, -1, grid.shape[-1])
    # Inputs are brought to float32, in which the grid's steps are still distinct.
    surprise = negative_log_likelihood(output, parameters, grid)
    assert (-surprise).double().exp().sum().item() == pytest.approx(1, abs=1e-3)


def test_softmax_is_cross_entropy():
    logits, target = torch.randn(2, 16, 9), torch.randint(16, (2, 9))
    expected = -logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    assert_close(negative_log_likelihood(MuLaw(levels=16), logits, target), expected)


def test_gaussian_likelihood_equals_the_closed_form():
    wave, parameters = torch.rand(2, 1, 9) * 2 - 1, torch.randn(2, 2, 9)
    normal = torch.distributions.Normal(parameters[:, 0], parameters[:, 1].exp())
    expected = -normal.log_prob(wave[:, 0])
    assert_close(negative_log_likelihood(Gaussian(), parameters, wave), expected)
    # A mixture of two equal ones is the one.
    twice = torch.cat([torch.zeros(2, 2, 9), parameters.repeat_interleave(2, dim=1)], dim=1)
    assert_close(negative_log_likelihood(Gaussian(n=2), twice, wave), expected)


@pytest.mark.parametrize(
    "output", [MixtureOfLogistics(n=2, log_scale_min=-5.0), Gaussian(log_scale_min=-5.0)]
)
def test_log_scales_are_clamped(output):
    parameters, wave = torch.zeros(1, output.n_out, 4), torch.zeros(1, 1, 4)
    parameters[:, -output.n :] = -50
    at_bound = parameters.clone()
    at_bound[:, -output.n :] = -5
    found = negative_log_likelihood(output, parameters, wave)
    assert_close(found, negative_log_likelihood(output, at_bound, wave))


def test_prediction_shifts_means_and_gain_scales():
    wave, parameters, gain = torch.randn(1, 1, 5), torch.randn(1, 2, 5), torch.full((1, 1, 5), 0.1)
    moved = predicted(Gaussian(), parameters, wave, gain)
    # Of y = 0.1 e + p the density is that of e, ten times as high.
    target = torch.randn(1, 1, 5)
    found = negative_log_likelihood(Gaussian(), moved, 0.1 * target + wave)
    expected = negative_log_likelihood(Gaussian(), parameters, target) + math.log(0.1)
    assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_decoding_inverts_encoding():
    wave = torch.linspace(-1, 1, 101)[None, None]
    assert (decode(MuLaw(), encode(MuLaw(), wave)) - wave).abs().max() < 0.025
    assert decode(Gaussian(), encode(Gaussian(), wave)) is wave


@pytest.mark.parametrize("t", [0, 6, 13, 39])
def test_outputs_depend_only_on_past_inputs(t):
    network, x = WaveNet(FULL), torch.randn(1, 1, 40, requires_grad=True)
    network(x, torch.randn(1, 3, 5), torch.tensor([1]))[..., t].sum().backward()
    assert x.grad is not None
    assert not x.grad[..., t + 1 :].any()
    assert x.grad[..., t].any()


@pytest.mark.parametrize("kernel", [2, 3])
def test_receptive_field_is_exact(kernel):
    config = WaveNetConfig(layers=6, stacks=2, residual=8, gate=8, skip=8, kernel=kernel, output=Gaussian())
    network, x = WaveNet(config), torch.randn(1, 1, 64, requires_grad=True)
    network(x)[..., -1].sum().backward()
    assert x.grad is not None
    reached = x.grad[0, 0].nonzero()[:, 0]
    assert 64 - int(reached.min()) == config.receptive_field == 2 * 7 * (kernel - 1) + 1


def test_context_reaches_beyond_the_main_stack():
    network, x = WaveNet(FULL), torch.randn(1, 1, 40, requires_grad=True)
    network(x, torch.randn(1, 3, 5), torch.tensor([1]))[..., -1].sum().backward()
    assert x.grad is not None
    first = int(x.grad[0, 0].nonzero()[0])
    assert FULL.receptive_field < 40 - first <= network.receptive_field


@pytest.mark.parametrize("output", [MuLaw(levels=16), MixtureOfLogistics(n=2), Gaussian(), Gaussian(n=2)])
def test_gradients_reach_every_parameter(output):
    network = WaveNet(replace(FULL, output=output))
    network.loss(torch.rand(2, 1, 40) - 0.5, torch.randn(2, 3, 5), torch.tensor([0, 2])).backward()
    # The last layer's residual has no successor.
    idle = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert all(name.startswith("conv_layers.3.conv1x1_out") for name in idle), idle


def test_pixelcnn_masks_include_past_or_present_taps():
    for mask, seen in (("A", [4, 6]), ("B", [4, 6, 8])):
        wave = torch.randn(1, 1, 16, requires_grad=True)
        MaskedConv1d(1, 1, 2, mask, dilation=2)(wave)[..., 8].sum().backward()
        assert wave.grad[0, 0].nonzero().flatten().tolist() == seen


def test_masked_form_equals_the_shifted_form():
    """The masked network's input is the wave itself, the other's is the wave delayed by one sample."""
    for output in (MixtureOfLogistics(n=2), Gaussian()):
        network = WaveNet(replace(FULL, output=output, context=None)).eval()
        wave, given = torch.rand(2, 1, 40) - 0.5, (torch.randn(2, 3, 5), torch.tensor([0, 2]))
        masked = network.pixelcnn()
        assert_close(masked(wave, *given), network(delay(output, wave), *given))
        wave.requires_grad_()
        masked(wave, *given)[..., 30].sum().backward()
        assert not wave.grad[..., 30:].any()
        assert wave.grad[..., 29].all()
    with pytest.raises(UserError, match="μ-law"):
        WaveNet(replace(FULL, output=MuLaw())).pixelcnn()


def test_context_preset_has_a_receptive_field_of_a_second():
    network = TASKS["wavenet_context"].network
    assert network.receptive_field == 1024
    assert 16_000 < WaveNet(network).receptive_field < 18_000


@pytest.mark.parametrize("output", [MuLaw(levels=16), MixtureOfLogistics(n=2), Gaussian()])
def test_one_batch_can_be_learned(output):
    config = WaveNetConfig(layers=3, stacks=1, residual=16, gate=32, skip=16, output=output, lsb_noise=False)
    network = WaveNet(config)
    wave = 0.8 * torch.sin(torch.arange(96) * 0.7)[None, None]
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = network.loss(wave)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < losses[0] - 1


def test_lsb_noise_is_added_only_in_training():
    network, wave = WaveNet(replace(FULL, lsb_noise=True)), torch.zeros(1, 1, 40)
    given = (torch.randn(1, 3, 5), torch.tensor([0]))
    assert network.loss(wave, *given) != network.loss(wave, *given)
    network.eval()
    assert network.loss(wave, *given) == network.loss(wave, *given)


def test_draws_follow_the_distribution():
    n = 20_000
    uniforms = Draws(0, 1).next(n)
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    drawn = pick(logits.expand(n, 4), uniforms[0, :, 0], torch.ones(n))
    assert_close(F.one_hot(drawn, 4).float().mean(0), logits.softmax(0), atol=0.015, rtol=0)
    parameters = torch.tensor([[0.1, math.log(0.05)]]).expand(n, 2)
    waves = draw(Gaussian(), parameters, noise(Gaussian(), uniforms)[0], torch.ones(n))
    assert waves.mean().item() == pytest.approx(0.1, abs=0.002)
    assert waves.std().item() == pytest.approx(0.05, rel=0.03)
    output = MixtureOfLogistics(n=1)
    parameters = torch.tensor([[0.0, 0.1, math.log(0.02)]]).expand(n, 3)
    waves = draw(output, parameters, noise(output, uniforms)[0], torch.ones(n))
    assert waves.std().item() == pytest.approx(0.02 * math.pi / math.sqrt(3), rel=0.04)


def test_top_p_and_temperature_narrow_the_draws():
    n = 2_000
    uniforms = Draws(0, 1).next(n)[0, :, 0]
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(n, 4)
    assert set(pick(logits, uniforms, torch.ones(n), 0.7).tolist()) == {0, 1}
    assert set(pick(logits, uniforms, torch.ones(n), 0.4).tolist()) == {0}
    assert set(pick(logits, uniforms, torch.zeros(n)).tolist()) == {0}
    colder = (pick(logits, uniforms, torch.full((n,), 0.5)) == 0).float().mean()
    assert colder > (pick(logits, uniforms, torch.ones(n)) == 0).float().mean() + 0.1


def test_uniforms_do_not_depend_on_block_lengths():
    whole, parts = Draws(7, 2).next(50), Draws(7, 2)
    assert (torch.cat([parts.next(size) for size in (1, 16, 33)], dim=1) == whole).all()
    assert (Draws(7, 1).next(50) == whole[:1]).all()


def test_user_errors_are_refused():
    with pytest.raises(UserError, match="multiple"):
        WaveNetConfig(layers=5, stacks=2)
    with pytest.raises(UserError, match="even"):
        WaveNetConfig(gate=3)
    with pytest.raises(UserError, match="top_p"):
        Sampler(top_p=0.0)
    with pytest.raises(UserError, match="speaker"):
        WaveNet(FULL)(torch.zeros(1, 1, 40), torch.zeros(1, 3, 5))
    with pytest.raises(UserError, match="do not fit"):
        WaveNet(FULL)(torch.zeros(1, 1, 40), torch.zeros(1, 3, 9), torch.tensor([0]))
