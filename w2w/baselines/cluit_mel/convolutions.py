"""Convolutions of three taps around a change of rate, each computed as one of four taps.

The published blocks convolve and then average pairs of frames, or repeat frames and then convolve. Both are
linear, so one strided convolution of four taps does either for two thirds of the products and without the
frames in between. What is learned are the three taps. Causal forms are those of ``engine.streaming``.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from engine.streaming import CausalConv1d, CausalTransposedConv1d, StridedCausalConv1d

Three = Float[Tensor, "a b 3"]
Four = Float[Tensor, "a b 4"]


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


def same(inner: int, outer: int, *, causal: bool, kernel: int = 3) -> nn.Module:
    """A convolution that keeps the rate."""
    layer = (
        CausalConv1d(inner, outer, kernel) if causal else nn.Conv1d(inner, outer, kernel, padding=kernel // 2)
    )
    return initialised(layer, inner * kernel)


def halving(inner: int, outer: int, *, causal: bool) -> nn.Module:
    """A convolution and then the mean of pairs: ``frames // 2``."""
    layer = (
        StridedCausalConv1d(inner, outer, 4, 2) if causal else nn.Conv1d(inner, outer, 4, stride=2, padding=1)
    )
    parametrize.register_parametrization(layer, "weight", ThenMean(), unsafe=True)
    return initialised(layer, inner * 3)


def doubling(inner: int, outer: int, *, causal: bool) -> nn.Module:
    """Nearest upsampling and then a convolution: ``2 * frames``."""
    layer = (
        CausalTransposedConv1d(inner, outer, 4, 2)
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
