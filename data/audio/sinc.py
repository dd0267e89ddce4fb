"""Resampling of tensors where they are, which gradients pass: short windowed sincs, for networks and losses.

What files and streams are resampled by, sharper and on the CPU, is ``data.audio.resampling``.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ZEROS = 6
"""Of the sinc on either side, under a Hann window."""
ROLLOFF = 0.99
"""Of the lower rate's half, where the filter ends: torchaudio's choices, so that networks hear the same."""


def resample(wave: Float[Tensor, "*rows samples"], rate: int, to: int) -> Float[Tensor, "*rows resampled"]:
    """The wave at another rate, ⌈samples · to / rate⌉ long."""
    common = math.gcd(rate, to)
    rate, to = rate // common, to // common
    if rate == to:
        return wave
    kernels, width = _kernels(rate, to)
    rows = F.pad(wave.reshape(-1, 1, wave.shape[-1]), (width, width + rate))
    made = F.conv1d(rows, kernels.to(wave)[:, None], stride=rate)  # (rows, to, steps)
    length = -(-to * wave.shape[-1] // rate)
    return made.transpose(1, 2).reshape(*wave.shape[:-1], -1)[..., :length]


@lru_cache
def _kernels(rate: int, to: int) -> tuple[Float[Tensor, "to taps"], int]:
    """A filter for each sample out of a period, and how far they reach back."""
    cut = min(rate, to) * ROLLOFF
    width = math.ceil(ZEROS * rate / cut)
    taps = torch.arange(-width, width + rate, dtype=torch.float64) / rate
    time = (taps - torch.arange(to, dtype=torch.float64)[:, None] / to).mul(cut).clamp(-ZEROS, ZEROS)
    window = (time * math.pi / ZEROS / 2).cos().square()
    return torch.sinc(time) * window * (cut / rate), width
