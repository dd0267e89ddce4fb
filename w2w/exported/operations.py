"""torch's operations, as far as a step needs them, in ONNX: each writes itself into a ``Recording``."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from w2w.exported.recording import Recording

OPERATIONS: dict[str, Callable[..., None]] = {}
PLAIN = {
    "abs": "Abs", "cos": "Cos", "exp": "Exp", "floor": "Floor", "log": "Log", "neg": "Neg",
    "reciprocal": "Reciprocal", "sigmoid": "Sigmoid", "sin": "Sin", "sqrt": "Sqrt", "tanh": "Tanh",
}  # fmt: skip
OF_TWO = {
    "add": "Add", "div": "Div", "mul": "Mul", "sub": "Sub", "maximum": "Max", "minimum": "Min",
    "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less",
    "bitwise_and": "And", "bitwise_or": "Or", "bitwise_xor": "Xor",
}  # fmt: skip
REDUCING = {"mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax"}
SAME = ("alias", "clone", "detach")
SHAPING = ("view", "_unsafe_view", "unsqueeze", "squeeze")


def writes(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register how an operation is written."""

    def keep(write: Callable[..., None]) -> Callable[..., None]:
        OPERATIONS[name] = write
        return write

    return keep


def _number(value: Any, like: Tensor) -> Any:
    """A Python number with a tensor's precision."""
    return value if isinstance(value, Tensor) else np.asarray(value, like.numpy().dtype)


def _plain(kind: str) -> Callable[..., None]:
    return lambda record, out, x: record.emit(kind, [x], out)


def _of_two(kind: str) -> Callable[..., None]:
    def write(record: Recording, out: Tensor, x: Tensor, y: Any) -> None:
        bits = kind in ("And", "Or", "Xor") and x.dtype != torch.bool
        record.emit(f"Bitwise{kind}" if bits else kind, [x, _number(y, x)], out)

    return write


def _reducing(kind: str) -> Callable[..., None]:
    def write(record: Recording, out: Tensor, x: Tensor, dim: Sequence[int], keepdim: bool = False) -> None:
        record.emit(kind, [x, np.array(dim, np.int64)], out, keepdims=int(keepdim))

    return write


OPERATIONS |= {name: _plain(kind) for name, kind in PLAIN.items()}
OPERATIONS |= {name: _of_two(kind) for name, kind in OF_TWO.items()}
OPERATIONS |= {name: _reducing(kind) for name, kind in REDUCING.items()}
OPERATIONS |= {name: lambda record, out, x, *_, **__: record.same(x, out) for name in SAME}


def _reshape(record: Recording, out: Tensor, x: Tensor, *_: Any) -> None:
    if out.shape == x.shape:
        record.same(x, out)
    else:
        record.emit("Reshape", [x, np.array(out.shape, np.int64)], out)


OPERATIONS |= dict.fromkeys(SHAPING, _reshape)


@writes("slice")
def _slice(
    record: Recording, out: Tensor, x: Tensor, dim: int = 0, start: Any = 0, end: Any = None, step: int = 1
) -> None:
    if out.shape == x.shape:
        record.same(x, out)
        return
    first = (start or 0) % x.shape[dim] if (start or 0) < 0 else start or 0
    last = first + (out.shape[dim] - 1) * step + 1
    record.emit("Slice", [x, *(np.array([n], np.int64) for n in (first, last, dim, step))], out)


@writes("select")
def _select(record: Recording, out: Tensor, x: Tensor, dim: int, index: int) -> None:
    record.emit("Gather", [x, np.array(index, np.int64)], out, axis=dim)


@writes("expand")
def _expand(record: Recording, out: Tensor, x: Tensor, *_: Any, **__: Any) -> None:
    record.emit("Expand", [x, np.array(out.shape, np.int64)], out)


@writes("split")
def _split(record: Recording, out: Sequence[Tensor], x: Tensor, size: Any, dim: int = 0) -> None:
    if len(out) == 1:
        record.same(x, out[0])
    else:
        sizes = np.array([part.shape[dim] for part in out], np.int64)
        record.emit("Split", [x, sizes], out, axis=dim)


OPERATIONS["split_with_sizes"] = _split


@writes("unbind")
def _unbind(record: Recording, out: Sequence[Tensor], x: Tensor, dim: int = 0) -> None:
    for number, part in enumerate(out):
        _select(record, part, x, dim, number)


