"""A cache of the teacher's embeddings of scenes' images, in safetensors shards.

The cache has a folder per teacher and frame rate. An entry's key is a digest of the scene's files (name,
size, modification time) and time span, so that edited files are embedded again. Shards are written
atomically, and an interrupted run continues after the last one. Ranks of one run divide the scenes among
themselves; independent processes can safely use the same cache at the same time.
"""

import hashlib
import os
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from data.audiovisual.scenes import PictureError, Scene, each_picture
from data.audiovisual.video import FRAME_RATE, VideoError
from engine.files import atomic
from engine.outcome import NAMED_AT_MOST
from engine.processes import n_processes
from engine.user_error import UserError
from pretrain.clip.towers import Towers

SHARD = 256
"""Scenes per shard; at most one shard is lost when a run is killed."""
BLOCK = 64
"""Frames of a video in memory at once."""
PATIENCE_SECONDS = 300.0
"""Time without new shards of other processes after which their scenes are embedded here as well."""

Blocks = Iterator[UInt8[Tensor, "n 3 height width"]]


def embed_scenes(
    scenes: Sequence[Scene],
    towers: Towers,
    cache_folder: str | Path,
    *,
    frame_rate: float | None = FRAME_RATE,
    batch: int = 64,
    progress: bool = True,
) -> Float[Tensor, "scenes dim"]:
    """Return an embedding of each scene: the mean over its images or frames, normalised to unit length.

    Scenes with unreadable images get a row of NaN and are reported in one warning, the first ones by name;
    ``embedded_scenes`` skips them.
    """
    rate = "all" if frame_rate is None else f"{frame_rate:g}"
    folder = Path(cache_folder) / f"{towers.key}_mean_{rate}"
    folder.mkdir(parents=True, exist_ok=True)
    keys = [scene_key(scene) for scene in scenes]
    cache = _Cache(folder)
    cache.read()
    n_ranks = n_processes()
    rank = torch.distributed.get_rank() if n_ranks > 1 else 0
    entries = [_Entry(key, scene) for key, scene in dict(zip(keys, scenes)).items()]
    # Shares of the whole list, not of the missing entries: other processes may have read fewer shards.
    share = [entry for entry in entries[rank::n_ranks] if entry.key not in cache.vectors]
    missing = [entry for entry in entries if entry.key not in cache.vectors]
    _compute(share, cache, towers, frame_rate, batch, progress=progress and rank == 0)
    _await(missing, cache, n_ranks)
    late = [entry for entry in missing if entry.key not in cache.vectors]
    _compute(late, cache, towers, frame_rate, batch, progress=progress)
    _warn(scenes, keys, cache)
    missing_vector = torch.full((towers.dim,), torch.nan)
    vectors = [cache.vectors[key] if len(cache.vectors[key]) else missing_vector for key in keys]
    return torch.stack(vectors) if vectors else torch.zeros(0, towers.dim)


def embedded_scenes(
    scenes: Sequence[Scene],
    towers: Towers,
    cache_folder: str | Path,
    *,
    frame_rate: float | None = FRAME_RATE,
) -> tuple[list[Scene], Float[Tensor, "usable dim"]]:
    """Return the scenes with usable images, and their embeddings."""
    vectors = embed_scenes(scenes, towers, cache_folder, frame_rate=frame_rate)
    usable = ~vectors.isnan().any(dim=-1)
    return [scene for scene, keep in zip(scenes, usable.tolist()) if keep], vectors[usable]


