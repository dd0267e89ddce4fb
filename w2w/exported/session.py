"""Sessions of a converter's step in onnxruntime, and its state as flat dictionaries of tensors."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from torch import Tensor

from engine.user_error import UserError
from w2w.networks.network import ConverterNetwork

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
Arrays = Mapping[str, np.ndarray]


def require_packages() -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"graphs need the package {missing[0]}: pip install {' '.join(missing)}")


def check_exportable(network: object) -> None:
    """Raise if the network has no step that can be exported."""
    if not isinstance(network, ConverterNetwork):
        raise UserError(
            "a converter of mels is exported as weights only: only a wave-to-wave converter has a step that"
            " can be written as a graph"
        )
    if network.needs_whole:
        raise UserError(f"this converter's {network.needs_whole}: export released_live, which streams")


def flat(state: Any, name: str = "") -> dict[str, Tensor]:
    """Flatten a nested state to its tensors, named by their paths; None is left out."""
    if state is None:
        return {}
    if isinstance(state, Tensor):
        return {name: state}
    return {
        path: tensor
        for key, part in _parts(state)
        for path, tensor in flat(part, f"{name}_{key}" if name else key).items()
    }


def nested(like: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """Inverse of ``flat``: a state with the structure of ``like`` and these tensors."""
    if like is None or isinstance(like, Tensor):
        return tensors.get(name)
    parts = {key: nested(part, tensors, f"{name}_{key}" if name else key) for key, part in _parts(like)}
    if isinstance(like, dict):
        return parts
    return type(like)(**parts) if hasattr(like, "_fields") else list(parts.values())


def _parts(state: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(state, dict):
        yield from state.items()
    elif hasattr(state, "_fields"):
        yield from zip(state._fields, state)
    else:
        yield from ((str(number), part) for number, part in enumerate(state))


def open_session(model: bytes | str) -> Any:
    """Open a single-threaded onnxruntime session, from a file's content or name."""
    require_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(
    session: Any, chunk: np.ndarray, voice: np.ndarray, semitones: np.ndarray, state: Arrays
) -> tuple[np.ndarray, Arrays]:
    """Run one step; return its samples and the next state."""
    feeds = {f"state_{name}": array for name, array in state.items()}
    wave, *after = session.run(None, feeds | {"chunk": chunk, "voice": voice, "semitones": semitones})
    return wave, dict(zip(state, after))
