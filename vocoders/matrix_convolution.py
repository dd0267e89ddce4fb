"""Short convolutions trained as products of matrices on a CPU: MelGAN's generator spends most time in them.

PyTorch brings every signal into a blocked layout and back for convolutions this short, and unfolds those of
one tap. Taps side by side make one product of matrices, and so do both gradients. Results differ by rounding.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Signal = Float[Tensor, "batch inner time"]
NARROWEST = 32
"""Channels from which this pays; narrower convolutions go to PyTorch."""


class MatrixConv1d(nn.Conv1d):
    """A convolution without stride, groups or padding that knows the faster way; the same function."""

    def forward(self, input: Signal) -> Float[Tensor, "batch outer frames"]:  # noqa: A002 - torch's name
        narrow = min(self.in_channels, self.out_channels) < NARROWEST
        plain = narrow or input.is_cuda or input.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        if plain or not torch.is_grad_enabled() or self.bias is None:
            return super().forward(input)
        return _Products.apply(input, self.weight, self.bias, self.dilation[0])


class _Products(torch.autograd.Function):
    """The convolution and its gradients, as products of (outer, taps · inner) and (taps · inner, frames)."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
        taps = side_by_side(signal, weight.shape[-1], dilation)
        ctx.save_for_backward(taps, weight)
        ctx.sizes = signal.shape, dilation
        matrix = weight.permute(0, 2, 1).flatten(1)
        return torch.baddbmm(bias[:, None], matrix.expand(len(taps), -1, -1), taps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        taps, weight = ctx.saved_tensors
        shape, dilation = ctx.sizes
        n_outer, n_inner, kernel = weight.shape
        matrix = weight.permute(0, 2, 1).flatten(1)
        to_signal = None
        if ctx.needs_input_grad[0]:
            parts = torch.bmm(matrix.T.expand(len(taps), -1, -1), gradient).unflatten(1, (kernel, n_inner))
            if kernel == 1:
                to_signal = parts[:, 0]
            else:
                to_signal, frames = gradient.new_zeros(shape), gradient.shape[-1]
                for tap in range(kernel):
                    to_signal[..., tap * dilation : tap * dilation + frames] += parts[:, tap]
        to_weight = gradient.new_zeros(n_outer, kernel * n_inner)
        for item_gradient, item in zip(gradient, taps):
            to_weight.addmm_(item_gradient, item.T)
        to_weight = to_weight.unflatten(1, (kernel, n_inner)).permute(0, 2, 1)
        return to_signal, to_weight, gradient.sum((0, 2)), None


def side_by_side(signal: Signal, kernel: int, dilation: int) -> Float[Tensor, "batch taps_inner frames"]:
    """The signal as every tap sees it, tap after tap along the channels."""
    if kernel == 1:
        return signal
    frames = signal.shape[-1] - (kernel - 1) * dilation
    return torch.cat([signal[..., i * dilation : i * dilation + frames] for i in range(kernel)], dim=1)
