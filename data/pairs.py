"""Batches of time-aligned pairs: crops of the same segment of one sentence in two voices.

The manifest's column ``parallel`` names a group: time-aligned recordings of one sentence in several voices,
of equal length. ``python -m data.parallel`` makes such a corpus.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from data.audio import AudioError
from data.batches import FILES_TRIED, Address, Batch, Batches, CropConfig, DataConfig, crops_of, speech_crops
from data.manifest import Row, contents_of_rows
from data.recordings import crop_and_reference, recordings_of
from data.rows import GROUP, names_shards, speaker_labels, split_rows
from engine.config import free
from engine.contents import Contents
from engine.user_error import UserError

PAIRS_ADDRESS = 1_303
"""Suffix of the random seeds of pairs, so that they differ from those of other data at the same address."""


@dataclass(frozen=True, kw_only=True)
class PairConfig(CropConfig):
    """The time-aligned recordings of a data set and how crops are drawn from them."""

    path: str = free("")
    """A manifest with the column ``parallel``, a folder that contains one, or shards; empty for no pairs."""

    def contents(self) -> dict[str, Contents | None]:
        """Fingerprint the recordings and their groups, without speakers, whose indices no model learns."""
        if names_shards(self.path):
            from data.shards import contents_of_shards

            return {"path": contents_of_shards(self.path, self.split)}
        rows = split_rows(self.path, self.split) if self.path else []
        return {"path": contents_of_rows(rows, texts=True)}


class PairBatch(NamedTuple):
    source: Float[Tensor, "batch 1 samples"]
    target: Float[Tensor, "batch 1 samples"]
    """The same segment of another member of the group."""
    reference: Float[Tensor, "batch 1 reference_samples"]
    """A crop of another sentence by the target's speaker, or else of the target's recording."""
    speaker: Int[Tensor, "batch"]
    """The target's index into ``PairCrops.speakers``; −1 if unknown."""
    utterance: Int[Tensor, "batch"]
    """The target's index into ``PairCrops.rows``."""


class PairCrops(Dataset[PairBatch]):
    """A data set of pairs, indexed by ``Address``; samples groups by duration, their members uniformly."""

    def __init__(self, config: PairConfig, *, progress: bool = True) -> None:
        self.config = config
        if not config.path:
            raise UserError("no pairs given; set --pairs.path to a manifest with the column 'parallel'")
        rows = split_rows(config.path, config.split)
        self.rows = [row for row in rows if row.extra.get(GROUP)]
        named = members(config.path, self.rows)
        self.speakers, self.labels = speaker_labels(self.rows, 1.0)
        """Speaker names, and each row's index into them (−1: none); independent of unusable files."""
        self.recordings = recordings_of(self.rows, config, progress)
        usable = {name: self._usable(name, indices) for name, indices in named.items()}
        self.groups = [indices for indices in usable.values() if len(indices) > 1]
        """Usable rows of each group, without groups that have fewer than two."""
        if not self.groups:
            raise UserError(f"no group of {config.path} has two recordings that can be used")
        self._totals = np.cumsum([self.recordings.lengths[group[0]] for group in self.groups])
        self._by_speaker: dict[int, list[int]] = {}
        for index in map(int, self.recordings.usable):
            self._by_speaker.setdefault(int(self.labels[index]), []).append(index)

    def __getitem__(self, address: Address) -> PairBatch:
        rng = np.random.default_rng([*address, PAIRS_ADDRESS])
        sources, targets, references, indices = zip(*(self._draw(rng) for _ in range(self.config.batch)))
        indices = np.array(indices)
        return PairBatch(
            source=torch.from_numpy(np.stack(sources))[:, None],
            target=torch.from_numpy(np.stack(targets))[:, None],
            reference=torch.from_numpy(np.stack(references))[:, None],
            speaker=torch.from_numpy(self.labels[indices]),
            utterance=torch.from_numpy(indices),
        )

    def _usable(self, name: str, indices: list[int]) -> np.ndarray:
        """Return the usable rows of a group; raise unless they are equally long."""
        group = np.array([index for index in indices if self.recordings.lengths[index]], np.int64)
        lengths = self.recordings.lengths[group]
        for index, length in zip(group, lengths):
            if length != lengths[0]:
                raise UserError(
                    f"the members of parallel group {name} of {self.config.path} must be equally long, but"
                    f" {self.rows[group[0]].path} has {lengths[0]} and {self.rows[index].path} {length}"
                    f" samples at {self.config.sample_rate} Hz; leave the group out or make it again"
                )
        return group

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        for _ in range(FILES_TRIED):
            place = int(np.searchsorted(self._totals, rng.integers(self._totals[-1]), side="right"))
            source, target = map(int, rng.choice(self.groups[place], 2, replace=False))
            other = self._other(rng, target)
            try:
                wave, start, reference = crop_and_reference(rng, self.recordings, target, other, self.config)
                aligned = self.recordings.read(source, start, self.config.crop_samples)
                return aligned, wave, reference, target
            except AudioError as error:
                bad = next(i for i, row in enumerate(self.rows) if row.path == error.path)
                self.recordings.drop(bad, error.detail)
        bad = f"{FILES_TRIED} consecutive groups of {self.config.path}"
        raise UserError(f"{bad} can no longer be read; do they still exist?")

    def _other(self, rng: np.random.Generator, index: int) -> int | None:
        """Draw a recording of another sentence by the same speaker, or None."""
        label, group = int(self.labels[index]), self.rows[index].extra[GROUP]
        rows = self._by_speaker[label] if label >= 0 else []
        others = [other for other in rows if self.rows[other].extra[GROUP] != group]
        return int(rng.choice(others)) if others else None


