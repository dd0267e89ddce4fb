"""Training batches of speech crops, each a function of only (seed, step, rank, micro-batch)."""

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
from engine.user_error import UserError, at_least, within

MANY_VOICES = 100_000
FILES_TRIED = 6
"""Consecutive unreadable recordings after which a run is aborted."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """The recordings of a data set and how crops are drawn from them."""

    path: str = free("")
    """A manifest, a folder of recordings, or a folder or URL of shards."""
    split: str = "train"
    """The split to use; empty for all rows. Rows without a split belong to train."""
    sample_rate: int = 16_000
    """Sample rate in Hz; files at other rates are resampled."""
    crop_samples: int = 32_000
    """Crop length in samples; a shorter recording is repeated to fill the crop."""
    reference_samples: int = 0
    """Length in samples of the reference crop of the same voice; 0 for that of the first crop."""
    batch: int = 12
    """Batch size: crops in a micro-batch of one process."""
    silence_db: float = -50.0
    """RMS level in dBFS below which a crop is drawn again."""
    cache_gib: float = 8.0
    """Memory for decoded waves in GiB (0.25 GiB for 2.2 hours at 16 kHz); other files are read from disk."""

    def __post_init__(self) -> None:
        at_least(1, self, "sample_rate", "crop_samples", "batch")
        at_least(0, self, "reference_samples")


@dataclass(frozen=True, kw_only=True)
class DataConfig(CropConfig):
    """The speech recordings of a data set and how crops are drawn from them."""

    path: str = free("")
    """A manifest (.csv, .jsonl) or a folder of recordings, or several separated by commas, in which equal
    speaker names are one speaker. Or a folder or URL of shards (``python -m data.shard``)."""
    equal_speakers: bool = False
    """Sample speakers uniformly, with as many distinct speakers per batch as possible (a recording without a
    speaker label counts as a speaker of its own); otherwise sample by duration."""
    label_share: float = 1.0
    """Fraction of the labelled recordings whose speaker label is used; the rest are treated as unlabelled.
    The selection is the same in every run, and a smaller fraction is a subset of a larger one."""
    other: Literal["speaker", "recording"] = "speaker"
    """Source of the reference crop: another recording of the speaker if there is one, or always the same
    recording."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("[0, 1]", self, "label_share")

    def contents(self) -> dict[str, Contents | None]:
        if names_shards(self.path):
            from data.shards import contents_of_shards

            return {"path": contents_of_shards(self.path, self.split, labels=self.label_share > 0)}
        rows = split_rows(self.path, self.split) if self.path else []
        speakers = speaker_labels(rows, self.label_share)[0]
        of_table = getattr(rows, "contents", None)  # for manifests read as tables
        return {"path": of_table(speakers) if of_table else contents_of_rows(rows, speakers)}


class Address(NamedTuple):
    seed: int
    step: int
    rank: int = 0
    micro: int = 0


class Batch(NamedTuple):
    wave: Float[Tensor, "batch 1 samples"]
    other: Float[Tensor, "batch 1 reference_samples"]
    """The reference crop, from another recording of the speaker or the same one; see ``SpeechCrops``."""
    speaker: Int[Tensor, "batch"]
    """Index into ``SpeechCrops.speakers``; −1 if unknown."""
    utterance: Int[Tensor, "batch"]
    """Index into ``SpeechCrops.rows``."""


