"""Engines that run a network's steps: the network itself, or its graph in onnxruntime, made once and kept."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from engine.files import atomic
from engine.user_error import UserError
from w2w.exported.description import network_key, source_key
from w2w.exported.onnx_graph import onnx_step, open_session, run_session
from w2w.exported.step_graph import StepGraph, check_exportable
from w2w.networks.network import ConverterNetwork
from w2w.networks.wave_network import WaveNetwork

EngineName = Literal["eager", "onnx"]
Wave = Float[Tensor, "batch 1 samples"]
Voice = Float[Tensor, "batch dim"]
State = tuple[Mapping[str, Tensor], ...]
"""Of each row of the batch, by name."""
KEPT = 12
"""Graphs that stay in the cache."""

_sessions: dict[str, Any] = {}


def open_engine(network: WaveNetwork, name: str, chunk_hops: int) -> "WaveNetwork | OnnxEngine":
    """What runs a network's steps, which will mostly be ``chunk_hops`` hops long.

    ``eager`` is the network; ``onnx`` is its graph, several times as fast at chunks of some 10 ms. The graph
    is made at the first use, in some seconds, and then found in the user's cache (``cache_folder``).
    """
    match name:
        case "eager":
            return network
        case "onnx":
            check_exportable(network)
            return OnnxEngine(cast(ConverterNetwork, network), chunk_hops)
    raise UserError(f"there is no engine {name!r}: choose eager or onnx")


class OnnxEngine:
    """The steps of a network, run by onnxruntime on one thread; nothing is kept between them.

    Steps of any number of hops are taken ``chunk_hops`` at a time, and what is left hop by hop.
    """

    def __init__(self, network: ConverterNetwork, chunk_hops: int) -> None:
        if chunk_hops < 1:
            raise UserError(f"chunk_hops={chunk_hops} must be at least 1")
        if next(network.parameters()).device.type != "cpu":
            raise UserError(
                "the onnx engine runs on the CPU: load the converter for it, or use the eager engine"
            )
        self.config, self.sample_rate, self.hop = network.config, network.sample_rate, network.hop
        self.look_ahead, self.voice_dim = network.look_ahead, network.voice_dim
        self.moves_pitch, self.chunk_hops = network.moves_pitch, chunk_hops
        key = f"{network_key(network)}-{source_key()}"
        self._sessions = {hops: _session(network, hops, key) for hops in {chunk_hops, 1}}
        self._begun = StepGraph(network, 1).begun

    def begin(self, batch: int) -> State:
        """The state before the first step."""
        return tuple(self._begun for _ in range(batch))

    def step(self, source: Wave, voice: Voice, state: State, semitones: float = 0.0) -> tuple[Wave, State]:
        """Convert one chunk, a whole number of hops long; the output lags by ``look_ahead`` samples."""
        if len(source) == 1:
            wave, after = self._step(source, voice, state[0], semitones)
            return wave, (after,)
        rows = [
            self._step(row, speaker, one, semitones)
            for row, speaker, one in zip(source.split(1), voice.split(1), state)
        ]
        return torch.cat([wave for wave, _ in rows]), tuple(after for _, after in rows)

    def _step(
        self, source: Wave, voice: Voice, state: Mapping[str, Tensor], semitones: float
    ) -> tuple[Wave, Mapping[str, Tensor]]:
        moved = torch.tensor([semitones], dtype=torch.float64)
        waves, start, samples = [], 0, source.shape[-1]
        while start < samples:
            hops = self.chunk_hops if samples - start >= self.chunk_hops * self.hop else 1
            chunk = source[..., start : start + hops * self.hop]
            wave, state = run_session(self._sessions[hops], chunk, voice, moved, state)
            waves.append(wave)
            start += hops * self.hop
        return waves[0] if len(waves) == 1 else torch.cat([source[..., :0], *waves], dim=-1), state


def _session(network: ConverterNetwork, n_hops: int, key: str) -> Any:
    """The session of a network's steps: an open one, one from the cache, or a new one."""
    name = f"step-{key}-{n_hops}.onnx"
    if name not in _sessions:
        _sessions[name] = _from_cache(cache_folder() / name) or _made(network, n_hops, cache_folder() / name)
    return _sessions[name]


def _from_cache(file: Path) -> Any | None:
    if not file.is_file():
        return None
    try:
        return open_session(str(file))
    except UserError:
        raise
    except Exception:  # a damaged file is made again
        return None


def _made(network: ConverterNetwork, n_hops: int, file: Path) -> Any:
    print(f"making the graph of {n_hops}-hop steps, once", file=sys.stderr)
    model, _ = onnx_step(network, n_hops)
    with suppress(OSError):  # no place for a cache: the next process makes it again
        with atomic(file) as temporary:
            temporary.write_bytes(model)
        older = sorted(file.parent.glob("step-*.onnx"), key=lambda kept: kept.stat().st_mtime)
        for kept in older[:-KEPT]:
            kept.unlink()
    return open_session(model)


def cache_folder() -> Path:
    """Where graphs are kept: ``TIMBRE_CACHE``, or ``timbre`` in the user's cache folder."""
    named = os.environ.get("TIMBRE_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "timbre"
