"""Levels: a quiet recording is the same voice, and pauses stay as quiet as the source's."""

import math

import pytest
import torch
from torch.testing import assert_close

from w2w.networks.delay import PauseGate
from w2w.networks.network import ConverterNetwork

HOP, LOOK_AHEAD = 160, 128


def level_db(wave):
    """RMS of each frame, dBFS."""
    return 10 * torch.log10(wave[:, 0].unfold(-1, HOP, HOP).square().mean(-1) + 1e-12)


def speech(buzz, samples=24_000):
    """Sound with a pause in its middle third, in which a room's noise is left."""
    wave = buzz(samples, (140.0,), noise=0.0)
    wave[..., samples // 3 : 2 * samples // 3] = 0.0
    return wave + 3e-5 * torch.randn(wave.shape)


def test_what_is_40_db_softer_comes_out_40_db_softer(tiny, buzz):
    network = ConverterNetwork(tiny()).eval()
    source, reference = buzz(16_000, (130.0,), noise=0.01), buzz(16_000, (200.0,), noise=0.01)
    with torch.inference_mode():
        loud = network(source, network.style(reference))
        quiet = network(0.01 * source, network.style(0.01 * reference))
    assert_close(100 * quiet, loud, rtol=0, atol=0.02 * float(loud.abs().max()))


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_no_pause_is_louder_than_the_sources_own_or_60_dbfs(buzz, gain):
    gate, source = PauseGate(HOP, LOOK_AHEAD), gain * speech(buzz)
    level = torch.full((1, 1, source.shape[-1] // HOP), math.log(gain))  # that of the speech
    output = 0.05 * gain * torch.randn(source.shape)  # all too loud
    held, _ = gate.step(source, output, level, gate.begin(1))
    pause = slice(56, 98)
    allowed = level_db(source)[:, pause].clamp_min(-60.0) + 1.0  # a window is not a frame
    assert (level_db(held)[:, pause] <= allowed).all()
    assert level_db(output)[:, pause].min() > -70 - 20 * math.log10(1 / gain) + 30


def test_speech_passes_the_gate_untouched(buzz):
    gate, source = PauseGate(HOP, LOOK_AHEAD), buzz(8_000, (140.0,))
    output = 0.1 * torch.randn(source.shape)
    held, _ = gate.step(source, output, torch.zeros(1, 1, 50), gate.begin(1))
    assert_close(held[..., HOP:], output[..., HOP:], rtol=0, atol=1e-6)


def test_a_constant_offset_is_no_sound(buzz):
    gate, source = PauseGate(HOP, LOOK_AHEAD), torch.full((1, 1, 8_000), 0.2)
    held, _ = gate.step(source, 0.1 * torch.randn(source.shape), torch.zeros(1, 1, 50), gate.begin(1))
    assert (level_db(held)[:, 1:] < -60).all()


def test_the_gate_streams(buzz):
    gate, source = PauseGate(HOP, LOOK_AHEAD), speech(buzz, 9_600)
    output, level = 0.05 * torch.randn(source.shape), 0.3 * torch.randn(1, 1, 60)
    whole, _ = gate.step(source, output, level, gate.begin(1))
    state, parts = gate.begin(1), []
    for first, last in ((0, 1), (1, 4), (4, 30), (30, 60)):
        piece = slice(first * HOP, last * HOP)
        part, state = gate.step(source[..., piece], output[..., piece], level[..., first:last], state)
        parts.append(part)
    assert_close(torch.cat(parts, dim=-1), whole, rtol=0, atol=1e-6)
