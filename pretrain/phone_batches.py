"""Transcribed speech in batches of about equal length, each a function of (seed, step, rank, micro-batch)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data.manifest import Row, rows_from
from data.recordings import Recordings
from data.synthetic.espeak import phonemize
from engine.loop import Batches
from engine.user_error import UserError
from pretrain.phones import fold


@dataclass(frozen=True, kw_only=True)
class TranscribedConfig:
    """Which transcribed speech, and how much at once."""

    paths: tuple[str, ...] = ()
    """Manifests or folders with one; rows need a text, or phonemes in IPA (column ``phonemes``)."""
    split: str = "train"
    """Rows of this split only; rows without one belong to train."""
    batch_seconds: float = 64.0
    """Speech in a micro-batch of one process."""
    longest_seconds: float = 18.0
    """Longer recordings are left out."""


class Transcribed(NamedTuple):
    """Padded waves with their phones."""

    wave: Float[Tensor, "batch 1 samples"]
    samples: Int[Tensor, "batch"]
    """Length of each wave."""
    tokens: Int[Tensor, "batch longest"]
    """Phones as tokens, padded with 0."""
    n_tokens: Int[Tensor, "batch"]


class Address(NamedTuple):
    """What determines a batch."""

    step: int
    rank: int
    micro: int


class PhoneSpeech(Dataset[Transcribed]):
    """Recordings sorted by length; a batch is drawn among neighbours."""

    def __init__(
        self,
        config: TranscribedConfig,
        phones: tuple[str, ...],
        *,
        seed: int = 0,
        sample_rate: int = 16_000,
        split: str | None = None,
        progress: bool = True,
    ) -> None:
        self.config, self.seed, self.sample_rate = config, seed, sample_rate
        split = config.split if split is None else split
        rows = transcribed_rows(config.paths, split)
        recordings = Recordings(rows, sample_rate=sample_rate, progress=progress)
        longest = config.longest_seconds * sample_rate
        usable = [int(i) for i in recordings.usable if recordings.lengths[i] <= longest]
        if not usable:
            raise UserError(f"no recording of split {split!r} is shorter than {config.longest_seconds} s")
        self.order = sorted(usable, key=lambda i: int(recordings.lengths[i]))
        self.recordings, self.rows = recordings, rows
        number = {phone: token for token, phone in enumerate(phones, start=1)}
        said = phones_of([rows[i] for i in self.order])
        self.tokens = {i: [number[p] for p in each if p in number] for i, each in zip(self.order, said)}

    def __getitem__(self, address: Address) -> Transcribed:
        rng = np.random.default_rng([self.seed, *address])
        place = int(rng.integers(len(self.order)))
        seconds = float(self.recordings.lengths[self.order[place]]) / self.sample_rate
        size = min(max(1, round(self.config.batch_seconds / seconds)), len(self.order))
        first = min(max(0, place - 2 * size), max(0, len(self.order) - 4 * size))
        near = self.order[first : first + 4 * size]
        return self.collate([near[i] for i in rng.choice(len(near), size, replace=False)])

    def in_order(self) -> Iterator[tuple[list[int], Transcribed]]:
        """Yield every recording once, in batches, with their row numbers."""
        batch: list[int] = []
        for index in self.order:
            batch.append(index)
            if len(batch) * self.recordings.lengths[index] >= self.config.batch_seconds * self.sample_rate:
                yield batch, self.collate(batch)
                batch = []
        if batch:
            yield batch, self.collate(batch)

    def collate(self, indices: list[int]) -> Transcribed:
        """Load these rows into one padded batch."""
        samples = torch.tensor([int(self.recordings.lengths[i]) for i in indices])
        wave = torch.zeros(len(indices), 1, int(samples.max()))
        n_tokens = torch.tensor([len(self.tokens[i]) for i in indices])
        tokens = torch.zeros(len(indices), max(1, int(n_tokens.max())), dtype=torch.long)
        for row, i in enumerate(indices):
            wave[row, 0, : samples[row]] = torch.from_numpy(self.recordings.read(i, 0, int(samples[row])))
            tokens[row, : n_tokens[row]] = torch.tensor(self.tokens[i], dtype=torch.long)
        return Transcribed(wave, samples, tokens, n_tokens)

    def batches(self, *, workers: int = 0, rank: int = 0, accumulate: int = 1) -> Batches:
        """Return a function from the first step to endless batches."""

        def start_at(start: int) -> Iterator[Transcribed]:
            addresses = _Addresses(start, rank, accumulate)
            return iter(DataLoader(self, batch_size=None, sampler=addresses, num_workers=workers))

        return start_at


class _Addresses(Sampler[Address]):
    def __init__(self, start: int, rank: int, accumulate: int) -> None:
        self.start, self.rank, self.accumulate = start, rank, accumulate

    def __iter__(self) -> Iterator[Address]:
        for step in count(self.start):
            for micro in range(self.accumulate):
                yield Address(step, self.rank, micro)


def transcribed_rows(paths: tuple[str, ...], split: str) -> list[Row]:
    """Return the rows of a split that say what is spoken, in English."""
    if not paths:
        raise UserError("no speech was given: name manifests with --data.paths")
    rows = [row for path in paths for row in rows_from(path) if (row.split or "train") == split]
    kept = [row for row in rows if row.extra.get("phonemes") or re.search("[A-Za-z]", row.text or "")]
    if not kept:
        named = ", ".join(paths)
        raise UserError(f"{named}: no row of split {split!r} has an English text or phonemes")
    return kept


def phones_of(rows: Sequence[Row]) -> list[list[str]]:
    """Return what is spoken in each, as phones: the row's own phonemes, else espeak's for its text."""
    ipa = [row.extra.get("phonemes", "") for row in rows]
    silent = [i for i, phonemes in enumerate(ipa) if not phonemes]
    if silent:
        # Upper case would be spelled out where it looks like an abbreviation.
        for i, phonemes in zip(silent, phonemize([(rows[i].text or "").lower() for i in silent])):
            ipa[i] = phonemes
    return [fold(phonemes) for phonemes in ipa]
