"""Atomic writing of files, and checks before a long computation that its results can be written."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.user_error import UserError

PROBE_BYTES = 1 << 16
"""Size of the test file that must fit into a folder for it to count as writable."""


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path; its file is renamed to ``path`` on success and deleted on an exception.

    Missing folders are created. Raises ``OSError`` if the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hashed, so that it stays short even if the name has the maximum length; some writers need the suffix.
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp{path.suffix[:12]}")
    try:
        with disk_errors(temporary, path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from None


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically."""
    with atomic(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def disk_errors(temporary: Path, path: Path) -> Iterator[None]:
    """Re-raise errors about ``temporary`` as ``OSError`` about ``path``, even if a library hides them."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)) == temporary:
            error.filename = str(path)
        raise
    except Exception:
        _probe(temporary.parent)
        raise


def check_writable(path: Path | str) -> None:
    """Raise ``OSError`` if a file or folder of this name cannot be written."""
    path = Path(path)
    with suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(path)  # raises for a name that is too long
    folder = path if path.is_dir() else path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    _probe(folder)


def _probe(folder: Path) -> None:
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        with probe.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        error.filename = str(folder)  # instead of the test file
        raise
    finally:
        if folder.is_dir():
            probe.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return the cache folder: ``TIMBRE_CACHE``, or ``timbre`` in the user's cache folder."""
    named = os.environ.get("TIMBRE_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "timbre"


def native(path: Path) -> Any:
    """Encode a path for C libraries, which may not encode file names that are invalid text correctly."""
    return str(path) if os.name == "nt" else os.fsencode(path)