class SpeechCrops(Dataset[Batch]):
    """A data set of batches, indexed by ``Address``.

    The crop ``other`` is from another recording of the speaker if there is one and ``config.other`` is
    "speaker". Otherwise it is from the same recording, without overlap if that is at least as long as both
    crops together, else with minimal overlap.
    """

    def __init__(self, config: DataConfig, *, progress: bool = True) -> None:
        self.config = config
        self.rows = split_rows(config.path, config.split)
        self.speakers, self.labels = speaker_labels(self.rows, config.label_share)
        """Speaker names, and each row's index into them (−1: none); independent of unusable files."""
        self.recordings = recordings_of(self.rows, config, progress)
        if progress:
            self.recordings.warn_unless_speech()
        usable = self.recordings.usable
        self.voices = Groups(usable, self.labels[usable])
        """Usable rows grouped by speaker; each row without a speaker is a group of its own."""
        self._voice_totals = np.cumsum(self.voices.sums(self.recordings.lengths))

    @property
    def n_recordings(self) -> int:
        """Number of rows, including unusable ones."""
        return len(self.rows)

    def __getitem__(self, address: Address) -> Batch:
        rng = np.random.default_rng(list(address))
        waves, others, indices = zip(*[self._draw(rng, voice) for voice in self._voices(rng)])
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
            if n_voices > MANY_VOICES:  # avoids a permutation of all speakers
                return rng.choice(n_voices, n_rows, replace=n_rows > n_voices).tolist()
            rounds = -(-n_rows // n_voices)
            return np.concatenate([rng.permutation(n_voices) for _ in range(rounds)])[:n_rows].tolist()
        return [_proportional(rng, self._voice_totals) for _ in range(n_rows)]

    def _draw(self, rng: np.random.Generator, voice: int) -> tuple[np.ndarray, np.ndarray, int]:
        for _ in range(FILES_TRIED):
            group = self.voices[voice]
            index = int(group[_proportional(rng, np.cumsum(self.recordings.lengths[group]))])
            several = len(group) > 1 and self.config.other == "speaker"
            other = int(rng.choice(group[group != index])) if several else None
            try:
                wave, _, reference = crop_and_reference(rng, self.recordings, index, other, self.config)
                return wave, reference, index
            except AudioError as error:
                bad = index if other is None or error.path == self.rows[index].path else other
                self.recordings.drop(bad, error.detail)
                voice = int(rng.integers(len(self.voices)))
        bad = f"{FILES_TRIED} consecutive recordings of {self.config.path}"
        raise UserError(f"{bad} can no longer be read; do they still exist?")


def speech_crops(config: DataConfig, *, progress: bool = True, **ranks: int) -> Any:
    """Make the data set of one process, from recordings or from streamed shards."""
    return crops_of(config, SpeechCrops, progress=progress, **ranks)


def crops_of(config: Any, kind: Callable[..., Any], *, progress: bool, **ranks: int) -> Any:
    """Make a data set of type ``kind``, wrapped for streaming if ``config.path`` names shards."""
    if not names_shards(config.path):
        return kind(config, progress=progress)
    from data.shards import StreamedCrops

    return StreamedCrops(config, kind, **ranks)


Crops = TypeVar("Crops", bound=Dataset[Any])
"""A data set of batches, indexed by ``Address``."""


class Batches(Generic[Crops]):
    """A function of the first step that yields batches without end, ``accumulate`` of them per step."""

    def __init__(
        self, crops: Crops, *, seed: int, workers: int = 0, rank: int = 0, accumulate: int = 1
    ) -> None:
        self.crops, self.seed, self.workers = crops, seed, workers
        self.rank, self.accumulate = rank, accumulate

    def __call__(self, start: int = 0) -> Iterator[Any]:
        seed, rank, micros = self.seed, self.rank, range(self.accumulate)
        loader = DataLoader(
            self.crops,
            batch_size=None,
            sampler=(Address(seed, step, rank, micro) for step in count(start) for micro in micros),
            num_workers=self.workers,
            # Forked worker processes share the decoded waves.
            multiprocessing_context="fork" if self.workers else None,
            worker_init_fn=_ignore_signals if self.workers else None,
            prefetch_factor=4 if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            # Keeps the loader from drawing its seed from the global generator, which is seeded per step.
            generator=torch.Generator(),
        )
        return iter(loader)


def batches(
    config: DataConfig, seed: int, workers: int = 0, rank: int = 0, n_ranks: int = 1, accumulate: int = 1
) -> Batches[Any]:
    """Read the corpus and return the batches of one process, independent of the number of workers."""
    if not 0 <= rank < n_ranks:
        raise ValueError(f"rank={rank} must lie in 0 … n_ranks − 1 = {n_ranks - 1}")
    crops = speech_crops(config, rank=rank, n_ranks=n_ranks, accumulate=accumulate, progress=rank == 0)
    return Batches(crops, seed=seed, workers=workers, rank=rank, accumulate=accumulate)


def _proportional(rng: np.random.Generator, totals: np.ndarray) -> int:
    return int(np.searchsorted(totals, rng.integers(totals[-1]), side="right"))


def _ignore_signals(worker: int) -> None:
    """Ignore stop signals in a worker, because the main process still needs it to finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
