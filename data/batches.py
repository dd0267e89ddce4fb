"""Training batches of speech crops, each a function of (seed, step, rank, micro-batch) alone."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.audio import AudioError
from data.manifest import contents_of_rows
from data.recordings import crop_and_reference, recordings_of
from data.rows import Groups, names_shards, speaker_labels, split_rows
from engine.config import free
from engine.contents import Contents
from engine.user_error import UserError, at_least

MANY_VOICES = 100_000
FILES_TRIED = 6
"""Before giving up on recordings that can no longer be read."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Which recordings, and how they are cut."""

    path: str = free("")
    """A manifest, a folder of recordings, or a folder or an address of shards."""
    split: str = "train"
    """Rows of this split only; empty: all. Rows without a split belong to train."""
    sample_rate: int = 16_000
    """Hz; files at other rates are resampled."""
    crop_samples: int = 32_000
    """Length of a crop. A recording shorter than this is repeated to fill it."""
    reference_samples: int = 0
    """Length of the other crop of the same voice; 0: as the first."""
    batch: int = 12
    """Crops in a micro-batch of one process."""
    silence_db: float = -50.0
    """dBFS, RMS: quieter crops are drawn again."""
    cache_gib: float = 8.0
    """Memory for decoded waves (0.25 GiB for 2.2 hours at 16 kHz); crops of later files come from disk."""

    def __post_init__(self) -> None:
        at_least(1, self, "sample_rate", "crop_samples", "batch")
        at_least(0, self, "reference_samples")


