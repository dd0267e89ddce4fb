"""The layers of a converter on a CPU, at the speed of their matrix products.

The released converter's arithmetic is 0.4 GFLOP for each second of audio, 3.4 ms of a core that makes 117
GFLOP/s: the floor of its real-time factor. Signals lie time first, so that products take rows as they are;
what lies between two products is one compiled pass; frames go in tiles that stay in the cache. Nothing here
is another function: states have the shapes of the plain layers', whose results these are to float32's
rounding.
"""

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

Rows = Float[Tensor, "frames channels"]
Past = Float[Tensor, "1 channels _"]
T = TypeVar("T")


def compiles(x: Tensor) -> bool:
    """Whether compiled passes may take a signal: it lies on a CPU, and torch traces nothing."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def runs_fast(x: Tensor) -> bool:
    """Whether a signal is converted for use, one at a time, on a CPU."""
    plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    return not plain and x.shape[0] == 1 and x.dtype == torch.float32 and compiles(x)


def blocks_run_fast(blocks: nn.ModuleList) -> bool:
    """Whether the compiled passes know these blocks."""
    first: Any = blocks[0]
    return first.streams and first.conv.kernel_size == (5,) and first.conv.in_channels % 16 == 0


class _Packed(NamedTuple):
    parameters: list[dict[str, nn.Parameter | None]]
    state: tuple[list[int], list[int]]
    built: Any


_packed: WeakKeyDictionary[nn.Module, _Packed] = WeakKeyDictionary()


def packed(owner: nn.Module, build: Callable[[], T]) -> T:
    """Return what ``build`` makes of a module's numbers, made anew when one has changed since."""
    held = _packed.get(owner)
    if held is not None and held.state == _state(held.parameters):
        return held.built
    parameters: list[dict[str, nn.Parameter | None]] = [module._parameters for module in owner.modules()]
    state = _state(parameters)  # before the numbers are read, so that a change meanwhile is seen next time
    with torch.inference_mode(False), torch.no_grad():
        _packed[owner] = _Packed(parameters, state, built := build())
    return built


def _state(parameters: list[dict[str, nn.Parameter | None]]) -> tuple[list[int], list[int]]:
    """Where numbers lie and how often they were changed; some microseconds, since every step asks."""
    known = [p for held in parameters for p in held.values() if p is not None]
    return list(map(Tensor.data_ptr, known)), [] if _frozen(known) else list(map(_version, known))


_version = attrgetter("_version")


def _frozen(known: list[nn.Parameter]) -> bool:
    return bool(known) and known[0].is_inference()


def kept(name: str, *shape: int) -> Tensor:
    """Memory that this thread keeps under a name, at first zero: fresh pages cost time."""
    from vocoders.cpu.convolution import scratch

    size = math.prod(shape)
    return torch.from_numpy(scratch(f"converter {name}", size)[:size].reshape(shape))


class Layer(NamedTuple):
    """A linear map of rows, laid out for products."""

    weight: np.ndarray
    bias: np.ndarray
    depth: int
    width: int


