"""The innermost loop of the compiled WaveNet: a tile of a matrix product that stays in vector registers.

Numba's own loops spill their sums to memory whenever arrays might overlap. This one is written in LLVM's
terms, with vector types, so that every processor LLVM knows gets its own widest instructions from it.
"""

import inspect
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
PANEL = 64
"""Columns of a tile; packed weights come in panels of this width."""
WIDE = bool(llvm.get_host_cpu_features().get("avx512f", False))
"""32 registers of 16 floats: enough for four rows at once; otherwise rows go one by one."""
ROWS = 4 if WIDE else 1

FLOAT, INT = ir.FloatType(), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter lock. The function is unwrapped from what checks shapes in tests."""
    return njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")(inspect.unwrap(function))


def compiled_in_any_order(function: Callable[..., Any]) -> Any:
    """Compile sums and maxima such that they may be taken of vectors; their inputs are finite."""
    flags = {"contract", "nsz", "nnan", "reassoc"}
    return njit(nogil=True, fastmath=flags, error_model="numpy")(inspect.unwrap(function))


def tile(rows: int, sums: int) -> Any:
    """Make c[r, :64] += x[r, :n] @ w[:n, :64] for a number of rows; ``sums`` partial sums hide latency.

    The intrinsic takes flat float32 arrays c, x, w; where rows begin in c and x (int64 arrays) and the number
    of the first row in these; what to add to places in c; where w begins; and n.
    """

    @intrinsic
    def product(
        _context: Any, c: Any, c_at: Any, x: Any, x_at: Any, row: Any, column: Any, w: Any, w_at: Any, n: Any
    ):
        signature = types.void(c, c_at, x, x_at, row, column, w, w_at, n)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def place(position: int, index: Any) -> Any:
                array = context.make_array(signature.args[position])(context, builder, args[position])
                return builder.gep(array.data, [index])

            row, column, w_at, n = args[4], args[5], args[7], args[8]
            pointers = place(0, column), place(1, row), place(2, INT(0)), place(3, row), place(6, w_at)
            builder.call(_tile_function(builder.module, rows, sums), [*pointers, n])
            return context.get_dummy_value()

        return signature, generate

    return product


def _tile_function(module: ir.Module, rows: int, sums: int) -> ir.Function:
    """A function of its own, or each call would have a copy to compile: (c, c_at, x, x_at, w, n)."""
    name = f"wavenet_tile_{rows}_{sums}"
    if name in module.globals:
        return module.globals[name]
    floats, ints = FLOAT.as_pointer(), INT.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [floats, ints, floats, ints, floats, INT])
    function = ir.Function(module, kind, name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    c, c_at, x, x_at, weights, n = function.args
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    fma = cgutils.get_or_insert_function(module, kind, f"llvm.fma.v{LANES}f32")
    vectors = range(PANEL // LANES)

    def vector(base: Any, number: int) -> Any:
        return builder.bitcast(builder.gep(base, [INT(number * LANES)]), VECTOR.as_pointer())

    def start(base: Any, table: Any, r: int) -> Any:
        return builder.gep(base, [builder.load(builder.gep(table, [INT(r)]))])

    outputs, inputs = ([start(*of, r) for r in range(rows)] for of in ((c, c_at), (x, x_at)))
    keys = [(s, r, v) for s in range(sums) for r in range(rows) for v in vectors]
    total = {key: cgutils.alloca_once(builder, VECTOR) for key in keys}  # registers, once optimised
    for (s, r, v), register in total.items():
        zero = ir.Constant(VECTOR, [0.0] * LANES)
        builder.store(zero if s else builder.load(vector(outputs[r], v), align=4), register)

    def add(index: Any, s: int) -> None:
        line = builder.gep(weights, [builder.mul(index, INT(PANEL))])
        loaded = [builder.load(vector(line, v), align=4) for v in vectors]
        for r in range(rows):
            one = builder.load(builder.gep(inputs[r], [index]))
            lone = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), one, ir.IntType(32)(0))
            every = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            spread = builder.shuffle_vector(lone, lone, every)
            for v in vectors:
                register = total[s, r, v]
                builder.store(builder.call(fma, [loaded[v], spread, builder.load(register)]), register)

    whole = builder.sdiv(n, INT(sums))
    with cgutils.for_range(builder, whole) as loop:
        for s in range(sums):
            add(builder.add(builder.mul(loop.index, INT(sums)), INT(s)), s)
    if sums > 1:
        with cgutils.for_range(builder, n, start=builder.mul(whole, INT(sums))) as loop:
            add(loop.index, 0)
    for r in range(rows):
        for v in vectors:
            result = builder.load(total[0, r, v])
            for s in range(1, sums):
                result = builder.fadd(result, builder.load(total[s, r, v]))
            builder.store(result, vector(outputs[r], v), align=4)
    builder.ret_void()
    return function


one_row = tile(1, 4 if WIDE else 1)
rows_together = tile(ROWS, 1)


@compiled
def accumulate(c, c_at, x, x_at, n_rows, w, w_at, n, n_panels):
    """Add x[r, :n] @ w to c[r] for every row; w is packed by ``packing.panels``, beginning at ``w_at``."""
    together = n_rows - n_rows % ROWS
    for panel in range(n_panels):
        column, begin = panel * PANEL, w_at + panel * PANEL * n
        for row in range(0, together, ROWS):
            rows_together(c, c_at, x, x_at, row, column, w, begin, n)
        for row in range(together, n_rows):
            one_row(c, c_at, x, x_at, row, column, w, begin, n)
