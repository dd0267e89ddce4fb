"""Generators by onnxruntime and OpenVINO: the graph that torch exports, on as many threads as torch uses."""

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

INSTALL = {"onnxruntime": "pip install 'timbre[export]'", "openvino": "pip install 'timbre[bench]'"}
Mel = Float[Tensor, "1 n_mels frames"]


def runtime_calls(network: nn.Module, mel: Mel) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The network on this mel by each runtime that is installed; a sentence says which is not."""
    missing = [name for name in INSTALL if importlib.util.find_spec(name) is None]
    for name in missing:
        print(f"{name} is not installed and not measured: {INSTALL[name]}", file=sys.stderr)
    present = [name for name in INSTALL if name not in missing]
    if not present:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        # The length is fixed: graphs of a known shape are the faster ones.
        torch.onnx.export(network, (mel,), path, dynamo=True, external_data=False, verbose=False)
        for name in present:
            yield name, {"onnxruntime": _onnxruntime, "openvino": _openvino}[name](path, mel)


def _onnxruntime(path: Path, mel: Mel) -> Callable[[], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: mel.numpy()}
    return lambda: torch.from_numpy(session.run(None, given)[0])


def _openvino(path: Path, mel: Mel) -> Callable[[], Tensor]:
    import openvino  # pyright: ignore[reportMissingImports]

    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    given = mel.numpy()
    return lambda: torch.from_numpy(compiled(given)[0])
