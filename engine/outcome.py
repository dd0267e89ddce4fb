"""Error handling of commands on many files: failed files are skipped, listed, and set the exit code."""

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
"""Number of skipped files listed in the summary; the rest is only counted."""
PLACES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the output file system, which would occur for every further file too."""


@contextmanager
def leaving_out(left_out: list[str]) -> Iterator[None]:
    """Catch an error about one file and append its message to ``left_out``, so that processing continues."""
    try:
        yield
    except UserError as fault:
        left_out.append(sentence(fault))
    except OSError as fault:
        if fault.filename is None or fault.errno in PLACES:
            raise
        left_out.append(sentence(fault))


def summary(done: int, left_out: Sequence[str], verb: str = "done") -> str:
    """Return ``n done, m left out:`` and one line per skipped file."""
    lines = [f"{done} {verb}, {len(left_out) or 'none'} left out{':' if left_out else ''}"]
    lines += [f"  {printable(one)}" for one in left_out[:NAMED_AT_MOST]]
    lines += [f"  and {len(left_out) - NAMED_AT_MOST} more"] if len(left_out) > NAMED_AT_MOST else []
    return "\n".join(lines)


def end(done: int, left_out: Sequence[str], verb: str = "done") -> None:
    """Print the summary of a command on many files; exit with 1 if some were skipped, with 2 if all were."""
    if not done and len(left_out) == 1:
        raise UserError(left_out[0])
    print(summary(done, left_out, verb), file=sys.stderr)
    if left_out:
        raise SystemExit(1 if done else 2)


def check_results(place: Path, overwrite: bool) -> None:
    """Raise if the output folder is not writable, or exists and ``overwrite`` is false."""
    check_writable(place)
    if place.exists() and not overwrite:
        raise UserError(f"{place} is there already: --overwrite replaces it, or choose another --out")


def note(*sentences: str) -> None:
    """Print notes on stderr about effects that the user may not have intended."""
    for one in sentences:
        print(f"note: {printable(one)}", file=sys.stderr)


def note_replaced(*places: Path | None) -> None:
    """Print a note for each output file that exists already."""
    note(*(f"{place} is replaced" for place in places if place is not None and place.is_file()))


PASSED_ON_SECONDS = 5.0
"""Signals within this time count as one: Ctrl-C reaches all processes, and launchers pass it on again."""
PR_SET_PDEATHSIG = 1


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Append the first SIGTERM or SIGINT to the yielded list instead of ending the process."""
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
    except ValueError:  # not in the main thread, where the caller handles signals
        pass
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_launcher() -> None:
    """Make Linux send SIGTERM to this process when its launcher dies, so that no orphan keeps training."""
    if sys.platform == "linux" and (dist.is_torchelastic_launched() or launcher() is not None):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