def scene_key(scene: Scene) -> str:
    """Return a digest of a scene's image files and time span."""
    digest = hashlib.sha256(f"{scene.start_s} {scene.duration_s}".encode())
    for file in scene.pictures if isinstance(scene.pictures, tuple) else (scene.pictures,):
        try:
            state = file.stat()
            mark = f"{state.st_size} {state.st_mtime_ns}"
        except OSError:
            mark = "missing"
        digest.update(f"\n{os.path.abspath(file)} {mark}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


class _Entry(NamedTuple):
    key: str
    scene: Scene


@dataclass
class _Cache:
    """The shards of a folder; a failed scene has an empty vector and an error message in ``problems``."""

    folder: Path
    files: set[str] = field(default_factory=set)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def read(self) -> int:
        """Read new shards and return their number; damaged ones are removed."""
        new = [file for file in sorted(self.folder.glob("*.safetensors")) if file.name not in self.files]
        for file in new:
            try:
                with safe_open(file, "pt") as shard:
                    self.vectors |= {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118
                    self.problems |= shard.metadata() or {}
                self.files.add(file.name)
            except (SafetensorError, OSError):
                warnings.warn(f"{file} is damaged: its embeddings are computed again", stacklevel=4)
                file.unlink(missing_ok=True)
        return len(new)

    def write(self, vectors: dict[str, Tensor], problems: dict[str, str]) -> None:
        name = hashlib.sha256("".join(sorted(vectors)).encode()).hexdigest()[:24]
        with atomic(self.folder / f"{name}.safetensors") as temporary:
            save_file(vectors, temporary, metadata=problems)
        self.files.add(f"{name}.safetensors")
        self.vectors |= vectors
        self.problems |= problems


def _compute(
    entries: Sequence[_Entry],
    cache: _Cache,
    towers: Towers,
    frame_rate: float | None,
    batch: int,
    *,
    progress: bool,
) -> None:
    """Embed scenes shard by shard; a batch contains images of several scenes."""
    bar = tqdm(total=len(entries), desc="embedding pictures", unit="scene", delay=1.0, disable=not progress)
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for first in range(0, len(entries), SHARD):
            part = entries[first : first + SHARD]
            vectors: dict[str, list[Tensor]] = {entry.key: [] for entry in part}
            problems: dict[str, str] = {}
            waiting: list[tuple[str, Tensor]] = []

            def embed(waiting=waiting, vectors=vectors) -> None:
                keys, pictures = zip(*waiting[:batch])
                for key, vector in zip(keys, towers.images(torch.stack(pictures)).cpu()):
                    vectors[key].append(vector)
                del waiting[:batch]

            for entry, blocks in _read_ahead(pool, part, towers, frame_rate):
                try:
                    for block in blocks():
                        waiting += [(entry.key, picture) for picture in block]
                        while len(waiting) >= batch:
                            embed()
                except (PictureError, VideoError) as error:
                    problems[entry.key] = str(error)
                bar.update()
            while waiting:
                embed()
            cache.write({key: _mean(v, failed=key in problems) for key, v in vectors.items()}, problems)


def _mean(vectors: list[Tensor], *, failed: bool) -> Tensor:
    if failed or not vectors:
        return torch.zeros(0)
    return F.normalize(torch.stack(vectors).mean(dim=0), dim=-1)


class _Reading(NamedTuple):
    """The blocks of a scene's images; the first is read in a thread, the others on demand."""

    first: Future[Tensor]
    rest: Blocks

    def __call__(self) -> Blocks:
        return chain([self.first.result()], self.rest)


def _read_ahead(
    pool: ThreadPoolExecutor, entries: Sequence[_Entry], towers: Towers, frame_rate: float | None
) -> Iterator[tuple[_Entry, _Reading]]:
    """Yield scenes in order, with only a few read ahead to limit memory."""
    running: deque[tuple[_Entry, _Reading]] = deque()
    for entry in entries:
        blocks = _blocks(entry.scene, towers, frame_rate)
        running.append((entry, _Reading(pool.submit(next, blocks), blocks)))
        if len(running) > 2 * pool._max_workers:
            yield running.popleft()
    yield from running


def _blocks(scene: Scene, towers: Towers, frame_rate: float | None) -> Blocks:
    prepared = (towers.prepare(picture[None])[0] for picture in each_picture(scene, frame_rate))
    while block := list(islice(prepared, BLOCK)):
        yield torch.stack(block)


def _await(missing: Sequence[_Entry], cache: _Cache, n_ranks: int) -> None:
    """Poll for the other processes' shards; a barrier could time out."""
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
            f"the pictures of {len(bad)} of {len(scenes)} scenes cannot be used: {named}{more}", stacklevel=3
        )
