"""The residual blocks of a converter on a CPU, at the speed of their matrix products.

The released converter's arithmetic is 0.41 GFLOP for each second of audio, 4 ms of a core that makes 100
GFLOP/s: the floor of its real-time factor. Signals lie time first, so that products take rows as they are;
what lies between two products is one compiled pass; frames go in tiles that stay in the cache. Nothing here
is another function: states have the shapes of the plain layers', whose results these are to float32's
rounding.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.streaming import CausalConv1d

if TYPE_CHECKING:
    from w2w.networks.blocks import ResidualBlock

Rows = Float[Tensor, "frames channels"]
Past = Float[Tensor, "1 channels _"]
T = TypeVar("T")

TILE = 400
"""Frames that go through all blocks before the next ones."""
TAPS = 5
"""Length of the kernels that are compiled."""


def compiles(x: Tensor) -> bool:
    """Whether compiled passes may take a signal: it lies on a CPU, and torch traces nothing."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def runs_fast(x: Tensor) -> bool:
    """Whether a signal is converted for use, one at a time, on a CPU."""
    plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    return not plain and len(x) == 1 and x.dtype == torch.float32 and compiles(x)


def blocks_run_fast(blocks: Sequence["ResidualBlock"] | nn.ModuleList) -> bool:
    """Whether the compiled passes know these blocks."""
    return all(block.streams and block.conv.kernel_size == (TAPS,) for block in blocks)  # type: ignore


_packed: WeakKeyDictionary[nn.Module, tuple[list[tuple[int, int]], Any]] = WeakKeyDictionary()


def packed(owner: nn.Module, learned: Sequence[Tensor], build: Callable[[], T]) -> T:
    """Return what ``build`` makes of learned numbers, made anew when one has changed since the last call."""
    state = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in learned]
    held = _packed.get(owner)
    if held is None or held[0] != state:
        with torch.inference_mode(False), torch.no_grad():
            held = _packed[owner] = state, build()
    return held[1]


def stem(
    layer: CausalConv1d, rows: Float[Tensor, "frames inner"], past: Float[Tensor, "1 inner context"]
) -> tuple[Float[Tensor, "frames outer"], Float[Tensor, "1 inner context"]]:
    """A causal convolution as one product: several frames side by side make a row."""
    assert layer.bias is not None
    weight = packed(layer, [layer.weight], lambda: layer.weight.permute(2, 1, 0).flatten(0, 1).contiguous())
    window = torch.cat([past[0].T, rows])
    wide = window.as_strided((len(rows), len(weight)), (window.shape[1], 1))
    return torch.addmm(layer.bias, wide, weight), window[len(rows) :].T[None]


def pointwise(layer: nn.Conv1d, rows: Float[Tensor, "frames inner"]) -> Float[Tensor, "frames outer"]:
    """A convolution of length 1."""
    assert layer.bias is not None
    return torch.addmm(layer.bias, rows, layer.weight[:, :, 0].T)


def run_blocks(
    blocks: nn.ModuleList, rows: Rows, pasts: Sequence[Past], steers: "Steering | None" = None
) -> list[Past]:
    """Take frames through blocks, in place; return what the blocks keep of them."""
    pasts = list(pasts)
    for start in range(0, len(rows), TILE):
        tile = rows[start : start + TILE]
        shares = None if steers is None else steers.shares[start : start + TILE]
        for number, (block, past) in enumerate(zip(blocks, pasts)):
            style = None if steers is None else torch.mm(shares, steers.tables[number])  # type: ignore
            pasts[number] = _run_block(block, tile, past, style)  # type: ignore[arg-type]
    return pasts


class Steering:
    """How frames steer blocks: each block's style for every timbre token, and the tokens' shares."""

    def __init__(
        self,
        tables: Sequence[Float[Tensor, "tokens two_channels"]],
        shares: Float[Tensor, "frames tokens"],
    ) -> None:
        self.tables, self.shares = tables, shares


def _run_block(
    block: "ResidualBlock", x: Rows, past: Past, style: Float[Tensor, "frames two_channels"] | None
) -> Past:
    from w2w.networks.fast_kernels import enter_block, gate

    (n_frames, n), context, widen, out = x.shape, past.shape[-1], block.widen, block.out
    assert block.conv.bias is not None
    assert out.bias is not None
    learned = [block.scale_in, block.conv.weight, block.conv.bias, out.bias]
    scale_in, taps, bias, out_bias, unsteered = packed(
        block,
        learned,
        lambda: (
            block.scale_in[:, 0].numpy(force=True),
            block.conv.weight[:, 0].T.contiguous().numpy(force=True),
            block.conv.bias.numpy(force=True),  # type: ignore[union-attr]
            out.bias.numpy(force=True),  # type: ignore[union-attr]
            torch.zeros(1, 2 * n).numpy(),
        ),
    )
    window, hidden = x.new_empty(context + n_frames, n), x.new_empty(n_frames, n)
    enter_block(
        x.numpy(),
        past[0].T.contiguous().numpy(),
        scale_in,
        unsteered if style is None else style.numpy(),
        taps,
        bias,
        block.conv.dilation[0],
        out_bias,
        window.numpy(),
        hidden.numpy(),
    )
    wide = pointwise(widen, hidden)
    gate(wide.numpy(), hidden.numpy())
    x.addmm_(hidden, out.weight[:, :, 0].T)
    return window[n_frames:].T[None]
