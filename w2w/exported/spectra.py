"""Fourier transforms as matrix products with real numbers: graphs of every runtime have those."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def transform(n_samples: int, n_fft: int) -> Float[Tensor, "n_samples two_bins"]:
    """What takes a row of samples, followed by silence, to the real and then imaginary parts of its bins."""
    angle = _angles(n_samples, n_fft)
    return torch.cat([angle.cos(), -angle.sin()], dim=1).float()


def inverse(n_fft: int) -> Float[Tensor, "two_bins n_fft"]:
    """What takes real and imaginary parts of the bins back to samples."""
    angle = _angles(n_fft, n_fft).T
    # Bins between the first and the last stand for their mirror images, too.
    share = torch.full((len(angle), 1), 2.0 / n_fft, dtype=torch.float64)
    share[0] = share[-1] = 1.0 / n_fft
    return torch.cat([share * angle.cos(), -share * angle.sin()]).float()


def _angles(n_samples: int, n_fft: int) -> Float[Tensor, "n_samples bins"]:
    # Reduced before it is scaled: exact whole turns.
    turns = torch.arange(n_samples)[:, None] * torch.arange(n_fft // 2 + 1) % n_fft
    return turns.double() * (2.0 * math.pi / n_fft)
