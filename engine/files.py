"""Files written whole or not at all, and places probed before the work that ends in them."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.user_error import UserError

PROBE_BYTES = 1 << 16
"""What a place must take to be called writable."""


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path whose file takes the name ``path`` when the block ends well, and else vanishes.

    Folders are made as needed. Raises ``OSError`` where the place cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hashed, since a name as long as the disk allows leaves no room for a longer one; some writers look at
    # the suffix.
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp{path.suffix[:12]}")
    try:
        with disk_errors(temporary, path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """A file's text, in UTF-8 with or without a mark of its byte order."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from None


def write_json(path: Path, content: Any) -> None:
    """Write what JSON can say, for people and programs to read; atomic."""
    with atomic(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def disk_errors(temporary: Path, path: Path) -> Iterator[None]:
    """Raise the operating system's error, of ``path``, where a library hides it behind one of its own."""
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
    """Raise ``OSError`` where a file or folder of this name could not be written, before any work is done."""
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
        error.filename = str(folder)  # the probe's own name tells nobody anything
        raise
    finally:
        if folder.is_dir():
            probe.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where what can be made again is kept: ``TIMBRE_CACHE``, or ``timbre`` in the user's cache folder."""
    named = os.environ.get("TIMBRE_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "timbre"


def native(path: Path) -> Any:
    """A path for libraries in C, which encode names in their own way: names need not be valid text."""
    return str(path) if os.name == "nt" else os.fsencode(path)
