"""Levels in pauses: measured only where the source is silent, away from its speech."""

import numpy as np
import pytest
import torch

pytest.importorskip("pyworld", reason="pyworld is not installed")

from eval.pitch import Pitch, compare_pauses

RATE = 16_000


def features(samples: np.ndarray) -> dict[str, np.ndarray]:
    return Pitch()(torch.from_numpy(samples).float()[None, None])


def speech(noise_db: float, seed: int = 0) -> np.ndarray:
    """Two words with a pause of .6 s, in noise."""
    time = np.arange(2 * RATE) / RATE
    spoken = (np.abs(time - 0.35) < 0.35) | (np.abs(time - 1.65) < 0.35)
    noise = 10 ** (noise_db / 20) * np.random.default_rng(seed).standard_normal(len(time))
    return 0.3 * spoken * sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 20)) + noise


@pytest.mark.parametrize("noise_db", [-80.0, -50.0])
def test_noise_level_in_a_pause_is_measured(noise_db: float) -> None:
    scores = compare_pauses(features(speech(-90.0)), features(speech(noise_db, seed=1)))
    assert scores["pause_level"] == pytest.approx(noise_db, abs=1)
    assert scores["pause_above_source"] == pytest.approx(noise_db + 90, abs=1)


def test_delayed_speech_does_not_count_as_noise() -> None:
    late = np.concatenate([np.zeros(RATE // 20), speech(-90.0)])[: 2 * RATE]
    assert compare_pauses(features(speech(-90.0)), features(late))["pause_above_source"] < 1


def test_source_without_a_pause_gives_nan() -> None:
    source = features(speech(-20.0))
    assert np.isnan(compare_pauses(source, source)["pause_level"])


def test_level_of_digital_silence_is_minus_100_dbfs() -> None:
    assert compare_pauses(features(speech(-70.0)), features(np.zeros(2 * RATE)))[
        "pause_level"
    ] == pytest.approx(-100)
