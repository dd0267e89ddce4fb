"""Padded batches of partly or fully transcribed speech, by address."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from data.batches import Address
from data.manifest import Row, contents_of_rows, rows_from
from data.recordings import Recordings
from data.rows import names_shards
from data.shards import ShardStream, contents_of_shards
from engine.config import free
from engine.contents import Contents
from engine.user_error import UserError, at_least, within
from pretrain.speech.batches import NEIGHBOURS, streamed_or_read
from pretrain.units import Units


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """Speech with transcripts, the fraction of transcripts to use, and the batch size."""

    paths: tuple[str, ...] = free(())
    """Manifests or folders with one; rows without a text (or phonemes) are unlabelled."""
    split: str = "train"
    """Split to use; rows without a split belong to train."""
    share: float = 1.0
    """Fraction of the transcripts that are used; smaller fractions are subsets of larger ones."""
    share_seed: int = 0
    """Random seed of the choice of these utterances."""
    batch_seconds: float = 40.0
    """Seconds of labelled speech per micro-batch and process."""
    unlabelled_seconds: float = 0.0
    """Seconds of unlabelled speech per micro-batch, including utterances excluded by ``share``; 0: none."""
    longest_seconds: float = 20.0
    """Maximum duration of a recording; longer ones are skipped."""

    def __post_init__(self) -> None:
        within("(0, 1]", self, "share", prefix="data.")
        within("(0, inf)", self, "batch_seconds", prefix="data.")
        at_least(0, self, "unlabelled_seconds", prefix="data.")

    def contents(self) -> dict[str, Contents | None]:
        if len(self.paths) == 1 and names_shards(self.paths[0]):
            return {"paths": contents_of_shards(self.paths[0], self.split)}
        rows = labelled_rows(self.paths, self.split) if self.paths else []
        return {"paths": contents_of_rows(rows, texts=True)}


class Labelled(NamedTuple):
    """A batch of padded waves, of which some rows have a transcript."""

    wave: Float[Tensor, "batch 1 samples"]
    samples: Int[Tensor, "batch"]
    """Length of each wave."""
    tokens: Int[Tensor, "batch longest"]
    """Transcripts, padded with 0."""
    n_tokens: Int[Tensor, "batch"]
    """Length of each transcript."""
    labelled: Bool[Tensor, "batch"]
    """Rows that have a transcript."""


class LabelledSpeech(Dataset[Labelled]):
    """Batches by address of utterances of similar length, with and without transcripts."""

    def __init__(
        self, config: LabelledConfig, units: Units, *, sample_rate: int = 16_000, progress: bool = True
    ) -> None:
        self.config, self.sample_rate = config, sample_rate
        rows = labelled_rows(config.paths, config.split)
        labels = units.labels(rows)
        if not any(labels):
            raise UserError(
                f"{', '.join(config.paths)}: no row of split {config.split!r} has a text "
                f"in {units.name}s: fill the column 'text', or choose other units"
            )
        # Chosen before any audio is read: a broken file must not change the choice of the others' labels.
        chosen = subset([i for i, label in enumerate(labels) if label], config.share, config.share_seed)
        if not config.unlabelled_seconds:
            rows, labels = [rows[i] for i in chosen], [labels[i] for i in chosen]
            chosen = list(range(len(rows)))
        self.rows = rows
        self.recordings = Recordings(rows, sample_rate=sample_rate, progress=progress)
        self.tokens = {i: label for i in chosen if (label := labels[i])}
        """Transcripts by row index."""
        lengths, usable = self.recordings.lengths, self.recordings.usable
        usable = usable[lengths[usable] <= config.longest_seconds * sample_rate]
        usable = usable[np.argsort(lengths[usable], kind="stable")].tolist()
        self.order = [i for i in usable if i in self.tokens]
        """Indices of labelled rows, in order of duration."""
        self.others = [i for i in usable if i not in self.tokens] if config.unlabelled_seconds else []
        """Indices of unlabelled rows, in order of duration."""
        if not self.order:
            raise UserError(
                f"no labelled recording of split {config.split!r} is shorter than "
                f"{config.longest_seconds:g} s: raise --data.longest-seconds"
            )

    @property
    def summary(self) -> str:
        minutes = self.recordings.lengths[self.order].sum() / self.sample_rate / 60
        return f"{len(self.order)} utterances with labels ({minutes:.1f} min), {len(self.others)} without"

    def __getitem__(self, address: Address) -> Labelled:
        rng = np.random.default_rng(list(address))
        place = int(rng.integers(len(self.order)))
        chosen = self._near(self.order, place, self.config.batch_seconds, rng)
        if self.others:
            # Of similar length, to minimise padding.
            lengths = self.recordings.lengths
            place = int(np.searchsorted(lengths[self.others], lengths[self.order[place]]))
            place = min(place, len(self.others) - 1)
            chosen += self._near(self.others, place, self.config.unlabelled_seconds, rng)
        return self.collate(chosen)

    def _near(self, order: list[int], place: int, seconds: float, rng: np.random.Generator) -> list[int]:
        length = float(self.recordings.lengths[order[place]]) / self.sample_rate
        size = min(max(1, round(seconds / length)), len(order))
        first = min(max(0, place - NEIGHBOURS // 2 * size), max(0, len(order) - NEIGHBOURS * size))
        near = order[first : first + NEIGHBOURS * size]
        return [near[i] for i in rng.choice(len(near), size, replace=False)]

    def in_order(self) -> Iterator[tuple[list[int], Labelled]]:
        """Yield every labelled utterance once, in batches with their row indices."""
        limit = self.config.batch_seconds * self.sample_rate
        batch: list[int] = []
        for index in self.order:
            if batch and (len(batch) + 1) * self.recordings.lengths[index] > limit:
                yield batch, self.collate(batch)
                batch = []
            batch.append(index)
        if batch:
            yield batch, self.collate(batch)

    def collate(self, indices: Sequence[int]) -> Labelled:
        labels = [torch.tensor(self.tokens.get(i, []), dtype=torch.long) for i in indices]
        lengths = [int(self.recordings.lengths[i]) for i in indices]
        waves = [torch.from_numpy(self.recordings.read(i, 0, n)) for i, n in zip(indices, lengths)]
        n_tokens = torch.tensor([len(tokens) for tokens in labels])
        return Labelled(
            wave=pad_sequence(waves, batch_first=True)[:, None],
            samples=torch.tensor(lengths),
            tokens=pad_sequence([F.pad(t, (0, int(not len(t)))) for t in labels], batch_first=True),
            n_tokens=n_tokens,
            labelled=n_tokens > 0,
        )


def labelled_speech(
    config: LabelledConfig, units: Units, *, sample_rate: int = 16_000, progress: bool = True, **ranks: int
) -> LabelledSpeech | ShardStream[LabelledSpeech]:
    """Return transcribed speech for one process, from recordings or from streamed shards."""

    def build(config: LabelledConfig, progress: bool) -> LabelledSpeech:
        return LabelledSpeech(config, units, sample_rate=sample_rate, progress=progress)

    seconds = config.batch_seconds + config.unlabelled_seconds
    return streamed_or_read(config, build, batch_seconds=seconds, progress=progress, **ranks)


def subset(indices: Sequence[int], share: float, seed: int) -> list[int]:
    """Return a random fraction of the indices (at least one) in order; smaller fractions are subsets."""
    shuffled = np.random.default_rng(seed).permutation(len(indices))
    size = min(len(indices), max(1, round(share * len(indices))))
    return [indices[i] for i in sorted(shuffled[:size])]


def labelled_rows(paths: tuple[str, ...], split: str) -> list[Row]:
    """Return the rows of a split, with or without text."""
    if not paths:
        raise UserError("no speech was given: name manifests with --data.paths")
    rows = [row for path in paths for row in rows_from(path) if (row.split or "train") == split]
    if not rows:
        raise UserError(f"{', '.join(paths)}: there is no row of split {split!r}")
    return rows
