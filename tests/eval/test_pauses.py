"""Levels in pauses: measured where the source is silent, and nowhere near its speech."""

import numpy as np
import pytest
import torch

pytest.importorskip("pyworld", reason="pyworld is not installed")

from eval.pitch import Pitch, compare_pauses

RATE = 16_000


def heard(samples: np.ndarray) -> dict[str, np.ndarray]:
    return Pitch()(torch.from_numpy(samples).float()[None, None])


def speech(noise_db: float, seed: int = 0) -> np.ndarray:
    """Two words with a pause of .6 s, in noise."""
    time = np.arange(2 * RATE) / RATE
    spoken = (np.abs(time - 0.35) < 0.35) | (np.abs(time - 1.65) < 0.35)
    noise = 10 ** (noise_db / 20) * np.random.default_rng(seed).standard_normal(len(time))
    return 0.3 * spoken * sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 20)) + noise


@pytest.mark.parametrize("noise_db", [-80.0, -50.0])
def test_the_level_of_noise_in_a_pause_is_found(noise_db: float) -> None:
    scores = compare_pauses(heard(speech(-90.0)), heard(speech(noise_db, seed=1)))
    assert scores["pause_level"] == pytest.approx(noise_db, abs=1)
    assert scores["pause_above_source"] == pytest.approx(noise_db + 90, abs=1)


def test_a_delayed_output_is_not_blamed_for_its_speech() -> None:
    late = np.concatenate([np.zeros(RATE // 20), speech(-90.0)])[: 2 * RATE]
    assert compare_pauses(heard(speech(-90.0)), heard(late))["pause_above_source"] < 1


def test_a_source_without_a_pause_has_no_level() -> None:
    source = heard(speech(-20.0))
    assert np.isnan(compare_pauses(source, source)["pause_level"])


def test_silence_ends_at_a_hundred_below_full_scale() -> None:
    assert compare_pauses(heard(speech(-70.0)), heard(np.zeros(2 * RATE)))["pause_level"] == pytest.approx(
        -100
    )