@writes("cat")
def _cat(record: Recording, out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> None:
    if len(parts) == 1:
        record.same(parts[0], out)
    else:
        record.emit("Concat", parts, out, axis=dim)


@writes("stack")
def _stack(record: Recording, out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> None:
    raised = []
    for part in parts:
        raised.append(part.unsqueeze(dim))
        _reshape(record, raised[-1], part)
    _cat(record, out, raised, dim)


@writes("mm")
def _mm(record: Recording, out: Tensor, x: Tensor, y: Tensor) -> None:
    record.emit("MatMul", [x, y], out)


@writes("addmm")
def _addmm(record: Recording, out: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> None:
    record.emit("Gemm", [x, y, bias], out)


@writes("pow")
def _pow(record: Recording, out: Tensor, x: Tensor, exponent: Any) -> None:
    record.emit("Pow", [x, _number(exponent, x)], out)


@writes("clamp")
def _clamp(
    record: Recording, out: Tensor, x: Tensor, low: Any = None, high: Any = None, **named: Any
) -> None:
    low, high = named.get("min", low), named.get("max", high)
    if low is not None and high is not None:
        record.emit("Clip", [x, _number(low, x), _number(high, x)], out)
    else:
        record.emit("Min" if low is None else "Max", [x, _number(high if low is None else low, x)], out)


OPERATIONS["clamp_min"] = _clamp


@writes("where")
def _where(record: Recording, out: Tensor, condition: Tensor, x: Tensor, y: Tensor) -> None:
    record.emit("Where", [condition, x.to(out.dtype) if x.ndim == 0 else x, y], out)


@writes("__rshift__")
def _shift_right(record: Recording, out: Tensor, x: Tensor, bits: int) -> None:
    # Of numbers that are not negative, as those of the noise: ONNX shifts unsigned ones alone.
    record.emit("Div", [x, np.asarray(2**bits, np.int64)], out)


@writes("_to_copy")
def _to_copy(record: Recording, out: Tensor, x: Tensor, **_: Any) -> None:
    from onnx import helper

    record.emit("Cast", [x], out, to=helper.np_dtype_to_tensor_dtype(out.numpy().dtype))


@writes("index_select")
def _index_select(record: Recording, out: Tensor, x: Tensor, dim: int, index: Tensor) -> None:
    record.emit("Gather", [x, index], out, axis=dim)


@writes("gather")
def _gather(record: Recording, out: Tensor, x: Tensor, dim: int, index: Tensor) -> None:
    record.emit("GatherElements", [x, index], out, axis=dim)


@writes("argmax")
def _argmax(record: Recording, out: Tensor, x: Tensor, dim: int, keepdim: bool = False) -> None:
    record.emit("ArgMax", [x], out, axis=dim, keepdims=int(keepdim))


@writes("cumsum")
def _cumsum(record: Recording, out: Tensor, x: Tensor, dim: int) -> None:
    record.emit("CumSum", [x, np.asarray(dim, np.int64)], out)


@writes("constant_pad_nd")
def _pad(record: Recording, out: Tensor, x: Tensor, pad: Sequence[int], value: float = 0.0) -> None:
    # torch begins with the last axis, ONNX with the first, and names all ends after all beginnings.
    pairs = [*zip(pad[::2], pad[1::2]), *[(0, 0)] * (x.ndim - len(pad) // 2)][::-1]
    ends = np.array([*(low for low, _ in pairs), *(high for _, high in pairs)], np.int64)
    record.emit("Pad", [x, ends, _number(value, x)], out)


@writes("_softmax")
def _softmax(record: Recording, out: Tensor, x: Tensor, dim: int, _: bool) -> None:
    record.emit("Softmax", [x], out, axis=dim)


@writes("permute")
def _permute(record: Recording, out: Tensor, x: Tensor, order: Sequence[int]) -> None:
    record.emit("Transpose", [x], out, perm=list(order))


@writes("t")
def _t(record: Recording, out: Tensor, x: Tensor) -> None:
    _permute(record, out, x, (1, 0))


@writes("silu")
def _silu(record: Recording, out: Tensor, x: Tensor) -> None:
    opened = x.sigmoid()
    record.emit("Sigmoid", [x], opened)
    record.emit("Mul", [x, opened], out)


@writes("leaky_relu")
def _leaky_relu(record: Recording, out: Tensor, x: Tensor, slope: float = 0.01) -> None:
    record.emit("LeakyRelu", [x], out, alpha=float(slope))


@writes("convolution")
def _convolution(
    record: Recording, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int],
    padding: list[int], dilation: list[int], transposed: bool, output_padding: list[int], groups: int,
) -> None:  # fmt: skip
    sizes = {"strides": stride, "pads": padding * 2, "dilations": dilation, "group": groups}
    inputs = [x, weight] if bias is None else [x, weight, bias]
    record.emit("ConvTranspose" if transposed else "Conv", inputs, out, **sizes)


@writes("zeros_like")
def _zeros_like(record: Recording, out: Tensor, x: Tensor, **_: Any) -> None:
    """A constant, whatever it is like."""
