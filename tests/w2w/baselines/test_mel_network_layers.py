"""The layers of CLUIT's mel networks against their definitions, and the critic."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from engine.user_error import UserError
from vocoders.weight_norm import fold_weight_norm
from w2w.baselines.cluit_mel.blocks import (
    AdaIN,
    Affine,
    Block,
    Modulation,
    Normalisation,
    StyledBlock,
    doubling,
    halving,
    instance_norm,
)
from w2w.baselines.cluit_mel.config import CluitMelConfig
from w2w.baselines.cluit_mel.generator import MelCritic
from w2w.baselines.cluit_mel.network import CluitMelNetwork, StyleEncoder, mirrored

TINY = CluitMelConfig(n_channels=8, max_channels=16, style_dim=6, projection_dim=5, n_speakers=3)


NO_VOICE = torch.zeros(1, 6)


def edges(causal):
    """Zero padding of a convolution of three taps."""
    return (2, 0) if causal else (1, 1)


def taps(layer):
    return layer.parametrizations.weight.original


@pytest.mark.parametrize("causal", [False, True])
def test_halving_equals_convolution_then_pair_mean(causal):
    layer, x = halving(3, 5, causal=causal), torch.randn(2, 3, 12)
    expected = F.avg_pool1d(F.conv1d(F.pad(x, edges(causal)), taps(layer), layer.bias), 2)
    assert taps(layer).shape == (5, 3, 3)
    assert_close(layer(x), expected)


@pytest.mark.parametrize("causal", [False, True])
def test_doubling_equals_nearest_upsampling_then_convolution(causal):
    layer, x = doubling(3, 5, causal=causal), torch.randn(2, 3, 12)
    kernel = taps(layer).transpose(0, 1)
    repeated = F.pad(F.interpolate(x, scale_factor=2, mode="nearest"), edges(causal))
    assert_close(layer(x), F.conv1d(repeated, kernel, layer.bias))


def test_folding_weights_keeps_the_result():
    network, mel, voice = CluitMelNetwork(TINY).eval(), torch.randn(2, 80, 24), torch.randn(2, 6)
    before = network(mel, voice)
    assert any("parametrizations" in name for name in network.state_dict())
    assert_close(network.fold()(mel, voice), before, rtol=0, atol=1e-5)
    assert not any("parametrizations" in name for name in network.state_dict())
    fold_weight_norm(network)


def test_weights_are_he_initialised_and_biases_zero():
    torch.manual_seed(0)
    network = CluitMelNetwork(CluitMelConfig(n_channels=64, max_channels=128))
    block, up = network.generator.encoder[1], network.generator.decoder[-1]
    for weight, fan_in in [
        (taps(block.conv1), 128 * 3),
        (block.conv2.weight, 128 * 3),
        (taps(up.conv1), 128 * 3),
        (up.adain1.style.weight, 128),
        (network.style_encoder.trunk.whole.weight, 128 * 4),
    ]:
        assert_close(weight.std().item(), math.sqrt(2 / fan_in), rtol=0.03, atol=0)
    for name, p in network.named_parameters():
        if name.endswith("bias"):
            assert not p.any()


def test_adain_matches_its_definition():
    adain, x, voice = AdaIN(2, 3, "instance"), torch.randn(2, 2, 9) * 3 + 1, torch.randn(2, 3)
    torch.nn.init.normal_(adain.style.bias)
    result = adain(x, adain.modulation(voice))
    for row in range(2):
        gamma_beta = adain.style.weight @ voice[row] + adain.style.bias
        for channel in range(2):
            line = x[row, channel]
            centred = line - line.mean()
            normal = centred / (centred.square().mean() + 1e-5).sqrt()
            expected = (1 + gamma_beta[channel]) * normal + gamma_beta[2 + channel]
            assert_close(result[row, channel], expected, rtol=1e-4, atol=1e-5)


def test_frame_norm_matches_its_definition():
    norm, x = Affine(4, "frame"), torch.randn(2, 4, 5) * 3 + 1
    torch.nn.init.normal_(norm.scale)
    torch.nn.init.normal_(norm.shift)
    expected = F.layer_norm(x.transpose(1, 2), (4,), norm.scale[0], norm.shift[0]).transpose(1, 2)
    assert_close(norm(x, norm.modulation(NO_VOICE)), expected)


def test_instance_norm_removes_gain_and_offset_of_every_channel():
    norm, x = Affine(3, "instance"), torch.randn(2, 3, 40)
    learned = norm.modulation(NO_VOICE)
    moved = x * torch.tensor([0.5, 2.0, 7.0])[:, None] + torch.tensor([9.0, -2.0, 1.0])[:, None]
    assert_close(norm(moved, learned), norm(x, learned), rtol=0, atol=1e-3)
    single = norm(torch.randn(1, 3, 1), learned)
    assert_close(single, norm.shift[..., None], rtol=0, atol=1e-3)  # a single frame has no spread


def test_frozen_statistics_are_fixed_by_the_first_utterance():
    norm, modulation = Normalisation("frozen").eval(), Modulation(torch.randn(1, 3), torch.randn(1, 3))
    scale, shift, first = modulation.scale, modulation.shift, torch.randn(1, 3, 20) * 2 + 1
    assert_close(norm(first, modulation), instance_norm(first, scale, shift), rtol=0, atol=1e-5)
    other = torch.randn(1, 3, 5)
    mean, variance = first.mean(-1, keepdim=True), first.var(-1, correction=0, keepdim=True)
    expected = (other - mean) / (variance + 1e-5).sqrt() * scale[..., None] + shift[..., None]
    assert_close(norm(other, modulation), expected, rtol=0, atol=1e-5)


def test_blocks_are_those_of_stargan_v2():
    block, x = Block(4, 6, halve=True, norm="instance"), torch.randn(2, 4, 16)
    hidden = F.conv1d(F.leaky_relu(F.instance_norm(x), 0.2), taps(block.conv1), padding=1)
    hidden = F.leaky_relu(F.instance_norm(F.avg_pool1d(hidden, 2)), 0.2)
    hidden = F.conv1d(hidden, block.conv2.weight, padding=1)
    beside = F.avg_pool1d(F.conv1d(x, block.shortcut.weight), 2)
    out, _ = block.run(x, block.modulations(NO_VOICE), (None, None))
    assert_close(out, (hidden + beside) / math.sqrt(2), rtol=0, atol=1e-5)

    up, voice = StyledBlock(4, 3, 5, double=True, norm="instance", causal=False), torch.randn(2, 5)
    (scale1, shift1), (scale2, shift2) = (
        (m.scale[..., None], m.shift[..., None]) for m in up.modulations(voice)
    )
    hidden = F.leaky_relu(F.instance_norm(x) * scale1 + shift1, 0.2)
    kernel = taps(up.conv1).transpose(0, 1)
    hidden = F.conv1d(F.interpolate(hidden, scale_factor=2), kernel, padding=1)
    hidden = F.leaky_relu(F.instance_norm(hidden) * scale2 + shift2, 0.2)
    hidden = F.conv1d(hidden, up.conv2.weight, padding=1)
    beside = F.conv1d(F.interpolate(x, scale_factor=2), up.shortcut.weight)
    out, _ = up.run(x, up.modulations(voice), (None, None))
    assert_close(out, (hidden + beside) / math.sqrt(2), rtol=0, atol=1e-5)


def test_critic_accepts_any_length_from_its_crop_on():
    critic = MelCritic(TINY)
    for frames in (128, 129, 300):
        judged = critic(torch.randn(2, 80, frames) * 2 - 5)
        assert judged.score.shape == (2,)
        assert judged.speakers.shape == (2, 3)
        assert_close(judged.projection.norm(dim=-1), torch.ones(2))
        assert [f.shape[-1] for f in judged.features] == [frames >> i for i in range(6)]
    with pytest.raises(UserError, match="127 frames are too few"):
        critic(torch.randn(2, 80, 127))
    assert (
        MelCritic(CluitMelConfig(n_channels=8, max_channels=8))(torch.randn(1, 80, 128)).speakers.numel() == 0
    )


def test_gradient_penalty_reaches_every_parameter_of_the_critic():
    critic, mel = MelCritic(TINY), (torch.randn(2, 80, 128) * 2 - 5).requires_grad_()
    score, projection, speakers, _ = critic(mel)
    (slope,) = torch.autograd.grad(score.sum(), mel, create_graph=True)
    trunk = list(critic.trunk.named_parameters())
    second = torch.autograd.grad(
        slope.square().sum(), [p for _, p in trunk], retain_graph=True, allow_unused=True
    )
    still = [name for (name, p), g in zip(trunk, second) if "bias" not in name and (g is None or not g.any())]
    assert still == []
    (score.sum() + (projection * torch.randn(2, 5)).sum() + speakers.square().sum()).backward()
    assert [name for name, p in critic.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_critic_averages_over_positions_of_a_long_mel():
    critic = MelCritic(TINY)
    mel = (torch.randn(1, 80, 32) * 2 - 5).repeat(1, 1, 40)
    with torch.no_grad():  # far from the edges every place is the same
        assert_close(critic(mel).score, critic(mel[..., : 32 * 30]).score, rtol=0.1, atol=0.1)


def test_short_references_are_extended_by_reflection():
    mel = torch.arange(3.0).expand(1, 80, 3)
    assert mirrored(mel, 8)[0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    style = StyleEncoder(TINY)
    speech = torch.randn(1, 80, 40) * 2 - 5
    assert_close(style(speech), style(mirrored(speech, 128)), rtol=0, atol=0)
    assert style(speech[..., :4]).shape == (1, 6)


def test_autocast_result_is_close_and_float32():
    network, critic, mel = CluitMelNetwork(TINY), MelCritic(TINY), torch.randn(2, 80, 128) * 2 - 5
    voice = torch.randn(2, 6)
    whole, judged = network(mel, voice), critic(mel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, judged_half = network(mel, voice), critic(mel)
    assert half.dtype == judged_half.score.dtype == judged_half.projection.dtype == torch.float32
    assert_close(half, whole, rtol=0, atol=2.0)
    assert (half - whole).abs().mean() < 0.2
    assert_close(judged_half.projection, judged.projection, rtol=0, atol=0.05)
    half.sum().backward()
