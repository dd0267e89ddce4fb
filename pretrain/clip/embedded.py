"""Teachers' embeddings of scenes' pictures, computed once and kept in safetensors shards.

The cache is a folder per teacher and frame rate; an entry bears a digest of the scene's files (name, size,
time of change) and stretch, so that an edited file is embedded anew. Shards are written whole or not at all,
and a run that is killed goes on from the last one. Processes started together each embed their share; others
that happen to use the same cache at the same time do no harm.
"""

import hashlib
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from data.audiovisual.scenes import PictureError, Scene, each_picture
from data.audiovisual.video import FRAME_RATE, VideoError
from data.recordings import NAMED_AT_MOST
from engine.files import atomic
from engine.user_error import UserError
from pretrain.clip.towers import Towers

SHARD = 256
"""Scenes in a shard: what a kill may lose."""
BLOCK = 64
"""Frames of a video in memory at once."""
PATIENCE_SECONDS = 300.0
"""What another process has not delivered after this long without news is computed here as well."""

T = TypeVar("T")
R = TypeVar("R")


class _Entry(NamedTuple):
    key: str
    scene: Scene


def embed_scenes(
    scenes: Sequence[Scene],
    towers: Towers,
    cache_folder: str | Path,
    *,
    frame_rate: float | None = FRAME_RATE,
    batch: int = 64,
    progress: bool = True,
) -> Float[Tensor, "scenes dim"]:
    """Unit-length embedding of each scene: the direction of the mean over its pictures or frames.

    Scenes whose pictures cannot be read have a row of NaN, and are counted and named in one warning:
    ``embedded_scenes`` leaves them out.
    """
    vectors = _embedded(scenes, towers, cache_folder, frame_rate, batch, progress, per_frame=False)
    return torch.stack(vectors) if vectors else torch.zeros(0, towers.dim)


def embedded_scenes(
    scenes: Sequence[Scene],
    towers: Towers,
    cache_folder: str | Path,
    *,
    frame_rate: float | None = FRAME_RATE,
    batch: int = 64,
    progress: bool = True,
) -> tuple[list[Scene], Float[Tensor, "usable dim"]]:
    """The scenes whose pictures can be used, with their embeddings."""
    vectors = embed_scenes(
        scenes, towers, cache_folder, frame_rate=frame_rate, batch=batch, progress=progress
    )
    usable = ~vectors.isnan().any(dim=-1)
    return [scene for scene, keep in zip(scenes, usable.tolist()) if keep], vectors[usable]


def embed_frames(
    scenes: Sequence[Scene],
    towers: Towers,
    cache_folder: str | Path,
    *,
    frame_rate: float | None = FRAME_RATE,
    batch: int = 64,
    progress: bool = True,
) -> list[Float[Tensor, "_ dim"]]:
    """Unit-length embeddings of every frame of each scene; a row of NaN for one that cannot be read."""
    return _embedded(scenes, towers, cache_folder, frame_rate, batch, progress, per_frame=True)


def _embedded(
    scenes: Sequence[Scene],
    towers: Towers,
    cache_folder: str | Path,
    frame_rate: float | None,
    batch: int,
    progress: bool,
    per_frame: bool,
) -> list[Tensor]:
    kept = "frames" if per_frame else "mean"
    rate = "all" if frame_rate is None else f"{frame_rate:g}"
    folder = Path(cache_folder) / f"{towers.key}_{kept}_{rate}"
    folder.mkdir(parents=True, exist_ok=True)
    keys = [scene_key(scene) for scene in scenes]
    cache = _Cache(folder)
    cache.read()
    rank, n_ranks = _rank()
    entries = [_Entry(key, scene) for key, scene in dict(zip(keys, scenes)).items()]
    # Shares of the whole list, not of what is missing: another process may have seen fewer shards.
    share = [entry for entry in entries[rank::n_ranks] if entry.key not in cache.vectors]
    missing = [entry for entry in entries if entry.key not in cache.vectors]
    _compute(share, cache, towers, frame_rate, batch, progress and rank == 0, per_frame)
    _await(missing, cache, n_ranks)
    late = [entry for entry in missing if entry.key not in cache.vectors]
    _compute(late, cache, towers, frame_rate, batch, progress, per_frame)
    _warn(scenes, keys, cache)
    nothing = torch.full((1, towers.dim) if per_frame else (towers.dim,), torch.nan)
    found = [cache.vectors[key] for key in keys]
    return [vector if len(vector) else nothing for vector in found]


