"""A folder that nobody else can read, and that is gone when its server is, however that ended."""

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "timbre-app-"
LOCK = ".lock"
"""Held while the server lives; the system lets go of it when a process dies in any way."""


@contextmanager
def private_folder(where: Path | None = None) -> Iterator[Path]:
    """Make a folder for a server's files in ``where`` (default: the system's temporary folder).

    It is deleted at the end, and so are those of servers that were killed before they could do so.
    """
    where = where or Path(tempfile.gettempdir())
    sweep(where)
    folder, lock = _locked(where)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(where: Path) -> None:
    """Delete the folders of dead servers of this user."""
    for folder in where.glob(f"{PREFIX}*"):
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
            continue
        lock = _try_lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def forget(folder: Path, seconds: float) -> None:
    """Delete the files in a folder, at any depth, that have not been written to for so long.

    The page's library keeps the pieces of uploads that broke off, and results that nobody asked for again.
    """
    for path in folder.rglob("*"):
        with suppress(OSError):  # others delete here too
            if path.is_file() and time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def _locked(where: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))  # for this user alone
        lock = _try_lock(folder)
        if lock is not None and folder.exists():  # else another server's start swept it away between
            return folder, lock
        if lock is not None:
            os.close(lock)


def _try_lock(folder: Path) -> int | None:
    try:
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock
