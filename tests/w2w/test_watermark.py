"""The watermark: exact streaming, audibility, robustness, detection and false alarms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from data.audio.resampling import resample
from data.pitch_shift import shift_pitch_and_formants
from engine.user_error import UserError
from w2w.watermark import DEFAULT_KEY, Marker
from w2w.watermark.detection import chance, detect, judge, score
from w2w.watermark.echo import LAST, SAMPLE_RATE, SPAN, gaussian_taps

RATES = [8_000, 16_000, 22_050, 44_100, 48_000]


@pytest.fixture(scope="module")
def talk():
    """Speech-like noise: modulated like syllables and coloured like speech, 4 s at 16 kHz."""
    torch.manual_seed(5)
    time = torch.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    spectrum = torch.fft.rfft(torch.randn(1, 1, len(time)))
    spectrum /= 1 + (torch.fft.rfftfreq(len(time), 1 / SAMPLE_RATE) / 500) ** 1.5
    wave = torch.fft.irfft(spectrum) * torch.sin(2 * math.pi * 2 * time).clamp(min=0)
    return 0.3 * wave / wave.abs().max()


@pytest.fixture(scope="module")
def marked(talk):
    return Marker(SAMPLE_RATE).mark(talk)


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 6_000), max_size=12),
    rate=st.sampled_from(RATES),
    batch=st.integers(1, 3),
)
def test_chunks_equal_the_whole(cuts, rate, batch):
    marker, wave = Marker(rate), torch.randn(batch, 1, 6_000)
    past, parts = marker.begin(batch), []
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 6_000]):
        ready, past = marker.step(wave[..., start:stop], past)
        parts.append(ready)
        assert past.shape[-1] == marker.context
    assert_close(torch.cat(parts, dim=-1), marker.mark(wave), rtol=0, atol=1e-5)


def test_long_audio_is_marked_in_blocks_without_a_seam():
    marker, wave = Marker(16_000), torch.randn(1, 1, 50_000)
    pieces = torch.cat(list(marker.marked(wave.split(777, dim=-1))), dim=-1)
    assert_close(pieces, marker.mark(wave), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", RATES)
def test_marker_is_causal_and_adds_no_latency(rate):
    marker, wave = Marker(rate), torch.randn(1, 1, rate // 10)
    later = wave.clone()
    later[..., rate // 20 :] += 1
    before, after = marker.mark(wave), marker.mark(later)
    assert_close(before[..., : rate // 20], after[..., : rate // 20], rtol=0, atol=1e-5)
    assert_close((after - before)[..., rate // 20], torch.ones(1, 1), rtol=0, atol=1e-5)  # at once, unchanged


def test_mark_is_30_db_below_speech(talk, marked):
    assert -40 < 10 * (marked - talk).square().mean().div(talk.square().mean()).log10() < -22


def test_silence_stays_silent(talk):
    assert not Marker(16_000).mark(torch.zeros(1, 1, 4_000)).any()
    cut = torch.cat([talk[..., :8_000], torch.zeros(1, 1, 8_000)], dim=-1)
    assert Marker(16_000).mark(cut)[..., 8_000 + 2 * LAST :].abs().max() < 1e-7


def test_mark_scales_with_the_signal(talk, marked):
    assert_close(Marker(16_000).mark(1e-3 * talk), 1e-3 * marked, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rate", RATES)
def test_mark_added_at_any_rate_is_detected(talk, rate):
    there = Marker(rate).mark(resample(talk, SAMPLE_RATE, rate))
    assert detect([resample(there, rate, SAMPLE_RATE)]).false_alarm < 1e-8


def test_marked_audio_is_detected_and_unmarked_is_not(talk, marked):
    found, other = detect([marked]), detect([talk])
    assert found.marked
    assert found.false_alarm < 1e-12
    assert found.seconds == 4
    assert found.duration == 4.0
    assert found.speed == 1.0
    assert not other.marked
    assert other.seconds <= 1


def test_other_keys_neither_detect_nor_hide_the_mark(talk, marked):
    assert not detect([marked], "mine").marked
    both = Marker(16_000, "mine").mark(marked)
    assert detect([both], "mine").marked
    assert detect([both]).marked
    assert detect([Marker(16_000, 7).mark(talk)], 7).marked


def test_detection_does_not_depend_on_the_pieces(marked):
    whole = detect([marked.repeat(1, 1, 6)])
    pieces = detect(marked.repeat(1, 1, 6).split(1_234, dim=-1))
    assert pieces == whole


CHANGES = {
    "softer by 60 dB": lambda wave: 1e-3 * wave,
    "upside down": lambda wave: -wave,
    "at 8 kHz and back": lambda wave: resample(resample(wave, 16_000, 8_000), 8_000, 16_000),
    "at 44.1 kHz and back": lambda wave: resample(resample(wave, 16_000, 44_100), 44_100, 16_000),
    "8 bit": lambda wave: (wave * 128).round() / 128,
    "cut at both ends": lambda wave: wave[..., 10_007:-20_011],
    "faster": lambda wave: resample(wave, 16_800, 16_000),
    "slower": lambda wave: resample(wave, 15_200, 16_000),
    "pitch moved": lambda wave: shift_pitch_and_formants(
        wave, torch.tensor([2.0]), torch.tensor([1.0]), 16_000
    ),
    "white noise at 20 dB": lambda wave: wave + 0.1 * wave.square().mean().sqrt() * torch.randn(wave.shape),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_mark_survives_common_processing(marked, change):
    assert detect([change(marked)]).marked


@pytest.mark.parametrize(("rate", "speed"), [(16_800, 1 / 1.05), (12_800, 1.25), (15_200, 1 / 0.95)])
def test_changed_speed_is_estimated(marked, rate, speed):
    # Fewer samples for the same sound: it is played faster.
    assert detect([resample(marked, 16_000, rate)]).speed == pytest.approx(speed, abs=0.002)


def test_marked_excerpt_of_a_long_file_is_detected(talk, marked):
    torch.manual_seed(1)
    noise = 0.1 * torch.randn(1, 1, 60 * SAMPLE_RATE)
    noise[..., 320_000 : 320_000 + marked.shape[-1]] = marked
    found = detect([noise])
    assert found.marked
    assert found.seconds < 10
    assert found.duration == 60


@pytest.mark.parametrize("samples", [0, 1, 100, 20_000])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_silence_and_empty_audio_are_not_marked(samples, value):
    found = detect([torch.full((1, 1, samples), value)])
    assert not found.marked
    assert math.isfinite(found.false_alarm)


def test_scores_of_unrelated_keys_are_standard_normal():
    time = np.arange(SPAN)
    profiles = {
        "noise": np.random.default_rng(0).standard_normal(SPAN),
        "a tone": np.cos(time),
        "one spike": (time == 500) * 1.0 + 1e-3 * np.sin(1.1 * time),
        "a voice": np.maximum(np.cos(2 * math.pi * time / 133), 0) ** 50 * np.cos(time / 2),
    }
    for name, profile in profiles.items():
        scores = np.array([score(profile, gaussian_taps(f"{name} {k}")) for k in range(500)])
        assert abs(scores.mean()) < 0.15, name
        assert 0.9 < scores.std() < 1.1, name
        assert (scores > 2.326).mean() < 0.03, name


def test_false_alarm_rate_is_within_its_bound():
    rng = np.random.default_rng(3)
    files = [judge(rng.standard_normal((20, SPAN)), DEFAULT_KEY, 20.0, 0.05) for _ in range(40)]
    assert sum(found.marked for found in files) <= 7
    assert chance(0.0) == 0.5


@pytest.mark.parametrize("rate", [0, 4_000, 200_000])
def test_rate_that_cannot_be_marked_is_refused(rate):
    with pytest.raises(UserError, match=f"not of {rate} Hz"):
        Marker(rate)
