"""Features of audio files, computed in parallel processes and cached on disk by file content."""

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
"""Sample rate in Hz of the input to every judge."""
SILENT = 1e-4
"""Peak below which a recording is silent (-80 dBFS). Judges must also handle silence."""
SHORTEST_SECONDS = 0.2
"""Minimum duration of a scored recording."""
WORTH_PROCESSES_SECONDS = 30.0
"""Amount of audio below which no worker processes start, as starting one takes seconds."""

Features = dict[str, np.ndarray]


def content_hash(path: Path | str) -> str:
    """Hash a file's bytes, so that a new output under an old name is scored again."""
    path = Path(path)
    stat = path.stat()
    return _hash(str(path.resolve()), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=65_536)
def _hash(path: str, _modified: int, _size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


class Cache:
    """An on-disk cache of arrays, keyed by (kind of computation, content hash)."""

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder() / "eval"

    def get(self, kind: str, content: str) -> Features | None:
        """Return the stored features, or None if they are absent or unreadable."""
        try:
            with np.load(self._path(kind, content), allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except (OSError, ValueError, KeyError, EOFError):
            return None

    def put(self, kind: str, content: str, features: Features) -> None:
        """Store features atomically."""
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
    """A model that computes features of a wave; picklable, as it loads its weights at the first call."""

    @property
    def kind(self) -> str:
        """Cache key: the computation and its version."""
        ...

    def check(self) -> None:
        """Raise ``UserError`` if a required package is not installed."""
        ...

    def __call__(self, wave: Float[Tensor, "1 1 samples"]) -> Features:
        """Compute the features of one recording at 16 kHz."""
        ...


FeaturesByFile = dict[Path, dict[str, Features]]
"""Features by file, then by the judge's ``kind``."""


def compute_features(
    wanted: Iterable[tuple[Path, Sequence[Judge]]], cache: Cache, *, jobs: int = 0, title: str = "scoring"
) -> FeaturesByFile:
    """Compute each file's features with its judges; ``jobs`` 0 means one process per core, up to 8."""
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
    # Longest first, so that no process is still busy with a long file at the end.
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
        pass  # a caller without a main guard, or too little memory: continue in this process
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _compute(path: Path, judges: Sequence[Judge], cache: Cache) -> dict[str, Features]:
    content, wave, n_threads = content_hash(path), load(path, SAMPLE_RATE), torch.get_num_threads()
    torch.set_num_threads(1)  # results are then bit-equal for any number of cores and ``jobs``
    try:
        return {judge.kind: cache.remember(judge.kind, content, lambda j=judge: j(wave)) for judge in judges}
    finally:
        torch.set_num_threads(n_threads)
