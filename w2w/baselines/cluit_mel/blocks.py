"""Residual blocks with their convolutions, normalisation and modulation.

Shortcut and residual are added and divided by √2. Blocks downsample by averaging pairs of frames and upsample
by nearest neighbour; 1×1 shortcuts run at the lower rate, which is equivalent at half the cost. The published
blocks convolve and then average pairs, or repeat frames and then convolve. As both operations are linear, one
strided convolution of four taps computes either with two thirds of the multiplications. The parameters are
the three taps of the original kernel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from engine.streaming import CausalConv1d, In, Out
from w2w.baselines.cluit_mel.config import Norm

Three = Float[Tensor, "a b 3"]
Four = Float[Tensor, "a b 4"]
Frames = Float[Tensor, "batch channels frames"]
Voice = Float[Tensor, "batch style"]
Overlap = Float[Tensor, "batch channels _"]
EPSILON = 1e-5


class ThenMean(nn.Module):
    """Parametrisation: three taps to the kernel of a convolution followed by the mean of frame pairs."""

    def forward(self, taps: Three) -> Four:
        a, b, c = taps.unbind(-1)
        return torch.stack([a, a + b, b + c, c], dim=-1) * 0.5

    def right_inverse(self, kernel: Four) -> Three:
        """Give the parameter its shape of three taps; their values are initialised afterwards."""
        return kernel[..., :3].clone()


class RepeatThen(ThenMean):
    """Parametrisation: three taps to the transposed kernel of nearest upsampling and then a convolution."""

    def forward(self, taps: Three) -> Four:
        a, b, c = taps.unbind(-1)
        return torch.stack([c, b + c, a + b, a], dim=-1)


class CausalTransposedConv1d(nn.ConvTranspose1d):
    """A causal transposed convolution: an input adds to its own ``stride`` outputs and to later ones."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int) -> None:
        super().__init__(inner, outer, kernel, stride)
        if kernel < stride:
            raise ValueError(f"a kernel of {kernel} leaves gaps at stride {stride}: use {stride} or more")

    @property
    def context(self) -> int:
        """Number of future outputs to which past inputs contribute."""
        return self.kernel_size[0] - self.stride[0]

    def forward(self, x: In) -> Out:
        """Return ``time * stride`` outputs."""
        if x.shape[-1] == 0:
            return x.new_zeros(len(x), self.out_channels, 0)
        whole = super().forward(x)
        return whole[..., : whole.shape[-1] - self.context]

    def begin(self, batch: int) -> Overlap:
        """Return the overlap before the first chunk: zeros."""
        return self.weight.new_zeros(batch, self.out_channels, self.context)

    def step(self, x: In, past: Overlap) -> tuple[Out, Overlap]:
        """Process one chunk; the state is the overlap with the next chunk, without bias."""
        if x.shape[-1] == 0:
            return x.new_zeros(len(x), self.out_channels, 0), past
        whole = F.conv_transpose1d(x, self.weight, None, self.stride)
        whole = torch.cat([whole[..., : self.context] + past, whole[..., self.context :]], dim=-1)
        ready, overlap = whole.tensor_split([whole.shape[-1] - self.context], dim=-1)
        return ready + self.bias[:, None], overlap  # type: ignore[index]


