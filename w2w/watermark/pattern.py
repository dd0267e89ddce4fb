"""The pattern of a key: an echo too faint and too spread to be heard, that a detector can look for."""

import hashlib
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.resampling import resample
from engine.user_error import UserError

DEFAULT_KEY = "timbre"
"""Whoever knows a key can find its mark, and remove it; this one is known to all."""
SAMPLE_RATE = 16_000
"""Hz at which patterns are drawn and looked for."""
FIRST_S, LAST_S = 0.008, 0.064
"""Seconds after a sound between which its echo lies: after the ear's own integration, before it is a room."""
LOW_HZ, HIGH_HZ = 200.0, 7_500.0
"""Band of the pattern."""
LEVEL_DB = -20.0
"""Energy of the echo against that of the sound."""
SPAN = 2_048
"""Samples in which a pattern is drawn; silence around its taps keeps what is resampled whole."""
RATES = range(8_000, 192_001)
"""Hz at which sounds can be marked."""


def draw(key: str | int) -> Float[Tensor, "span"]:
    """The echo of a key at ``SAMPLE_RATE``: Gaussian taps, limited to the band, of unit energy.

    Gaussian, so that of a sound that does not bear it, whatever sound it is, the score is Gaussian too when
    the key is drawn: the false alarms are then known, not guessed.
    """
    digest = hashlib.sha256(f"watermark:{key}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    taps = np.zeros(SPAN)
    first, last = round(FIRST_S * SAMPLE_RATE), round(LAST_S * SAMPLE_RATE)
    taps[first:last] = rng.standard_normal(last - first)
    spectrum, frequencies = np.fft.rfft(taps), np.fft.rfftfreq(SPAN, 1 / SAMPLE_RATE)
    spectrum[(frequencies < LOW_HZ) | (frequencies > HIGH_HZ)] = 0
    taps = np.fft.irfft(spectrum, SPAN)
    return torch.from_numpy(taps / np.linalg.norm(taps))


def echo(key: str | int, sample_rate: int) -> tuple[int, Float[Tensor, "taps"]]:
    """The same echo at another rate and at its level: the delay of its first tap, and its taps."""
    if sample_rate not in RATES:
        raise UserError(
            f"a watermark can be put in sounds of {RATES[0]} to {RATES[-1]} Hz, not of {sample_rate} Hz"
        )
    taps = resample(draw(key)[None, None].float(), SAMPLE_RATE, sample_rate)[0, 0]
    taps = taps * (10 ** (LEVEL_DB / 20) * SAMPLE_RATE / sample_rate)
    # The band's edges ring beyond the drawn taps; half of the first delay is left to them on either side.
    first = math.floor(0.5 * FIRST_S * sample_rate)
    last = math.ceil((LAST_S + 0.5 * FIRST_S) * sample_rate)
    return first, taps[first:last]
