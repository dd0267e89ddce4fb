"""A layer of WaveNet: a dilated convolution, a gated unit, a residual and a skip."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class Layer(nn.Module):
    """A dilated convolution, its gated unit, and what goes on to the next layer and to the output."""

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
        self.past = (kernel - 1) * dilation
        self.conv = convolution(residual, gate, kernel, dilation=dilation)
        if n_local:
            self.conv1x1c = convolution(n_local, gate, bias=False)
        if n_global:
            self.conv1x1g = convolution(n_global, gate, bias=False)
        if n_context:
            self.conv1x1x = convolution(n_context, gate, bias=False)
        self.conv1x1_out = convolution(gate // 2, residual)
        self.conv1x1_skip = convolution(gate // 2, skip)

    def forward(
        self,
        x: Float[Tensor, "batch residual samples"],
        features: Float[Tensor, "batch n_local samples"] | None,
        static: Float[Tensor, "batch gate"] | None,
        context: Float[Tensor, "batch n_context samples"] | None,
    ) -> tuple[Float[Tensor, "batch residual samples"], Float[Tensor, "batch skip samples"]]:
        gates = self.conv(F.pad(x, (self.past, 0)))
        if features is not None:
            gates = gates + self.conv1x1c(features)
        if context is not None:
            gates = gates + self.conv1x1x(context)
        if static is not None:
            gates = gates + static[..., None]
        signal, gate = gates.chunk(2, dim=1)
        unit = torch.tanh(signal) * torch.sigmoid(gate)
        return (x + self.conv1x1_out(unit)) * 0.5**0.5, self.conv1x1_skip(unit)


def convolution(n_in: int, n_out: int, kernel: int = 1, *, dilation: int = 1, bias: bool = True) -> nn.Conv1d:
    """A weight-normed convolution without padding, initialised as published."""
    conv = nn.Conv1d(n_in, n_out, kernel, dilation=dilation, bias=bias)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    weight_norm(conv)  # in place
    return conv


def bias_of(conv: nn.Conv1d) -> Tensor:
    """The bias of a convolution that has one, which torch's own type leaves open."""
    assert conv.bias is not None
    return conv.bias
