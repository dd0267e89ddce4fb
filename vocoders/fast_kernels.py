"""Compiled inner loops of fast convolutions: products over shifted rows, and small linear maps of rows.

Signals lie time first here, ``(time, channels)``: any dilation is then a distance between rows, and vectors hold
channels. Numba compiles for the machine it runs on; its vectors are written out as LLVM code, since it would not
find them by itself. Everything works on addresses (bytes); ``fast_generation`` owns the memory and its margins.
"""

from collections.abc import Callable

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_FEATURES = llvmlite.binding.get_host_cpu_features()
LANES = 16
"""Floats in a vector; LLVM splits it where the machine's are shorter."""
ROWS, PANEL = (12, 32) if _FEATURES.get("avx512f") else (6, 16)
"""Outputs kept in registers by one product: ROWS times at most PANEL channels."""

BLOCK = 96
"""Groups of outputs convolved at once: what they need stays in the second cache."""

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


class _Emitter:
    """LLVM instructions on vectors of one width."""

    def __init__(self, builder: ir.IRBuilder, lanes: int) -> None:
        self.builder, self.lanes, self.type = builder, lanes, ir.VectorType(_F32, lanes)

    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.type, [value] * self.lanes)

    def at(self, address: ir.Value, step: ir.Value | int = 0, n: int = 1) -> ir.Value:
        if isinstance(step, int):
            return self.builder.add(address, ir.Constant(_I64, step * n))
        return self.builder.add(address, self.builder.mul(step, ir.Constant(_I64, n)))

    def load(self, address: ir.Value) -> ir.Value:
        return self.builder.load(self.builder.inttoptr(address, self.type.as_pointer()), align=4)

    def store(self, value: ir.Value, address: ir.Value) -> None:
        self.builder.store(value, self.builder.inttoptr(address, self.type.as_pointer()), align=4)

    def spread(self, scalar: ir.Value) -> ir.Value:
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        signature = ir.FunctionType(self.type, [self.type] * 3)
        name = f"llvm.fma.v{self.lanes}f32"
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, signature, name), [a, b, c]
        )

    def leaky(self, x: ir.Value, slope: ir.Value) -> ir.Value:
        scaled = self.builder.fmul(x, slope)
        return self.builder.select(self.builder.fcmp_ordered(">", x, scaled), x, scaled)

    def weigh(self, weights: np.ndarray, vectors: list[ir.Value]) -> ir.Value | None:
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

    def multiply(self, matrix: np.ndarray, vectors: list[ir.Value]) -> list[ir.Value]:
        """Return the matrix times the vectors; rows for points ±p share their even and odd halves."""
        results: list[ir.Value] = []
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
    """Return a function that multiplies ROWS rows, at each tap moved on by ``shift``, with a panel of weights."""

    @intrinsic
    def product(_, rows, weights, out, n_taps, depth, shift, out_step):
        def generate(context, builder, signature, arguments):
            rows, weights, out, n_taps, depth, shift, out_step = arguments
            emit, unroll = _Emitter(builder, LANES), 4
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
            emit = _Emitter(builder, lanes)
            slope = emit.spread(slope)
            vectors = [emit.leaky(emit.load(emit.at(rows, step, j)), slope) for j in range(matrix.shape[1])]
            for p, result in enumerate(emit.multiply(matrix, vectors)):
                emit.store(result, emit.at(out, out_step, p))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4, types.float32), generate

    return rows_in


def _rows_out(matrix: np.ndarray, lanes: int, added: bool) -> Callable:
    """Return a function that writes bias, the matrix times rows, and (if ``added``) the rows of another signal."""

    @intrinsic
    def rows_out(_, rows, step, bias, out, out_step, other):
        def generate(context, builder, signature, arguments):
            rows, step, bias, out, out_step, other = arguments
            emit = _Emitter(builder, lanes)
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


