"""The engine of a CPU: onnxruntime runs a network's steps, by graphs that are made once and kept."""

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
from jaxtyping import Float
from torch import Tensor

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
from w2w.networks.wave_network import WaveNetwork

Wave = Float[Tensor, "batch 1 samples"]
Voice = Float[Tensor, "batch dim"]
VARIABLE = "TIMBRE_ENGINE"
"""The environment's variable that names the engine where no option does."""
MOST_HOPS = 16
"""Of a graph, whose steps are written out frame by frame; larger chunks win no more."""
KEPT = 12
"""Graphs that stay in the cache."""

_sessions: dict[str, Any] = {}
"""Open ones, by file name."""


def open_engine(network: WaveNetwork, name: str | None, sizes: Sequence[int]) -> Any:
    """What runs a network's steps, which mostly are as many hops long as ``sizes`` say.

    ``eager`` is the network; ``onnx`` its graphs in onnxruntime, several times as fast on a CPU's one thread,
    made at the first use, in some ten seconds each, and then found in the user's cache (``cache_folder``).
    Without a name, and without one in the variable TIMBRE_ENGINE, it is the graphs wherever they can be run.
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
                print(f"{error}; the network itself computes meanwhile, more slowly", file=sys.stderr)
                return network
        case other:
            raise UserError(f"there is no engine {other!r}: choose eager or onnx")


def on_cpu(network: ConverterNetwork) -> bool:
    return next(network.parameters()).device.type == "cpu"


class OnnxEngine:
    """The steps of a network, run by onnxruntime; nothing is kept between them.

    A chunk is taken apart into steps of the ``sizes`` (in hops) that there are graphs of, the largest first.
    What is left, several sources at once and whatever gradients are asked of are the network's own work: its
    state is the graphs' state.
    """

    def __init__(self, network: ConverterNetwork, sizes: Sequence[int]) -> None:
        check_exportable(network)
        require_packages()
        if not on_cpu(network):
            raise UserError("onnxruntime runs on the CPU: load the converter for it, or use engine 'eager'")
        self.network, self.hop, self._like = network, network.hop, network.begin(1)
        key = f"{network_key(network)}-{code_key(network)}"
        self._sessions = {size: _session(network, size, key) for size in sorted(set(sizes))[::-1]}

    def begin(self, batch: int) -> Arrays:
        return {name: tensor.numpy() for name, tensor in flat(self.network.begin(batch)).items()}

    def step(self, source: Wave, voice: Voice, state: Arrays, semitones: float = 0.0) -> tuple[Wave, Arrays]:
        if len(source) > 1 or (torch.is_grad_enabled() and source.requires_grad):
            return self._plainly(source, voice, state, semitones)
        moved, speaker, waves, start = np.array([semitones]), voice.numpy(), [], 0
        n_hops = source.shape[-1] // self.hop
        for size, session in self._sessions.items():
            while n_hops - start >= size:
                chunk = source[..., start * self.hop : (start + size) * self.hop].numpy()
                wave, state = run_session(session, chunk, speaker, moved, state)
                waves.append(torch.from_numpy(wave))
                start += size
        if start < n_hops or not waves:
            wave, state = self._plainly(source[..., start * self.hop :], voice, state, semitones)
            waves.append(wave)
        return (waves[0] if len(waves) == 1 else torch.cat(waves, dim=-1)), state

    def _plainly(self, source: Wave, voice: Voice, state: Arrays, semitones: float) -> tuple[Wave, Arrays]:
        if not source.shape[-1]:
            return source, state
        tensors = {name: torch.from_numpy(array) for name, array in state.items()}
        wave, after = self.network.step(source, voice, nested(self._like, tensors), semitones)
        return wave, {name: tensor.detach().numpy() for name, tensor in flat(after).items()}


def network_key(network: ConverterNetwork) -> str:
    """A digest of config and weights: equal keys convert alike."""
    return weights_digest(network, repr(network.config))


def code_key(network: ConverterNetwork) -> str:
    """A digest of all code that a graph is made of, and of torch's version."""
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
        _sessions[name] = _from_cache(file) or open_session(_made(network, n_hops, file))
    return _sessions[name]


def _from_cache(file: Path) -> Any | None:
    if not file.is_file():
        return None
    try:
        return open_session(str(file))
    except Exception:  # a damaged file is made again; onnxruntime's errors share no base but this
        return None


def _made(network: ConverterNetwork, n_hops: int, file: Path) -> bytes:
    print(
        f"preparing this converter for the CPU, steps of {n_hops} hops: once, some seconds …", file=sys.stderr
    )
    from w2w.exported.step import Step, checked, onnx_model

    step = Step(network, n_hops)
    model = onnx_model(step).SerializeToString()
    checked(step, model)
    with suppress(OSError):  # no place for a cache: the next process makes it again
        with atomic(file) as temporary:
            temporary.write_bytes(model)
        older = sorted(file.parent.glob("step-*.onnx"), key=lambda kept: kept.stat().st_mtime)
        for kept in older[:-KEPT]:
            kept.unlink()
    return model
