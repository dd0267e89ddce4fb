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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

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
BATCH = 64
"""Images embedded at once, of several scenes."""
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
    frame_rate: float = FRAME_RATE,
) -> Float[Tensor, "scenes dim"]:
    """Return an embedding of each scene: the mean over its images or frames, normalised to unit length.

    Scenes with unreadable images get a row of NaN and are reported in one warning, the first ones by name;
    ``embedded_scenes`` skips them.
    """
    folder = Path(cache_folder) / f"{towers.key}_mean_{frame_rate:g}"
    folder.mkdir(parents=True, exist_ok=True)
    keys = [scene_key(scene) for scene in scenes]
    cache = _Cache(folder)
    cache.read()
    n_ranks = n_processes()
    rank = torch.distributed.get_rank() if n_ranks > 1 else 0
    entries = dict(zip(keys, scenes))
    # A share of the whole list, not of the missing entries: other processes may have read fewer shards.
    share = dict(islice(entries.items(), rank, None, n_ranks))
    _compute(cache.missing(share), cache, towers, frame_rate, progress=rank == 0)
    if n_ranks > 1:
        _await(entries, cache)
        _compute(cache.missing(entries), cache, towers, frame_rate, progress=rank == 0)
    _warn(scenes, keys, cache)
    missing_vector = torch.full((towers.dim,), torch.nan)
    vectors = [cache.vectors[key] if len(cache.vectors[key]) else missing_vector for key in keys]
    return torch.stack(vectors) if vectors else torch.zeros(0, towers.dim)


def embedded_scenes(
    scenes: Sequence[Scene],
    towers: Towers,
    cache_folder: str | Path,
    *,
    frame_rate: float = FRAME_RATE,
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

    def missing(self, entries: Mapping[str, Scene]) -> dict[str, Scene]:
        return {key: scene for key, scene in entries.items() if key not in self.vectors}

    def write(self, vectors: dict[str, Tensor], problems: dict[str, str]) -> None:
        name = hashlib.sha256("".join(sorted(vectors)).encode()).hexdigest()[:24]
        with atomic(self.folder / f"{name}.safetensors") as temporary:
            save_file(vectors, temporary, metadata=problems)
        self.files.add(f"{name}.safetensors")
        self.vectors |= vectors
        self.problems |= problems


def _compute(
    missing: Mapping[str, Scene], cache: _Cache, towers: Towers, frame_rate: float, *, progress: bool
) -> None:
    """Embed scenes shard by shard."""
    entries = list(missing.items())
    bar = tqdm(total=len(entries), desc="embedding pictures", unit="scene", delay=1.0, disable=not progress)
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for first in range(0, len(entries), SHARD):
            part = entries[first : first + SHARD]
            vectors: dict[str, list[Tensor]] = {key: [] for key, _ in part}
            problems: dict[str, str] = {}
            pictures = _pictures(part, towers, frame_rate, pool, problems, bar)
            while batch := list(islice(pictures, BATCH)):
                keys, pixels = zip(*batch)
                for key, vector in zip(keys, towers.images(torch.stack(pixels)).cpu()):
                    vectors[key].append(vector)
            means = {key: _mean(part) for key, part in vectors.items() if key not in problems}
            cache.write(means | {key: torch.zeros(0) for key in problems}, problems)


def _mean(vectors: list[Tensor]) -> Tensor:
    return F.normalize(torch.stack(vectors).mean(dim=0), dim=-1)


def _pictures(
    entries: Sequence[tuple[str, Scene]],
    towers: Towers,
    frame_rate: float,
    pool: ThreadPoolExecutor,
    problems: dict[str, str],
    bar: tqdm,
) -> Iterator[tuple[str, UInt8[Tensor, "3 height width"]]]:
    """Yield the prepared images of scenes in order; ``problems`` receives the errors of unreadable ones.

    To limit memory, only a few scenes are read ahead, and of each only the first block.
    """
    running: deque[tuple[str, Future[Tensor], Blocks]] = deque()

    def finished() -> Iterator[tuple[str, Tensor]]:
        key, first, rest = running.popleft()
        try:
            for block in chain([first.result()], rest):
                yield from ((key, picture) for picture in block)
        except (PictureError, VideoError) as error:
            problems[key] = str(error)
        bar.update()

    for key, scene in entries:
        blocks = _blocks(scene, towers, frame_rate)
        running.append((key, pool.submit(next, blocks), blocks))
        if len(running) > 2 * pool._max_workers:
            yield from finished()
    while running:
        yield from finished()


def _blocks(scene: Scene, towers: Towers, frame_rate: float) -> Blocks:
    prepared = (towers.prepare(picture[None])[0] for picture in each_picture(scene, frame_rate))
    while block := list(islice(prepared, BLOCK)):
        yield torch.stack(block)


def _await(entries: Mapping[str, Scene], cache: _Cache) -> None:
    """Poll for the other processes' shards; a barrier could time out."""
    news = time.monotonic()
    while cache.missing(entries) and time.monotonic() - news < PATIENCE_SECONDS:
        if cache.read():
            news = time.monotonic()
        else:
            time.sleep(0.2)


def _warn(scenes: Sequence[Scene], keys: Sequence[str], cache: _Cache) -> None:
    bad = [cache.problems[key] for key in keys if not len(cache.vectors[key])]
    if bad and len(bad) == len(scenes):
        raise UserError(f"none of the {len(scenes)} scenes' pictures can be used: {bad[0]}")
    if bad:
        named = "; ".join(bad[:NAMED_AT_MOST])
        more = f"; and {len(bad) - NAMED_AT_MOST} more" if len(bad) > NAMED_AT_MOST else ""
        warnings.warn(
            f"the pictures of {len(bad)} of {len(scenes)} scenes cannot be used: {named}{more}", stacklevel=3
        )
