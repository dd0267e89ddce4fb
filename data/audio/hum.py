"""Removal of mains hum from a whole recording."""

import torch
from jaxtyping import Float
from torch import Tensor

MAINS = (50, 60)
"""Mains frequencies in Hz."""
HIGHEST_HZ = 1000.0
"""Highest harmonic that is removed; those above are weak."""
LINE_HZ, AROUND_HZ = 1.5, 12.0
"""Half the width of a spectral line of hum, and of the neighbourhood with which it is compared."""
LINE_RATIO = 5.0
"""Minimum ratio of a line to the median of its neighbourhood, which noise and voices rarely reach."""
MAX_SHARE = 0.1
"""Maximum fraction of a wave's power that is removed; more is a monotonous voice rather than hum."""
SHORTEST_S = 1.0
"""Shortest wave that is processed: in shorter ones lines cannot be distinguished from a voice."""


def without_hum(wave: Float[Tensor, "batch 1 samples"], sample_rate: int) -> Float[Tensor, "batch 1 samples"]:
    """Reduce narrow spectral lines at multiples of 50 and 60 Hz to the level of their neighbourhood.

    Voices have no such lines, because their pitch varies; waves without lines are returned unchanged.
    """
    if wave.shape[-1] < SHORTEST_S * sample_rate:
        return wave
    spectrum = torch.fft.rfft(wave)
    magnitude, gain = spectrum.abs(), torch.ones(spectrum.shape, device=wave.device)
    frequency = torch.arange(spectrum.shape[-1], device=wave.device) * (sample_rate / wave.shape[-1])
    for mains in MAINS:
        for harmonic in range(1, int(HIGHEST_HZ / mains) + 1):
            off = (frequency - harmonic * mains).abs()
            line, around = off <= LINE_HZ, (off > LINE_HZ) & (off <= AROUND_HZ)
            floor = magnitude[..., around].median(-1, keepdim=True).values
            is_hum = magnitude[..., line].amax(-1, keepdim=True) > LINE_RATIO * floor
            reduced = (floor / magnitude[..., line].clamp_min(1e-20)).clamp_max(1.0)
            gain[..., line] = torch.where(is_hum, reduced, gain[..., line])
    cleaned = torch.fft.irfft(spectrum * gain, wave.shape[-1])
    removed = (wave - cleaned).square().mean(-1, keepdim=True)
    return torch.where(removed < MAX_SHARE * wave.square().mean(-1, keepdim=True), cleaned, wave)
