"""Discounted means and maxima over the frames so far, without look-ahead."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

Frames = Float[Tensor, "batch channels frames"]
Weight = Float[Tensor, "batch 1 frames"]
BLOCK = 128
"""Frames averaged by one matrix product."""


class MeanState(NamedTuple):
    """Discounted sums so far."""

    total: Float[Tensor, "batch channels 1"]
    weight: Float[Tensor, "batch 1 1"]


class RunningMean(nn.Module):
    """The discounted, weighted mean of the frames so far: the causal stand-in for InstanceNorm's mean.

    The mean starts at a learned ``prior`` worth ``prior_frames`` frames, and has the frames' own precision.
    """

    decay: Tensor
    carried: Tensor

    def __init__(self, n_channels: int, *, time_constant: float, prior_frames: float) -> None:
        super().__init__()
        keep = 1.0 - 1.0 / time_constant
        self.prior_frames = prior_frames
        self.prior = nn.Parameter(torch.zeros(n_channels, 1))
        # One entry per (now, then): how much of frame `now` is left at frame `then`.
        age = torch.arange(BLOCK) - torch.arange(BLOCK)[:, None]
        decay = torch.where(age >= 0, keep ** age.clamp_min(0).double(), torch.zeros(()).double())
        self.register_buffer("decay", decay, persistent=False)
        self.register_buffer("carried", keep ** torch.arange(1, BLOCK + 1).double(), persistent=False)

    def forward(self, x: Frames, weight: Weight) -> Frames:
        return self.step(x, weight, self.begin(x.shape[0]))[0]

    def begin(self, batch: int) -> MeanState:
        """Nothing seen: the prior alone."""
        total = (self.prior * self.prior_frames).expand(batch, -1, -1)
        return MeanState(total, torch.full_like(total[:, :1], self.prior_frames))

    def step(self, x: Frames, weight: Weight, state: MeanState) -> tuple[Frames, MeanState]:
        totals, weights = self.sums(x, weight, state)
        return totals / weights, MeanState(totals[..., -1:], weights[..., -1:])

    def sums(self, x: Frames, weight: Weight, state: MeanState) -> tuple[Frames, Weight]:
        """Discounted sums of values and of weights at every frame of one chunk."""
        total, seen = (part.to(x.dtype) for part in state)
        totals, weights = [], []
        with torch.autocast(x.device.type, enabled=False):
            for values, shares in zip(x.split(BLOCK, dim=-1), weight.split(BLOCK, dim=-1)):
                n = values.shape[-1]
                decay, carried = self.decay[:n, :n].to(x.dtype), self.carried[:n].to(x.dtype)
                totals.append((values * shares) @ decay + total * carried)
                weights.append(shares.to(x.dtype) @ decay + seen * carried)
                total, seen = totals[-1][..., -1:], weights[-1][..., -1:]
        return torch.cat(totals, dim=-1), torch.cat(weights, dim=-1)


def running_maximum(x: Shaped[Tensor, "*batch frames"]) -> Shaped[Tensor, "*batch frames"]:
    """The largest value so far, by doubling shifts (``cummax`` has no counterpart in ONNX)."""
    shift = 1
    while shift < x.shape[-1]:
        x = torch.cat([x[..., :shift], torch.maximum(x[..., shift:], x[..., :-shift])], dim=-1)
        shift *= 2
    return x
