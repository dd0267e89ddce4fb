"""Downmixing keeps the voice's level with silent and with inverted channels."""

import numpy as np
import pytest
import soundfile

from data.audio import blocks, excerpt, load
from data.audio.listening import measure
from data.audio.mixing import weights_of

RATE = 16_000


def voice(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """Noise with an envelope."""
    n = round(seconds * RATE)
    return 0.2 * np.random.default_rng(seed).standard_normal(n) * np.sin(np.linspace(0, 20, n)) ** 2


def written(tmp_path, *channels: np.ndarray):
    """Write a file with these channels."""
    soundfile.write(tmp_path / "a.wav", np.stack(channels, axis=1), RATE, subtype="FLOAT")
    return tmp_path / "a.wav"


def level(wave) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(np.square(np.asarray(wave))))))


def test_equal_channels_are_averaged(tmp_path):
    x = voice()
    np.testing.assert_allclose(load(written(tmp_path, x, x))[0, 0], x, atol=1e-6)


@pytest.mark.parametrize("place", range(6))
def test_voice_in_one_of_six_channels_keeps_its_level(tmp_path, place):
    x, z = voice(), np.zeros(RATE)
    path = written(tmp_path, *(x if place == channel else z for channel in range(6)))
    np.testing.assert_allclose(load(path)[0, 0], x, atol=1e-6)


def test_uncorrelated_channels_keep_the_level_of_one(tmp_path):
    path = written(tmp_path, voice(seed=1), voice(seed=2))
    assert abs(level(load(path)) - max(level(voice(seed=1)), level(voice(seed=2)))) < 0.1


@pytest.mark.parametrize("gain", [1.0, 0.9])
def test_inverted_channel_is_dropped_with_one_warning(tmp_path, gain, recwarn):
    x = voice()
    path = written(tmp_path, x, -gain * x)
    for _ in range(2):
        np.testing.assert_allclose(load(path)[0, 0], x, atol=1e-6)
    assert measure(path).loudest_db > -30
    (warning,) = (str(one.message) for one in recwarn if "cancel" in str(one.message))
    assert "only channel 1 is used" in warning


def test_all_readers_mix_equally_after_leading_silence(tmp_path):
    x, y = voice(3, seed=3), voice(3, seed=4)
    x[:RATE] = y[:RATE] = 0
    path = written(tmp_path, x, y)
    whole = load(path)[0, 0]
    in_blocks = np.concatenate([block[0, 0] for block in blocks(path, None, 777)])
    np.testing.assert_array_equal(in_blocks, whole)
    np.testing.assert_array_equal(excerpt(path, 20_000, 500)[0, 0], whole[20_000:20_500])


def test_silent_channels_have_equal_weights():
    weights, cancel = weights_of(np.zeros((3, 3)))
    assert not cancel
    np.testing.assert_allclose(weights, 1 / 3)
