"""A converter's step as a function of plain tensors, which exporters take and a graph's user feeds.

Convolutions of few frames are computed as matrix products: onnxruntime's are made for pictures, and over two
frames a product takes a third of their time.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.user_error import UserError
from w2w.networks.network import ConverterNetwork

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


class Step(nn.Module):
    """Convert one chunk of ``n_hops`` hops: chunk, voice, semitones and state to samples and the next state.

    ``begun`` holds the state before the first chunk, by name, in the order of the arguments.
    """

    def __init__(self, network: ConverterNetwork, n_hops: int) -> None:
        super().__init__()
        check_exportable(network)
        if n_hops < 1:
            raise UserError(f"n_hops={n_hops} must be at least 1")
        self.network, self.n_hops = network, n_hops
        self.chunk_samples, self.voice_dim = n_hops * network.hop, network.voice_dim
        with torch.inference_mode(False):
            self._like = network.begin(1)
        self.begun = {name: tensor.detach().contiguous() for name, tensor in flat(self._like).items()}
        self.eval()

    def forward(
        self,
        chunk: Float[Tensor, "1 1 samples"],
        voice: Float[Tensor, "1 dim"],
        semitones: Float[Tensor, "1"],
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        """The samples of the chunk, ``look_ahead`` late, and the next state; ``semitones`` is float64."""
        named = dict(zip(self.begun, state))
        with ConvolutionsAsProducts():
            wave, after = self.network.step(chunk, voice, nested(self._like, named), semitones)
        after = flat(after)
        return wave, *(after[name] for name in self.begun)


def traced(step: Step, voice: Float[Tensor, "1 dim"] | None = None) -> torch.export.ExportedProgram:
    """The step as torch's exporter sees it; its example inputs are the first step's."""
    chunk = torch.zeros(1, 1, step.chunk_samples)
    voice = torch.zeros(1, step.voice_dim) if voice is None else voice.detach().cpu().clone()
    examples = (chunk, voice, torch.zeros(1, dtype=torch.float64), *step.begun.values())
    # Inference mode would show composite operations in place of what they are made of.
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of deprecations inside torch
        return torch.export.export(step, examples, strict=False)


def flat(state: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors of a state, named by the way to them; what is not there has no name."""
    if state is None:
        return {}
    if isinstance(state, Tensor):
        return {name: state}
    return {
        found: tensor
        for key, part in _parts(state)
        for found, tensor in flat(part, f"{name}_{key}" if name else key).items()
    }


def nested(like: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """A state built as another one is, of the tensors that ``flat`` made of it."""
    if like is None or isinstance(like, Tensor):
        return tensors.get(name)
    parts = {key: nested(part, tensors, f"{name}_{key}" if name else key) for key, part in _parts(like)}
    if isinstance(like, dict):
        return parts
    return type(like)(**parts) if hasattr(like, "_fields") else list(parts.values())


def _parts(state: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(state, dict):
        yield from state.items()
    elif hasattr(state, "_fields"):
        yield from zip(state._fields, state)
    else:
        yield from ((str(number), part) for number, part in enumerate(state))


def check_exportable(network: object) -> None:
    """Refuse what has no step to write down, and say why."""
    if not isinstance(network, ConverterNetwork):
        raise UserError(
            "a converter of mels is exported as weights only: the step of a wave-to-wave converter is what"
            " can be written as a graph"
        )
    if network.needs_whole:
        raise UserError(f"this converter's {network.needs_whole}: there is no step that could be exported")
