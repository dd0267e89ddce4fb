"""Features computed once per file content and kept on disk between runs."""

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from engine.files import atomic

Features = dict[str, np.ndarray]


def default_cache() -> Path:
    """Where features are kept when nothing else is said."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "timbre" / "eval"


def content_hash(path: Path | str) -> str:
    """Name a file by its bytes, so that a new output under an old name is heard anew."""
    path = Path(path)
    stat = path.stat()
    return _hash(str(path.resolve()), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=65_536)
def _hash(path: str, _modified: int, _size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def model_stamp(folder: Path | str) -> str:
    """Tell a folder's weights from those of another folder of the same name, or of another day."""
    weights = next(iter(sorted(Path(folder).glob("*.safetensors"))), None)
    stamp = f"-{weights.stat().st_size}-{weights.stat().st_mtime_ns}" if weights else ""
    return Path(folder).resolve().name + stamp


class Cache:
    """A folder of arrays by (what was computed, of what content)."""

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_cache()

    def get(self, kind: str, content: str) -> Features | None:
        """Return what is stored, or None; a file that cannot be read counts as absent."""
        try:
            with np.load(self._path(kind, content), allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except (OSError, ValueError, KeyError, EOFError):
            return None

    def put(self, kind: str, content: str, features: Features) -> None:
        """Store arrays whole or not at all."""
        with atomic(self._path(kind, content)) as temporary, temporary.open("wb") as file:
            np.savez(file, **features)  # pyright: ignore[reportArgumentType]

    def remember(self, kind: str, content: str, compute: Callable[[], Features]) -> Features:
        """Return what is stored, computing it first if need be."""
        features = self.get(kind, content)
        if features is None:
            features = compute()
            self.put(kind, content, features)
        return features

    def _path(self, kind: str, content: str) -> Path:
        return self.folder / kind / content[:2] / f"{content}.npz"
