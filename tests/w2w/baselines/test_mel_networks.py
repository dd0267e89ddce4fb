"""CLUIT's mel networks: published sizes, any length, invariance to level, exact streaming."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from engine.user_error import UserError
from w2w.baselines.cluit_mel.generator import MelCritic
from w2w.baselines.cluit_mel.network import CluitMelConfig, CluitMelNetwork

LIVE = ["frame", "frozen"]
every_live = pytest.mark.parametrize("norm", LIVE)


def config(**changes):
    return CluitMelConfig(**{"n_channels": 8, "max_channels": 16, "style_dim": 6, **changes})


def network(**changes):
    torch.manual_seed(0)
    return CluitMelNetwork(config(**changes))


@cache
def evaluated(**changes):
    return network(**changes).eval()


def mels(batch, frames, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 80, frames, generator=rng) * 2.0 - 5.8


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_published_sizes_and_numbers_of_parameters():
    sizes = CluitMelConfig(n_speakers=172)
    built, critic = CluitMelNetwork(sizes), MelCritic(sizes)
    assert (built.frames_per_step, sizes.n_down, sizes.n_critic_blocks) == (8, 3, 5)
    assert [block.conv2.out_channels for block in built.generator.encoder] == [128, 256, 512, 512, 512]
    assert [block.conv2.out_channels for block in built.generator.decoder] == [512, 512, 256, 128, 64]
    assert n_parameters(built.generator) == 9_091_920
    assert n_parameters(built.style_encoder) == 5_225_472
    assert n_parameters(critic) == 5_379_885
    assert n_parameters(network(causal=True, norm="frame")) == n_parameters(network())


@pytest.mark.parametrize("crop_frames", [32, 64, 256])
def test_depth_follows_the_crop(crop_frames):
    sizes = config(crop_frames=crop_frames)
    halvings = crop_frames.bit_length() - 1
    built, critic = CluitMelNetwork(sizes), MelCritic(sizes)
    assert len(built.generator.encoder) == len(built.generator.decoder) == halvings - 4 + 2
    assert len(critic.trunk.blocks) == halvings - 2
    assert critic(mels(1, crop_frames)).features[-1].shape[-1] == 4
    assert built.frames_per_step == crop_frames // 16


@pytest.mark.parametrize("norm", ["instance", *LIVE])
@settings(deadline=None, max_examples=8)
@given(frames=st.integers(1, 300))
def test_output_has_as_many_frames_as_the_input(norm, frames):
    built, source = evaluated(norm=norm, causal=norm != "instance"), mels(2, frames)
    with torch.no_grad():
        voice = built.style_of_mel(source)
        converted = built(source, voice)
    assert voice.shape == (2, 6)
    assert converted.shape == source.shape
    assert converted.isfinite().all()


@pytest.mark.parametrize(("norm", "causal"), [("instance", False), ("frame", True), ("frozen", True)])
def test_every_parameter_receives_a_gradient(norm, causal):
    built, source = network(norm=norm, causal=causal), mels(2, 128)
    (built(source, built.style_of_mel(source)) * torch.randn(source.shape)).sum().backward()
    assert [name for name, p in built.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_output_does_not_depend_on_the_sources_level_and_equalisation():
    """A gain or constant filter adds constants to log-mels, which InstanceNorm removes."""
    built, source, voice = network(), mels(1, 77), torch.randn(1, 6)
    filtered = source + torch.linspace(-3.0, 3.0, 80)[:, None] + 2.0
    with torch.no_grad():
        plain = built(source, voice)
        assert_close(built(filtered, voice), plain, rtol=0, atol=1e-3)
        assert not torch.allclose(built(source, -voice), plain, atol=0.1)
        built.generator.stem.padding_mode = "zeros"  # what the repeated edges are for
        assert not torch.allclose(built(filtered, voice), built(source, voice), atol=1e-2)


@every_live
def test_no_look_ahead_beyond_the_current_block(norm):
    built, source, voice = network(norm=norm, causal=True).eval(), mels(2, 64), torch.randn(2, 6)
    source.requires_grad_()
    converted = built(source, voice)
    for frame in (0, 7, 8, 29, 32, 63):
        (heard,) = torch.autograd.grad(converted[..., frame].square().sum(), source, retain_graph=True)
        end = (frame // 8 + 1) * 8
        assert not heard[..., end:].any()
        assert heard[..., end - 8 : end].any()
        assert frame < 8 or heard[..., : end - 8].any()


def test_published_form_is_not_causal():
    built, source = network(), mels(1, 64).requires_grad_()
    built(source, torch.randn(1, 6))[..., 3].square().sum().backward()
    assert source.grad[..., 60:].any()


@every_live
@settings(deadline=None, max_examples=5)
@given(cuts=st.lists(st.integers(1, 24), max_size=6, unique=True), grad=st.booleans())
def test_chunks_equal_the_whole(norm, cuts, grad):
    built = evaluated(norm=norm, causal=True)
    source, voice = mels(2, 25 * 8 - 3), torch.randn(2, 6)
    with torch.set_grad_enabled(grad):
        whole = built(source, voice)
        led = torch.cat([source, source[..., -1:].expand(-1, -1, 3)], dim=-1)
        state, parts = built.begin(2), []
        for start, stop in pairwise([0, *sorted(8 * cut for cut in cuts), led.shape[-1]]):
            part, state = built.step(led[..., start:stop], voice, state)
            assert part.shape[-1] == stop - start
            parts.append(part)
    assert_close(torch.cat(parts, dim=-1)[..., : source.shape[-1]], whole, rtol=0, atol=1e-4)


def test_voice_may_change_between_chunks():
    """Cached modulations are recomputed when the voice changes, even in place."""
    built, source, voice = network(norm="frame", causal=True).eval(), mels(1, 32), torch.randn(1, 6)
    with torch.inference_mode():
        state = built.begin(1)
        _, kept = built.step(source[..., :16], voice, state)
        voice.neg_()
        after, _ = built.step(source[..., 16:], voice, kept)
        _, fresh = built.step(source[..., :16], voice, state)
        expected, _ = built.step(source[..., 16:], voice, {**kept, "voice": None})
    assert_close(after, expected, rtol=0, atol=0)
    assert not torch.allclose(after, built.step(source[..., 16:], voice, fresh)[0])


def test_frozen_statistics_are_those_of_the_clip():
    built, clip, voice = network(norm="frozen", causal=True).eval(), mels(1, 1024, seed=3), torch.randn(1, 6)
    with torch.no_grad():
        before = built(clip, voice)
        built.freeze_statistics(clip)
        frozen = built(clip, voice)
        assert not torch.allclose(frozen, before, atol=1e-2)
        assert_close(built.train()(clip, voice), frozen, rtol=0, atol=1e-3)  # InstanceNorm of the clip


def test_frozen_statistics_depend_only_on_the_voice():
    built, voices = network(norm="frozen", causal=True).eval(), torch.randn(2, 6)
    built.freeze_statistics(mels(1, 300))  # shorter than what is kept
    with torch.no_grad():
        one = built.generator.modulations(voices)
        built(mels(2, 64, seed=5) * 3.0, voices)
        again = built.generator.modulations(voices[1:])
    for both, second in zip(one, again):
        assert both.fixed
        assert_close(both.scale[-1:], second.scale, rtol=1e-3, atol=1e-5)
        assert_close(both.shift[-1:], second.shift, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(one[-1].scale[0], one[-1].scale[1])


def test_frozen_statistics_default_to_the_last_training_crops():
    built, voice = network(norm="frozen", causal=True, crop_frames=32), torch.randn(2, 6)
    crops = [mels(2, 40, seed=seed) for seed in range(9)]
    for crop in crops:
        converted = built(crop, voice)
        built(converted, voice)  # a cycle: what the network made itself is not kept
        built(crop[..., :30], voice)  # too short
    standard = [built.config.standardised(crop)[0, :, :32] for crop in crops[1:]]
    assert_close(built.generator.clip, torch.cat(standard, dim=-1))
    with torch.no_grad():
        fresh = CluitMelNetwork(built.config).eval()
        fresh.load_state_dict(built.state_dict())
        assert_close(fresh(crops[0], voice), built.eval()(crops[0], voice))
        live = built.train()
        with pytest.raises(AssertionError, match="eval"):
            live.step(mels(1, 2), voice[:1], live.begin(1))


def test_reasons_against_streaming_are_stated():
    assert network(norm="frame", causal=True).streams
    assert "instance" in network().needs_whole
    assert "causal" in network(norm="frame").needs_whole
    with pytest.raises(UserError, match="frozen"):
        network().freeze_statistics(mels(1, 128))
    with pytest.raises(UserError, match=r"1\.3 seconds"):
        network(norm="frozen").freeze_statistics(mels(1, 127))
    live = network(norm="frame", causal=True)
    with pytest.raises(UserError, match="no frames"):
        live.style_of_mel(mels(1, 0))
    with pytest.raises(UserError, match="no frames"):
        live(mels(1, 0), torch.randn(1, 6))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"crop_frames": 100}, "power of two"),
        ({"crop_frames": 16}, "32 or more"),
        ({"causal": True}, "whole utterance"),
        ({"n_channels": 32}, "max_channels=16"),
        ({"n_bottleneck": 0}, "n_bottleneck=0"),
        ({"mel_std": 0.0}, "mel_std=0.0"),
    ],
)
def test_impossible_sizes_are_refused_in_one_sentence(changes, complaint):
    with pytest.raises(UserError, match=complaint) as raised:
        config(**changes)
    assert "\n" not in str(raised.value)
