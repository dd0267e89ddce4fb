"""What a channel and a voice add to every frame, taken away without looking ahead."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from w2w.networks.fast import compiles

Frames = Float[Tensor, "batch channels frames"]
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
        self.keep = 1.0 - 1.0 / time_constant
        self.prior_frames = prior_frames
        self.prior = nn.Parameter(torch.zeros(n_channels, 1))
        # One entry per (then, now): how much of frame `now` is left at frame `then`.
        age = torch.arange(BLOCK)[:, None] - torch.arange(BLOCK)
        decay = torch.where(age >= 0, self.keep ** age.clamp_min(0).double(), torch.zeros(()).double())
        self.register_buffer("decay", decay.T.contiguous(), persistent=False)  # (now, then)
        carried = self.keep ** torch.arange(1, BLOCK + 1).double()
        self.register_buffer("carried", carried, persistent=False)

    def forward(self, x: Frames, weight: Float[Tensor, "batch 1 frames"]) -> Frames:
        """Mean at every frame of a whole signal."""
        return self.step(x, weight, self.begin(x.shape[0]))[0]

    def begin(self, batch: int) -> MeanState:
        """Nothing heard: the prior alone."""
        total = (self.prior * self.prior_frames).expand(batch, -1, -1)
        return MeanState(total, torch.full_like(total[:, :1], self.prior_frames))

    def step(
        self, x: Frames, weight: Float[Tensor, "batch 1 frames"], state: MeanState
    ) -> tuple[Frames, MeanState]:
        """Mean at every frame of one chunk."""
        total, seen = (part.to(x.dtype) for part in state)
        if not torch.is_grad_enabled() and len(x) == 1 and compiles(x):
            return self._fast_step(x, weight, MeanState(total, seen))
        means = []
        for values, shares in zip(x.split(BLOCK, dim=-1), weight.split(BLOCK, dim=-1)):
            n = values.shape[-1]
            decay, carried = self.decay[:n, :n].to(x.dtype), self.carried[:n].to(x.dtype)
            with torch.autocast(x.device.type, enabled=False):
                totals = (values * shares) @ decay + total * carried
                weights = shares @ decay + seen * carried
            means.append(totals / weights)
            total, seen = totals[..., -1:], weights[..., -1:]
        return torch.cat(means, dim=-1), MeanState(total, seen)

    def _fast_step(
        self, x: Float[Tensor, "1 channels frames"], weight: Float[Tensor, "1 1 frames"], state: MeanState
    ) -> tuple[Float[Tensor, "1 channels frames"], MeanState]:
        """The same means on a CPU, by the recursion itself."""
        from w2w.networks.fast_analysis import running_mean

        mean, total, seen = torch.empty_like(x), state.total.clone(), state.weight.clone()
        running_mean(
            x[0].numpy(),
            weight[0, 0].numpy(),
            self.keep,
            total[0, :, 0].numpy(),
            seen[0, 0].numpy(),
            mean[0].numpy(),
        )
        return mean, MeanState(total, seen)