@njit(nogil=True, cache=True)
def convolve(source, residual, out, n_out, step, weights, bias, slope, planes, products):
    """Write bias, a convolution of leaky rows, and the residual's rows (unless its address is 0).

    ``source`` is the row that the first output's first tap reads, ``out`` and ``residual`` the first output's rows.
    Reads and writes beyond the last output: see ``margin`` in ``fast_generation``.
    """
    fold, minimal, depth, width, n_taps, n_points, dilation, plane_rows = step
    # Outputs (and inputs) of one group are `dilation` apart; groups interleave.
    group = max(fold, 4 * minimal)
    inner, outer = depth * fold, width * fold
    n_groups = -(-n_out // (group * dilation)) * dilation
    panel = PANEL if outer % PANEL == 0 else LANES
    plane, product_plane = 4 * inner * plane_rows, 4 * outer * (BLOCK + ROWS)
    for first in range(0, n_groups, BLOCK):
        n = min(BLOCK, n_groups - first)
        for q in range(n + (n_taps - 1) * dilation):
            start = group * dilation * ((first + q) // dilation) + (first + q) % dilation
            read, write = source + 4 * depth * start, planes + 4 * inner * q
            if minimal:
                for c in range(0, 4 * depth, 64):
                    if n_points == 6:
                        in_4x3(read + c, 4 * depth * dilation, write + c, plane, slope)
                    else:
                        in_4x4(read + c, 4 * depth * dilation, write + c, plane, slope)
            else:
                for i in range(fold):
                    from_, to = read + 4 * depth * dilation * i, write + 4 * depth * i
                    if depth % 16 == 0:
                        for c in range(0, 4 * depth, 64):
                            in_16(from_ + c, 0, to + c, 0, slope)
                    elif depth == 8:
                        in_8(from_, 0, to, 0, slope)
                    else:
                        for c in range(0, 4 * depth, 4):
                            in_1(from_ + c, 0, to + c, 0, slope)
        weight = weights
        for point in range(n_points):
            for column in range(0, outer, panel):
                for row in range(0, n, ROWS):
                    read = planes + point * plane + 4 * inner * row
                    write = products + point * product_plane + 4 * (outer * row + column)
                    if panel == PANEL:
                        product_wide(read, weight, write, n_taps, inner, 4 * inner * dilation, 4 * outer)
                    else:
                        product_narrow(read, weight, write, n_taps, inner, 4 * inner * dilation, 4 * outer)
                weight += 4 * n_taps * inner * panel
        for q in range(n):
            start = 4 * width * (group * dilation * ((first + q) // dilation) + (first + q) % dilation)
            for i in range(1 if minimal else fold):
                read, at = products + 4 * (outer * q + width * i), start + 4 * width * dilation * i
                _write(read, product_plane, bias, out + at, residual, at, width, dilation, n_points)


@njit(nogil=True, cache=True)
def _write(read, product_plane, bias, to, residual, at, width, dilation, n_points):
    step, add = 4 * width * dilation, residual + at
    if width % 16 == 0:
        for c in range(0, 4 * width, 64):
            if n_points == 1 and residual:
                out_16_add(read + c, 0, bias + c, to + c, 0, add + c)
            elif n_points == 1:
                out_16(read + c, 0, bias + c, to + c, 0, 0)
            elif n_points == 6 and residual:
                out_4x3_add(read + c, product_plane, bias + c, to + c, step, add + c)
            elif n_points == 6:
                out_4x3(read + c, product_plane, bias + c, to + c, step, 0)
            elif residual:
                out_4x4_add(read + c, product_plane, bias + c, to + c, step, add + c)
            else:
                out_4x4(read + c, product_plane, bias + c, to + c, step, 0)
    elif width == 8 and residual:
        out_8_add(read, 0, bias, to, 0, add)
    elif width == 8:
        out_8(read, 0, bias, to, 0, 0)
    else:
        for c in range(0, 4 * width, 4):
            if residual:
                out_1_add(read + c, 0, bias + c, to + c, 0, add + c)
            else:
                out_1(read + c, 0, bias + c, to + c, 0, 0)


@njit(nogil=True, cache=True, fastmath=True)
def project(x, weights, bias, slope, out):
    """Write a convolution of leaky rows to a single channel; ``x`` and ``weights`` are flat, time first."""
    channels = (len(x) - len(weights)) // (len(out) - 1) if len(out) > 1 else len(x)
    for t in range(len(out)):
        total = bias
        for i in range(len(weights)):
            value = x[t * channels + i]
            total += weights[i] * max(value, slope * value)
        out[t] = total
