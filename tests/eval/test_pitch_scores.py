"""Pitch scores, levels in pauses and WORLD resynthesis, on synthetic voices of known pitch and envelope."""

import numpy as np
import pytest
import torch

pytest.importorskip("pyworld", reason="pyworld is not installed")

from eval.baselines import analyse, best_warp, synthesise
from eval.pitch import HOP_MS, Pitch, align, compare, compare_pauses, correlation, harvest, log_mean

RATE = 16_000


def vowel(f0: float, seconds: float = 0.8, wobble: float = 0.1, formant: float = 700.0) -> np.ndarray:
    """A voice with one formant and a melody, silent at both ends."""
    time = np.arange(int(seconds * RATE)) / RATE
    melody = f0 * np.exp(wobble * np.sin(2 * np.pi * 1.5 * time))
    phase = 2 * np.pi * np.cumsum(melody) / RATE
    partials = np.arange(1, int(7000 / f0))
    strength = 1 / partials / (1 + ((partials * f0 - formant) / 300) ** 2)
    ends = np.minimum(1, np.minimum(time, time[::-1]) / 0.1).clip(0)
    return 0.3 * ends * sum(a * np.sin(k * phase) for k, a in zip(partials, strength)) / strength.max()


def features(samples: np.ndarray) -> dict[str, np.ndarray]:
    return Pitch()(torch.from_numpy(samples).float()[None, None])


@pytest.mark.parametrize("f0", [90.0, 160.0, 260.0])
def test_mean_f0_is_measured(f0: float) -> None:
    assert abs(12 * (log_mean(harvest(vowel(f0))) - np.log(f0)) / np.log(2)) < 0.5


def test_octave_is_twelve_semitones() -> None:
    low, high = features(vowel(110)), features(vowel(220))
    scores = compare(low, low, high)
    assert scores["f0_distance"] == pytest.approx(12, abs=0.3)
    assert (scores["f0_within_2"], scores["duration_ratio"]) == (0, 1)
    assert compare(low, high, high)["f0_within_2"] == 1


def test_delay_does_not_lower_the_correlation() -> None:
    wave = vowel(150, wobble=0.3)
    delayed = np.concatenate([np.zeros(RATE // 20), vowel(220, wobble=0.3)])[: len(wave)]
    assert correlation(features(wave), features(delayed)) > 0.95
    assert correlation(features(wave), features(vowel(150, wobble=-0.3))) < 0


def test_silent_output_gives_nan() -> None:
    scores = compare(features(vowel(150)), features(np.zeros(RATE)), features(vowel(150)))
    assert all(np.isnan(scores[name]) for name in ("f0_correlation", "f0_distance", "f0_within_2"))


def test_equal_recordings_are_aligned_frame_by_frame() -> None:
    bands = features(vowel(150))["bands"]
    for at, to in [align(bands, bands), align(bands, bands[:-3])]:
        np.testing.assert_array_equal(at, to)


def test_output_of_another_length_is_aligned_by_dtw() -> None:
    pytest.importorskip("librosa", reason="librosa is not installed")
    bands = features(vowel(150))["bands"]
    at, to = align(bands, np.repeat(bands, 2, axis=0))
    assert np.abs(to - 2 * at).mean() < 10


@pytest.mark.parametrize("ratio", [0.7, 1.4])
def test_world_shifts_pitch_and_keeps_the_length(ratio: float) -> None:
    wave = vowel(150)
    f0 = harvest(wave)
    moved = synthesise(len(wave), f0, *analyse(wave, f0), ratio, 1.0)
    assert len(moved) == len(wave)
    assert log_mean(harvest(moved)) - np.log(150) == pytest.approx(np.log(ratio), abs=0.03)


@pytest.mark.parametrize("warp", [0.85, 1.0, 1.15])
def test_best_warp_recovers_a_known_warp(warp: float) -> None:
    hz = np.linspace(0, 8000, 513)

    def envelope(stretch: float) -> np.ndarray:
        return sum(np.exp(-(((hz / stretch - f) / 200) ** 2)) for f in (500, 1500, 2500, 3500))

    assert best_warp(envelope(1.0), envelope(warp) + 3.0) == pytest.approx(warp, abs=0.001)


def test_harvest_has_a_frame_per_hop() -> None:
    assert abs(len(harvest(vowel(150))) - 800 / HOP_MS) <= 1


def utterance(noise_db: float, seed: int = 0) -> np.ndarray:
    """Two words with a pause of .6 s, in noise."""
    time = np.arange(2 * RATE) / RATE
    spoken = (np.abs(time - 0.35) < 0.35) | (np.abs(time - 1.65) < 0.35)
    noise = 10 ** (noise_db / 20) * np.random.default_rng(seed).standard_normal(len(time))
    return 0.3 * spoken * sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 20)) + noise


@pytest.mark.parametrize("noise_db", [-80.0, -50.0])
def test_noise_level_in_a_pause_is_measured(noise_db: float) -> None:
    scores = compare_pauses(features(utterance(-90.0)), features(utterance(noise_db, seed=1)))
    assert scores["pause_level"] == pytest.approx(noise_db, abs=1)
    assert scores["pause_above_source"] == pytest.approx(noise_db + 90, abs=1)


def test_delayed_speech_does_not_count_as_noise() -> None:
    late = np.concatenate([np.zeros(RATE // 20), utterance(-90.0)])[: 2 * RATE]
    assert compare_pauses(features(utterance(-90.0)), features(late))["pause_above_source"] < 1


def test_source_without_a_pause_gives_nan() -> None:
    source = features(utterance(-20.0))
    assert np.isnan(compare_pauses(source, source)["pause_level"])


def test_level_of_digital_silence_is_minus_100_dbfs() -> None:
    assert compare_pauses(features(utterance(-70.0)), features(np.zeros(2 * RATE)))[
        "pause_level"
    ] == pytest.approx(-100)
