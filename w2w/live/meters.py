"""What a listener cannot see: levels, and how much of its time a conversion needs."""

from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor

FLOOR_DB = -99.0
"""dBFS shown for silence."""


class Meter:
    """The peak level since one last looked."""

    def __init__(self) -> None:
        self.peak = 0.0

    def hear(self, wave: Float[Tensor, "1 1 samples"]) -> None:
        """Take note of a piece."""
        if wave.shape[-1]:
            self.peak = max(self.peak, float(wave.abs().amax()))

    def look(self) -> float:
        """The peak in dBFS since the last look."""
        peak, self.peak = self.peak, 0.0
        return max(float(20 * torch.log10(torch.tensor(peak))), FLOOR_DB) if peak > 0 else FLOOR_DB


class Load:
    """Computing time as a share of the time that the sound lasts."""

    def __init__(self, chunk_s: float) -> None:
        self.chunk_s = chunk_s
        self.recent: deque[float] = deque(maxlen=max(round(1 / chunk_s), 1))
        """Shares of the last second's chunks."""
        self.worst = self.total_s = 0.0
        self.chunks = 0

    def note(self, seconds: float) -> None:
        """Take note of a chunk's computing time."""
        share = seconds / self.chunk_s
        self.recent.append(share)
        self.worst = max(self.worst, share)
        self.total_s += seconds
        self.chunks += 1

    @property
    def total(self) -> float:
        """Since the beginning."""
        return self.total_s / (self.chunk_s * self.chunks) if self.chunks else 0.0

    @property
    def mean(self) -> float:
        """Over the last second."""
        recent = list(self.recent)
        return sum(recent) / len(recent) if recent else 0.0
