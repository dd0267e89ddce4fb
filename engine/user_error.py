"""A user's mistake, told in one sentence instead of a traceback, and commands that end as Unix tools do."""

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
    errno.EROFS: "it cannot be written, as its file system is read-only: choose another place",
    errno.EACCES: "permission denied: change its permissions, or choose another place",
    errno.EPERM: "not permitted: change its permissions, or choose another place",
    errno.ENAMETOOLONG: "the name is too long: shorten it",
    errno.ELOOP: "a link that leads in a circle: remove it, or name what it should lead to",
    errno.ENOTDIR: "a file is where a folder is expected: choose another name",
    errno.EEXIST: "a file is where a folder is expected: choose another name",
    errno.EISDIR: "a folder is where a file is expected: name a file",
    errno.ENOENT: "there is no such file or folder: check the name",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
}
"""What to do about an error of the operating system."""
EXTRAS = {
    "accelerate": "train",
    "torchaudio": "train",
    "transformers": "train",
    "datasets": "train",
    "open_clip": "clip",
    "einops": "train",
    "jiwer": "eval",
    "matplotlib": "eval",
    "numba": "vocoders",
    "torchmetrics": "probes",
    "aac_metrics": "probes",
    "scipy": "eval",
    "sklearn": "probes",
    "diffusers": "pictures",
}
"""The extra that brings a package which the base install does without."""


class UserError(ValueError):
    """A mistake the user can mend: one sentence that names the file or option and the way out."""


Problem = TypeVar("Problem", bound=str)


class FileError(UserError, Generic[Problem]):
    """A file that cannot be used, with the kind of its problem, to be counted."""

    def __init__(self, path: Path, problem: Problem, detail: str) -> None:
        super().__init__(path, problem, detail)  # all three, so that it can be pickled between processes
        self.path, self.problem, self.detail = path, problem, detail

    def __str__(self) -> str:
        return f"{self.path} {self.detail}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean …?)`` where something known resembles the word."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def refuse_empty(args: Sequence[str]) -> None:
    """Refuse an empty word of a command line: the variable of a shell that was not set."""
    for before, word in pairwise(["the command", *args]):
        if not word.strip():
            raise UserError(f"the word after {before} is empty: is a variable of the shell not set?")


def at_least(least: int, config: Any, *names: str, prefix: str = "") -> None:
    """Refuse a config any of whose named fields is less."""
    for name in names:
        if (value := getattr(config, name)) < least:
            raise UserError(f"{prefix}{name}={value} must be {f'at least {least}' if least else '0 or more'}")


def within(interval: str, config: Any, *names: str, prefix: str = "") -> None:
    """Refuse a config any of whose named fields lies outside an interval: ``[0, 1)``, ``(0, inf)``."""
    low, high = map(float, interval[1:-1].split(","))
    for name in names:
        value = getattr(config, name)
        above = value >= low if interval[0] == "[" else value > low
        if not (above and (value <= high if interval[-1] == "]" else value < high)):
            bounds = f"lie in {interval}" if high < float("inf") else f"be above {low:g}"
            raise UserError(f"{prefix}{name}={value} must {bounds}")


def sentence(error: BaseException) -> str:
    """What an error says to a user; the operating system's own are translated, with the way out."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    if error.filename is None:
        return remedy(error)
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    shown = name if len(name) <= 200 else f"{name[:60]}…{name[-60:]}"
    return f"{shown}: {remedy(error)}"


def remedy(error: OSError) -> str:
    """What the operating system refuses, and the way out."""
    return REMEDIES.get(error.errno or 0, error.strerror or "cannot be used")


def reason(error: Exception) -> str:
    """What a library's error says, without FFmpeg's numbers."""
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".") or type(error).__name__


def printable(text: str) -> str:
    """A text on one line, with escapes for what no console prints: ``\\n``, ``\\x1b``, ``\\udce9``."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def exits_cleanly(main: Callable[P, T]) -> Callable[P, T]:
    """Make an entry point tell mistakes as ``error: …`` and exit with 2, and end quietly when it is stopped.

    Mistakes are ``UserError`` and what the operating system says of files. Ctrl-C exits with 130, SIGTERM and
    a closed terminal with 128 plus the signal's number after clean-up, an output that nobody reads (`| head`)
    with 141.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with _unix_manners():
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
def _unix_manners() -> Iterator[None]:
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
    """End by an exception, so that unfinished files are removed on the way out."""
    raise SystemExit(128 + number)
