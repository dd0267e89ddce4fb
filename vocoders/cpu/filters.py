"""Minimal (Winograd) filters, and the small linear transforms of rows that they consist of.

They are written in LLVM IR, because numba would not vectorise them.
"""

from collections.abc import Callable

import numpy as np
from numba import types
from numba.extending import intrinsic

from vocoders.cpu.product import LANES, Emitter


def minimal_filter(n_outputs: int, n_taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return A, G, B of the Toom-Cook algorithm: ``y = A ((G w) * (B x))`` is ``y_i = sum_j x_(i+j) w_j``.

    It needs ``n_outputs + n_taps - 1`` products instead of ``n_outputs * n_taps`` (Winograd 1980).
    """
    points = np.array([0, 1, -1, 2, -2, 0.5, -0.5][: n_outputs + n_taps - 2])

    def powers(n: int) -> np.ndarray:
        at_infinity = np.eye(n)[-1:]
        return np.concatenate([points[:, None] ** np.arange(n), at_infinity])

    b = np.linalg.inv(powers(n_outputs + n_taps - 1)).T.round(12)
    size = np.abs(b).max(1, keepdims=True)  # balanced products minimise rounding errors
    return powers(n_outputs).T, powers(n_taps) * size, b / size


def _rows_in(matrix: np.ndarray, lanes: int) -> Callable:
    """Return a function that writes the matrix times leaky-rectified rows, one vector wide."""

    @intrinsic
    def rows_in(_, rows, step, out, out_step, slope):
        def generate(context, builder, signature, arguments):
            rows, step, out, out_step, slope = arguments
            emit = Emitter(builder, lanes)
            slope = emit.spread(slope)
            vectors = [emit.leaky(emit.load(emit.at(rows, step, j)), slope) for j in range(matrix.shape[1])]
            for p, result in enumerate(emit.multiply(matrix, vectors)):
                emit.store(result, emit.at(out, out_step, p))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4, types.float32), generate

    return rows_in


def _rows_out(matrix: np.ndarray, lanes: int, added: bool) -> Callable:
    """Return a function that writes bias plus the matrix times rows (``added``: plus another signal)."""

    @intrinsic
    def rows_out(_, rows, step, bias, out, out_step, other):
        def generate(context, builder, signature, arguments):
            rows, step, bias, out, out_step, other = arguments
            emit = Emitter(builder, lanes)
            bias = emit.load(bias)
            vectors = [emit.load(emit.at(rows, step, p)) for p in range(matrix.shape[1])]
            # Columns for points ±p: even outputs use their sum, odd outputs their difference.
            weights = matrix.copy()
            for p in range(1, len(vectors) - 1):
                if (
                    len(vectors) > 2
                    and p % 2
                    and np.array_equal(np.abs(matrix[:, p]), np.abs(matrix[:, p + 1]))
                ):
                    plus, minus = vectors[p], vectors[p + 1]
                    vectors[p], vectors[p + 1] = builder.fadd(plus, minus), builder.fsub(plus, minus)
                    weights[1::2, p + 1] = matrix[1::2, p]
                    weights[1::2, p], weights[::2, p + 1] = 0, 0
            for i, row in enumerate(weights):
                result = builder.fadd(emit.weigh(row, vectors), bias)
                if added:
                    result = builder.fadd(result, emit.load(emit.at(other, out_step, i)))
                emit.store(result, emit.at(out, out_step, i))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return rows_out


_A3, _, _B3 = minimal_filter(4, 3)
_A4, _, _B4 = minimal_filter(4, 4)
_ONE = np.ones((1, 1))
in_4x3, in_4x4 = _rows_in(_B3, LANES), _rows_in(_B4, LANES)
in_16, in_8, in_1 = (_rows_in(_ONE, lanes) for lanes in (16, 8, 1))
out_4x3, out_4x3_add = (_rows_out(_A3, LANES, added) for added in (False, True))
out_4x4, out_4x4_add = (_rows_out(_A4, LANES, added) for added in (False, True))
out_16, out_16_add = (_rows_out(_ONE, 16, added) for added in (False, True))
out_8, out_8_add = (_rows_out(_ONE, 8, added) for added in (False, True))
out_1, out_1_add = (_rows_out(_ONE, 1, added) for added in (False, True))
