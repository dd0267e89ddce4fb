"""Batches of time-aligned pairs: the same stretch of one sentence in two voices, each batch by address.

The manifest's column ``parallel`` names a group: recordings of one sentence in several voices, sample for
sample as long. ``python -m data.parallel`` makes such a corpus.
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
from data.rows import names_shards, speaker_labels, split_rows
from engine.config import free
from engine.contents import Contents
from engine.user_error import UserError

GROUP = "parallel"
"""The manifest's column."""
PAIRS_ADDRESS = 1_303
"""Sets the draws of pairs apart from those of other data at the same address."""


@dataclass(frozen=True, kw_only=True)
class PairConfig(CropConfig):
    """Which time-aligned speech, and how it is cut."""

    path: str = free("")
    """A manifest with the column ``parallel``, or a folder that holds one, or shards; empty: none."""

    def contents(self) -> dict[str, Contents | None]:
        """The recordings and their groups; the speakers' numbers are not learned."""
        if names_shards(self.path):
            from data.shards import contents_of_shards

            return {"path": contents_of_shards(self.path, self.split)}
        rows = split_rows(self.path, self.split) if self.path else []
        return {"path": contents_of_rows(rows, texts=True)}


class PairBatch(NamedTuple):
    source: Float[Tensor, "batch 1 samples"]
    target: Float[Tensor, "batch 1 samples"]
    """The same stretch of another member of the group."""
    reference: Float[Tensor, "batch 1 reference_samples"]
    """A crop of the target's speaker saying something else, else of the target's recording."""
    speaker: Int[Tensor, "batch"]
    """Of the target: index into ``PairCrops.speakers``; −1: not known."""
    utterance: Int[Tensor, "batch"]
    """Of the target: index into ``PairCrops.rows``."""


class PairCrops(Dataset[PairBatch]):
    """Pairs by address: groups as often as they are long, their members alike."""

    def __init__(self, config: PairConfig, *, progress: bool = True) -> None:
        self.config = config
        if not config.path:
            raise UserError("no pairs given; set --pairs.path to a manifest with the column 'parallel'")
        rows = split_rows(config.path, config.split)
        self.rows = [row for row in rows if row.extra.get(GROUP)]
        named = members(config.path, self.rows)
        self.speakers, self.labels = speaker_labels(self.rows, 1.0)
        """Names, and each row's by number; −1: none. Bad files do not shift the labels."""
        self.recordings = recordings_of(self.rows, config, progress)
        usable = {name: self._usable(name, indices) for name, indices in named.items()}
        self.groups = [indices for indices in usable.values() if len(indices) > 1]
        """Usable rows of each sentence; recordings set aside leave some without a pair."""
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
        """The rows of a group that were not set aside; they must be equally long."""
        group = np.array([index for index in indices if self.recordings.lengths[index]], np.int64)
        lengths = self.recordings.lengths[group]
        for index, length in zip(group, lengths):
            if length != lengths[0]:
                raise UserError(
                    f"the members of parallel group {name} of {self.config.path} must be equally long, but"
                    f" {self.rows[group[0]].path} has {lengths[0]} and {self.rows[index].path} {length}"
                    f" samples at {self.config.sample_rate} Hz; leave the group out or speak it again"
                )
        return group

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        for _ in range(FILES_TRIED):
            place = int(np.searchsorted(self._totals, rng.integers(self._totals[-1]), side="right"))
            source, target = map(int, rng.choice(self.groups[place], 2, replace=False))
            try:
                wave, start, reference = crop_and_reference(
                    rng,
                    self.recordings,
                    target,
                    self._other(rng, target),
                    samples=self.config.crop_samples,
                    reference_samples=self.config.reference_samples or self.config.crop_samples,
                    silence_db=self.config.silence_db,
                )
                aligned = self.recordings.read(source, start, self.config.crop_samples)
                return aligned, wave, reference, target
            except AudioError as error:
                bad = next(i for i, row in enumerate(self.rows) if row.path == error.path)
                self.recordings.drop(bad, error.detail)
        raise UserError(
            f"{FILES_TRIED} groups in a row of {self.config.path} can no longer be read; are they still"
            " there?"
        )

    def _other(self, rng: np.random.Generator, index: int) -> int | None:
        """Another recording of a row's speaker, of another sentence, if there is one."""
        label, group = int(self.labels[index]), self.rows[index].extra[GROUP]
        rows = self._by_speaker[label] if label >= 0 else []
        others = [other for other in rows if self.rows[other].extra[GROUP] != group]
        return int(rng.choice(others)) if others else None


def pair_crops(config: PairConfig, *, progress: bool = True, **ranks: int) -> Any:
    """What draws the pairs of one process: from recordings, or from shards as they stream in."""
    return crops_of(config, PairCrops, progress=progress, **ranks)


class HumanAndPairs(NamedTuple):
    human: Batch
    pairs: PairBatch | None


class Together(Dataset[HumanAndPairs]):
    """Speech and time-aligned pairs of the same address, for one loader; their labels are counted apart."""

    def __init__(self, human: Any, pairs: Any | None) -> None:
        if pairs is not None and pairs.config.sample_rate != human.config.sample_rate:
            raise UserError(
                f"the pairs' sample_rate={pairs.config.sample_rate} Hz and the data's"
                f" sample_rate={human.config.sample_rate} Hz differ; give both the same"
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
    """The batches of one process from both corpora; without ``pairs.path``, from the first alone."""
    assert 0 <= rank < n_ranks
    ranks = {"rank": rank, "n_ranks": n_ranks, "accumulate": accumulate}
    human = speech_crops(data, progress=rank == 0, **ranks)
    together = Together(human, pair_crops(pairs, progress=rank == 0, **ranks) if pairs.path else None)
    return Batches(together, seed=seed, workers=workers, rank=rank, accumulate=accumulate)


def members(path: str, rows: list[Row]) -> dict[str, list[int]]:
    """Indices of the rows of each group, two of them at least."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.extra[GROUP], []).append(index)
    if not groups:
        raise UserError(
            f"{path} has no column 'parallel' that says which recordings are the same sentence in other"
            " voices; python -m data.parallel makes such a corpus"
        )
    for name, group in groups.items():
        if len(group) < 2:
            raise UserError(
                f"parallel group {name} of {path} has one member only, {rows[group[0]].path}; give it another"
                " of the same split, or leave it out"
            )
    return groups
