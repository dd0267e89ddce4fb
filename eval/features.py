"""Features of files: computed once for each content by several processes, and kept on disk between runs."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.audio import load
from engine.files import atomic, cache_folder

SAMPLE_RATE = 16_000
"""Hz; every judge takes this rate."""
SILENT = 1e-4
"""Peak below which a recording holds nothing: -80 dBFS. Judges must have an answer to it."""
SHORTEST_SECONDS = 0.2
"""What is shorter is not scored."""
WORTH_PROCESSES_SECONDS = 30.0
"""Less audio than this is done here: starting a process takes seconds."""

Features = dict[str, np.ndarray]


def content_hash(path: Path | str) -> str:
    """Name a file by its bytes, so that a new output under an old name is heard anew."""
    path = Path(path)
    stat = path.stat()
    return _hash(str(path.resolve()), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=65_536)
def _hash(path: str, _modified: int, _size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


class Cache:
    """A folder of arrays by (what was computed, of what content)."""

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder() / "eval"

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
        features = self.get(kind, content)
        if features is None:
            features = compute()
            self.put(kind, content, features)
        return features

    def _path(self, kind: str, content: str) -> Path:
        return self.folder / kind / content[:2] / f"{content}.npz"


@runtime_checkable
class Judge(Protocol):
    """Something that turns a wave into features; small, picklable, loading its model at the first call."""

    @property
    def kind(self) -> str:
        """Names the computation and its version in the cache."""
        ...

    def check(self) -> None:
        """Raise a ``UserError`` if a part that must be installed is absent."""
        ...

    def __call__(self, wave: Float[Tensor, "1 1 samples"]) -> Features:
        """Judge one recording at 16 kHz."""
        ...


FeaturesByFile = dict[Path, dict[str, Features]]
"""By file, then by the judge's kind."""


def compute_features(
    wanted: Iterable[tuple[Path, Sequence[Judge]]], cache: Cache, *, jobs: int = 0, title: str = "scoring"
) -> FeaturesByFile:
    """Give every file's features of its judges; ``jobs`` 0 means a process per core, up to 8."""
    by_file: FeaturesByFile = {}
    missing: dict[Path, list[Judge]] = {}
    for path, judges in wanted:
        known = by_file.setdefault(path, {})
        for judge in judges:
            if judge.kind in known or judge in missing.get(path, ()):
                continue
            stored = cache.get(judge.kind, content_hash(path))
            if stored is None:
                missing.setdefault(path, []).append(judge)
            else:
                known[judge.kind] = stored
    # The longest first, so that no process is left with a long file at the end.
    tasks = sorted(missing.items(), key=lambda task: (-task[0].stat().st_size, task[0]))
    done: dict[Path, dict[str, Features]] = {}
    jobs = min(jobs or min(os.cpu_count() or 1, 8), len(tasks))
    with tqdm(total=len(tasks), desc=title, unit="file", disable=not tasks, file=sys.stderr) as bar:
        if jobs > 1 and sum(task[0].stat().st_size for task in tasks) > WORTH_PROCESSES_SECONDS * 16_000:
            _in_processes(tasks, cache, jobs, done, bar)
        for path, judges in tasks:
            if path not in done:
                done[path] = _compute(path, judges, cache)
                bar.update()
    for path, features in done.items():
        by_file[path] |= features
    return by_file


def _in_processes(
    tasks: list[tuple[Path, list[Judge]]], cache: Cache, jobs: int, done: dict, bar: tqdm
) -> None:
    # Spawned, because a forked child of a process that has run torch threads can hang.
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    try:
        futures = {pool.submit(_compute, path, judges, cache): path for path, judges in tasks}
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            bar.update()
    except BrokenProcessPool:
        pass  # a caller without a main guard, or too little memory: the rest is done in this process
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _compute(path: Path, judges: Sequence[Judge], cache: Cache) -> dict[str, Features]:
    content, wave, n_threads = content_hash(path), load(path, SAMPLE_RATE), torch.get_num_threads()
    torch.set_num_threads(1)  # the last bits then depend neither on the machine nor on ``jobs``
    try:
        return {judge.kind: cache.remember(judge.kind, content, lambda j=judge: j(wave)) for judge in judges}
    finally:
        torch.set_num_threads(n_threads)
