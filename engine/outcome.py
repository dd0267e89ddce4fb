"""How a command on many files ends: the good ones are done, the others are named, and its status tells."""

import ctypes
import errno
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from engine.files import check_writable
from engine.launch import launcher
from engine.user_error import UserError, printable, sentence

NAMED_AT_MOST = 100
"""What was left out is named up to here, and counted beyond."""
PLACES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the place that is written, which the next file would meet too."""


@contextmanager
def leaving_out(left_out: list[str]) -> Iterator[None]:
    """Add a sentence on what cannot be done with one file, so that the next one has its turn."""
    try:
        yield
    except UserError as fault:
        left_out.append(sentence(fault))
    except OSError as fault:
        if fault.filename is None or fault.errno in PLACES:
            raise
        left_out.append(sentence(fault))


def summary(done: int, left_out: Sequence[str], verb: str = "done") -> str:
    """``n done, m left out:`` and what they are, a line each."""
    lines = [f"{done} {verb}, {len(left_out) or 'none'} left out{':' if left_out else ''}"]
    lines += [f"  {printable(one)}" for one in left_out[:NAMED_AT_MOST]]
    lines += [f"  and {len(left_out) - NAMED_AT_MOST} more"] if len(left_out) > NAMED_AT_MOST else []
    return "\n".join(lines)


def end(done: int, left_out: Sequence[str], verb: str = "done") -> None:
    """Say what became of a command's files. Exit with 1 where some were left out, with 2 where all were."""
    if not done and len(left_out) == 1:
        raise UserError(left_out[0])
    print(summary(done, left_out, verb), file=sys.stderr)
    if left_out:
        raise SystemExit(1 if done else 2)


def check_results(place: Path, overwrite: bool) -> None:
    """Refuse a place that cannot be written, or that holds earlier results which may not be overwritten."""
    check_writable(place)
    if place.exists() and not overwrite:
        raise UserError(f"{place} is there already: --overwrite replaces it, or name another folder by --out")


def note(*sentences: str) -> None:
    """Tell what a user may not have meant, though it is done."""
    for one in sentences:
        print(f"note: {printable(one)}", file=sys.stderr)


def note_replaced(*places: Path | None) -> None:
    """Tell which of the files that a command was told to write are there already."""
    note(*(f"{place} is replaced" for place in places if place is not None and place.is_file()))


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
