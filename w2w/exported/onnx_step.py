"""The step in ONNX, by torch's own exporter, and as onnxruntime runs it."""

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from inspect import unwrap
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError
from w2w.exported.checking import difference, require_equal
from w2w.exported.step import Step, traced

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
Arrays = Mapping[str, np.ndarray]


def require_packages() -> None:
    """Say which package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"graphs need the package {missing[0]}: pip install {' '.join(missing)}")


def onnx_model(step: Step, voice: Float[Tensor, "1 dim"] | None = None) -> Any:
    """The step as an ONNX model, whose inputs are chunk, voice, semitones and each state_NAME."""
    require_packages()
    from onnxscript.optimizer import fold_constants, inline, remove_unused_nodes

    names = list(step.begun)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of deprecations inside torch
        program = torch.onnx.export(
            traced(step, voice),
            dynamo=True,
            input_names=["chunk", "voice", "semitones", *(f"state_{name}" for name in names)],
            output_names=["wave", *(f"next_{name}" for name in names)],
            # Unwrapped: whole numbers come, too, and float is what the exporter must read.
            custom_translation_table={torch.ops.aten.scalar_tensor.default: unwrap(exact_scalar)},
            # Its rules would take additions of less than 1e-8 away, which keep logarithms finite.
            optimize=False,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    inline(program.model)
    fold_constants(program.model)
    remove_unused_nodes(program.model)
    return program.model_proto


def exact_scalar(
    s: float, dtype: int = 1, layout: str = "", device: str = "", pin_memory: bool = False
) -> Any:
    """Write down a number in the precision it is used in: the exporter's own way rounds all to float32."""
    from onnx import helper, numpy_helper
    from onnxscript import opset20

    array = np.array(s, helper.tensor_dtype_to_np_dtype(dtype))
    return opset20.Constant(value=numpy_helper.from_array(array))


def checked(step: Step, model: bytes) -> float:
    """By how much a model differs from the network, which must be little."""
    session = open_session(model)

    def run(chunk: Tensor, voice: Tensor, semitones: Tensor, state: Mapping[str, Tensor]) -> Any:
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        wave, after = run_session(session, chunk.numpy(), voice.numpy(), semitones.numpy(), arrays)
        return torch.from_numpy(wave), {name: torch.from_numpy(array) for name, array in after.items()}

    found = difference(step.network, run, step.begun, step.n_hops)
    require_equal(found, "the ONNX graph")
    return found


def open_session(model: bytes | str, threads: int = 1) -> Any:
    """An onnxruntime session, from a file's content or name."""
    require_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(
    session: Any, chunk: np.ndarray, voice: np.ndarray, semitones: np.ndarray, state: Arrays
) -> tuple[np.ndarray, Arrays]:
    """One step: samples, and the next state."""
    feeds = {f"state_{name}": array for name, array in state.items()}
    wave, *after = session.run(None, feeds | {"chunk": chunk, "voice": voice, "semitones": semitones})
    return wave, dict(zip(state, after))
