"""Vector instructions for fast convolutions: products over shifted rows, and small linear maps of rows.

Signals lie time first here, ``(time, channels)``: any dilation is then a distance between rows, and vectors
hold channels. The instructions are written out as LLVM code, since numba would not find them by itself; they
take addresses (bytes). ``fast_convolution`` puts them together.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FEATURES = llvmlite.binding.get_host_cpu_features()
LANES = 16
"""Floats in a vector; LLVM splits it where the machine's are shorter."""
ROWS, PANEL = (12, 32) if _FEATURES.get("avx512f") else (6, 16)
"""Outputs kept in registers by one product: ROWS times at most PANEL channels."""


_I64, _F32 = ir.IntType(64), ir.FloatType()


def minimal_filter(n_outputs: int, n_taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return A, G, B of Toom and Cook's algorithm: ``y = A ((G w) * (B x))`` is ``y_i = sum_j x_(i+j) w_j``.

    It takes ``n_outputs + n_taps - 1`` products in place of ``n_outputs * n_taps`` (Winograd 1980).
    """
    points = np.array([0, 1, -1, 2, -2, 0.5, -0.5][: n_outputs + n_taps - 2])

    def powers(n: int) -> np.ndarray:
        at_infinity = np.eye(n)[-1:]
        return np.concatenate([points[:, None] ** np.arange(n), at_infinity])

    b = np.linalg.inv(powers(n_outputs + n_taps - 1)).T.round(12)
    size = np.abs(b).max(1, keepdims=True)  # products of like size lose least to rounding
    return powers(n_outputs).T, powers(n_taps) * size, b / size


class Emitter:
    """LLVM instructions on vectors of one width."""

    def __init__(self, builder: ir.IRBuilder, lanes: int) -> None:
        self.builder, self.lanes, self.type = builder, lanes, ir.VectorType(_F32, lanes)

    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.type, [value] * self.lanes)

    def at(self, address: Any, step: Any | int = 0, n: int = 1) -> Any:
        if isinstance(step, int):
            return self.builder.add(address, ir.Constant(_I64, step * n))
        return self.builder.add(address, self.builder.mul(step, ir.Constant(_I64, n)))

    def load(self, address: Any) -> Any:
        return self.builder.load(self.builder.inttoptr(address, self.type.as_pointer()), align=4)

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self.builder.inttoptr(address, self.type.as_pointer()), align=4)

    def spread(self, scalar: Any) -> Any:
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        signature = ir.FunctionType(self.type, [self.type] * 3)
        name = f"llvm.fma.v{self.lanes}f32"
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, signature, name), [a, b, c]
        )

    def leaky(self, x: Any, slope: Any) -> Any:
        scaled = self.builder.fmul(x, slope)
        return self.builder.select(self.builder.fcmp_ordered(">", x, scaled), x, scaled)

    def weigh(self, weights: np.ndarray, vectors: list[Any]) -> Any | None:
        """Return the weighted sum, without what is weighted by 0."""
        total = None
        for weight, vector in zip(weights, vectors):
            if weight and total is None:
                total = vector if weight == 1 else self.builder.fmul(vector, self.constant(weight))
            elif abs(weight) == 1:
                total = (self.builder.fadd if weight > 0 else self.builder.fsub)(total, vector)
            elif weight:
                total = self.fma(vector, self.constant(weight), total)
        return total

    def multiply(self, matrix: np.ndarray, vectors: list[Any]) -> list[Any]:
        """Return the matrix times the vectors; rows for points ±p share their even and odd halves."""
        results: list[Any] = []
        for row, weights in enumerate(matrix):
            partner = matrix[row - 1] if row else weights
            even, odd = (partner + weights) / 2, (partner - weights) / 2
            if row % 2 == 0 and row and not (even * odd).any() and odd.any():
                first, second = self.weigh(even, vectors), self.weigh(odd, vectors)
                results[-1] = self.builder.fadd(first, second)
                results.append(self.builder.fsub(first, second))
            else:
                results.append(self.weigh(weights, vectors))
        return results


def _product(n_vectors: int) -> Callable:
    """Return a function that multiplies ROWS rows, moved on by ``shift`` at each tap, with weights."""

    @intrinsic
    def product(_, rows, weights, out, n_taps, depth, shift, out_step):
        def generate(context, builder, signature, arguments):
            rows, weights, out, n_taps, depth, shift, out_step = arguments
            emit, unroll = Emitter(builder, LANES), 4
            sums = [cgutils.alloca_once(builder, emit.type) for _ in range(ROWS * n_vectors)]
            for slot in sums:
                builder.store(emit.constant(0.0), slot)
            weight = cgutils.alloca_once_value(builder, weights)
            with cgutils.for_range(builder, n_taps) as tap:
                start = builder.add(rows, builder.mul(tap.index, shift))
                starts = [emit.at(start, builder.mul(depth, ir.Constant(_I64, 4)), r) for r in range(ROWS)]
                with cgutils.for_range(builder, builder.sdiv(depth, ir.Constant(_I64, unroll))) as k:
                    offset, panel = builder.mul(k.index, ir.Constant(_I64, 4 * unroll)), builder.load(weight)
                    for u in range(unroll):
                        vectors = [
                            emit.load(emit.at(panel, 4 * LANES, u * n_vectors + v)) for v in range(n_vectors)
                        ]
                        for r in range(ROWS):
                            address = emit.at(builder.add(starts[r], offset), 4, u)
                            value = emit.spread(builder.load(builder.inttoptr(address, _F32.as_pointer())))
                            for v in range(n_vectors):
                                slot = sums[r * n_vectors + v]
                                builder.store(emit.fma(value, vectors[v], builder.load(slot)), slot)
                    builder.store(emit.at(panel, 4 * LANES, unroll * n_vectors), weight)
            for r in range(ROWS):
                for v in range(n_vectors):
                    emit.store(
                        builder.load(sums[r * n_vectors + v]),
                        emit.at(emit.at(out, out_step, r), 4 * LANES * v),
                    )
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return product


def _rows_in(matrix: np.ndarray, lanes: int) -> Callable:
    """Return a function that writes the matrix times leaky rows: one vector's width of each row."""

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
    """Return a function that writes bias plus the matrix times rows (plus another signal's rows)."""

    @intrinsic
    def rows_out(_, rows, step, bias, out, out_step, other):
        def generate(context, builder, signature, arguments):
            rows, step, bias, out, out_step, other = arguments
            emit = Emitter(builder, lanes)
            bias = emit.load(bias)
            vectors = [emit.load(emit.at(rows, step, p)) for p in range(matrix.shape[1])]
            # By columns ±p: even outputs take the sum, odd ones the difference.
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
product_wide, product_narrow = _product(PANEL // LANES), _product(1)
in_4x3, in_4x4 = _rows_in(_B3, LANES), _rows_in(_B4, LANES)
in_16, in_8, in_1 = (_rows_in(_ONE, lanes) for lanes in (16, 8, 1))
out_4x3, out_4x3_add = (_rows_out(_A3, LANES, added) for added in (False, True))
out_4x4, out_4x4_add = (_rows_out(_A4, LANES, added) for added in (False, True))
out_16, out_16_add = (_rows_out(_ONE, 16, added) for added in (False, True))
out_8, out_8_add = (_rows_out(_ONE, 8, added) for added in (False, True))
out_1, out_1_add = (_rows_out(_ONE, 1, added) for added in (False, True))
