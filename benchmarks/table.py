"""Interleaved timing of calls, and tables of results, for all benchmarks."""

import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

import torch

from engine.table import markdown

ROOT = Path(__file__).resolve().parents[1]


def one_thread() -> dict[str, str]:
    """Environment of a process with one thread and this repository on its path."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def machine() -> str:
    """The processor, GPU, number of threads and torch version, to print with results."""
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = re.findall(r"^model name\s*:\s*(.*\S)", about, re.MULTILINE)
    name = names[0] if names else platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}{gpu}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def show(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print(f"\n{title}\n\n{markdown(heads, rows)}")


def in_turns(
    calls: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> list[list[float]]:
    """Run calls in turns; return the seconds of each call in each of ``repeats`` turns, after one warm-up."""
    took: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for seconds, call in zip(took, calls):
            began = clock()
            call()
            if turn:
                seconds.append(clock() - began)
    return took


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over turns of ours / theirs; slowdowns of the machine affect both times of a turn."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))
