"""Writing down, as ONNX, what torch computes while it computes it.

torch's own exporter takes fifteen seconds and a third package for such a graph, says 0.998 in float32 where
float64 is meant, and knows nothing of what is constant. This takes one second, for the operations of
``operations`` alone: others are refused by name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode,
)

from engine.user_error import UserError

OPSET = 20


class Recording(TorchDispatchMode):
    """Records operations on the inputs and on what is computed from them; all other tensors are constants."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._names: dict[int, str] = {}
        self._constant_names: dict[tuple[Any, ...], str] = {}
        self._held: list[Tensor] = []
        """Keeps tensors alive, since an id names a tensor only while it lives."""

    def name(self, tensor: Tensor, name: str) -> None:
        """Make a tensor known, as an input or as the result of a recorded operation."""
        self._names[id(tensor)] = name
        self._held.append(tensor)

    def knows(self, value: Any) -> bool:
        """Whether a value depends on the inputs."""
        if isinstance(value, list | tuple):
            return any(self.knows(one) for one in value)
        return isinstance(value, Tensor) and id(value) in self._names

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute, and write down if it depends on the inputs."""
        from w2w.exported.operations import OPERATIONS

        out = func(*args, **(kwargs or {}))
        if self.knows(args):
            operation = func.overloadpacket.__name__
            if operation not in OPERATIONS:
                raise UserError(f"no ONNX is known for torch's {operation}: the step cannot be written down")
            OPERATIONS[operation](self, out, *args, **(kwargs or {}))
        return out

    def emit(
        self, kind: str, inputs: Sequence[Any], out: Tensor | Sequence[Tensor], **attributes: Any
    ) -> None:
        """Write down one node; inputs are tensors, or constants of numpy."""
        from onnx import helper

        outs = [out] if isinstance(out, Tensor) else list(out)
        for tensor in outs:
            self.name(tensor, f"v{len(self._held)}")
        names = [self.reference(value) for value in inputs]
        made = [self._names[id(tensor)] for tensor in outs]
        self.nodes.append(helper.make_node(kind, names, made, f"{kind}_{made[0]}", **attributes))

    def same(self, tensor: Tensor, out: Tensor) -> None:
        """Note that an operation changed nothing that ONNX would see."""
        self.name(out, self.reference(tensor))

    def choose(self, given: Tensor, before: Tensor, held: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """Write down both ways of ``remembered``; what is computed here is the new one."""
        from onnx import TensorProto, helper

        equal, number = given == before, torch.ones_like(given)
        self.emit("Equal", [given, before], equal)
        self.emit("Cast", [equal], number, to=TensorProto.FLOAT)
        least, same, out = number.amin(), number.amin().bool(), torch.empty_like(held)
        self.emit("ReduceMin", [number], least, keepdims=0)
        self.emit("Cast", [least], same, to=TensorProto.BOOL)
        outside, self.nodes = self.nodes, []
        with self:
            made = compute()
        inside, self.nodes = self.nodes, outside
        ways = {}
        for way, nodes, tensor in (("then_branch", [], held), ("else_branch", inside, made)):
            kept = helper.make_node("Identity", [self.reference(tensor)], [f"{way}_out"], f"{way}_out")
            declared = helper.make_tensor_value_info(f"{way}_out", TensorProto.FLOAT, list(held.shape))
            ways[way] = helper.make_graph([*nodes, kept], way, [], [declared])
        self.emit("If", [same], out, **ways)
        out.copy_(made)
        return out

    def reference(self, value: Any) -> str:
        """The name of a tensor; a constant is written down where it is first met."""
        from onnx import numpy_helper

        if isinstance(value, Tensor) and id(value) in self._names:
            return self._names[id(value)]
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constant_names:
            self._constant_names[key] = name = f"c{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return self._constant_names[key]


def remembered(given: Tensor, before: Tensor, held: Tensor, compute: Callable[[], Tensor]) -> Tensor:
    """What ``compute`` makes of ``given``; a graph takes what it ``held`` if ``given`` is as ``before``."""
    mode = _get_current_dispatch_mode()
    if not isinstance(mode, Recording):
        return compute()
    with _disable_current_modes():
        return mode.choose(given, before, held, compute)


def record(
    function: Any, inputs: Mapping[str, Tensor], outputs: Sequence[str], defaults: Mapping[str, Tensor]
) -> Any:
    """The ONNX model of a function of tensors; ``defaults`` are what inputs are that are left out."""
    from onnx import helper, numpy_helper

    # Inference mode would show composite operations in place of what they are made of.
    with torch.inference_mode(False), torch.no_grad(), Recording() as recording:
        given = [tensor.clone() for tensor in inputs.values()]
        for name, tensor in zip(inputs, given):
            recording.name(tensor, name)
        made = function(*given)
    for name, tensor in zip(outputs, made):
        recording.nodes.append(
            helper.make_node("Identity", [recording.reference(tensor)], [name], f"Out_{name}")
        )
    graph = helper.make_graph(
        recording.nodes,
        "step",
        [_declared(name, tensor) for name, tensor in inputs.items()],
        [_declared(name, tensor) for name, tensor in zip(outputs, made)],
        [
            *recording.constants,
            *(numpy_helper.from_array(tensor.numpy(), name) for name, tensor in defaults.items()),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _declared(name: str, tensor: Tensor) -> Any:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(tensor.numpy().dtype)
    return helper.make_tensor_value_info(name, kind, list(tensor.shape))
