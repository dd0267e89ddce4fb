"""Levels: the output follows the level of the source, and pauses stay as quiet as its own."""

import math

import pytest
import torch
from torch.testing import assert_close

from data.causal_mel import LevelTracker
from pretrain.pitch.tracker import Pitch
from w2w.networks.delay import PauseGate
from w2w.networks.network import STEADY_FRAMES, ConverterNetwork

HOP, LOOK_AHEAD = 160, 128
VOICED = torch.ones(1, 1, 200)


def level_db(wave):
    """RMS of each frame, dBFS."""
    return 10 * torch.log10(wave[:, 0].unfold(-1, HOP, HOP).square().mean(-1) + 1e-12)


def speech(buzz, samples=24_000):
    """Sound with a pause in its middle third, filled with room noise."""
    wave = buzz(samples, (140.0,), noise=0.0)
    wave[..., samples // 3 : 2 * samples // 3] = 0.0
    return wave + 3e-5 * torch.randn(wave.shape)


def test_output_level_follows_the_source_over_40_db(tiny, buzz):
    network = ConverterNetwork(tiny()).eval()
    source, reference = buzz(16_000, (130.0,), noise=0.01), buzz(16_000, (200.0,), noise=0.01)
    with torch.inference_mode():
        loud = network(source, network.style(reference))
        quiet = network(0.01 * source, network.style(0.01 * reference))
    assert_close(100 * quiet, loud, rtol=0, atol=0.02 * float(loud.abs().max()))


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_pauses_are_gated_to_the_sources_level(buzz, gain):
    gate, source = PauseGate(HOP, LOOK_AHEAD), gain * speech(buzz)
    level = torch.full((1, 1, source.shape[-1] // HOP), math.log(gain))  # that of the speech
    output = 0.05 * gain * torch.randn(source.shape)  # all too loud
    held, _ = gate.step(source, output, level, VOICED[..., : level.shape[-1]], gate.begin(1))
    pause = slice(56, 98)
    allowed = level_db(source)[:, pause].clamp_min(-60.0) + 1.0  # a window is not a frame
    assert (level_db(held)[:, pause] <= allowed).all()
    assert level_db(output)[:, pause].min() > -70 - 20 * math.log10(1 / gain) + 30


def test_gate_leaves_speech_unchanged(buzz):
    gate, source = PauseGate(HOP, LOOK_AHEAD), buzz(8_000, (140.0,))
    output = 0.1 * torch.randn(source.shape)
    held, _ = gate.step(source, output, torch.zeros(1, 1, 50), VOICED[..., :50], gate.begin(1))
    assert_close(held[..., HOP:], output[..., HOP:], rtol=0, atol=1e-6)


def test_constant_offset_counts_as_silence(buzz):
    gate, source = PauseGate(HOP, LOOK_AHEAD), torch.full((1, 1, 8_000), 0.2)
    held, _ = gate.step(
        source, 0.1 * torch.randn(source.shape), torch.zeros(1, 1, 50), VOICED[..., :50], gate.begin(1)
    )
    assert (level_db(held)[:, 1:] < -60).all()


def test_gate_streams_exactly(buzz):
    gate, source = PauseGate(HOP, LOOK_AHEAD), speech(buzz, 9_600)
    output, level = 0.05 * torch.randn(source.shape), 0.3 * torch.randn(1, 1, 60)
    voiced = (torch.arange(60) == 20).float()[None, None]
    whole, _ = gate.step(source, output, level, voiced, gate.begin(1))
    state, parts = gate.begin(1), []
    for first, last in ((0, 1), (1, 4), (4, 30), (30, 60)):
        piece = slice(first * HOP, last * HOP)
        part, state = gate.step(
            source[..., piece], output[..., piece], level[..., first:last], voiced[..., first:last], state
        )
        parts.append(part)
    assert_close(torch.cat(parts, dim=-1), whole, rtol=0, atol=1e-6)


def test_level_recovers_from_a_slam_within_a_second():
    tracker, syllables = LevelTracker(), (2.0 * torch.sin(torch.arange(300) / 4.0) - 2.0)[None, None]
    alone, _ = tracker.step(syllables, tracker.begin(1))
    assert (alone[..., 60:] > -1.2).all()  # the loudest eight frames on end, whose mean is −.9
    slam = torch.full((1, 1, 110), -12.0)
    slam[..., 5:25] = 3.0 - 0.3 * torch.arange(20)
    after, _ = tracker.step(torch.cat([slam, syllables], dim=-1), tracker.begin(1))
    assert after[..., 12].item() > 1.5
    assert_close(after[..., 110 + 60 :], alone[..., 60:], rtol=0, atol=0.3)


def test_pieces_have_the_level_of_the_whole():
    tracker, energy = LevelTracker(), 3.0 * torch.randn(2, 1, 200)
    whole, _ = tracker.step(energy, tracker.begin(2))
    state, parts = tracker.begin(2), []
    for piece in energy.split([1, 2, 40, 157], dim=-1):
        part, state = tracker.step(piece, state)
        parts.append(part)
    assert_close(torch.cat(parts, dim=-1), whole)


@pytest.mark.parametrize(("frames", "moves"), [(STEADY_FRAMES - 1, False), (STEADY_FRAMES, True)])
def test_short_voiced_sounds_do_not_set_the_mean_f0(tiny, buzz, frames, moves):
    network = ConverterNetwork(tiny()).eval()
    with torch.inference_mode():
        state = network.begin(1)
        content, _ = network.content.step(buzz(20 * HOP, (130.0,)), state["content"])
        voicing = torch.zeros(1, 1, 20)
        voicing[..., 8 : 8 + frames] = 1.0
        mean = network.place_pitch(Pitch(torch.full((1, 1, 20), 6.0), voicing), content, state)[0].mean_log_f0
    assert bool((mean - mean[..., :1]).abs().max() > 1e-4) == moves


def test_noise_is_not_amplified():
    gate, source = PauseGate(HOP, LOOK_AHEAD), 1e-3 * torch.randn(1, 1, 300 * HOP)
    level = torch.full((1, 1, 300), math.log(1e-2))  # that of the noise
    voiced = torch.zeros(1, 1, 300)
    voiced[..., 100:110] = 1.0
    held, _ = gate.step(source, 10.0 * source, level, voiced, gate.begin(1))
    loud = level_db(held) - level_db(source).mean()
    assert loud[:, 2:99].max() < 3.0
    assert loud[:, 102:208].mean() > 15.0
    assert loud[:, 212:].max() < 3.0
