"""Products of rows with weights, bit for bit the same for a row alone and for a row among others.

So chunks of any length give the numbers of the whole, and a live step of one frame reads the weights once and
does nothing else. Written out as LLVM code, like ``vocoders.cpu.vectors``; addresses are bytes.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from vocoders.cpu.vectors import LANES, PANEL, ROWS, Emitter
from w2w.networks.fast_compiling import compiled

UNROLL = 4
"""Inputs are taken that many at a time: rows are padded to a multiple."""
_I64, _F32 = ir.IntType(64), ir.FloatType()


def _product(n_rows: int, n_vectors: int) -> Callable:
    """Return a function that writes ``first`` plus rows times one panel of weights."""

    @intrinsic
    def product(_, rows, row_step, weights, depth, first, first_step, out, out_step):
        def generate(context, builder, signature, arguments):
            rows, row_step, weights, depth, first, first_step, out, out_step = arguments
            emit = Emitter(builder, LANES)
            sums = [cgutils.alloca_once(builder, emit.type) for _ in range(n_rows * n_vectors)]
            for r in range(n_rows):
                for v in range(n_vectors):
                    value = emit.load(emit.at(emit.at(first, first_step, r), 4 * LANES * v))
                    builder.store(value, sums[r * n_vectors + v])
            starts = [emit.at(rows, row_step, r) for r in range(n_rows)]
            with cgutils.for_range(builder, builder.sdiv(depth, ir.Constant(_I64, UNROLL))) as k:
                offset = builder.mul(k.index, ir.Constant(_I64, 4 * UNROLL))
                panel = builder.add(
                    weights, builder.mul(k.index, ir.Constant(_I64, 4 * UNROLL * LANES * n_vectors))
                )
                for u in range(UNROLL):
                    vectors = [
                        emit.load(emit.at(panel, 4 * LANES, u * n_vectors + v)) for v in range(n_vectors)
                    ]
                    for r in range(n_rows):
                        address = emit.at(builder.add(starts[r], offset), 4, u)
                        value = emit.spread(builder.load(builder.inttoptr(address, _F32.as_pointer())))
                        for v in range(n_vectors):
                            slot = sums[r * n_vectors + v]
                            builder.store(emit.fma(value, vectors[v], builder.load(slot)), slot)
            for r in range(n_rows):
                for v in range(n_vectors):
                    value = builder.load(sums[r * n_vectors + v])
                    emit.store(value, emit.at(emit.at(out, out_step, r), 4 * LANES * v))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return product


@intrinsic
def steered(_, x, level, scale, shift, bias, out):
    """Write LANES numbers of x · level · scale + shift, add the bias to x; addresses beside ``level``."""

    def generate(context, builder, signature, arguments):
        x, level, scale, shift, bias, out = arguments
        emit = Emitter(builder, LANES)
        value = emit.load(x)
        scaled = builder.fmul(builder.fmul(value, emit.spread(level)), emit.load(scale))
        total, raised = builder.fadd(scaled, emit.load(shift)), builder.fadd(value, emit.load(bias))
        emit.store(total, out)
        emit.store(raised, x)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, *[types.int64] * 4), generate


@intrinsic
def five_taps(_, rows, step, taps, taps_step, bias, out):
    """Write the bias and LANES channels of five rows, each times its tap."""

    def generate(context, builder, signature, arguments):
        rows, step, taps, taps_step, bias, out = arguments
        emit = Emitter(builder, LANES)
        total = emit.load(bias)
        for tap in range(5):
            total = emit.fma(
                emit.load(emit.at(taps, taps_step, tap)), emit.load(emit.at(rows, step, tap)), total
            )
        emit.store(total, out)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


_WIDE = PANEL // LANES
many_wide, four_wide, two_wide, one_wide = (_product(n, _WIDE) for n in (ROWS, 4, 2, 1))
many_narrow, four_narrow, two_narrow, one_narrow = (_product(n, 1) for n in (ROWS, 4, 2, 1))


def panels(weight: Float[Tensor, "inner outer"]) -> np.ndarray:
    """Weights as ``multiply`` takes them: panels of columns one after another, zeros to fill up."""
    weight = torch.nn.functional.pad(weight, (0, -weight.shape[1] % LANES, 0, -weight.shape[0] % UNROLL))
    wide = weight.shape[1] // PANEL * PANEL
    parts = [part.flatten() for part in weight[:, :wide].split(PANEL, dim=1)] if wide else []
    return torch.cat([*parts, weight[:, wide:].flatten()]).numpy()


@compiled
def multiply(rows, row_step, n_rows, depth, weights, width, first, first_step, out, out_step):
    """Write ``first`` plus rows times weights; steps are from row to row, and 0 repeats a row.

    ``depth`` and ``width`` are the padded ones. The result may lie where ``first`` does.
    """
    column = 0
    while column < width:
        wide = width - column >= PANEL
        read, start, to = weights + 4 * depth * column, first + 4 * column, out + 4 * column
        row = 0
        while row < n_rows:
            left, x, y, z = n_rows - row, rows + row * row_step, start + row * first_step, to + row * out_step
            if left >= ROWS:
                if wide:
                    many_wide(x, row_step, read, depth, y, first_step, z, out_step)
                else:
                    many_narrow(x, row_step, read, depth, y, first_step, z, out_step)
                row += ROWS
            elif left >= 4:
                if wide:
                    four_wide(x, row_step, read, depth, y, first_step, z, out_step)
                else:
                    four_narrow(x, row_step, read, depth, y, first_step, z, out_step)
                row += 4
            elif left >= 2:
                if wide:
                    two_wide(x, row_step, read, depth, y, first_step, z, out_step)
                else:
                    two_narrow(x, row_step, read, depth, y, first_step, z, out_step)
                row += 2
            else:
                if wide:
                    one_wide(x, row_step, read, depth, y, first_step, z, out_step)
                else:
                    one_narrow(x, row_step, read, depth, y, first_step, z, out_step)
                row += 1
        column += PANEL if wide else LANES
