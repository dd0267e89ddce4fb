"""The CPU engine: onnxruntime runs a network's steps, by graphs that are exported once and cached."""

import hashlib
import inspect
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from engine.checkpoint import weights_digest
from engine.files import atomic, cache_folder
from engine.user_error import UserError
from w2w.exported.session import (
    Arrays,
    check_exportable,
    flat,
    nested,
    open_session,
    require_packages,
    run_session,
)
from w2w.networks.network import ConverterNetwork
from w2w.networks.wave_network import Voice, Wave, WaveNetwork

VARIABLE = "TIMBRE_ENGINE"
"""Environment variable with the default engine."""
MOST_HOPS = 16
"""Maximum hops per graph, which is unrolled frame by frame; larger chunks are not faster."""
KEPT = 12
"""Number of graphs kept in the cache."""

_sessions: dict[str, Any] = {}
"""Open sessions, by file name."""


def open_engine(network: WaveNetwork, name: str | None, sizes: Sequence[int]) -> Any:
    """Open the engine for a network's steps, whose usual lengths in hops are ``sizes``.

    ``eager`` is the network itself; ``onnx`` its graphs in onnxruntime, several times as fast on one CPU
    thread, exported on first use, in about ten seconds each, to the user's cache (``cache_folder``). Without
    a name, and without one in the variable TIMBRE_ENGINE, graphs are used wherever they can run.
    """
    match name or os.environ.get(VARIABLE) or "auto":
        case "eager":
            return network
        case "onnx":
            return OnnxEngine(cast(ConverterNetwork, network), sizes)
        case "auto":
            if not (isinstance(network, ConverterNetwork) and network.streams and on_cpu(network)):
                return network
            try:
                return OnnxEngine(network, sizes)
            except UserError as error:
                print(f"{error}; the network itself is used instead, more slowly", file=sys.stderr)
                return network
        case other:
            raise UserError(f"there is no engine {other!r}: choose eager or onnx")


def on_cpu(network: ConverterNetwork) -> bool:
    return next(network.parameters()).device.type == "cpu"


class OnnxEngine:
    """Runs a network's steps in onnxruntime, without state of its own.

    A chunk is split into steps of the ``sizes`` (in hops) that have graphs, the largest first. The network
    itself, which shares the graphs' state, processes the rest, several sources at once, and gradients.
    """

    def __init__(self, network: ConverterNetwork, sizes: Sequence[int]) -> None:
        check_exportable(network)
        require_packages()
        if not on_cpu(network):
            raise UserError("onnxruntime runs on the CPU: load the converter there, or use engine 'eager'")
        self.network, self.hop, self._like = network, network.hop, network.begin(1)
        key = f"{network_key(network)}-{code_key(network)}"
        self._sessions = {size: _session(network, size, key) for size in sorted(set(sizes))[::-1]}

    def begin(self, batch: int) -> Arrays:
        return {name: tensor.numpy() for name, tensor in flat(self.network.begin(batch)).items()}

    def step(self, source: Wave, voice: Voice, state: Arrays, semitones: float = 0.0) -> tuple[Wave, Arrays]:
        if len(source) > 1 or (torch.is_grad_enabled() and source.requires_grad):
            return self._eager_step(source, voice, state, semitones)
        shift, speaker, waves, start = np.array([semitones]), voice.numpy(), [], 0
        n_hops = source.shape[-1] // self.hop
        for size, session in self._sessions.items():
            while n_hops - start >= size:
                chunk = source[..., start * self.hop : (start + size) * self.hop].numpy()
                wave, state = run_session(session, chunk, speaker, shift, state)
                waves.append(torch.from_numpy(wave))
                start += size
        if start < n_hops or not waves:
            wave, state = self._eager_step(source[..., start * self.hop :], voice, state, semitones)
            waves.append(wave)
        return (waves[0] if len(waves) == 1 else torch.cat(waves, dim=-1)), state

    def _eager_step(self, source: Wave, voice: Voice, state: Arrays, semitones: float) -> tuple[Wave, Arrays]:
        if not source.shape[-1]:
            return source, state
        tensors = {name: torch.from_numpy(array) for name, array in state.items()}
        wave, after = self.network.step(source, voice, nested(self._like, tensors), semitones)
        return wave, {name: tensor.detach().numpy() for name, tensor in flat(after).items()}


def network_key(network: ConverterNetwork) -> str:
    """Digest of config and weights: networks with equal keys convert alike."""
    return weights_digest(network, repr(network.config))


def code_key(network: ConverterNetwork) -> str:
    """Digest of all code that a graph is exported from, and of torch's version."""
    digest = hashlib.sha256(torch.__version__.encode())
    layers = {inspect.getfile(type(module)) for module in network.modules()}
    files = {file for file in layers if not file.startswith(str(Path(torch.__file__).parent))}
    for file in sorted({*files, *map(str, Path(__file__).parent.glob("*.py"))}):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


def _session(network: ConverterNetwork, n_hops: int, key: str) -> Any:
    """The session of a network's steps: an open one, one from the cache, or a new one."""
    name = f"step-{key}-{n_hops}.onnx"
    if name not in _sessions:
        file = cache_folder() / name
        _sessions[name] = _from_cache(file) or open_session(_exported(network, n_hops, file))
    return _sessions[name]


def _from_cache(file: Path) -> Any | None:
    with suppress(Exception):  # a damaged file is exported again; these errors have no other common base
        return open_session(str(file)) if file.is_file() else None


def _exported(network: ConverterNetwork, n_hops: int, file: Path) -> bytes:
    print(
        f"exporting this converter for the CPU, steps of {n_hops} hops: once, some seconds …", file=sys.stderr
    )
    from w2w.exported.step import Step, checked, onnx_model

    step = Step(network, n_hops)
    model = onnx_model(step).SerializeToString()
    checked(step, model)
    with suppress(OSError):  # without a writable cache, the next process exports it again
        with atomic(file) as temporary:
            temporary.write_bytes(model)
        graphs = sorted(file.parent.glob("step-*.onnx"), key=lambda graph: graph.stat().st_mtime)
        for graph in graphs[:-KEPT]:
            graph.unlink()
    return model
