"""Differentiable resampling of tensors on their device by short windowed sincs, for networks and losses.

Files are resampled by ``data.audio.resampling``, which has a sharper filter and runs on the CPU.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ZEROS = 6
"""Zero crossings of the sinc on either side, under a Hann window; torchaudio's default."""
ROLLOFF = 0.99
"""Cutoff as a fraction of the lower Nyquist frequency; torchaudio's default, as in the networks' training."""


def resample(wave: Float[Tensor, "*rows samples"], rate: int, to: int) -> Float[Tensor, "*rows resampled"]:
    """Resample a wave from ``rate`` to ``to`` Hz; the result has ⌈samples · to / rate⌉ samples."""
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
    """Return one filter per output phase, and the number of past samples that they cover."""
    cut = min(rate, to) * ROLLOFF
    width = math.ceil(ZEROS * rate / cut)
    taps = torch.arange(-width, width + rate, dtype=torch.float64) / rate
    time = (taps - torch.arange(to, dtype=torch.float64)[:, None] / to).mul(cut).clamp(-ZEROS, ZEROS)
    window = (time * math.pi / ZEROS / 2).cos().square()
    return torch.sinc(time) * window * (cut / rate), width
