"""User errors, printed as one sentence instead of a traceback, and entry points that exit like Unix tools."""

import difflib
import errno
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

REMEDIES = {
    errno.ENOSPC: "the disk is full: make room, or choose another place",
    errno.EDQUOT: "the quota of the disk is used up: make room, or choose another place",
    errno.EROFS: "its file system is read-only: choose another place",
    errno.EACCES: "permission denied: change its permissions, or choose another place",
    errno.EPERM: "not permitted: change its permissions, or choose another place",
    errno.ENAMETOOLONG: "the name is too long: shorten it",
    errno.ELOOP: "symbolic links form a cycle: remove one, or give the intended target",
    errno.ENOTDIR: "a file is where a folder is expected: choose another name",
    errno.EEXIST: "a file is where a folder is expected: choose another name",
    errno.EISDIR: "a folder is where a file is expected: name a file",
    errno.ENOENT: "there is no such file or folder: check the name",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
}
"""Messages for errors of the operating system, with the way out."""
EXTRAS = {
    **dict.fromkeys(("accelerate", "torchaudio", "transformers", "datasets", "einops"), "train"),
    **dict.fromkeys(("jiwer", "matplotlib", "scipy"), "eval"),
    **dict.fromkeys(("torchmetrics", "aac_metrics", "sklearn"), "probes"),
    **{"open_clip": "clip", "numba": "vocoders", "diffusers": "pictures"},
}
"""Optional packages, and the extra of this package that installs each."""


class UserError(ValueError):
    """A mistake that the user can correct: one sentence that names the file or option and the way out."""


Problem = TypeVar("Problem", bound=str)


class FileError(UserError, Generic[Problem]):
    """A file that cannot be used, with the kind of problem for statistics."""

    def __init__(self, path: Path, problem: Problem, detail: str) -> None:
        super().__init__(path, problem, detail)  # all three, so that it can be pickled
        self.path, self.problem, self.detail = path, problem, detail

    def __str__(self) -> str:
        return f"{self.path} {self.detail}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean …?)`` with the known word most similar to this one; "" if none is."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def refuse_empty(args: Sequence[str]) -> None:
    """Raise if an argument of a command line is empty, usually because of an unset shell variable."""
    for before, word in pairwise(["the command", *args]):
        if not word.strip():
            raise UserError(f"the argument after {before} is empty: is a shell variable not set?")


def at_least(least: int, config: Any, *names: str, prefix: str = "") -> None:
    """Raise if any of the named fields of a config is less than ``least``."""
    for name in names:
        if (value := getattr(config, name)) < least:
            raise UserError(f"{prefix}{name}={value} must be {f'at least {least}' if least else '0 or more'}")


def within(interval: str, config: Any, *names: str, prefix: str = "") -> None:
    """Raise if any of the named fields of a config lies outside an interval: ``[0, 1)``, ``(0, inf)``."""
    low, high = map(float, interval[1:-1].split(","))
    for name in names:
        value = getattr(config, name)
        above = value >= low if interval[0] == "[" else value > low
        if not (above and (value <= high if interval[-1] == "]" else value < high)):
            bounds = f"lie in {interval}" if high < float("inf") else f"be above {low:g}"
            raise UserError(f"{prefix}{name}={value} must {bounds}")


def sentence(error: BaseException) -> str:
    """Return an error's message for the user; errors of the operating system get the way out."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    if error.filename is None:
        return remedy(error)
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    shown = name if len(name) <= 200 else f"{name[:60]}…{name[-60:]}"
    return f"{shown}: {remedy(error)}"


def remedy(error: OSError) -> str:
    """Return the message for an error of the operating system, with the way out."""
    return REMEDIES.get(error.errno or 0, error.strerror or "cannot be used")


def reason(error: Exception) -> str:
    """Return the message of a library's error, without FFmpeg's error numbers."""
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".") or type(error).__name__


def printable(text: str) -> str:
    """Escape a text's unprintable characters (``\\n``, ``\\x1b``, ``\\udce9``), so that it is one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def exits_cleanly(main: Callable[P, T]) -> Callable[P, T]:
    """Make an entry point print user errors as ``error: …``, and exit without tracebacks.

    Exit codes: 2 for ``UserError`` and file errors of the operating system; 130 for Ctrl-C; 128 plus the
    signal's number, after clean-up, for SIGTERM and a closed terminal; 141 for a closed pipe (`| head`).
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with _unix_signals():
                return main(*args, **kwargs)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except ModuleNotFoundError as missing:
            name = (missing.name or "").split(".")[0]
            if name not in EXTRAS:
                raise
            print(f"error: {name} is not installed: pip install 'timbre[{EXTRAS[name]}]'", file=sys.stderr)
            raise SystemExit(2) from None
        except (UserError, OSError) as error:
            if isinstance(error, OSError) and error.filename is None and error.errno != errno.ENOSPC:
                raise
            print(f"error: {printable(sentence(error))}", file=sys.stderr)
            raise SystemExit(2) from None

    return guarded


@contextmanager
def _unix_signals() -> Iterator[None]:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
                before[number] = signal.signal(number, _end)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        raise SystemExit(141) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: Any) -> None:
    """Exit by an exception, so that clean-up code removes unfinished files."""
    raise SystemExit(128 + number)
