"""Streaming layers: processing a signal in chunks of any size gives the same output as the whole signal.

Each layer has ``forward`` (its equation), ``begin`` (the state before the first chunk) and ``step`` (from a
chunk and a state to the available output and the next state). Chunks may have any length, including 0, and
outputs may be empty. Converters and their content encoders are built from these residual blocks and means.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

In = Float[Tensor, "batch inner time"]
Out = Float[Tensor, "batch outer new_time"]
Past = Float[Tensor, "batch channels _"]
Frames = Float[Tensor, "batch channels frames"]
Style = Float[Tensor, "batch style _"]
Weight = Float[Tensor, "batch 1 frames"]


class CausalConv1d(nn.Conv1d):
    """A causal convolution with one output per complete block of ``stride`` inputs and no look-ahead."""

    def __init__(
        self, inner: int, outer: int, kernel: int, stride: int = 1, *, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inner, outer, kernel, stride, dilation=dilation, groups=groups)
        if self.reach < stride:
            raise ValueError(f"a kernel that spans {self.reach} inputs would skip some at stride {stride}")

    @property
    def reach(self) -> int:
        """Receptive field in inputs, from the first to the last one that an output depends on."""
        return (self.kernel_size[0] - 1) * self.dilation[0] + 1

    @property
    def context(self) -> int:
        """Number of past inputs that the next block depends on."""
        return self.reach - self.stride[0]

    def forward(self, x: In) -> Out:
        """Return ``time // stride`` outputs; an incomplete last block gives none."""
        return self._valid(F.pad(x, (self.context, 0)))

    def begin(self, batch: int) -> Past:
        """Return the state before the first chunk: zeros."""
        return self.weight.new_zeros(batch, self.in_channels, self.context)

    def step(self, x: In, past: Past) -> tuple[Out, Past]:
        """Process one chunk; the inputs of an incomplete block stay in the state."""
        window = torch.cat([past, x], dim=-1)
        n_outputs = (window.shape[-1] - self.context) // self.stride[0]
        return self._valid(window), window[..., n_outputs * self.stride[0] :]

    def _valid(self, window: Float[Tensor, "batch inner window"]) -> Out:
        if window.shape[-1] < self.reach:  # torch raises instead of returning an empty output
            return window.new_zeros(len(window), self.out_channels, 0)
        return super().forward(window)


class DepthwiseCausalConv1d(CausalConv1d):
    """A causal depthwise convolution with stride 1."""

    def __init__(self, n_channels: int, kernel: int, *, dilation: int = 1) -> None:
        super().__init__(n_channels, n_channels, kernel, dilation=dilation, groups=n_channels)

    def step(self, x: Frames, past: Past) -> tuple[Frames, Past]:
        """Process one chunk; feeding chunks in order equals one ``forward``."""
        if not torch.is_grad_enabled():
            return super().step(x, past)
        # Shifted products: on a CPU their backward pass takes a quarter of the grouped convolution's time.
        window, frames, dilation = torch.cat([past.to(x), x], dim=-1), x.shape[-1], self.dilation[0]
        weight = self.weight.to(x)
        out = self.bias.to(x)[:, None]  # type: ignore[union-attr]
        for tap in range(self.kernel_size[0]):
            out = out + window[..., tap * dilation : tap * dilation + frames] * weight[:, :, tap]
        return out, window[..., window.shape[-1] - self.context :]


class ResidualBlock(nn.Module):
    """A gated, dilated, depthwise-separable residual block, conditioned on a style by FiLM.

    Its normalisation is over the channels of each frame: statistics over time would prevent exact streaming.
    """

    def __init__(self, n_channels: int, kernel: int, dilation: int, *, style_dim: int = 0) -> None:
        super().__init__()
        self.scale_in = nn.Parameter(torch.ones(n_channels, 1))
        self.conv = DepthwiseCausalConv1d(n_channels, kernel, dilation=dilation)
        self.widen = nn.Conv1d(n_channels, 2 * n_channels, 1)
        self.out = nn.Conv1d(n_channels, n_channels, 1)
        self.style = nn.Conv1d(style_dim, 2 * n_channels, 1) if style_dim else None
        if self.style is not None:
            nn.init.normal_(self.style.weight, std=0.3 / math.sqrt(style_dim))
            nn.init.zeros_(self.style.bias)  # type: ignore[arg-type]

    def begin(self, batch: int) -> Past:
        return self.conv.begin(batch)

    def step(self, x: Frames, past: Past, style: Style | None = None) -> tuple[Frames, Past]:
        """Process one chunk; ``style`` has one frame for the chunk, or one per frame."""
        hidden = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-4) * self.scale_in
        if self.style is not None and style is not None:
            scale, shift = self.style(style).chunk(2, dim=1)
            hidden = hidden * (1.0 + scale) + shift
        hidden, past = self.conv.step(hidden, past)
        signal, gate = self.widen(hidden).chunk(2, dim=1)
        return x + self.out(F.silu(gate) * signal), past


def blocks_step(
    blocks: nn.ModuleList, hidden: Frames, pasts: list[Tensor], style: Style | None = None
) -> tuple[Frames, list[Tensor]]:
    after = []
    for block, past in zip(blocks, pasts, strict=True):
        hidden, past = block.step(hidden, past, style)  # type: ignore[operator]
        after.append(past)
    return hidden, after


BLOCK = 128
"""Frames per matrix product in ``RunningMean``."""


class MeanState(NamedTuple):
    total: Float[Tensor, "batch channels 1"]
    weight: Float[Tensor, "batch 1 1"]


class RunningMean(nn.Module):
    """The weighted, exponentially discounted mean of the frames so far: a causal form of InstanceNorm's mean.

    It starts at a learned ``prior`` with the weight of ``prior_frames`` frames, and keeps the input's dtype.
    """

    decay: Tensor
    carried: Tensor

    def __init__(self, n_channels: int, *, time_constant: float, prior_frames: float) -> None:
        super().__init__()
        keep = 1.0 - 1.0 / time_constant
        self.prior_frames = prior_frames
        self.prior = nn.Parameter(torch.zeros(n_channels, 1))
        # Entry (now, then) is the remaining weight of frame `now` at frame `then`.
        age = torch.arange(BLOCK) - torch.arange(BLOCK)[:, None]
        decay = torch.where(age >= 0, keep ** age.clamp_min(0).double(), torch.zeros(()).double())
        self.register_buffer("decay", decay, persistent=False)
        self.register_buffer("carried", keep ** torch.arange(1, BLOCK + 1).double(), persistent=False)

    def forward(self, x: Frames, weight: Weight) -> Frames:
        return self.step(x, weight, self.begin(x.shape[0]))[0]

    def begin(self, batch: int) -> MeanState:
        """Return the state before the first frame: only the prior."""
        total = (self.prior * self.prior_frames).expand(batch, -1, -1)
        return MeanState(total, torch.full_like(total[:, :1], self.prior_frames))

    def step(self, x: Frames, weight: Weight, state: MeanState) -> tuple[Frames, MeanState]:
        totals, weights = self.sums(x, weight, state)
        return totals / weights, MeanState(totals[..., -1:], weights[..., -1:])

    def sums(self, x: Frames, weight: Weight, state: MeanState) -> tuple[Frames, Weight]:
        """Return the discounted sums of values and of weights at every frame of one chunk."""
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
    """Return the running maximum over frames, by doubling shifts (ONNX lacks ``cummax``)."""
    shift = 1
    while shift < x.shape[-1]:
        x = torch.cat([x[..., :shift], torch.maximum(x[..., shift:], x[..., :-shift])], dim=-1)
        shift *= 2
    return x
