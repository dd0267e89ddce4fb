"""The mains' hum, taken out of a whole recording."""

import torch
from jaxtyping import Float
from torch import Tensor

MAINS = (50, 60)
"""Hz."""
HIGHEST_HZ = 1000.0
"""Hum's harmonics above this are faint."""
LINE_HZ, BESIDE_HZ = 1.5, 12.0
"""Half the width of a line of hum, and how far the spectrum beside it is looked at."""
STANDS_OUT = 5.0
"""Times the median beside it: noise and voices seldom reach so far in so narrow a line."""
MOST_SHARE = 0.1
"""Of a wave's power: more is no hum, but a monotonous voice."""
SHORTEST_S = 1.0
"""In less, a line is not told from a voice."""


def without_hum(wave: Float[Tensor, "batch 1 samples"], sample_rate: int) -> Float[Tensor, "batch 1 samples"]:
    """Bring narrow lines at multiples of 50 and 60 Hz down to the spectrum beside them.

    A voice, which glides, has no such lines: what holds none is left as it is.
    """
    if wave.shape[-1] < SHORTEST_S * sample_rate:
        return wave
    spectrum = torch.fft.rfft(wave)
    magnitude, gain = spectrum.abs(), torch.ones(spectrum.shape, device=wave.device)
    frequency = torch.arange(spectrum.shape[-1], device=wave.device) * (sample_rate / wave.shape[-1])
    for mains in MAINS:
        for harmonic in range(1, int(HIGHEST_HZ / mains) + 1):
            off = (frequency - harmonic * mains).abs()
            line, beside = off <= LINE_HZ, (off > LINE_HZ) & (off <= BESIDE_HZ)
            usual = magnitude[..., beside].median(-1, keepdim=True).values
            stands_out = magnitude[..., line].amax(-1, keepdim=True) > STANDS_OUT * usual
            lowered = (usual / magnitude[..., line].clamp_min(1e-20)).clamp_max(1.0)
            gain[..., line] = torch.where(stands_out, lowered, gain[..., line])
    cleaned = torch.fft.irfft(spectrum * gain, wave.shape[-1])
    taken = (wave - cleaned).square().mean(-1, keepdim=True)
    return torch.where(taken < MOST_SHARE * wave.square().mean(-1, keepdim=True), cleaned, wave)
