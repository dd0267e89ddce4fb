"""Stopping a run kindly: the first signal is noted, the second acts as usual."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the first SIGTERM or SIGINT in the yielded list instead of dying from it."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        for other, handler in before.items():
            signal.signal(other, handler)

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
