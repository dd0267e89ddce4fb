"""Layers of WaveNet (dilated convolution, gated unit, residual, skip), and its context stacks.

A context stack (van den Oord et al. 2016, section 2.6) is a smaller WaveNet, which may run at a lower rate:
it processes a long part of the past and locally conditions the main one, which processes the recent part.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from engine.streaming import CausalConv1d, Past
from engine.user_error import UserError


class Layer(nn.Module):
    """A dilated convolution and its gated unit, with a residual and a skip output."""

    def __init__(
        self,
        residual: int,
        gate: int,
        skip: int,
        kernel: int,
        dilation: int,
        *,
        n_local: int = 0,
        n_global: int = 0,
        n_context: int = 0,
    ) -> None:
        super().__init__()
        self.conv: nn.Conv1d = normed(CausalConv1d(residual, gate, kernel, dilation=dilation))
        if n_local:
            self.conv1x1c = pointwise(n_local, gate, bias=False)
        if n_global:
            self.conv1x1g = pointwise(n_global, gate, bias=False)
        if n_context:
            self.conv1x1x = pointwise(n_context, gate, bias=False)
        self.conv1x1_out = pointwise(gate // 2, residual)
        self.conv1x1_skip = pointwise(gate // 2, skip)

    def forward(
        self,
        x: Float[Tensor, "batch residual samples"],
        features: Float[Tensor, "batch n_local samples"] | None,
        static: Float[Tensor, "batch gate"] | None,
        context: Float[Tensor, "batch n_context samples"] | None,
    ) -> tuple[Float[Tensor, "batch residual samples"], Float[Tensor, "batch skip samples"]]:
        gates = self.conv(x)
        if features is not None:
            gates = gates + self.conv1x1c(features)
        if context is not None:
            gates = gates + self.conv1x1x(context)
        if static is not None:
            gates = gates + static[..., None]
        signal, gate = gates.chunk(2, dim=1)
        unit = torch.tanh(signal) * torch.sigmoid(gate)
        return (x + self.conv1x1_out(unit)) * 0.5**0.5, self.conv1x1_skip(unit)


class MaskedConv1d(nn.Conv1d):
    """PixelCNN's causal convolution (van den Oord et al. 2016, arXiv:1601.06759) over time.

    A kernel of ``2 · reach + 1`` taps is centred on each sample. Mask A keeps only the taps of the past, for
    the layer that reads the wave; mask B also keeps the centre tap, for the layers after it.
    """

    mask: Tensor

    def __init__(
        self, inner: int, outer: int, reach: int, mask: Literal["A", "B"], *, dilation: int = 1
    ) -> None:
        taps = 2 * reach + 1
        super().__init__(inner, outer, taps, padding=reach * dilation, dilation=dilation)
        self.register_buffer("mask", (torch.arange(taps) < reach + (mask == "B")).float(), persistent=False)

    def forward(self, x: Float[Tensor, "batch inner samples"]) -> Float[Tensor, "batch outer samples"]:
        return self._conv_forward(x, self.weight * self.mask, self.bias)

    @classmethod
    def like(cls, conv: nn.Conv1d, mask: Literal["A", "B"]) -> "MaskedConv1d":
        """Convert a convolution: mask B for a left-padded one, mask A for one with inputs one sample late."""
        taps, dilation = conv.kernel_size[0], conv.dilation[0]
        masked = cls(conv.in_channels, conv.out_channels, taps - (mask == "B"), mask, dilation=dilation)
        with torch.no_grad():
            masked.weight.zero_()[..., :taps] = conv.weight
            bias_of(masked).copy_(bias_of(conv))
        return masked


def pointwise(n_in: int, n_out: int, *, bias: bool = True) -> nn.Conv1d:
    return normed(nn.Conv1d(n_in, n_out, 1, bias=bias))


def normed(conv: nn.Conv1d) -> nn.Conv1d:
    """Initialise a convolution as published, and apply weight norm."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    weight_norm(conv)  # in place
    return conv


def bias_of(conv: nn.Conv1d) -> Tensor:
    """The bias of a convolution that has one, typed as such."""
    assert conv.bias is not None
    return conv.bias


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """Sizes of a context stack."""

    factor: int = 64
    """Samples per step of the stack."""
    layers: int = 8
    """Dilated layers."""
    stacks: int = 1
    """Dilation cycles: in each, dilations double from 1."""
    residual: int = 32
    """Channels between layers."""
    kernel: int = 2
    """Kernel size of the dilated convolutions."""

    def __post_init__(self) -> None:
        if self.factor < 1 or self.layers < 1 or self.kernel < 2:
            raise UserError(f"factor={self.factor} and layers={self.layers} must be at least 1, kernel 2")
        if self.layers % self.stacks:
            raise UserError(f"layers={self.layers} must be a multiple of stacks={self.stacks}")

    @property
    def dilations(self) -> tuple[int, ...]:
        cycle = self.layers // self.stacks
        return tuple(2 ** (layer % cycle) for layer in range(self.layers))

    @property
    def receptive_field(self) -> int:
        """Samples on which one step depends."""
        return self.factor * ((self.kernel - 1) * sum(self.dilations) + 1)


class ContextStack(nn.Module):
    """A context stack: conditions each block of ``factor`` samples on the blocks before it, not on itself."""

    def __init__(self, config: ContextConfig) -> None:
        super().__init__()
        self.config = config
        width = config.residual
        self.first_conv = weight_norm(nn.Conv1d(config.factor, width, 1))
        self.convs = nn.ModuleList(
            weight_norm(CausalConv1d(width, 2 * width, config.kernel, dilation=dilation))
            for dilation in config.dilations
        )
        self.outs = nn.ModuleList(weight_norm(nn.Conv1d(width, width, 1)) for _ in config.dilations)

    def forward(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch channels samples"]:
        """The context of every sample; ``wave`` is the main stack's input."""
        factor, n_samples = self.config.factor, wave.shape[-1]
        n_whole = max(0, (n_samples - 1) // factor)
        steps, _ = self.step(wave[..., : n_whole * factor], self.begin(len(wave)))
        delayed = torch.cat([steps.new_zeros(len(wave), self.config.residual, 1), steps], dim=-1)
        return delayed.repeat_interleave(factor, dim=-1)[..., :n_samples]

    def begin(self, batch: int) -> list[Past]:
        """The initial state of every layer: zeros."""
        return [conv.begin(batch) for conv in self.convs]  # type: ignore[operator]

    def step(
        self, wave: Float[Tensor, "batch 1 samples"], past: list[Past]
    ) -> tuple[Float[Tensor, "batch channels blocks"], list[Past]]:
        """Process whole blocks; return the stack's output after each block, and the next state."""
        n_blocks = wave.shape[-1] // self.config.factor
        if n_blocks == 0:
            return wave.new_zeros(len(wave), self.config.residual, 0), past
        x = self.first_conv(wave.reshape(len(wave), n_blocks, self.config.factor).transpose(1, 2))
        nexts = []
        for conv, out, before in zip(self.convs, self.outs, past):
            gates, after = conv.step(x, before)  # type: ignore[operator]
            nexts.append(after)
            x = (x + out(F.glu(gates, dim=1))) * 0.5**0.5
        return x, nexts
