"""Convolutions of few frames as matrix products.

onnxruntime's convolutions are made for pictures: over two frames a product takes a third of their time.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

X = Float[Tensor, "batch inner time"]
Weight = Float[Tensor, "outer inner_of_group kernel"]


class ConvolutionsAsProducts(TorchFunctionMode):
    """While this is entered, one-dimensional convolutions are computed by ``convolution``."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace convolutions; leave the rest alone."""
        return (convolution if func is torch.conv1d else func)(*args, **(kwargs or {}))


def convolution(
    x: X,
    weight: Weight,
    bias: Float[Tensor, " outer"] | None = None,
    stride: tuple[int, ...] = (1,),
    padding: tuple[int, ...] = (0,),
    dilation: tuple[int, ...] = (1,),
    groups: int = 1,
) -> Float[Tensor, "batch outer frames"]:
    """What ``torch.conv1d`` gives, for layers without padding, in one group or one for each channel."""
    outer, _, kernel = weight.shape
    assert not any(padding)
    rows = x.transpose(1, 2)  # whole frames lie together in memory: they are copied and multiplied at once
    n_frames = (x.shape[-1] - dilation[0] * (kernel - 1) - 1) // stride[0] + 1
    if kernel > 1 or stride[0] > 1:
        places = stride[0] * torch.arange(n_frames)[:, None] + dilation[0] * torch.arange(kernel)
        rows = rows.index_select(1, places.flatten())
    if groups == 1:
        by_frame = rows.reshape(len(x), n_frames, -1)
        return F.linear(by_frame, weight.transpose(1, 2).flatten(1), bias).transpose(1, 2)
    assert groups == x.shape[1] == outer
    windows = rows.unflatten(1, (n_frames, kernel))  # (batch, frames, kernel, channels)
    summed = (windows * weight[:, 0].T).sum(2)
    return (summed if bias is None else summed + bias).transpose(1, 2)
