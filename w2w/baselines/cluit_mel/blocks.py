"""The residual blocks of StarGAN v2, which CLUIT keeps, over the frames of mels (Choi et al. 2020).

A shortcut and a residual are added and divided by √2. Rates change by the mean of pairs and by nearest
upsampling; 1×1 shortcuts stand at the lower rate, which gives the same for half of the products.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from w2w.baselines.cluit_mel.config import Norm
from w2w.baselines.cluit_mel.convolutions import as_rows, doubling, halving, initialised, of_rows, same
from w2w.baselines.cluit_mel.normalisation import AdaIN, Affine, Modulation, leaky

Frames = Float[Tensor, "batch channels frames"]
NewFrames = Float[Tensor, "batch outer new_frames"]
Voice = Float[Tensor, "batch style"]
Past = Any
"""What a layer's next chunk still needs; None stands for a whole utterance."""


class Block(nn.Module):
    """A block of the encoder or, without normalisation, of the critic: it may halve time."""

    def __init__(
        self, inner: int, outer: int, *, halve: bool, norm: Norm | None = None, causal: bool = False
    ) -> None:
        super().__init__()
        self.halves = halve
        self.norm1 = Affine(inner, norm) if norm else None
        self.conv1 = (halving if halve else same)(inner, inner, causal=causal)
        self.norm2 = Affine(inner, norm) if norm else None
        self.conv2 = same(inner, outer, causal=causal)
        self.shortcut = shortcut(inner, outer)

    def forward(self, x: Frames) -> NewFrames:
        """Return ``frames // 2`` frames where time is halved; without normalisation."""
        return self.run(x, (), (None, None))[0]

    def modulations(self, voice: Voice) -> list[Modulation]:
        """What the two normalisations learned."""
        return [norm.modulation(voice) for norm in (self.norm1, self.norm2) if norm is not None]

    def begin(self, batch: int) -> Past:
        """Silence."""
        return self.conv1.begin(batch), self.conv2.begin(batch)  # type: ignore[operator]

    def run(self, x: Frames, modulations: Sequence[Modulation], past: Past) -> tuple[NewFrames, Past]:
        """Process one chunk, or a whole utterance where there is no past."""
        hidden = F.leaky_relu(x, 0.2) if self.norm1 is None else leaky(self.norm1(x, modulations[0]))
        hidden, past1 = advance(self.conv1, hidden, past[0])
        hidden = (
            F.leaky_relu(hidden, 0.2) if self.norm2 is None else leaky(self.norm2(hidden, modulations[1]))
        )
        hidden, past2 = advance(self.conv2, hidden, past[1])
        x = F.avg_pool1d(x, 2) if self.halves else x
        x = pointwise(self.shortcut, x)
        return (x + hidden) * math.sqrt(0.5), (past1, past2)


class StyledBlock(nn.Module):
    """A block of the decoder, told the voice: it may double time."""

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
        """What the voice does to the two normalisations."""
        return [self.adain1.modulation(voice), self.adain2.modulation(voice)]

    def begin(self, batch: int) -> Past:
        """Silence."""
        return self.conv1.begin(batch), self.conv2.begin(batch)  # type: ignore[operator]

    def run(self, x: Frames, modulations: Sequence[Modulation], past: Past) -> tuple[NewFrames, Past]:
        """Process one chunk, or a whole utterance where there is no past."""
        hidden, past1 = advance(self.conv1, leaky(self.adain1(x, modulations[0])), past[0])
        hidden, past2 = advance(self.conv2, leaky(self.adain2(hidden, modulations[1])), past[1])
        x = pointwise(self.shortcut, x)
        if self.doubles:  # a frame's pair of outputs beside it: no repeated copy is made
            pairs = hidden.unflatten(-1, (-1, 2)) + x[..., None]
            return pairs.flatten(-2) * math.sqrt(0.5), (past1, past2)
        return (x + hidden) * math.sqrt(0.5), (past1, past2)


def shortcut(inner: int, outer: int) -> nn.Conv1d | None:
    """A 1×1 convolution where the number of channels changes."""
    return initialised(nn.Conv1d(inner, outer, 1, bias=False), inner) if inner != outer else None


def pointwise(layer: nn.Conv1d | None, x: Frames) -> NewFrames:
    """Apply a shortcut, where there is one."""
    if layer is None:
        return x
    return of_rows(x, layer.weight, None) if as_rows(x) else layer(x)


def advance(layer: Any, x: Frames, past: Past) -> tuple[NewFrames, Past]:
    """Apply a convolution to a chunk and its past, or to a whole utterance where there is none."""
    return (layer(x), None) if past is None else layer.step(x, past)
