"""Band-pass filters to begin the first convolution with, where speech is too little to find them."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.frontends import hz_to_mel, mel_to_hz

PHASES = 4
"""Filters of a band, a quarter of a period apart: rectified and added they tell its level."""
SHORTEST_SECONDS = 0.01
"""Window of the highest bands; lower ones are narrower and take all of the kernel."""


def band_pass_filters(channels: int, kernel: int, sample_rate: int) -> Float[Tensor, "channels 1 kernel"]:
    """Windowed cosines, evenly spaced in mel, louder with frequency as speech gets quieter."""
    n_bands = -(-channels // PHASES)
    low, high = hz_to_mel(np.array([80.0, 0.95 * sample_rate / 2]), "htk")
    edges = torch.from_numpy(mel_to_hz(np.linspace(low, high, n_bands + 1), "htk")).float()
    centre, width = (edges[1:] + edges[:-1]) / 2, edges.diff()

    time = (torch.arange(kernel) - (kernel - 1) / 2) / sample_rate
    length = (4 / width).clamp(min(SHORTEST_SECONDS, kernel / sample_rate), kernel / sample_rate)
    inside = (time / length[:, None]).clamp(-0.5, 0.5)
    window = torch.cos(math.pi * inside).square()

    turn = 2 * math.pi * (centre[:, None, None] * time + torch.arange(PHASES)[:, None] / PHASES)
    filters = window[:, None] * torch.cos(turn)  # (bands, phases, kernel)
    filters = filters / filters.norm(dim=-1, keepdim=True) * (centre / centre.mean())[:, None, None]
    return filters.flatten(0, 1)[:channels, None]
