"""Faster training of long grouped convolutions on a CPU, which take most of the discriminators' time.

PyTorch's CPU implementation of a grouped convolution with 41 taps unfolds its input in memory, which is most
expensive for the weights' gradient. Here the input is in channels-last format, for which oneDNN convolves
directly, and the weights' gradient is a matrix product over segments of time that fit in the cache. Results
differ only by rounding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Wave = Float[Tensor, "batch inner time"]
STRETCH = 256
"""Output samples per segment for the weights' gradient."""
SHORTEST = 1_024
"""Minimum output samples for which this is faster; PyTorch convolves shorter ones."""
NARROWEST = 8
"""Minimum input channels per group for which this is faster: HiFi-GAN's have more, MelGAN's fewer."""


class GroupedConv1d(nn.Conv1d):
    """A drop-in replacement of ``nn.Conv1d`` with faster training of grouped convolutions on a CPU."""

    def forward(self, input: Wave) -> Float[Tensor, "batch outer frames"]:  # noqa: A002 - torch's name
        assert isinstance(self.padding, tuple)
        (stride,), (padding,), (kernel,) = self.stride, self.padding, self.kernel_size
        n_out = (input.shape[-1] + 2 * padding - kernel) // stride + 1
        small = n_out < SHORTEST or self.in_channels // self.groups < NARROWEST
        plain = input.is_cuda or self.groups == 1 or small or torch.is_autocast_enabled("cpu")
        if plain or not (torch.is_grad_enabled() and input.dtype == torch.float32):
            return super().forward(input)
        return _Grouped.apply(input, self.weight, self.bias, stride, padding, self.groups)


class _Grouped(torch.autograd.Function):
    """The grouped convolution and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, wave: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
    ) -> Tensor:
        ctx.save_for_backward(wave, weight)
        ctx.sizes = stride, padding, groups
        out = F.conv2d(_inner(wave), _inner(weight), bias, (1, stride), (0, padding), groups=groups)
        return out.squeeze(2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        wave, weight = ctx.saved_tensors
        stride, padding, groups = ctx.sizes
        gradient = gradient.contiguous()
        to_wave = to_weight = to_bias = None
        if ctx.needs_input_grad[0] and _is_needed(wave):
            to_wave = torch.ops.aten.convolution_backward(
                _inner(gradient),
                _inner(wave),
                _inner(weight),
                None,
                [1, stride],
                [0, padding],
                [1, 1],
                False,
                [0, 0],
                groups,
                [True, False, False],
            )[0].squeeze(2)
        if ctx.needs_input_grad[1] and _is_needed(weight):
            to_weight = weight_gradient(wave, gradient, weight.shape[-1], stride, padding, groups)
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum((0, 2))
        return to_wave, to_weight, to_bias, None, None, None


def _is_needed(tensor: Tensor) -> bool:
    """Whether the running backward pass needs a tensor's gradient: the generator's step does not use those of
    the discriminators' weights, although they require gradient."""
    return tensor.grad_fn is None or torch._C._will_engine_execute_node(tensor.grad_fn)


def _inner(x: Tensor) -> Tensor:
    """The signal as a 1 × time image in channels-last format."""
    return x.unsqueeze(2).to(memory_format=torch.channels_last)


def weight_gradient(
    wave: Wave,
    gradient: Float[Tensor, "batch outer frames"],
    kernel: int,
    stride: int,
    padding: int,
    groups: int,
) -> Float[Tensor, "outer inner_of_group kernel"]:
    """Gradient of a grouped convolution's weights: for each group, output gradients times unfolded inputs."""
    padded = F.pad(wave, (padding, padding)).unflatten(1, (groups, -1)).contiguous()
    windows = padded.unfold(-1, kernel, stride)  # (batch, groups, inner, frames, kernel)
    gradient = gradient.unflatten(1, (groups, -1))
    total = wave.new_zeros(groups, gradient.shape[2], padded.shape[2] * kernel)
    for inputs, outputs in zip(windows, gradient):
        for part, gradients in zip(inputs.split(STRETCH, dim=2), outputs.split(STRETCH, dim=2)):
            unfolded = part.mT.flatten(1, 2)  # (groups, inner · kernel, frames)
            total.baddbmm_(gradients, unfolded.mT)
    return total.view(-1, padded.shape[2], kernel)