@dataclass(frozen=True, kw_only=True)
class DataConfig(CropConfig):
    """Which speech, and how it is cut."""

    path: str = free("")
    """A manifest (.csv, .jsonl) or a folder of recordings, or several separated by commas: a speaker of one
    name in several is one speaker. Or a folder or an address of shards (``python -m data.shard``)."""
    equal_speakers: bool = False
    """Use all speakers alike, as many different ones in a batch as there are (a recording without a speaker
    counts as one of its own); else all seconds alike."""
    label_share: float = 1.0
    """Share of the recordings with a speaker whose speaker is told; the others are used as if theirs were not
    known. Always the same ones, and a smaller share lies within a larger."""
    other: Literal["speaker", "recording"] = "speaker"
    """The other crop comes from another recording of the speaker, where there is one, or always from the same
    recording."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_share <= 1:
            raise UserError(f"label_share={self.label_share} must lie between 0 and 1")

    def contents(self) -> dict[str, Contents | None]:
        if names_shards(self.path):
            from data.shards import contents_of_shards

            return {"path": contents_of_shards(self.path, self.split, labels=self.label_share > 0)}
        rows = split_rows(self.path, self.split) if self.path else []
        speakers = speaker_labels(rows, self.label_share)[0]
        of_table = getattr(rows, "contents", None)  # of a manifest too long for a list
        return {"path": of_table(speakers) if of_table else contents_of_rows(rows, speakers)}


class Address(NamedTuple):
    seed: int
    step: int
    rank: int = 0
    micro: int = 0


class Batch(NamedTuple):
    wave: Float[Tensor, "batch 1 samples"]
    other: Float[Tensor, "batch 1 reference_samples"]
    """A crop of another recording of the speaker, else of the same recording; see ``SpeechCrops``."""
    speaker: Int[Tensor, "batch"]
    """Index into ``SpeechCrops.speakers``; −1: not known."""
    utterance: Int[Tensor, "batch"]
    """Index into ``SpeechCrops.rows``."""


class SpeechCrops(Dataset[Batch]):
    """Batches by address.

    ``other`` comes from another recording of the speaker where there is one (and ``config.other`` asks for
    it). Else from the same recording, without overlap where that is as long as both crops, and in a shorter
    one with as little as can be.
    """

    def __init__(self, config: DataConfig, *, progress: bool = True) -> None:
        self.config = config
        self.rows = split_rows(config.path, config.split)
        self.speakers, self.labels = speaker_labels(self.rows, config.label_share)
        """Names, and each row's by number; −1: none. Bad files do not shift the labels."""
        self.recordings = recordings_of(self.rows, config, progress)
        if progress:
            self.recordings.warn_unless_speech()
        usable = self.recordings.usable
        self.voices = Groups(usable, self.labels[usable])
        """Usable rows, grouped by speaker; one without a speaker is a group of its own."""
        self._voice_totals = np.cumsum(self.voices.sums(self.recordings.lengths))

    @property
    def n_recordings(self) -> int:
        """All rows, usable or not."""
        return len(self.rows)

    def __getitem__(self, address: Address) -> Batch:
        rng = np.random.default_rng(list(address))
        voices = self._voices(rng)
        draws = [self._draw(rng, voice) for voice in voices]
        waves, others, indices = zip(*draws)
        indices = np.array(indices)
        return Batch(
            wave=torch.from_numpy(np.stack(waves))[:, None],
            other=torch.from_numpy(np.stack(others))[:, None],
            speaker=torch.from_numpy(self.labels[indices]),
            utterance=torch.from_numpy(indices),
        )

    def _voices(self, rng: np.random.Generator) -> list[int]:
        n_rows, n_voices = self.config.batch, len(self.voices)
        if self.config.equal_speakers:
            if n_voices > MANY_VOICES:  # without a permutation of them all
                return rng.choice(n_voices, n_rows, replace=n_rows > n_voices).tolist()
            rounds = -(-n_rows // n_voices)
            return np.concatenate([rng.permutation(n_voices) for _ in range(rounds)])[:n_rows].tolist()
        return [_proportional(rng, self._voice_totals) for _ in range(n_rows)]

    def _draw(self, rng: np.random.Generator, voice: int) -> tuple[np.ndarray, np.ndarray, int]:
        for _ in range(FILES_TRIED):
            group = self.voices[voice]
            index = int(group[_proportional(rng, np.cumsum(self.recordings.lengths[group]))])
            # Another recording of this voice, if there is one.
            several = len(group) > 1 and self.config.other == "speaker"
            other = int(rng.choice(group[group != index])) if several else None
            try:
                wave, _, reference = crop_and_reference(
                    rng,
                    self.recordings,
                    index,
                    other,
                    samples=self.config.crop_samples,
                    reference_samples=self.config.reference_samples or self.config.crop_samples,
                    silence_db=self.config.silence_db,
                )
                return wave, reference, index
            except AudioError as error:
                bad = index if other is None or error.path == self.rows[index].path else other
                self.recordings.drop(bad, error.detail)
                voice = int(rng.integers(len(self.voices)))
        raise UserError(
            f"{FILES_TRIED} recordings in a row of {self.config.path} can no longer be read; are they still"
            " there?"
        )


def speech_crops(config: DataConfig, *, progress: bool = True, **ranks: int) -> Any:
    """What draws the batches of one process: from recordings, or from shards as they stream in."""
    return crops_of(config, SpeechCrops, progress=progress, **ranks)


def crops_of(config: Any, kind: Callable[..., Any], *, progress: bool, **ranks: int) -> Any:
    """The batches by address of a ``kind`` that ``config`` describes, also where its path names shards."""
    if not names_shards(config.path):
        return kind(config, progress=progress)
    from data.shards import StreamedCrops

    return StreamedCrops(config, kind, **ranks)


Crops = TypeVar("Crops", bound=Dataset[Any])
"""Batches by ``Address``."""


class Batches(Generic[Crops]):
    """Called with the step to start from, yields batches without end, ``accumulate`` of them for a step."""

    def __init__(
        self, crops: Crops, *, seed: int, workers: int = 0, rank: int = 0, accumulate: int = 1
    ) -> None:
        self.crops, self.seed, self.workers = crops, seed, workers
        self.rank, self.accumulate = rank, accumulate

    def __call__(self, start: int = 0) -> Iterator[Any]:
        loader = DataLoader(
            self.crops,
            batch_size=None,
            sampler=self._addresses(start),
            num_workers=self.workers,
            # Forked workers share the decoded waves.
            multiprocessing_context="fork" if self.workers else None,
            worker_init_fn=_stay_calm if self.workers else None,
            prefetch_factor=4 if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            # The loader draws a seed; not from the global stream, which belongs to the step.
            generator=torch.Generator(),
        )
        return iter(loader)

    def _addresses(self, start: int) -> Iterator[Address]:
        for step in count(start):
            for micro in range(self.accumulate):
                yield Address(self.seed, step, self.rank, micro)


def batches(
    config: DataConfig, seed: int, workers: int = 0, rank: int = 0, n_ranks: int = 1, accumulate: int = 1
) -> "Batches[Any]":
    """Read the corpus and return the batches of one process; the same whatever the number of workers."""
    if not 0 <= rank < n_ranks:
        raise ValueError(f"rank={rank} must lie in 0 … n_ranks − 1 = {n_ranks - 1}")
    crops = speech_crops(config, rank=rank, n_ranks=n_ranks, accumulate=accumulate, progress=rank == 0)
    return Batches(crops, seed=seed, workers=workers, rank=rank, accumulate=accumulate)


def _proportional(rng: np.random.Generator, totals: np.ndarray) -> int:
    return int(np.searchsorted(totals, rng.integers(totals[-1]), side="right"))


def _stay_calm(worker: int) -> None:
    """Leave stop signals, which a terminal sends to all, to the main process: it finishes its step first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