def layer_of(weight: Float[Tensor, "inner outer"], bias: Float[Tensor, "outer"]) -> Layer:
    """Lay a linear map out."""
    from w2w.networks.fast_products import LANES, UNROLL, panels

    width, depth = len(bias), -(-len(weight) // UNROLL) * UNROLL
    bias = nn.functional.pad(bias, (0, -width % LANES)).clone()
    return Layer(panels(weight), bias.numpy(), depth, width)


def convolution(layer: nn.Conv1d) -> Layer:
    """A convolution's weights as a product of several frames side by side takes them."""
    assert layer.bias is not None
    return layer_of(layer.weight.permute(2, 1, 0).flatten(0, 1), layer.bias)


def project(layer: Layer, rows: Float[Tensor, "_ inner"], n_frames: int) -> Rows:
    """Map that many rows, each read as far as the layer is deep; zeros fill results up to vectors."""
    from w2w.networks.fast_kernels import project

    (n_rows, inner), out = rows.shape, torch.empty(n_frames, layer.bias.shape[0])
    needed = (n_frames - 1) * inner + layer.depth
    if needed > n_rows * inner:  # the last row is read a little further, and what is there counts nothing
        rows = torch.cat([rows.flatten(), rows.new_zeros(needed - n_rows * inner)])
    project(rows.reshape(-1).numpy(), inner, n_frames, layer.weight, layer.depth, layer.bias, out.numpy())
    return out


def stem(
    layer: Layer, rows: Float[Tensor, "frames inner"], past: Float[Tensor, "1 inner context"]
) -> tuple[Float[Tensor, "frames outer"], Float[Tensor, "1 inner context"]]:
    """A causal convolution as one product: several frames side by side make a row."""
    window, n_frames = torch.cat([past[0].T, rows]), rows.shape[0]
    return project(layer, window, n_frames)[:, : layer.width], window[n_frames:].T[None]


def pointwise(layer: Layer, rows: Float[Tensor, "frames inner"]) -> Float[Tensor, "frames outer"]:
    """A convolution of length 1."""
    return project(layer, rows, rows.shape[0])[:, : layer.width]


def shares_of(layer: Layer, rows: Float[Tensor, "frames inner"]) -> Float[Tensor, "frames _"]:
    """A convolution of length 1 and a softmax; zeros beyond."""
    from w2w.networks.fast_kernels import softmax

    shares = project(layer, rows, rows.shape[0])
    softmax(shares.numpy(), layer.width)
    return shares


class Blocks(NamedTuple):
    """What residual blocks have learned, laid out for the compiled passes."""

    dilations: np.ndarray
    first: np.ndarray
    """Scales and shifts of a frame without a style."""
    taps: np.ndarray
    bias: np.ndarray
    widen: np.ndarray
    widen_bias: np.ndarray
    out: np.ndarray
    out_bias: np.ndarray


def blocks_of(blocks: nn.ModuleList) -> Blocks:
    """Lay residual blocks out."""
    from w2w.networks.fast_products import panels

    def stack(part: Callable[[Any], Tensor | np.ndarray]) -> np.ndarray:
        return np.stack([np.asarray(part(block)) for block in blocks])

    return Blocks(
        np.array([block.conv.dilation[0] for block in blocks]),  # type: ignore[union-attr, index]
        stack(lambda block: torch.cat([block.scale_in[:, 0], torch.zeros(len(block.scale_in))])),
        stack(lambda block: block.conv.weight[:, 0].T.contiguous()),
        stack(lambda block: block.conv.bias),
        stack(lambda block: panels(block.widen.weight[:, :, 0].T)),
        stack(lambda block: block.widen.bias),
        stack(lambda block: panels(block.out.weight[:, :, 0].T)),
        stack(lambda block: block.out.bias),
    )


class Steering(NamedTuple):
    """How frames steer blocks: each block's scales and shifts for every token, and the tokens' shares."""

    tables: np.ndarray
    shares: Float[Tensor, "frames _"]
    n_tokens: int


def token_table(block: Any, steer: Float[Tensor, "tokens steer"]) -> np.ndarray:
    """A block's scales and shifts for frames that ask for one token alone, beyond those without a style."""
    from w2w.networks.fast_products import panels

    scale, shift = pointwise(convolution(block.style), steer).chunk(2, dim=1)
    table = torch.cat([scale * block.scale_in[:, 0], shift], dim=1)
    return panels(table)


def run_blocks(
    blocks: Blocks, rows: Rows, pasts: Sequence[Past], steers: Steering | None = None
) -> list[Past]:
    """Take frames through blocks, in place; return what the blocks keep of them."""
    from w2w.networks.fast_kernels import TILE, through_blocks

    n = rows.shape[1]
    tables, shares, n_tokens = (blocks.first, rows, 0) if steers is None else steers
    past = torch.cat(list(pasts), dim=-1)
    after = torch.empty_like(past)
    longest = max(part.shape[-1] for part in pasts)
    window, hidden = kept("window", longest + TILE, n), kept("hidden", TILE, n)
    wide = kept("wide", TILE, 2 * n)
    padded = -(-n_tokens // 4) * 4
    through_blocks(
        rows.numpy(),
        past[0].numpy(),
        after[0].numpy(),
        blocks,
        shares.numpy(),
        padded,
        tables,
        window.numpy(),
        hidden.numpy(),
        wide.numpy(),
    )
    return list(after.split([part.shape[-1] for part in pasts], dim=-1))
