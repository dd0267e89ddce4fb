"""The causal residual block that converters and their content encoders are made of."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.streaming import CausalConv1d

Frames = Float[Tensor, "batch channels frames"]
Past = Float[Tensor, "batch channels context"]
Style = Float[Tensor, "batch style _"]


class DepthwiseCausalConv1d(CausalConv1d):
    """A causal convolution of every channel with its own kernel."""

    def __init__(self, n_channels: int, kernel: int, *, dilation: int = 1) -> None:
        super().__init__(n_channels, n_channels, kernel, dilation=dilation, groups=n_channels)

    def step(self, x: Frames, past: Past) -> tuple[Frames, Past]:
        """Process one chunk; feeding chunks in order equals one ``forward``."""
        if not torch.is_grad_enabled():
            return super().step(x, past)
        # Shifted products: on a CPU their gradient takes a quarter of the grouped convolution's time.
        window, frames, dilation = torch.cat([past.to(x), x], dim=-1), x.shape[-1], self.dilation[0]
        weight = self.weight.to(x)
        out = self.bias.to(x)[:, None]  # type: ignore[union-attr]
        for tap in range(self.kernel_size[0]):
            out = out + window[..., tap * dilation : tap * dilation + frames] * weight[:, :, tap]
        return out, window[..., window.shape[-1] - self.context :]


class ResidualBlock(nn.Module):
    """A gated, dilated, depthwise-separable residual block; a style scales and shifts its channels (FiLM).

    Normalised over channels frame by frame: without time statistics, a chunk equals the whole.
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
        """Process one chunk; ``style`` has one frame for all or one for each."""
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
