"""A converter's step as a function of plain tensors, and its export as an ONNX graph, which is checked.

Convolutions over few frames are computed as matrix products: onnxruntime's convolutions are made for images,
and over two frames a product takes a third of their time.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from inspect import unwrap
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.user_error import UserError
from w2w.exported.session import check_exportable, flat, nested, open_session, require_packages, run_session
from w2w.networks.network import ConverterNetwork

X = Float[Tensor, "batch inner time"]
Weight = Float[Tensor, "outer inner_of_group kernel"]


class ConvolutionsAsProducts(TorchFunctionMode):
    """Context in which one-dimensional convolutions are computed by ``convolution``."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
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
    """``torch.conv1d`` for layers without padding, with one group or one group per channel."""
    outer, _, kernel = weight.shape
    assert not any(padding)
    rows = x.transpose(1, 2)  # frames are contiguous in memory, which makes copies and products fast
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
    """Step of ``n_hops`` hops: chunk, voice, semitones and state to samples and the next state.

    ``begun`` is the state before the first chunk, by name, in the order of the arguments.
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
    """The step traced by torch's exporter; its example inputs are those of the first step."""
    chunk = torch.zeros(1, 1, step.chunk_samples)
    voice = torch.zeros(1, step.voice_dim) if voice is None else voice.detach().cpu().clone()
    examples = (chunk, voice, torch.zeros(1, dtype=torch.float64), *step.begun.values())
    # In inference mode, composite operations would not be decomposed.
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations inside torch
        return torch.export.export(step, examples, strict=False)


MOST = 1e-4
"""Largest allowed difference of a sample, at full scale 1, between the network and its export."""
SECONDS = 4.0
SEMITONES = 1.5


@torch.inference_mode()
def difference(step: Step, run: Callable[..., Iterable[Tensor]]) -> float:
    """Largest difference of a sample between the network and ``run``, over some seconds of speech-like audio.

    ``run`` is another form of the step, with its arguments and results.
    """
    network, device = step.network, next(step.network.parameters()).device
    wave = speechlike(network.sample_rate, SECONDS)
    wave = wave[..., : wave.shape[-1] // step.chunk_samples * step.chunk_samples]
    voice = network.style(wave.to(device))
    shift = torch.tensor([SEMITONES], dtype=torch.float64)
    state, plain_state, worst = [*step.begun.values()], network.begin(1), 0.0
    for chunk in wave.split(step.chunk_samples, dim=-1):
        converted, *state = run(chunk, voice.cpu(), shift, *state)
        expected, plain_state = network.step(chunk.to(device), voice, plain_state, SEMITONES)
        # NaN counts as an infinite difference.
        worst = max(worst, (converted - expected.cpu()).abs().nan_to_num(nan=math.inf).max().item())
    return worst


def require_equal(found: float, what: str) -> None:
    """Raise if an export differs from the network by more than ``MOST``."""
    if not found <= MOST:
        raise UserError(
            f"{what} differs from the network by {found:.1e}, more than {MOST}: nothing was written;"
            " export it with the versions of torch and onnxruntime that constraints.txt names"
        )


def speechlike(sample_rate: int, seconds: float) -> Float[Tensor, "1 1 samples"]:
    """Speech-like test signal: syllables of gliding pitch, hisses, a silence, a loud end; deterministic."""
    rng = torch.Generator().manual_seed(0)
    time = torch.arange(round(sample_rate * seconds), dtype=torch.float64) / sample_rate
    f0 = 150.0 * torch.exp(0.5 * torch.sin(1.7 * time) + 0.05 * torch.sin(31.0 * time))
    phase = 2.0 * math.pi * (f0 / sample_rate).cumsum(0)
    number = torch.arange(1, 30, dtype=torch.float64)[:, None]
    # Two moving formants; harmonics are limited to below half the rate.
    formants = (500.0 + 250.0 * torch.sin(3.1 * time), 1600.0 + 500.0 * torch.sin(2.3 * time))
    level = sum(torch.exp(-(((number * f0 - formant) / 300.0) ** 2)) for formant in formants) + 0.05
    voiced = (level * torch.sin(number * phase) * (number * f0 < 0.45 * sample_rate)).sum(0)
    syllable = torch.sin(2.0 * math.pi * 2.1 * time).clamp_min(-0.2)
    hiss = torch.randn(len(time), generator=rng, dtype=torch.float64)
    wave = 0.1 * voiced * syllable.clamp_min(0.0) + 0.05 * hiss * (-syllable).clamp_min(0.0)
    wave = wave + 0.0005 * hiss
    part = time / seconds
    wave = torch.where((part > 0.55) & (part < 0.65), torch.zeros_like(wave), wave)
    return torch.where(part > 0.9, 4.0 * wave, wave).clamp(-1.0, 1.0).float()[None, None]


def onnx_model(step: Step, voice: Float[Tensor, "1 dim"] | None = None) -> Any:
    """Export the step as an ONNX model with the inputs chunk, voice, semitones and each state_NAME."""
    require_packages()
    from onnxscript.optimizer import fold_constants, inline, remove_unused_nodes

    names = list(step.begun)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations inside torch
        program = torch.onnx.export(
            traced(step, voice),
            dynamo=True,
            input_names=["chunk", "voice", "semitones", *(f"state_{name}" for name in names)],
            output_names=["wave", *(f"next_{name}" for name in names)],
            # Unwrapped of type checks: integers are passed, too, but the exporter must find float.
            custom_translation_table={torch.ops.aten.scalar_tensor.default: unwrap(exact_scalar)},
            # The optimiser would remove additions of less than 1e-8, which keep logarithms finite.
            optimize=False,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    inline(program.model)
    fold_constants(program.model)
    remove_unused_nodes(program.model)
    return program.model_proto


def exact_scalar(
    s: float, dtype: int = 1, layout: str = "", device: str = "", pin_memory: bool = False
) -> Any:
    """Export a scalar in the precision of its use: the exporter's own translation rounds to float32."""
    from onnx import helper, numpy_helper
    from onnxscript import opset20

    array = np.array(s, helper.tensor_dtype_to_np_dtype(dtype))
    return opset20.Constant(value=numpy_helper.from_array(array))


def checked(step: Step, model: bytes) -> float:
    """Return the largest difference between a model and the network; raise if it is too large."""
    session = open_session(model)

    def run(*inputs: Tensor) -> Iterable[Tensor]:
        chunk, voice, semitones, *state = (tensor.numpy() for tensor in inputs)
        wave, after = run_session(session, chunk, voice, semitones, dict(zip(step.begun, state)))
        return map(torch.from_numpy, (wave, *after.values()))

    error = difference(step, run)
    require_equal(error, "the ONNX graph")
    return error
