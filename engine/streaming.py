"""Convolutions that run live: chunk after chunk equals the whole, whatever the chunks.

Each layer has ``forward`` (its equation), ``begin`` (the state before the first chunk) and ``step`` (one
chunk and the state in, what is ready and the next state out). Chunks may have any length, also none; outputs
may be empty.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

In = Float[Tensor, "batch inner time"]
Out = Float[Tensor, "batch outer new_time"]
Past = Float[Tensor, "batch channels _"]


class CausalConv1d(nn.Conv1d):
    """A convolution with one output for every whole block of ``stride`` inputs, seeing none beyond it."""

    def __init__(
        self, inner: int, outer: int, kernel: int, stride: int = 1, *, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inner, outer, kernel, stride, dilation=dilation, groups=groups)
        if self.reach < stride:
            raise ValueError(f"a kernel that spans {self.reach} inputs would skip some at stride {stride}")

    @property
    def reach(self) -> int:
        """Inputs from the first to the last one an output sees."""
        return (self.kernel_size[0] - 1) * self.dilation[0] + 1

    @property
    def context(self) -> int:
        """Past inputs a whole next block still needs."""
        return self.reach - self.stride[0]

    def forward(self, x: In) -> Out:
        """Return ``time // stride`` outputs; an unfinished last block gives none."""
        return self._valid(F.pad(x, (self.context, 0)))

    def begin(self, batch: int) -> Past:
        """Return the past before the first chunk: silence."""
        return self.weight.new_zeros(batch, self.in_channels, self.context)

    def step(self, x: In, past: Past) -> tuple[Out, Past]:
        """Process one chunk; the inputs of an unfinished block wait in the state."""
        window = torch.cat([past, x], dim=-1)
        n_outputs = (window.shape[-1] - self.context) // self.stride[0]
        return self._valid(window), window[..., n_outputs * self.stride[0] :]

    def _valid(self, window: Float[Tensor, "batch inner window"]) -> Out:
        if window.shape[-1] < self.reach:  # torch refuses to make no output
            return window.new_zeros(len(window), self.out_channels, 0)
        return super().forward(window)
