"""Convolutions of three taps around a change of rate, each computed as one of four taps.

The published blocks convolve and then average pairs of frames, or repeat frames and then convolve. Both are
linear, so one strided convolution of four taps does either for two thirds of the products and without the
frames in between. What is learned are the three taps. Causal forms are those of ``engine.streaming``.

Live, a layer makes few frames at a time, for which a CPU's convolution takes up to three times as long as the
product of frames (as rows) and weights: chunks of up to ``FEW`` frames take that way, which gives the same.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from engine.streaming import CausalConv1d, CausalTransposedConv1d, StridedCausalConv1d

Three = Float[Tensor, "a b 3"]
Four = Float[Tensor, "a b 4"]
Taps = Float[Tensor, "a b taps"]
In = Float[Tensor, "batch inner frames"]
Out = Float[Tensor, "batch outer new_frames"]
Past = Float[Tensor, "batch channels context"]

FEW = 16
"""Most frames that are multiplied as rows."""


class ThenMean(nn.Module):
    """The kernel of a convolution followed by the mean of every pair of frames."""

    def forward(self, taps: Three) -> Four:
        a, b, c = taps.unbind(-1)
        return torch.stack([a, a + b, b + c, c], dim=-1) * 0.5

    def right_inverse(self, kernel: Four) -> Three:
        """Make room for three taps, which are then initialised."""
        return kernel[..., :3].clone()


class RepeatThen(ThenMean):
    """The kernel, of a transposed convolution, of every frame repeated (nearest) and then a convolution."""

    def forward(self, taps: Three) -> Four:
        a, b, c = taps.unbind(-1)
        return torch.stack([c, b + c, a + b, a], dim=-1)


class LiveConv1d(CausalConv1d):
    """A causal convolution, quick with few frames."""

    def step(self, x: In, past: Past) -> tuple[Out, Past]:
        """Process one chunk; feeding chunks in order equals one ``forward``."""
        if not as_rows(x):
            return super().step(x, past)
        window = torch.cat([past, x], dim=-1)
        return of_rows(window, self.weight, self.bias), window[..., window.shape[-1] - self.context :]


class LiveHalving(StridedCausalConv1d):
    """Four taps and stride 2, quick with few frames."""

    def step(self, x: In, past: Past) -> tuple[Out, Past]:
        """Process one chunk of whole pairs; feeding chunks in order equals one ``forward``."""
        if not as_rows(x):
            return super().step(x, past)
        window = torch.cat([past, x], dim=-1)
        return of_rows(window, self.weight, self.bias, 2), window[..., window.shape[-1] - self.context :]


class LiveDoubling(CausalTransposedConv1d):
    """Transposed, four taps and stride 2, quick with few frames."""

    def step(self, x: In, past: Past) -> tuple[Out, Past]:
        """Process one chunk; the state is the overlap with the next one, still without bias."""
        if not as_rows(x):
            return super().step(x, past)
        batch, inner, frames = x.shape
        rows = x.transpose(1, 2).reshape(batch * frames, inner) @ self.weight.flatten(1)
        taps = rows.view(batch, frames, -1, 4).transpose(1, 2)  # (batch, outer, frames, 4)
        now, later = taps[..., :2].flatten(2), taps[..., 2:].flatten(2)
        earlier = torch.cat([past, later], dim=-1)
        return now + earlier[..., :-2] + self.bias[:, None], earlier[..., -2:]  # type: ignore[index]


def as_rows(x: In) -> bool:
    """Whether the product of rows is quicker, and no gradient is wanted."""
    return 0 < x.shape[-1] <= FEW and not torch.is_grad_enabled() and x.device.type == "cpu"


def of_rows(window: In, weight: Taps, bias: Tensor | None, stride: int = 1) -> Out:
    """The convolution of a window, all it needs of the past included, as one product."""
    seen = window.unfold(-1, weight.shape[-1], stride)  # (batch, inner, new frames, taps)
    batch, inner, frames, taps = seen.shape
    rows = seen.transpose(1, 2).reshape(batch * frames, inner * taps)
    return F.linear(rows, weight.flatten(1), bias).view(batch, frames, -1).transpose(1, 2)


def same(inner: int, outer: int, *, causal: bool, kernel: int = 3) -> nn.Module:
    """A convolution that keeps the rate."""
    layer = (
        LiveConv1d(inner, outer, kernel) if causal else nn.Conv1d(inner, outer, kernel, padding=kernel // 2)
    )
    return initialised(layer, inner * kernel)


def halving(inner: int, outer: int, *, causal: bool) -> nn.Module:
    """A convolution and then the mean of pairs: ``frames // 2``."""
    layer = LiveHalving(inner, outer, 4, 2) if causal else nn.Conv1d(inner, outer, 4, stride=2, padding=1)
    parametrize.register_parametrization(layer, "weight", ThenMean(), unsafe=True)
    return initialised(layer, inner * 3)


def doubling(inner: int, outer: int, *, causal: bool) -> nn.Module:
    """Nearest upsampling and then a convolution: ``2 * frames``."""
    layer = (
        LiveDoubling(inner, outer, 4, 2)
        if causal
        else nn.ConvTranspose1d(inner, outer, 4, stride=2, padding=1)
    )
    parametrize.register_parametrization(layer, "weight", RepeatThen(), unsafe=True)
    return initialised(layer, inner * 3)


def initialised(layer: Any, fan_in: int) -> Any:
    """He normal weights and no bias, as StarGAN v2 begins."""
    learned = layer.parametrizations.weight.original if parametrize.is_parametrized(layer) else layer.weight
    nn.init.normal_(learned, std=math.sqrt(2.0 / fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def folded(module: nn.Module) -> None:
    """Put the kernels of four taps in place of the three that make them: for use, not for training.

    The names in the state change: load weights before.
    """
    for layer in module.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
