"""The pattern of a key: an echo too faint and too spread to be heard, that a detector can look for."""

import hashlib
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.audio.resampling import resample
from engine.user_error import UserError

DEFAULT_KEY = "timbre"
"""Whoever knows a key can find its mark, and remove it; this one is known to all."""
SAMPLE_RATE = 16_000
"""Hz at which patterns are drawn and looked for."""
FIRST, LAST = round(0.008 * SAMPLE_RATE), round(0.064 * SAMPLE_RATE)
"""Delays in samples between which the echo lies: long enough that speech no longer resembles itself, short
enough to stay hidden behind the sound."""
LOW_HZ, HIGH_HZ = 1_500.0, 7_500.0
"""Band of the echo. Below it, it is heard most for what it adds to the detection."""
LEVEL_DB = -21.0
"""Energy of the echo of white noise against the noise; speech is fainter above ``LOW_HZ``: so is its echo."""
SPAN = 2_048
"""Samples in which a pattern is drawn; silence around its taps keeps what is resampled whole."""
GUARD = FIRST // 2
"""Samples at either end of the taps that the band's edges ring into."""
RATES = range(8_000, 192_001)
"""Hz at which sounds can be marked."""


def gaussian_taps(key: str | int) -> Float[np.ndarray, "taps"]:
    """Independent Gaussian numbers, one for each delay from ``FIRST`` to ``LAST``, that only the key gives.

    Gaussian, so that the score of any sound that does not bear the mark is Gaussian when the key is drawn:
    false alarms are known, not guessed.
    """
    digest = hashlib.sha256(f"watermark:{key}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32)).standard_normal(LAST - FIRST)


def in_band(x: Float[np.ndarray, "*batch span"]) -> Float[np.ndarray, "*batch span"]:
    """What of ``SPAN`` samples at ``SAMPLE_RATE`` lies in the band."""
    frequencies = np.fft.rfftfreq(SPAN, 1 / SAMPLE_RATE)
    inside = (frequencies >= LOW_HZ) & (frequencies <= HIGH_HZ)
    return np.fft.irfft(np.fft.rfft(x, axis=-1) * inside, SPAN, axis=-1)


def echo(key: str | int, sample_rate: int) -> tuple[int, Float[Tensor, "taps"]]:
    """The echo of a key for sounds at a rate: the delay of its first tap in samples, and its taps."""
    if sample_rate not in RATES:
        raise UserError(
            f"a watermark can be put in sounds of {RATES[0]} to {RATES[-1]} Hz, not of {sample_rate} Hz"
        )
    drawn = np.zeros(SPAN)
    drawn[FIRST:LAST] = gaussian_taps(key)
    drawn = in_band(drawn)
    drawn *= 10 ** (LEVEL_DB / 20) / np.linalg.norm(drawn)
    taps = resample(torch.from_numpy(drawn).float()[None, None], SAMPLE_RATE, sample_rate)[0, 0]
    first = math.floor((FIRST - GUARD) * sample_rate / SAMPLE_RATE)
    last = math.ceil((LAST + GUARD) * sample_rate / SAMPLE_RATE)
    return first, taps[first:last] * (SAMPLE_RATE / sample_rate)
