"""The causal residual block that encoder and decoder are made of."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.streaming import CausalConv1d

Norm = Literal["film", "adain"]
Frames = Float[Tensor, "batch channels frames"]
Past = Float[Tensor, "batch channels context"]
Style = Float[Tensor, "batch style frames"]


class DepthwiseCausalConv1d(CausalConv1d):
    """A causal convolution of every channel with its own kernel."""

    def __init__(self, n_channels: int, kernel: int, *, dilation: int = 1) -> None:
        super().__init__(n_channels, n_channels, kernel, dilation=dilation, groups=n_channels)

    def step(self, x: Frames, past: Past) -> tuple[Frames, Past]:
        """Process one chunk; feeding chunks in order equals one ``forward``."""
        if not torch.is_grad_enabled():
            return super().step(x, past)
        # Shifted products: on a CPU their gradient takes a quarter of the grouped convolution's time.
        window, frames, apart = torch.cat([past, x], dim=-1), x.shape[-1], self.dilation[0]
        out = self.bias[:, None]  # type: ignore[index]
        for tap in range(self.kernel_size[0]):
            out = out + window[..., tap * apart : tap * apart + frames] * self.weight[:, :, tap]
        return out, window[..., window.shape[-1] - self.context :]


class ResidualBlock(nn.Module):
    """A gated, dilated, depthwise-separable residual block, steered by a style where one is given.

    ``film`` scales and shifts channels (streams exactly); ``adain`` first removes each channel's
    whole-utterance mean and variance (Huang & Belongie 2017), which no live converter can know.
    """

    def __init__(
        self, n_channels: int, kernel: int, dilation: int, *, style_dim: int = 0, norm: Norm = "film"
    ) -> None:
        super().__init__()
        self.norm = norm
        self.scale_in = nn.Parameter(torch.ones(n_channels, 1))
        self.conv = DepthwiseCausalConv1d(n_channels, kernel, dilation=dilation)
        self.widen = nn.Conv1d(n_channels, 2 * n_channels, 1)
        self.out = nn.Conv1d(n_channels, n_channels, 1)
        self.style = nn.Conv1d(style_dim, 2 * n_channels, 1) if style_dim else None
        if self.style is not None:
            nn.init.normal_(self.style.weight, std=0.3 / math.sqrt(style_dim))
            nn.init.zeros_(self.style.bias)  # type: ignore[arg-type]

    @property
    def streams(self) -> bool:
        """Whether ``step`` may be fed a signal in pieces."""
        return self.norm == "film"

    def begin(self, batch: int) -> Past:
        """Silence."""
        return self.conv.begin(batch)

    def step(self, x: Frames, past: Past, style: Style | None = None) -> tuple[Frames, Past]:
        """Process one chunk; ``style`` has one frame for all or one for each."""
        # Per-frame normalisation over channels: no time statistics, so a chunk equals the whole.
        hidden = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-4) * self.scale_in
        if self.norm == "adain":
            hidden = F.instance_norm(hidden)
        if self.style is not None and style is not None:
            scale, shift = self.style(style).chunk(2, dim=1)
            hidden = hidden * (1.0 + scale) + shift
        hidden, past = self.conv.step(hidden, past)
        signal, gate = self.widen(hidden).chunk(2, dim=1)
        return x + self.out(F.silu(gate) * signal), past
