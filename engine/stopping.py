"""Stopping a run kindly: the first signal is noted, a later one acts as usual."""

import ctypes
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from engine.launch import launcher

PASSED_ON_SECONDS = 5.0
"""Within this time signals are one wish: a terminal sends Ctrl-C to all, and launchers pass it on."""
PR_SET_PDEATHSIG = 1


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the first SIGTERM or SIGINT in the yielded list instead of dying from it."""
    received: list[int] = []
    before: dict[int, Any] = {}
    first = 0.0

    def note(number: int, frame: Any) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
            received.append(number)
        elif time.monotonic() - first > PASSED_ON_SECONDS:
            for other, handler in before.items():
                signal.signal(other, handler)
            signal.raise_signal(number)

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: whoever runs us handles signals
        pass
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_launcher() -> None:
    """Receive SIGTERM when the launcher above dies, so that no training goes on that nobody started."""
    if sys.platform == "linux" and (dist.is_torchelastic_launched() or launcher() is not None):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
