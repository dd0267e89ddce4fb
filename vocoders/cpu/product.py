"""The matrix product shared by all CPU kernels, which accumulates tiles of rows in vector registers.

Signals are stored as ``(time, channels)``, so that a dilation is a distance between rows, and vectors hold
channels. Loops compiled by numba spill their sums to memory whenever arrays might overlap; this product is
therefore written in LLVM IR with vector types, which LLVM maps to the widest instructions of each processor.
Addresses are integers, in bytes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Floats per vector; LLVM splits vectors on processors with shorter ones."""
WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
"""Whether the processor has 32 registers of 16 floats, instead of 16 of 8."""
ROWS, PANEL = (12, 32) if WIDE else (6, 16)
"""Size of a tile of outputs in ``strided_product``: ROWS times at most PANEL channels."""
GATHERED_ROWS, GATHERED_PANEL = (4 if WIDE else 1), 64
"""Size of a tile of outputs in ``gathered_product``."""

_I64, _F32 = ir.IntType(64), ir.FloatType()


class Emitter:
    """Emits LLVM instructions on vectors of one width."""

    def __init__(self, builder: ir.IRBuilder, lanes: int) -> None:
        self.builder, self.lanes, self.type = builder, lanes, ir.VectorType(_F32, lanes)

    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.type, [value] * self.lanes)

    def at(self, address: Any, step: Any | int = 0, n: int = 1) -> Any:
        """The address plus ``n`` times ``step`` bytes."""
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

    def load_spread(self, address: Any) -> Any:
        """Load one float into every lane."""
        return self.spread(self.builder.load(self.builder.inttoptr(address, _F32.as_pointer())))

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
        """Return the weighted sum of vectors, skipping weights of 0."""
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
        """Return the matrix times the vectors; rows for points ±p share sums of their even and odd parts."""
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


class _Tile:
    """A tile of sums: ``n_rows`` rows of ``n_vectors`` vectors, ``n_partial`` of each to hide latency."""

    def __init__(self, builder: ir.IRBuilder, n_rows: int, n_vectors: int, n_partial: int = 1) -> None:
        self.emit, self.n_vectors = Emitter(builder, LANES), n_vectors
        self.sums = [
            [[cgutils.alloca_once(builder, self.emit.type) for _ in range(n_vectors)] for _ in range(n_rows)]
            for _ in range(n_partial)
        ]

    def begin(self, values: Callable[[int, int], Any] | None = None) -> None:
        """Set the sums to ``values(row, vector)``, or to 0."""
        zero = self.emit.constant(0.0)
        for number, partial in enumerate(self.sums):
            for r, row in enumerate(partial):
                for v, register in enumerate(row):
                    value = zero if values is None or number else values(r, v)
                    self.emit.builder.store(value, register)

    def add(self, rows: Sequence[Any], weights: Any, n: Any, unroll: int) -> None:
        """Add x[r, :n] @ w[:n], with inputs at the addresses ``rows`` and one panel of weights.

        ``n`` must be a multiple of ``unroll`` unless ``unroll`` equals the number of partial sums.
        """
        builder, step = self.emit.builder, ir.Constant(_I64, unroll)
        whole = builder.sdiv(n, step)
        with cgutils.for_range(builder, whole) as loop:
            begin = builder.mul(loop.index, step)
            for u in range(unroll):
                self._add_one(rows, weights, begin, u, self.sums[u % len(self.sums)])
        if unroll > 1 and len(self.sums) == unroll:
            with cgutils.for_range(builder, n, start=builder.mul(whole, step)) as loop:
                self._add_one(rows, weights, loop.index, 0, self.sums[0])

    def _add_one(self, rows: Sequence[Any], weights: Any, index: Any, further: int, sums: list) -> None:
        emit, builder, line = self.emit, self.emit.builder, 4 * LANES * self.n_vectors
        panel = emit.at(builder.add(weights, builder.mul(index, ir.Constant(_I64, line))), line, further)
        vectors = [emit.load(emit.at(panel, 4 * LANES, v)) for v in range(self.n_vectors)]
        offset = builder.mul(index, ir.Constant(_I64, 4))
        for row, registers in zip(rows, sums):
            value = emit.load_spread(emit.at(builder.add(row, offset), 4, further))
            for vector, register in zip(vectors, registers):
                builder.store(emit.fma(value, vector, builder.load(register)), register)

    def end(self, address: Callable[[int], Any]) -> None:
        """Write each row to ``address(row)``."""
        builder = self.emit.builder
        for r, registers in enumerate(self.sums[0]):
            for v, register in enumerate(registers):
                result = builder.load(register)
                for partial in self.sums[1:]:
                    result = builder.fadd(result, builder.load(partial[r][v]))
                self.emit.store(result, self.emit.at(address(r), 4 * LANES, v))


