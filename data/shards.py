"""Streaming of a corpus from shards: tar files of encoded recordings, local or at any fsspec URL.

A shard is a WebDataset with ``000000123.flac`` and ``000000123.json`` (its metadata) for each recording. A
trainer has a few shards open at a time, each downloaded sequentially to a temporary folder, which is deleted
when the next shard replaces it.
"""

import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import fsspec
import numpy as np
import torch
from torch.utils.data import Dataset

from data.manifest import Row, row_of, write_manifest
from data.rows import SHARDS
from engine.contents import Contents
from engine.user_error import UserError

STREAMS = 4
"""Shards that a process has open, with batches drawn from each in turn; shared between its workers."""
TRIES, PATIENCE_S = 4, 2.0
"""Attempts to download a shard, and seconds before the second one, doubled for each further one."""
SHARDS_ADDRESS = 2_003
"""Suffix of the random seeds of the order of shards, so that they differ from other seeds."""
MEMBER = re.compile(r"(\d{9})\.([A-Za-z0-9]{1,8})")
SHARD = re.compile(r"[\w.-]{1,200}\.tar")
PREFIX = "timbre-shards-"


@dataclass(frozen=True, kw_only=True)
class Shard:
    name: str
    split: str
    recordings: int
    seconds: float
    digest: str
    """Hash of the planned contents; an equal shard need not be written again."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """All shards of a corpus, in order, and its speakers, sorted."""

    shards: tuple[Shard, ...]
    speakers: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps({"version": 1, **asdict(self)}, ensure_ascii=False, indent=1)


def read_index(place: str) -> Index:
    where = f"{place.rstrip('/')}/{SHARDS}"
    try:
        with fsspec.open(where, "r", encoding="utf-8") as file:
            record = json.load(file)  # pyright: ignore[reportArgumentType]
        shards = tuple(Shard(**shard) for shard in record["shards"])
        if any(not SHARD.fullmatch(shard.name) for shard in shards):
            raise ValueError("the name of a shard has invalid characters")
        return Index(shards=shards, speakers=tuple(record["speakers"]))
    except FileNotFoundError:
        raise UserError(f"{where} does not exist: python -m data.shard makes shards of a manifest") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} is not an index of shards ({error}): make them again") from None
    except Exception as error:  # remote file systems raise many types
        raise UserError(f"{where} cannot be read: {' '.join(str(error).split())[:200]}") from None


def shards_of(index: Index, split: str, place: str) -> list[Shard]:
    chosen = [shard for shard in index.shards if not split or shard.split == split]
    if not chosen:
        known = ", ".join(sorted({shard.split for shard in index.shards}))
        raise UserError(f"{place} has no shards of split {split!r}; it has {known}")
    return chosen


def contents_of_shards(place: str, split: str, *, labels: bool = False) -> Contents:
    index = read_index(place)
    shards = shards_of(index, split, place)
    return Contents(
        summary=f"{sum(shard.recordings for shard in shards)} recordings in {len(shards)} shards",
        digest=hashlib.sha256(" ".join(shard.digest for shard in shards).encode()).hexdigest()[:32],
        fixed=index.speakers if labels else (),
    )


def fetch(place: str, shard: Shard, folder: Path) -> list[Row]:
    """Download a shard's recordings and write their manifest to a folder; return its rows."""
    where, wait = f"{place.rstrip('/')}/{shard.name}", PATIENCE_S
    for left in range(TRIES - 1, -1, -1):
        try:
            with fsspec.open(where, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:  # pyright: ignore
                rows = _members(tar, where, folder)
            break
        except FileNotFoundError:
            raise UserError(f"{where} is not there, though its index names it: copy it again") from None
        except (tarfile.TarError, EOFError) as error:
            raise UserError(f"{where} is damaged ({error}): copy it again") from None
        except UserError:
            raise
        except Exception as error:  # of the network
            if not left:
                raise UserError(f"{where} cannot be read: {' '.join(str(error).split())[:200]}") from None
            time.sleep(wait)
            wait *= 2
    if len(rows) != shard.recordings:
        counts = f"{len(rows)} recordings, but its index states {shard.recordings}"
        raise UserError(f"{where} holds {counts}: copy it again")
    write_manifest(folder / "manifest.jsonl", rows)
    return rows


def first_rows(place: str, split: str, folder: Path) -> list[Row]:
    return fetch(place, shards_of(read_index(place), split, place)[0], folder)


def _members(tar: tarfile.TarFile, where: str, folder: Path) -> list[Row]:
    sounds: dict[str, str] = {}
    records: dict[str, Any] = {}
    for member in tar:
        name = MEMBER.fullmatch(member.name)
        content = tar.extractfile(member) if name and member.isreg() else None
        if name is None or content is None:
            raise UserError(f"{where} holds {member.name!r}, which is not a member of a shard: make it again")
        if name[2] == "json":
            try:
                records[name[1]] = dict(json.load(content))
            except ValueError:
                raise UserError(f"{where}: {member.name} is not valid JSON: make the shard again") from None
        else:
            with (folder / member.name).open("wb") as file:
                shutil.copyfileobj(content, file)
            sounds[name[1]] = member.name
    return [
        row_of(folder / "manifest.jsonl", line, {**records.get(key, {}), "path": sounds[key]})
        for line, key in enumerate(sorted(sounds), start=1)
    ]


T = TypeVar("T", bound=Dataset[Any])


@dataclass(frozen=True)
class Open(Generic[T]):
    number: int
    """Index of the shard within its split."""
    crops: T


class ShardStream(Dataset[Any], Generic[T]):
    """A data set of batches, indexed by ``Address``, that draws them from one shard after the other.

    ``build`` makes a data set from the path of a folder with a manifest. Each process has its own shards, in
    ``STREAMS`` streams whose order depends on the seed and the epoch. The number of batches of a shard is
    proportional to its duration, so that an address determines the shard of a batch, and runs resume exactly
    in mid-epoch.
    """

    def __init__(
        self,
        place: str,
        split: str,
        build: Callable[[str], T],
        *,
        batch_seconds: float,
        rank: int = 0,
        n_ranks: int = 1,
        accumulate: int = 1,
    ) -> None:
        self.place, self.build, self.accumulate, self.rank = place, build, accumulate, rank
        self.index = read_index(place)
        self.shards = shards_of(self.index, split, place)
        if len(self.shards) < n_ranks:
            few = f"{place} has {len(self.shards)} shards for {n_ranks} processes"
            raise UserError(f"{few}: make more of them by python -m data.shard --shard-mib")
        order = np.random.default_rng(SHARDS_ADDRESS).permutation(len(self.shards))
        n_streams = min(STREAMS, len(self.shards) // n_ranks)
        first, step = rank * n_streams, n_ranks * n_streams
        self.streams = [order[first + stream :: step] for stream in range(n_streams)]
        """Indices of the shards in each stream of this process."""
        self.n_batches = np.array([max(1, round(shard.seconds / batch_seconds)) for shard in self.shards])
        self.open: dict[int, Open[T]] = {}
        self.coming: dict[int, tuple[int, Future[Open[T]]]] = {}
        self.pool: ThreadPoolExecutor | None = None
        self.folder = _temporary_folder()

    @property
    def summary(self) -> str:
        seconds = sum(shard.seconds for shard in self.shards)
        return f"{len(self.shards)} shards of {seconds / 3600:.2f} h, streamed"

    def shard_of(self, address: Any) -> tuple[int, int, int]:
        """Return stream, shard and next shard of a ``data.batches.Address``."""
        batch = address.step * self.accumulate + address.micro
        place, stream = divmod(batch, len(self.streams))
        epoch, place = divmod(place, int(self.n_batches[self.streams[stream]].sum()))
        shards = self._order(address.seed, epoch, stream)
        turn = int(np.searchsorted(np.cumsum(self.n_batches[shards]), place, side="right"))
        last = turn + 1 == len(shards)
        after = self._order(address.seed, epoch + 1, stream)[0] if last else shards[turn + 1]
        return stream, int(shards[turn]), int(after)

    def _order(self, seed: int, epoch: int, stream: int) -> np.ndarray:
        rng = np.random.default_rng([seed, epoch, self.rank, stream, SHARDS_ADDRESS])
        return rng.permutation(self.streams[stream])

    def crops(self, address: Any) -> Open[T]:
        """Return the shard of an address, and start to download the next one in the background."""
        stream, number, after = self.shard_of(address)
        if stream not in self.open or self.open[stream].number != number:
            expected, coming = self.coming.pop(stream, (-1, None))
            self.open.pop(stream, None)
            self.open[stream] = coming.result() if coming and expected == number else self.load(number)
            if after != number:
                self.pool = self.pool or ThreadPoolExecutor(1)
                self.coming[stream] = after, self.pool.submit(self.load, after)
        return self.open[stream]

    def load(self, number: int) -> Open[T]:
        """Download a shard and build its data set; its folder is deleted together with the data set."""
        folder = tempfile.TemporaryDirectory(dir=self.folder.name, ignore_cleanup_errors=True)
        fetch(self.place, self.shards[number], Path(folder.name))
        built = self.build(folder.name)
        built.folder = folder  # pyright: ignore[reportAttributeAccessIssue]
        return Open(number, built)

    def __getitem__(self, address: Any) -> Any:
        return self.crops(address).crops[address]


def _temporary_folder() -> tempfile.TemporaryDirectory:
    """Make a folder for the open shards, and delete those of processes that were killed."""
    import psutil  # installed with accelerate, which is not needed for packing

    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = old.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True)


class StreamedCrops(ShardStream[Any]):
    """A data set of batches from shards, each batch from one shard; labels and rows are numbered globally."""

    def __init__(self, config: Any, kind: Callable[..., Any], **ranks: int) -> None:
        """``kind`` makes the data set of one shard from ``config`` with the path of its manifest."""
        shard = replace(config, split="", cache_gib=config.cache_gib / (2 * STREAMS))

        def build(folder: str) -> Any:
            return kind(replace(shard, path=folder), progress=False)

        seconds = config.batch * config.crop_samples / config.sample_rate
        super().__init__(config.path, config.split, build, batch_seconds=seconds, **ranks)
        self.config = config
        self.speakers = list(self.index.speakers) if getattr(config, "label_share", 1.0) else []
        """Speaker names by label."""
        self._first_row = np.cumsum([0, *(shard.recordings for shard in self.shards)])

    @property
    def n_recordings(self) -> int:
        """Number of recordings in all shards."""
        return int(self._first_row[-1])

    def __getitem__(self, address: Any) -> Any:
        shard = self.crops(address)
        batch = shard.crops[address]
        label = torch.from_numpy(np.searchsorted(self.speakers, shard.crops.speakers or [""]))
        return batch._replace(
            speaker=torch.where(batch.speaker < 0, -1, label[batch.speaker]),
            utterance=batch.utterance + int(self._first_row[shard.number]),
        )
