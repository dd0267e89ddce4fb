"""Batches of unlabelled speech in clips of equal length, as a function of (seed, step, rank, micro-batch)."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from data.audio import AudioError
from data.batches import FILES_TRIED, Address
from data.manifest import contents_of_rows
from data.recordings import Recordings
from data.rows import names_shards, split_rows
from data.shards import ShardStream, contents_of_shards
from engine.config import free
from engine.contents import Contents
from engine.user_error import UserError

T = TypeVar("T", bound=Dataset[Any])

NEIGHBOURS = 4
"""Number of recordings of similar length from which a batch is drawn, relative to the batch size."""


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """Unlabelled speech and its batches."""

    paths: tuple[str, ...] = free(())
    """Manifests or folders of recordings; only the audio is used."""
    split: str = "train"
    """Split to use; empty: all rows. Rows without a split belong to train."""
    batch_seconds: float = 64.0
    """Seconds of speech per micro-batch and process."""
    shortest_seconds: float = 2.0
    """Minimum duration of a recording; shorter ones are skipped."""
    longest_seconds: float = 20.0
    """Maximum duration of a clip; longer recordings are cropped."""
    cache_gib: float = 8.0
    """Memory for decoded waves; once it is full, clips are read from disk."""

    def __post_init__(self) -> None:
        if not 0 < self.shortest_seconds <= self.longest_seconds <= self.batch_seconds:
            raise UserError(
                f"data.shortest_seconds={self.shortest_seconds}, longest_seconds={self.longest_seconds} and "
                f"batch_seconds={self.batch_seconds} must be above 0 and in ascending order"
            )

    def contents(self) -> dict[str, Contents | None]:
        if len(self.paths) == 1 and names_shards(self.paths[0]):
            return {"paths": contents_of_shards(self.paths[0], self.split)}
        rows = [row for path in self.paths for row in split_rows(path, self.split)]
        return {"paths": contents_of_rows(rows)}


class Clips(NamedTuple):
    """A batch of clips of equal length, without padding."""

    wave: Float[Tensor, "batch 1 samples"]


class UnlabelledSpeech(Dataset[Clips]):
    """Batches of recordings of similar length, cropped to the shortest of the batch."""

    def __init__(self, config: SpeechConfig, *, sample_rate: int = 16_000, progress: bool = True) -> None:
        self.config, self.sample_rate = config, sample_rate
        if not config.paths:
            raise UserError("no speech was given: name manifests or folders with --data.paths")
        rows = [row for path in config.paths for row in split_rows(path, config.split)]
        self.recordings = Recordings(
            rows, sample_rate=sample_rate, cache_gib=config.cache_gib, progress=progress
        )
        self.order = self._long_enough()
        """Indices of the usable rows, in order of duration."""
        self.lengths = self.recordings.lengths[self.order]
        self._totals = np.cumsum(self.lengths)
        self._longest = round(config.longest_seconds * sample_rate)

    def _long_enough(self) -> np.ndarray:
        recordings, shortest = self.recordings, self.config.shortest_seconds
        usable = recordings.usable
        long = usable[recordings.lengths[usable] >= shortest * self.sample_rate]
        if len(long) < len(usable):
            short = next(i for i in usable if i not in long)
            seconds = recordings.lengths[short] / self.sample_rate
            what = (
                f"{len(usable) - len(long)} of {len(usable)} recordings are shorter than "
                f"data.shortest_seconds={shortest:g}, such as {recordings.rows[short].path} ({seconds:.2f} s)"
            )
            if not len(long):
                raise UserError(f"{what}: lower it, or give longer recordings")
            warnings.warn(f"{what}; they are skipped", stacklevel=3)
        return long[np.argsort(recordings.lengths[long], kind="stable")]

    def __getitem__(self, address: Address) -> Clips:
        rng = np.random.default_rng(list(address))
        for _ in range(FILES_TRIED):
            first, last, samples = self._bucket(rng)
            size = max(1, int(self.config.batch_seconds * self.sample_rate) // samples)
            share = self.lengths[first:last] / self.lengths[first:last].sum()
            chosen = first + rng.choice(last - first, size, replace=size > last - first, p=share)
            try:
                return Clips(self._clips(chosen, samples, rng))
            except AudioError as error:
                for place in chosen:  # later addresses do not draw it again
                    if self.recordings.rows[int(self.order[place])].path == error.path:
                        self.recordings.drop(int(self.order[place]), error.detail)
        raise UserError(f"{FILES_TRIED} batches in a row contain recordings that can no longer be read")

    def _bucket(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Draw a recording weighted by length; return the range of similar ones and the clip length."""
        place = int(np.searchsorted(self._totals, rng.integers(self._totals[-1]), side="right"))
        samples = min(int(self.lengths[place]), self._longest)
        if self.lengths[place] >= self._longest:
            return int(np.searchsorted(self.lengths, self._longest)), len(self.order), samples
        size = int(self.config.batch_seconds * self.sample_rate) // samples
        window = min(NEIGHBOURS * max(1, size), len(self.order))
        first = min(max(0, place - window // 2), len(self.order) - window)
        return first, first + window, samples

    def _clips(
        self, chosen: np.ndarray, longest: int, rng: np.random.Generator | None = None
    ) -> Float[Tensor, "batch 1 samples"]:
        """Read the beginnings of recordings or, with ``rng``, random crops, as long as the shortest."""
        samples = min(int(self.lengths[chosen].min()), longest)
        waves = []
        for place in chosen:
            start = 0 if rng is None else int(rng.integers(self.lengths[place] - samples + 1))
            waves.append(self.recordings.read(int(self.order[place]), start, samples))
        return torch.from_numpy(np.stack(waves))[:, None]

    def in_order(self, most_seconds: float) -> Iterator[Clips]:
        """Yield batches of the beginnings of recordings of all lengths, about ``most_seconds`` in total."""
        wanted = max(1, int(most_seconds * self.sample_rate / np.minimum(self.lengths, self._longest).mean()))
        every = np.unique(np.linspace(0, len(self.order) - 1, min(wanted, len(self.order))).astype(int))
        size = max(1, int(self.config.batch_seconds / self.config.longest_seconds))
        for first in range(0, len(every), size):
            yield Clips(self._clips(every[first : first + size], self._longest))


def streamed_or_read(
    config: Any, build: Callable[[Any, bool], T], *, batch_seconds: float, progress: bool, **ranks: int
) -> T | ShardStream[T]:
    """Return the data set of one process, of recordings or of streamed shards.

    ``build`` takes the config, with the paths to read, and whether to show progress.
    """
    if len(config.paths) != 1 or not names_shards(config.paths[0]):
        return build(config, progress)

    def of_shard(folder: str) -> T:
        return build(replace(config, paths=(folder,)), False)

    return ShardStream(config.paths[0], config.split, of_shard, batch_seconds=batch_seconds, **ranks)


def first_of(source: T | ShardStream[T]) -> T:
    """Return the data set itself, or that of the first shard, for evaluation."""
    crops: Any = source.load(0).crops if isinstance(source, ShardStream) else source
    return crops


def unlabelled_speech(
    config: SpeechConfig, *, sample_rate: int = 16_000, progress: bool = True, **ranks: int
) -> UnlabelledSpeech | ShardStream[UnlabelledSpeech]:
    """Return unlabelled speech for one process, from recordings or from streamed shards."""

    def build(config: SpeechConfig, progress: bool) -> UnlabelledSpeech:
        return UnlabelledSpeech(config, sample_rate=sample_rate, progress=progress)

    return streamed_or_read(config, build, batch_seconds=config.batch_seconds, progress=progress, **ranks)