def strided_product(n_vectors: int) -> Callable:
    """Return a function that multiplies ROWS consecutive rows by weights, summed over taps.

    Each tap reads rows ``shift`` bytes further on; ``depth`` is a multiple of 4.
    """

    @intrinsic
    def product(_, rows, weights, out, n_taps, depth, shift, out_step):
        def generate(context, builder, signature, arguments):
            rows, weights, out, n_taps, depth, shift, out_step = arguments
            tile = _Tile(builder, ROWS, n_vectors)
            tile.begin()
            row_bytes = builder.mul(depth, ir.Constant(_I64, 4))
            panel_bytes = builder.mul(depth, ir.Constant(_I64, 4 * LANES * n_vectors))
            with cgutils.for_range(builder, n_taps) as tap:
                start = builder.add(rows, builder.mul(tap.index, shift))
                panel = builder.add(weights, builder.mul(tap.index, panel_bytes))
                tile.add([tile.emit.at(start, row_bytes, r) for r in range(ROWS)], panel, depth, unroll=4)
            tile.end(lambda r: tile.emit.at(out, out_step, r))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return product


def gathered_product(n_rows: int, n_partial: int) -> Any:
    """Return a function that computes ``c[r, :64] += x[r, :n] @ w[:n, :64]`` for ``n_rows`` rows.

    Its arguments: flat float32 arrays c, x, w; int64 arrays of the rows' starts in c and x, and the first
    row's index in these; an offset into c; the start of w; and n.
    """

    @intrinsic
    def product(_, c, c_at, x, x_at, row, column, w, w_at, n):
        signature = types.void(c, c_at, x, x_at, row, column, w, w_at, n)

        def generate(context, builder, signature, args):
            def place(position: int, index: Any) -> Any:
                array = context.make_array(signature.args[position])(context, builder, args[position])
                return builder.ptrtoint(builder.gep(array.data, [index]), _I64)

            row, column, w_at, n = args[4], args[5], args[7], args[8]
            places = place(0, column), place(1, row), place(2, _I64(0)), place(3, row), place(6, w_at)
            builder.call(_gathered_function(builder.module, n_rows, n_partial), [*places, n])
            return context.get_dummy_value()

        return signature, generate

    return product


def _gathered_function(module: ir.Module, n_rows: int, n_partial: int) -> ir.Function:
    """The product as a separate function (c, c_at, x, x_at, w, n), not inlined, so that it compiles once."""
    name = f"gathered_product_{n_rows}_{n_partial}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * 6), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    c, c_at, x, x_at, weights, n = function.args
    tile = _Tile(builder, n_rows, GATHERED_PANEL // LANES, n_partial)

    def start(base: Any, table: Any, r: int) -> Any:
        index = builder.load(builder.inttoptr(tile.emit.at(table, 8, r), _I64.as_pointer()))
        return builder.add(base, builder.mul(index, ir.Constant(_I64, 4)))

    outputs, inputs = ([start(*of, r) for r in range(n_rows)] for of in ((c, c_at), (x, x_at)))
    tile.begin(lambda r, v: tile.emit.load(tile.emit.at(outputs[r], 4 * LANES, v)))
    tile.add(inputs, weights, n, unroll=n_partial)
    tile.end(lambda r: outputs[r])
    builder.ret_void()
    return function
