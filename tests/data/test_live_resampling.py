"""Live resampling: independent of the chunking, with the stated delay and without aliases."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from data.audio.live_resampling import REACH_S, STOP_DB, TRANSITION_HZ, LiveResampler, least_delay

RATES = [
    (48_000, 16_000),
    (16_000, 48_000),
    (44_100, 16_000),
    (16_000, 44_100),
    (8_000, 16_000),
    (12_345, 24_000),
]


def tone(hertz: float, rate: int, seconds: float = 0.3, shift: float = 0.0):
    """A sine delayed by ``shift`` seconds."""
    time = torch.arange(round(rate * seconds)).double() / rate
    return torch.sin(2 * math.pi * hertz * (time - shift))[None, None].float()


def steady(wave):
    """The part far from the beginning."""
    return wave[..., wave.shape[-1] // 2 :]


@settings(max_examples=20, deadline=None)
@given(rates=st.sampled_from(RATES), cuts=st.lists(st.integers(0, 1_500), max_size=6))
def test_chunks_including_empty_ones_equal_the_whole(rates, cuts):
    resampler, wave = LiveResampler(*rates), torch.randn(2, 1, 1_500)
    whole, _ = resampler.step(wave, resampler.begin(2))
    state, parts = resampler.begin(2), []
    for start, stop in pairwise(sorted([0, 1_500, *cuts, *cuts])):
        out, state = resampler.step(wave[..., start:stop], state)
        parts.append(out)
        assert sum(part.shape[-1] for part in parts) == stop * rates[1] // rates[0]
    assert_close(torch.cat(parts, dim=-1), whole, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES)
def test_tone_keeps_its_level_and_is_delayed(from_rate, to_rate):
    delay = least_delay(from_rate) + Fraction(1, 3)
    resampler = LiveResampler(from_rate, to_rate, delay)
    hertz = min(from_rate, to_rate) / 2 - 1.5 * TRANSITION_HZ
    made, _ = resampler.step(tone(hertz, from_rate), resampler.begin(1))
    # Sample k ends when (k + 1) / to_rate seconds have passed, as the inputs' samples end at theirs.
    ends = 1.0 / from_rate - 1.0 / to_rate
    expected = tone(hertz, to_rate, shift=float(delay) / from_rate + ends)
    error = steady(made[..., : expected.shape[-1]] - expected)
    assert float(error.abs().max()) < 2 * 10 ** (-STOP_DB / 20)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(48_000, 16_000), (44_100, 16_000), (96_000, 8_000)])
def test_aliases_below_the_cutoff_are_attenuated(from_rate, to_rate):
    resampler = LiveResampler(from_rate, to_rate)
    nyquist = to_rate / 2
    for above in (1.01, 1.6, 3.0):
        stopped = nyquist + above * TRANSITION_HZ / 4
        made, _ = resampler.step(tone(stopped, from_rate), resampler.begin(1))
        level = 20 * math.log10(float(steady(made).abs().max()))
        assert level < -STOP_DB + 1
    # And the measure measures: a tone that may pass does.
    made, _ = resampler.step(tone(nyquist / 4, from_rate), resampler.begin(1))
    assert float(steady(made).abs().max()) > 0.9


@pytest.mark.parametrize("rates", RATES)
def test_constant_is_preserved(rates):
    resampler = LiveResampler(*rates)
    made, _ = resampler.step(torch.ones(1, 1, 2_000), resampler.begin(1))
    assert_close(steady(made), torch.ones_like(steady(made)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rates", RATES)
def test_outputs_depend_on_no_future_and_two_reaches_of_the_past(rates):
    resampler = LiveResampler(*rates)
    wave = torch.randn(1, 1, 1_200, requires_grad=True)
    made, _ = resampler.step(wave, resampler.begin(1))
    place = made.shape[-1] - 1
    made[..., place].sum().backward()
    used = wave.grad[0, 0].nonzero()[:, 0]
    last = -(-(place + 1) * rates[0] // rates[1]) - 1
    assert last - 2 <= int(used.max()) <= last
    assert last - int(used.min()) <= 2 * REACH_S * rates[0] + 1


def test_gradients_pass_after_cached_inference():
    resampler = LiveResampler(48_000, 16_000)
    with torch.inference_mode():
        resampler.step(torch.zeros(1, 1, 480), resampler.begin(1))
    wave = torch.randn(1, 1, 480, requires_grad=True)
    resampler.step(wave, resampler.begin(1))[0].sum().backward()
    assert wave.grad.any()


def test_short_delay_is_refused_and_cached_plans_are_limited():
    with pytest.raises(ValueError, match="reach"):
        LiveResampler(48_000, 16_000, Fraction(3))
    resampler = LiveResampler(44_100, 16_000)
    state = resampler.begin(1)
    for samples in range(1, 60):
        _, state = resampler.step(torch.zeros(1, 1, samples), state)
    assert len(resampler.plans) <= 16
