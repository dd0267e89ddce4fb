"""Streaming at other rates than the network's: exact, equal length, aligned."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from data.audio.resampling import resample
from engine.user_error import UserError
from w2w import Converter
from w2w.networks.network import ConverterNetwork

SAMPLES = 4_000
RATES = (48_000, 44_100, 8_000, 22_050, 12_345)


@pytest.fixture(scope="module", params=["today", "earlier"])
def case(request, tiny, buzz):
    """A converter of each kind, a voice, and a source with its whole conversion at every rate."""
    torch.manual_seed(3)
    converter = Converter(ConverterNetwork(tiny(request.param)))
    voice = converter.embed(buzz(8_000, f0=(190.0,)))
    sources = {rate: buzz(SAMPLES, f0=(130.0,), rate=rate) for rate in RATES}
    wholes = {rate: converter.convert(wave, voice, sample_rate=rate) for rate, wave in sources.items()}
    return converter, voice, sources, wholes


@settings(max_examples=10, deadline=None)
@given(rate=st.sampled_from(RATES), cuts=st.lists(st.integers(0, SAMPLES), max_size=6))
def test_any_chunks_equal_convert_at_any_rate(case, rate, cuts):
    converter, voice, sources, wholes = case
    live = converter.stream(voice, sample_rate=rate)
    edges = sorted([0, SAMPLES, *cuts, *(cut + 1 for cut in cuts if cut < SAMPLES)])
    parts = [live.push(sources[rate][..., start:stop]) for start, stop in pairwise(edges)]
    parts += [live.push(torch.zeros(1, 1, 0)), live.flush()]
    assert_close(torch.cat(parts, dim=-1), wholes[rate], rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [48_000, 44_100])
def test_single_samples_equal_the_whole_at_any_rate(case, rate):
    converter, voice, sources, _ = case
    source = sources[rate][..., :487]
    live = converter.stream(voice, 1, sample_rate=rate)
    made = torch.cat([*(live.push(sample) for sample in source.split(1, dim=-1)), live.flush()], dim=-1)
    assert_close(made, converter.convert(source, voice, sample_rate=rate), rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 479, 480, 481, 1_333])
@pytest.mark.parametrize("rate", [48_000, 44_100, 8_000])
def test_result_is_as_long_as_its_source_at_any_rate(case, rate, samples):
    converter, voice, sources, _ = case
    source = sources[rate][..., :samples]
    assert converter.convert(source, voice, sample_rate=rate).shape == source.shape


def test_long_source_in_blocks_equals_one_pass_at_another_rate(case, monkeypatch):
    converter, voice, sources, wholes = case
    monkeypatch.setattr("w2w.converter.BLOCK_S", 0.013)
    made = converter.convert(sources[44_100], voice, sample_rate=44_100)
    assert_close(made, wholes[44_100], rtol=0, atol=1e-5)


class Repeats:
    """Returns its input, late by the look-ahead."""

    def __init__(self, network):
        self.late = network.look_ahead

    def begin(self, batch):
        return torch.zeros(batch, 1, self.late)

    def step(self, source, voice, state, semitones=0.0):
        wave = torch.cat([state, source], dim=-1)
        return wave[..., : source.shape[-1]], wave[..., source.shape[-1] :]


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000, 96_000, 192_000])
def test_output_is_aligned_with_the_source(case, rate):
    converter, voice, _, _ = case
    time = torch.arange(rate // 4).double() / rate
    source = sum(torch.sin(2 * math.pi * hertz * time + hertz) for hertz in (170.0, 900.0, 2_300.0))
    source = source.float()[None, None]
    live = converter.stream(voice, sample_rate=rate, engine=Repeats(converter.network))
    made = torch.cat([live.push(source), live.flush()], dim=-1)
    inner = slice(rate // 50, -rate // 50)
    assert_close(made[..., inner], source[..., inner], rtol=0, atol=6e-3)


def test_offline_converter_takes_any_rate(tiny, buzz):
    offline = Converter(ConverterNetwork(tiny("offline")))
    source = buzz(4_001, f0=(150.0,), rate=44_100)
    voice = offline.embed(buzz(8_000, f0=(150.0,)))
    made = offline.convert(source, voice, sample_rate=44_100)
    assert made.shape == source.shape
    heard = offline.convert(resample(source, 44_100, 16_000), voice)
    expected = resample(heard, 16_000, 44_100)
    assert_close(made[..., :4_000], expected[..., :4_000])


@pytest.mark.parametrize("rate", [7_999, 192_001])
def test_rate_beyond_the_range_is_refused(case, rate):
    converter, voice, sources, _ = case
    with pytest.raises(UserError, match="192000"):
        converter.stream(voice, sample_rate=rate)
    with pytest.raises(UserError, match="192000"):
        converter.convert(sources[48_000], voice, sample_rate=rate)