def scene_key(scene: Scene) -> str:
    """A digest of what a scene's embedding depends on: its pictures' files and its stretch of time."""
    digest = hashlib.sha256(f"{scene.start_s} {scene.duration_s}".encode())
    for file in scene.pictures if isinstance(scene.pictures, tuple) else (scene.pictures,):
        try:
            state = file.stat()
            mark = f"{state.st_size} {state.st_mtime_ns}"
        except OSError:
            mark = "missing"
        digest.update(f"\n{os.path.abspath(file)} {mark}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


class _Cache:
    """The shards of a folder, read once each; an empty vector and a sentence stand for a failed scene."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, set[str]()
        self.vectors: dict[str, Tensor] = {}
        self.problems: dict[str, str] = {}

    def read(self) -> int:
        """Take in shards that are new; damaged ones are removed, to be computed again. Returns how many."""
        new = [file for file in sorted(self.folder.glob("*.safetensors")) if file.name not in self.seen]
        for file in new:
            self.seen.add(file.name)
            try:
                with safe_open(file, "pt") as shard:
                    self.vectors |= {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118
                    self.problems |= shard.metadata() or {}
            except (SafetensorError, OSError):
                warnings.warn(f"{file} is damaged: its embeddings are computed again", stacklevel=5)
                file.unlink(missing_ok=True)
                self.seen.discard(file.name)
        return len(new)

    def write(self, vectors: dict[str, Tensor], problems: dict[str, str]) -> None:
        """Add a shard, whole in one instant."""
        name = hashlib.sha256("".join(sorted(vectors)).encode()).hexdigest()[:24]
        with atomic(self.folder / f"{name}.safetensors") as temporary:
            save_file(vectors, temporary, metadata=problems)
        self.seen.add(f"{name}.safetensors")
        self.vectors |= vectors
        self.problems |= problems


def _compute(
    entries: Sequence[_Entry],
    cache: _Cache,
    towers: Towers,
    frame_rate: float | None,
    batch: int,
    progress: bool,
    per_frame: bool,
) -> None:
    bar = tqdm(total=len(entries), desc="embedding pictures", unit="scene", delay=1.0, disable=not progress)
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for first in range(0, len(entries), SHARD):
            chunk = entries[first : first + SHARD]
            frames: dict[str, list[Tensor]] = {entry.key: [] for entry in chunk}
            problems: dict[str, str] = {}
            waiting: list[tuple[str, Tensor]] = []

            def embed(until: int, waiting=waiting, frames=frames) -> None:
                """Embed what waits, a batch at a time, until fewer than ``until`` pictures are left."""
                while len(waiting) >= until and waiting:
                    now = waiting[:batch]
                    vectors = towers.images(torch.stack([picture for _, picture in now])).cpu()
                    for (key, _), vector in zip(now, vectors):
                        frames[key].append(vector)
                    del waiting[:batch]

            open_scene = _Opening(towers, frame_rate)
            for entry, blocks in _ahead(pool, open_scene, chunk):
                try:
                    for block in blocks:
                        waiting += [(entry.key, picture) for picture in block]
                        embed(batch)
                except (PictureError, VideoError) as error:
                    problems[entry.key] = str(error)
                bar.update()
            embed(1)
            cache.write({key: _joined(v, key in problems, per_frame) for key, v in frames.items()}, problems)


def _joined(vectors: list[Tensor], failed: bool, per_frame: bool) -> Tensor:
    if failed or not vectors:
        return torch.zeros(0)
    frames = torch.stack(vectors)
    return frames if per_frame else F.normalize(frames.mean(dim=0), dim=-1)


class _Opening:
    """Reading and resizing a scene's first pictures in a thread; a long video's others follow on demand."""

    def __init__(self, towers: Towers, frame_rate: float | None) -> None:
        self.towers, self.frame_rate = towers, frame_rate

    def __call__(self, entry: _Entry) -> tuple[_Entry, Iterator[UInt8[Tensor, "n 3 height width"]]]:
        blocks = self._blocks(entry.scene)
        try:
            first = next(blocks)
        except (PictureError, VideoError) as error:
            return entry, _raising(error)
        return entry, _followed(first, blocks)

    def _blocks(self, scene: Scene) -> Iterator[Tensor]:
        prepared = (self.towers.prepare(picture[None])[0] for picture in each_picture(scene, self.frame_rate))
        while block := list(islice(prepared, BLOCK)):
            yield torch.stack(block)


def _followed(first: T, rest: Iterator[T]) -> Iterator[T]:
    yield first
    yield from rest


def _raising(error: Exception) -> Iterator[Tensor]:
    raise error
    yield


def _ahead(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results in order, a few computed ahead: all at once would fill the memory with pictures."""
    running: deque[Future[R]] = deque()
    for item in items:
        running.append(pool.submit(work, item))
        if len(running) > 2 * pool._max_workers:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _rank() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _await(missing: Sequence[_Entry], cache: _Cache, n_ranks: int) -> None:
    """Look for the other processes' shards; a barrier would time out over a long share."""
    news = time.monotonic()
    while n_ranks > 1 and any(entry.key not in cache.vectors for entry in missing):
        if cache.read():
            news = time.monotonic()
        elif time.monotonic() - news > PATIENCE_SECONDS:
            return
        else:
            time.sleep(0.2)


def _warn(scenes: Sequence[Scene], keys: Sequence[str], cache: _Cache) -> None:
    bad = [cache.problems.get(key, "has no picture") for key in keys if not len(cache.vectors[key])]
    if bad and len(bad) == len(scenes):
        raise UserError(f"none of the {len(scenes)} scenes' pictures can be used: {bad[0]}")
    if bad:
        named = "; ".join(bad[:NAMED_AT_MOST])
        more = f"; and {len(bad) - NAMED_AT_MOST} more" if len(bad) > NAMED_AT_MOST else ""
        warnings.warn(
            f"the pictures of {len(bad)} of {len(scenes)} scenes cannot be used: {named}{more}", stacklevel=4
        )
