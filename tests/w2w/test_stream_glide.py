"""Changing the voice while streaming: exact for any chunks, without clicks, on time."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from data.audio import load
from w2w import Converter
from w2w.networks.network import ConverterNetwork
from w2w.stream import VoiceRamp

SAMPLES = 4_800


@pytest.fixture(scope="module", params=["today", "earlier"])
def case(request, tiny, buzz):
    """A converter of each kind, two voices and a source."""
    torch.manual_seed(7)
    converter = Converter(ConverterNetwork(tiny(request.param)))
    voices = [converter.embed(buzz(8_000, f0=(f0,))) for f0 in (110.0, 230.0)]
    return converter, voices, buzz(SAMPLES, f0=(140.0,))


def changing(converter, voices, source, cuts, changes, rate=None, over_ms=50.0):
    """The result with the voice changed to the second and back at each of the changes."""
    live, parts = converter.stream(voices[0], sample_rate=rate), []
    turn = 0
    for start, stop in pairwise(sorted({0, source.shape[-1], *cuts, *changes})):
        if start in changes:
            turn += 1
            live.change(voices[turn % 2], over_ms=over_ms)
        parts.append(live.push(source[..., start:stop]))
    return torch.cat([*parts, live.flush()], dim=-1)


@settings(max_examples=8, deadline=None)
@given(
    cuts=st.lists(st.integers(1, SAMPLES - 1), max_size=6),
    changes=st.sets(st.integers(1, SAMPLES - 1), max_size=3),
    rate=st.sampled_from([16_000, 48_000]),
    over_ms=st.sampled_from([0.0, 3.0, 50.0]),
)
def test_voice_glide_is_exact_for_any_chunks(case, cuts, changes, rate, over_ms):
    converter, voices, source = case
    arguments = (changes, rate, over_ms)
    made = changing(converter, voices, source, cuts, *arguments)
    assert_close(made, changing(converter, voices, source, [], *arguments), rtol=0, atol=1e-5)


def test_glide_starts_and_ends_on_time(case):
    converter, voices, source = case
    live, steady = converter.stream(voices[0]), converter.stream(voices[0])
    assert torch.equal(live.push(source[..., :1_603]), steady.push(source[..., :1_603]))
    live.change(voices[1], over_ms=100.0)
    live.push(source[..., 1_603:3_203])
    # The next whole hop begins the new voice: what the network makes of it, with its state, is what comes.
    rest = source[..., 3_203 : 3_203 + 477]
    expected, _ = converter.network.step(
        torch.cat([live.state.waiting, rest], dim=-1), voices[1], live.state.network
    )
    assert_close(live.push(rest), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(expected, steady.push(source[..., 1_603:3_680])[..., -480:], atol=1e-3)


def test_immediate_change_applies_from_the_next_hop(case):
    converter, voices, source = case
    live = converter.stream(voices[0])
    live.push(source[..., :1_600])
    live.change(voices[1], over_ms=0.0)
    expected, _ = converter.network.step(source[..., 1_600:1_920], voices[1], live.state.network)
    assert_close(live.push(source[..., 1_600:1_920]), expected, rtol=0, atol=1e-6)


def test_voice_ramp_is_linear_and_can_be_redirected():
    start, end, last = (torch.full((1, 3), value) for value in (0.0, 1.0, -1.0))
    glide = VoiceRamp.staying(start).toward(end, 4.0, 1_000.0, 1_600.0)
    assert_close(glide.at(500.0)[0], start)
    halfway, semitones = glide.at(1_800.0)
    assert_close(halfway, torch.full((1, 3), 0.5))
    assert semitones == pytest.approx(2.0)
    assert glide.at(2_600.0) == (end, 4.0)
    turned = glide.toward(last, None, 1_800.0, 800.0)
    assert_close(turned.at(1_800.0)[0], halfway)
    assert_close(turned.at(2_200.0)[0], torch.full((1, 3), -0.25))
    assert turned.at(2_600.0) == (last, 4.0)


def test_pitch_glides_too(tiny, buzz):
    converter = Converter(ConverterNetwork(tiny()))
    converter.network.decoder.head.bands.bias.chunk(2)[1].fill_(-12.0)  # no noise, that there be a pitch
    source = buzz(32_000, f0=(130.0,), noise=0.0)
    voice = converter.embed(source)
    live = converter.stream(voice)
    parts = [live.push(source[..., :12_000])]
    live.change(semitones=6.0, over_ms=500.0)
    made = torch.cat([*parts, live.push(source[..., 12_000:]), live.flush()], dim=-1)
    pitch = converter.network.pitch(made).log_f0[0, 0]
    before, middle, after = (
        pitch[part].median() for part in (slice(40, 75), slice(95, 105), slice(140, 195))
    )
    assert float(after - before) * 12 / math.log(2) == pytest.approx(6.0, abs=0.6)
    assert float(middle - before) * 12 / math.log(2) == pytest.approx(3.0, abs=1.2)


def jumps(wave):
    """Largest differences between neighbouring samples, by stretches of 5 ms."""
    return wave.diff(dim=-1)[0, 0].abs().unfold(0, 80, 80).amax(-1)


def flux(wave):
    """How much spectra differ from one 4 ms to the next, above 4 kHz, where a click shows."""
    frames = wave[0, 0].unfold(0, 128, 64) * torch.hann_window(128)
    return torch.fft.rfft(frames).abs()[:, 32:].diff(dim=0).clamp_min(0.0).sum(-1)


@pytest.mark.parametrize("measure", [jumps, flux])
def test_voice_change_does_not_click_in_real_speech(speech_pack, measure):
    converter = Converter.from_pretrained("released_live")
    files = sorted(speech_pack.rglob("*.flac"))
    source = load(files[0], 16_000)[..., :48_000]
    voices = [converter.embed(load(files[place], 16_000)) for place in (10, len(files) // 2)]
    steady = torch.stack([measure(converter.convert(source, voice)) for voice in voices]).amax(0)
    changes = [9_000, 17_777, 25_000, 33_333]
    made = changing(converter, voices, source, [], changes, over_ms=100.0)
    # What the one voice or the other does at that place, give or take a step.
    around = torch.nn.functional.max_pool1d(steady[None], 5, stride=1, padding=2)[0]
    loudest = float(steady.max())
    assert float((measure(made) - 1.5 * around).max()) < 0.05 * loudest
    cut = made.clone()  # the measure measures: a real click is found
    quiet = (
        int(converter.convert(source, voices[0])[0, 0].abs().unfold(0, 80, 80).amax(-1)[20:].argmin()) + 20
    )
    cut[..., quiet * 80 + 40 :] += 0.3 * float(made.abs().max())
    assert float((measure(cut) - 1.5 * around).max()) > 0.05 * loudest
