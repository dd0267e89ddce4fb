"""The step as one ONNX file: initial state and voice are its inputs' defaults, all else its metadata."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from engine.files import atomic
from engine.user_error import UserError
from w2w.exported.checking import difference, require_equal
from w2w.exported.description import HOW_TO, describe
from w2w.exported.recording import record
from w2w.exported.step_graph import StepGraph
from w2w.networks.network import ConverterNetwork

WAY_OUT = "pip install 'timbre[export]'"


def write_onnx(
    network: ConverterNetwork,
    out: Path,
    n_hops: int,
    *,
    voice: Float[Tensor, "1 dim"] | None = None,
    voice_of: str = "",
) -> float:
    """Write the step of ``n_hops`` hops as a file; return by how much it differed from the network."""
    model, found = onnx_step(network, n_hops, voice=voice, voice_of=voice_of)
    with atomic(out) as temporary:
        temporary.write_bytes(model)
    return found


def onnx_step(
    network: ConverterNetwork,
    n_hops: int,
    *,
    voice: Float[Tensor, "1 dim"] | None = None,
    voice_of: str = "",
) -> tuple[bytes, float]:
    """The step of ``n_hops`` hops as ONNX, checked, and by how much it differed from the network."""
    graph = StepGraph(network, n_hops)
    model = _recorded(graph, voice)
    session = open_session(model.SerializeToString())
    found = difference(network, lambda *given: run_session(session, *given), graph.begun, n_hops)
    require_equal(found, "the ONNX graph")
    for name, text in describe(network, graph.begun, n_hops, found, voice_of).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    model.doc_string, model.producer_name = HOW_TO, "timbre"
    return model.SerializeToString(), found


def _recorded(graph: StepGraph, voice: Tensor | None) -> Any:
    """The graph as an ONNX model, with the values its inputs have when they are left out."""
    if find_spec("onnx") is None:
        raise UserError(f"a graph is written by the package onnx: {WAY_OUT}")
    chunk, semitones = torch.zeros(1, 1, graph.chunk_samples), torch.zeros(1, dtype=torch.float64)
    states = {f"state_{name}": tensor for name, tensor in graph.begun.items()}
    inputs = {"chunk": chunk, "voice": torch.zeros(1, graph.voice_dim), "semitones": semitones, **states}
    defaults = {"semitones": semitones, **states} | ({} if voice is None else {"voice": voice.cpu()})
    return record(graph, inputs, ["wave", *(f"next_{name}" for name in graph.begun)], defaults)


def open_session(model: bytes | str) -> Any:
    """An onnxruntime session of one thread, from a file's content or name."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"a graph is run by onnxruntime: {WAY_OUT}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(
    session: Any, chunk: Tensor, voice: Tensor, semitones: Tensor, state: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step: samples, and the next state."""
    feeds: dict[str, np.ndarray] = {f"state_{name}": tensor.numpy() for name, tensor in state.items()}
    feeds |= {"chunk": chunk.numpy(), "voice": voice.numpy(), "semitones": semitones.numpy()}
    wave, *after = (torch.from_numpy(made) for made in session.run(None, feeds))
    return wave, dict(zip(state, after))
