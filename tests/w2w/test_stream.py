"""Streaming: any chunks give the same samples, and the latency is exact."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from engine.user_error import UserError
from w2w import Converter
from w2w.networks.network import ConverterNetwork

SAMPLES = 3_333


@pytest.fixture(scope="module", params=["today", "earlier"])
def case(request, tiny, buzz):
    """A converter of each kind, a voice, a source, and the whole conversion at once."""
    torch.manual_seed(2)
    converter = Converter(ConverterNetwork(tiny(request.param)))
    source = buzz(SAMPLES, f0=(130.0,))
    voice = converter.embed(buzz(8_000, f0=(190.0,)))
    with torch.inference_mode():
        return converter, voice, source, converter.network(source, voice)


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(1, SAMPLES - 1), max_size=8))
def test_chunks_of_any_length_equal_the_whole(case, cuts):
    converter, voice, source, whole = case
    live = converter.stream(voice)
    edges = sorted({0, SAMPLES, *cuts})
    parts = [live.push(source[..., start:stop]) for start, stop in pairwise(edges)]
    assert_close(torch.cat([*parts, live.flush()], dim=-1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 160, 487])
def test_stream_of_single_samples_equals_the_whole(case, samples):
    converter, voice, source, _ = case
    source = source[..., :samples]
    live = converter.stream(voice, chunk_samples=1)
    parts = [live.push(sample) for sample in source.split(1, dim=-1)]
    whole = converter.convert(source, voice)
    assert_close(torch.cat([*parts, live.flush()], dim=-1), whole, rtol=0, atol=1e-5)


def test_long_source_in_blocks_equals_one_pass(tiny, buzz, monkeypatch):
    monkeypatch.setattr("w2w.converter.BLOCK_S", 0.7)
    converter = Converter(ConverterNetwork(tiny()))
    source = buzz(6 * 16_000, f0=(110.0,))
    voice = converter.embed(source[..., :16_000])
    with torch.inference_mode():
        whole = converter.network(source, voice)
    assert_close(converter.convert(source, voice), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [160, 320, 100, 240])
def test_latency_is_the_exact_maximum_delay(case, chunk):
    converter, voice, _, _ = case
    live = converter.stream(voice, chunk_samples=chunk)
    arrived, made, longest = 0, 0, 0
    while made < 1_200:
        arrived += chunk
        ready = live.push(torch.zeros(1, 1, chunk)).shape[-1]
        if ready:  # its first sample has waited longest, from the instant it was spoken
            longest = max(longest, arrived - made)
        made += ready
    assert longest == round(live.latency_ms * 16)


def test_latency_at_one_hop_is_under_20_ms(case):
    converter, voice, _, _ = case
    assert converter.stream(voice, chunk_samples=converter.config.hop).latency_ms < 20


def test_nan_chunk_is_refused_and_the_stream_continues(case):
    converter, voice, source, whole = case
    live = converter.stream(voice)
    parts = [live.push(source[..., :1_000])]
    with pytest.raises(UserError, match="NaN"):
        live.push(torch.full((1, 1, 500), math.nan))
    parts += [live.push(source[..., 1_000:]), live.flush()]
    assert_close(torch.cat(parts, dim=-1), whole, rtol=0, atol=1e-5)


def test_flushed_stream_refuses_chunks_and_an_empty_one_gives_nothing(case):
    converter, voice, _, _ = case
    live = converter.stream(voice)
    assert live.flush().shape == (1, 1, 0)
    with pytest.raises(ValueError, match="flushed"):
        live.push(torch.zeros(1, 1, 160))
    with pytest.raises(UserError, match="chunk_samples"):
        converter.stream(voice, chunk_samples=0)


def test_digital_silence_and_exact_periods_stream_as_they_convert(tiny):
    converter = Converter(ConverterNetwork(tiny()))
    pulses = torch.zeros(1, 1, 20_000)
    pulses[..., 4_000:9_000:100] = 0.3  # ties between bins, which rounding must not break
    pulses[..., 13_000:16_000] = 0.2
    voice = converter.embed(pulses + 1e-3 * torch.randn(pulses.shape))
    with torch.inference_mode():
        whole = converter.network(pulses, voice)
    for chunk in (160, 517, 3_200):
        live = converter.stream(voice, chunk_samples=chunk)
        made = torch.cat([*(live.push(part) for part in pulses.split(chunk, dim=-1)), live.flush()], dim=-1)
        assert_close(made, whole, rtol=0, atol=1e-5)
