"""Measurements for ``benchmarks.vocoders``: interleaved timing, other runtimes, and arithmetic cost."""

import copy
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.table import in_turns, ratio

INSTALL = {"onnxruntime": "pip install 'timbre[export]'", "openvino": "pip install 'timbre[bench]'"}
Mel = Float[Tensor, "1 n_mels frames"]


def runtime_calls(network: nn.Module, mel: Mel) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The network on this mel in each installed runtime; missing ones are reported on stderr."""
    missing = [name for name in INSTALL if importlib.util.find_spec(name) is None]
    for name in missing:
        print(f"{name} is not installed and not measured: {INSTALL[name]}", file=sys.stderr)
    present = [name for name in INSTALL if name not in missing]
    if not present:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        # The length is fixed, because graphs with static shapes are faster.
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


HEADS = ["what", "ours", "theirs", "ratio", "goal", "met", "floor", "max |difference|"]
Row = list[str]


@dataclass(frozen=True, kw_only=True)
class Settings:
    peers: Mapping[str, str | None]
    """Checkouts of the published code, by network."""
    repeats: int
    """Turns, of which the median is reported."""
    peak: float
    """The machine's peak in billions of multiply-adds per second."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    ours: list[float]
    """Seconds of our code, per turn."""
    theirs: list[float]
    """Seconds of the published code, per turn; empty without a checkout of it."""
    outputs: list[Any]
    """Return values of the last calls, ours and theirs."""

    @property
    def same(self) -> str:
        return difference(*(output.flatten() for output in self.outputs)) if self.theirs else ""

    @property
    def ratio(self) -> float | None:
        return ratio(self.ours, self.theirs) if self.theirs else None


def alternate(ours: Callable[[], Any], theirs: Callable[[], Any] | None, repeats: int) -> Timed:
    outputs: list[Any] = [None, None]

    def keep(place: int, call: Callable[[], Any]) -> None:
        outputs[place] = call()

    calls = [partial(keep, place, call) for place, call in enumerate((ours, theirs)) if call]
    took = in_turns(calls, repeats, time.perf_counter)
    return Timed(ours=took[0], theirs=took[1] if theirs else [], outputs=outputs[: len(took)])


def gmac(call: Callable[[], Any]) -> float:
    """Billions of multiply-adds of all matrix products and convolutions in a call, including backward."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2e9


def gmac_of(network: nn.Module, method: str, *inputs: Tensor) -> float:
    """``gmac`` of a network's method, counted on the meta device without computing it."""
    on_meta = copy.deepcopy(network).to("meta")
    with torch.no_grad():
        return gmac(partial(getattr(on_meta, method), *(x.to("meta") for x in inputs)))


def fp32_peak(seconds: float = 0.3) -> float:
    """Peak billions of multiply-adds per second of this machine with the current number of threads.

    The maximum over matrix products and convolutions that fit in the caches, of several sizes and libraries,
    so that a library that is slow on this processor (MKL on AMD) does not lower the peak.
    """
    best = 0.0
    with torch.inference_mode():
        for call, multiply_adds in _peak_calls():
            call()
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                began = time.perf_counter()
                call()
                best = max(best, multiply_adds / (time.perf_counter() - began))
    return best / 1e9


def _peak_calls() -> list[tuple[Callable[[], Tensor], float]]:
    """Calls for ``fp32_peak`` with their numbers of multiply-adds."""
    calls = []
    for size in (128, 256, 384):
        a, b = torch.randn(size, size), torch.randn(size, size)
        calls.append((lambda a=a, b=b: torch.mm(a, b), float(size**3)))
    for channels, samples in ((128, 512), (256, 256), (512, 128)):
        x, weight = torch.randn(1, channels, samples), torch.randn(channels, channels, 7)
        count = float(channels**2 * 7 * samples)
        calls.append((lambda x=x, w=weight: F.conv1d(x, w, padding=3), count))
    if torch.backends.mkldnn.is_available():
        linear: Any = getattr(torch._C, "_nn").mkldnn_linear  # noqa: B009
        for n, k in ((256, 256), (512, 512)):
            x, weight = torch.randn(n, k).to_mkldnn(), torch.randn(k, k).to_mkldnn()
            calls.append((lambda x=x, w=weight: linear(x, w), float(n * k * k)))
    return calls


def difference(ours: Tensor, theirs: Tensor) -> str:
    """The largest absolute difference, and the largest absolute value of ``theirs``."""
    return f"{float((ours - theirs).abs().max()):.1e} of {float(theirs.abs().max()):.2g}"


def row(what: str, took: Timed, unit: Callable[[float], str], goal: float | None, **cells: str) -> Row:
    """A table row of times; ``goal`` is the maximum of ours / theirs."""
    share = took.ratio
    return [
        what,
        unit(median(took.ours)),
        unit(median(took.theirs)) if took.theirs else "not measured",
        f"{share:.3f}" if share is not None else "",
        f"≤ {goal:g}" if goal is not None else "",
        ("yes" if share <= goal else f"NO, {share / goal - 1:+.0%}") if share is not None and goal else "",
        cells.get("floor", ""),
        cells.get("same", ""),
    ]