def pair_crops(config: PairConfig, *, progress: bool = True, **ranks: int) -> Any:
    """Make the data set of pairs of one process, from recordings or from streamed shards."""
    return crops_of(config, PairCrops, progress=progress, **ranks)


class HumanAndPairs(NamedTuple):
    human: Batch
    pairs: PairBatch | None


class Together(Dataset[HumanAndPairs]):
    """A data set of speech and time-aligned pairs for one loader; their labels are numbered separately."""

    def __init__(self, human: Any, pairs: Any | None) -> None:
        if pairs is not None and pairs.config.sample_rate != human.config.sample_rate:
            raise UserError(
                f"the pairs' sample_rate={pairs.config.sample_rate} Hz and the data's"
                f" sample_rate={human.config.sample_rate} Hz differ; make them equal"
            )
        self.human, self.pairs = human, pairs

    def __getitem__(self, address: Address) -> HumanAndPairs:
        return HumanAndPairs(self.human[address], None if self.pairs is None else self.pairs[address])


def batches_together(
    data: DataConfig,
    pairs: PairConfig,
    seed: int,
    workers: int = 0,
    rank: int = 0,
    n_ranks: int = 1,
    accumulate: int = 1,
) -> Batches[Together]:
    """Return the batches of one process from both corpora; without ``pairs.path``, only from ``data``."""
    assert 0 <= rank < n_ranks
    ranks = {"rank": rank, "n_ranks": n_ranks, "accumulate": accumulate}
    human = speech_crops(data, progress=rank == 0, **ranks)
    together = Together(human, pair_crops(pairs, progress=rank == 0, **ranks) if pairs.path else None)
    return Batches(together, seed=seed, workers=workers, rank=rank, accumulate=accumulate)


def members(path: str, rows: list[Row]) -> dict[str, list[int]]:
    """Return the row indices of each group; raise if a group has a single member."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.extra[GROUP], []).append(index)
    if not groups:
        raise UserError(
            f"{path} has no column 'parallel', which groups recordings of the same sentence in several"
            " voices; python -m data.parallel makes such a corpus"
        )
    for name, group in groups.items():
        if len(group) < 2:
            raise UserError(
                f"parallel group {name} of {path} has only one member, {rows[group[0]].path}; add another"
                " of the same split, or leave it out"
            )
    return groups