def same(inner: int, outer: int, *, causal: bool, kernel: int = 3) -> nn.Module:
    layer = (
        CausalConv1d(inner, outer, kernel) if causal else nn.Conv1d(inner, outer, kernel, padding=kernel // 2)
    )
    return initialised(layer, inner * kernel)


def halving(inner: int, outer: int, *, causal: bool) -> nn.Module:
    """A convolution followed by the mean of frame pairs; returns ``frames // 2`` frames."""
    layer = CausalConv1d(inner, outer, 4, 2) if causal else nn.Conv1d(inner, outer, 4, stride=2, padding=1)
    parametrize.register_parametrization(layer, "weight", ThenMean(), unsafe=True)
    return initialised(layer, inner * 3)


def doubling(inner: int, outer: int, *, causal: bool) -> nn.Module:
    """Nearest upsampling followed by a convolution; returns ``2 * frames`` frames."""
    layer = (
        CausalTransposedConv1d(inner, outer, 4, 2)
        if causal
        else nn.ConvTranspose1d(inner, outer, 4, stride=2, padding=1)
    )
    parametrize.register_parametrization(layer, "weight", RepeatThen(), unsafe=True)
    return initialised(layer, inner * 3)


def initialised(layer: Any, fan_in: int) -> Any:
    """Initialise with He normal weights and zero bias, as StarGAN v2 does."""
    learned = layer.parametrizations.weight.original if parametrize.is_parametrized(layer) else layer.weight
    nn.init.normal_(learned, std=math.sqrt(2.0 / fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


@dataclass
class Modulation:
    """Scale and shift of the normalised channels, for one layer and voice."""

    scale: Tensor
    """(rows, channels); one row for the whole batch or one per utterance."""
    shift: Tensor
    """The same shape as ``scale``."""
    fixed: bool = False
    """Whether fixed statistics are part of scale and shift, so that no further normalisation is done."""

    def fix(self, x: Frames) -> None:
        """Fold the statistics of ``x`` into scale and shift, and use them for all later inputs."""
        variance, mean = torch.var_mean(x.detach().float(), dim=-1, correction=0)
        self.scale = self.scale * torch.rsqrt(variance + EPSILON)
        self.shift = self.shift - mean * self.scale
        self.fixed = True


class Normalisation(nn.Module):
    """Normalisation followed by a scale and a shift.

    ``instance``: each channel over the utterance. ``frame``: each frame over its channels. ``frozen``: as
    ``instance`` in training; in evaluation the first utterance fixes the statistics of its modulation.
    """

    def __init__(self, how: Norm) -> None:
        super().__init__()
        self.how: Norm = how

    def forward(self, x: Frames, modulation: Modulation) -> Frames:
        if self.how == "frozen" and not self.training and not modulation.fixed:
            modulation.fix(x)
        scale, shift = modulation.scale, modulation.shift
        if self.how == "frame":
            variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
            spread = torch.rsqrt(variance + EPSILON)
            x = torch.addcmul(-mean * spread, x, spread)
        elif not modulation.fixed:
            return instance_norm(x, scale, shift)
        return torch.addcmul(shift[..., None].to(x), x, scale[..., None].to(x))


class Affine(Normalisation):
    """A normalisation with learned scale and shift."""

    def __init__(self, n_channels: int, how: Norm) -> None:
        super().__init__(how)
        self.scale = nn.Parameter(torch.ones(1, n_channels))
        self.shift = nn.Parameter(torch.zeros(1, n_channels))

    def modulation(self, voice: Voice) -> Modulation:
        """The learned scale and shift, independent of the voice."""
        return Modulation(self.scale, self.shift)


class AdaIN(Normalisation):
    """Adaptive instance norm (Huang and Belongie 2017): (1 + γ) IN(x) + β, with γ and β from the voice.

    With norm ``frame`` this is a layer norm followed by FiLM (Perez et al. 2018).
    """

    def __init__(self, n_channels: int, style_dim: int, how: Norm) -> None:
        super().__init__(how)
        self.style = initialised(nn.Linear(style_dim, 2 * n_channels), style_dim)

    def modulation(self, voice: Voice) -> Modulation:
        """Scale and shift for a voice, computed once per utterance."""
        gamma, beta = self.style(voice).chunk(2, dim=1)
        return Modulation(1.0 + gamma, beta)


def instance_norm(
    x: Frames, scale: Float[Tensor, "rows channels"], shift: Float[Tensor, "rows channels"]
) -> Frames:
    """InstanceNorm with a scale and shift per row, as one batch norm over batch × channels."""
    batch, channels, frames = x.shape
    scale, shift = (v.float().expand(batch, channels).reshape(-1) for v in (scale, shift))
    flat = x.reshape(1, batch * channels, frames)
    # Not F.batch_norm, which refuses a single frame; here its variance is 0 and the result is the shift.
    normal = torch.batch_norm(flat, scale, shift, None, None, True, 0.0, EPSILON, False)
    return normal.view_as(x)


def leaky(x: Frames) -> Frames:
    """In-place LeakyReLU with slope 0.2, for the output of a normalisation."""
    return F.leaky_relu_(x, 0.2)


NewFrames = Float[Tensor, "batch outer new_frames"]
Past = Any
"""A layer's streaming state; None if a whole utterance is processed."""


class Block(nn.Module):
    """A residual block of the encoder or, without normalisation, the critic; optionally downsamples by 2."""

    def __init__(
        self, inner: int, outer: int, *, halve: bool, norm: Norm | None = None, causal: bool = False
    ) -> None:
        super().__init__()
        self.downsample = halve
        self.norm1 = Affine(inner, norm) if norm else None
        self.conv1 = (halving if halve else same)(inner, inner, causal=causal)
        self.norm2 = Affine(inner, norm) if norm else None
        self.conv2 = same(inner, outer, causal=causal)
        self.shortcut = shortcut(inner, outer)

    def forward(self, x: Frames) -> NewFrames:
        """Process a whole utterance; only for blocks without normalisation."""
        return self.run(x, (), (None, None))[0]

    def modulations(self, voice: Voice) -> list[Modulation]:
        return [norm.modulation(voice) for norm in (self.norm1, self.norm2) if norm is not None]

    def begin(self, batch: int) -> Past:
        return self.conv1.begin(batch), self.conv2.begin(batch)  # type: ignore[operator]

    def run(self, x: Frames, modulations: Sequence[Modulation], past: Past) -> tuple[NewFrames, Past]:
        """Process one chunk, or a whole utterance if the past is None."""
        hidden = F.leaky_relu(x, 0.2) if self.norm1 is None else leaky(self.norm1(x, modulations[0]))
        hidden, past1 = advance(self.conv1, hidden, past[0])
        hidden = (
            F.leaky_relu(hidden, 0.2) if self.norm2 is None else leaky(self.norm2(hidden, modulations[1]))
        )
        hidden, past2 = advance(self.conv2, hidden, past[1])
        x = F.avg_pool1d(x, 2) if self.downsample else x
        x = x if self.shortcut is None else self.shortcut(x)
        return (x + hidden) * math.sqrt(0.5), (past1, past2)


class StyledBlock(nn.Module):
    """A residual block of the decoder, conditioned on the voice by AdaIN; optionally upsamples by 2."""

    def __init__(
        self, inner: int, outer: int, style_dim: int, *, double: bool, norm: Norm, causal: bool
    ) -> None:
        super().__init__()
        self.doubles = double
        self.adain1 = AdaIN(inner, style_dim, norm)
        self.conv1 = (doubling if double else same)(inner, outer, causal=causal)
        self.adain2 = AdaIN(outer, style_dim, norm)
        self.conv2 = same(outer, outer, causal=causal)
        self.shortcut = shortcut(inner, outer)

    def modulations(self, voice: Voice) -> list[Modulation]:
        return [self.adain1.modulation(voice), self.adain2.modulation(voice)]

    def begin(self, batch: int) -> Past:
        return self.conv1.begin(batch), self.conv2.begin(batch)  # type: ignore[operator]

    def run(self, x: Frames, modulations: Sequence[Modulation], past: Past) -> tuple[NewFrames, Past]:
        """Process one chunk, or a whole utterance if the past is None."""
        hidden, past1 = advance(self.conv1, leaky(self.adain1(x, modulations[0])), past[0])
        hidden, past2 = advance(self.conv2, leaky(self.adain2(hidden, modulations[1])), past[1])
        x = x if self.shortcut is None else self.shortcut(x)
        if self.doubles:  # broadcasting adds each frame to its two outputs without a repeated copy
            pairs = hidden.unflatten(-1, (-1, 2)) + x[..., None]
            return pairs.flatten(-2) * math.sqrt(0.5), (past1, past2)
        return (x + hidden) * math.sqrt(0.5), (past1, past2)


def shortcut(inner: int, outer: int) -> nn.Conv1d | None:
    """A 1×1 convolution if the number of channels changes; None for the identity."""
    return initialised(nn.Conv1d(inner, outer, 1, bias=False), inner) if inner != outer else None


def advance(layer: Any, x: Frames, past: Past) -> tuple[NewFrames, Past]:
    """Apply a convolution to a chunk with its past, or to a whole utterance if the past is None."""
    return (layer(x), None) if past is None else layer.step(x, past)
