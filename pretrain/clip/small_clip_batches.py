"""Batches of pictures with captions, each other's negatives: no two alike, some hard to tell apart."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from data.batches import Address


class Drawn(NamedTuple):
    """Pictures and the tokens of their captions, row by row."""

    picture: UInt8[Tensor, "batch 3 height width"]
    tokens: Int[Tensor, "batch context"]


class PicturesAndCaptions(Dataset[Drawn]):
    """Batches of pairs by address; rows of one group (the same caption in other words) never meet in one.

    With ``families``, half of every batch are whole families of groups, which are hard to tell apart.
    """

    def __init__(
        self,
        pictures: UInt8[Tensor, "n 3 height width"],
        tokens: Int[Tensor, "n context"],
        groups: Sequence[int] | np.ndarray,
        batch: int,
        families: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        self.pictures, self.tokens = pictures, tokens
        self.rows = alike(groups)
        """The rows of each group."""
        self.families = (
            None if families is None else alike(np.array([families[rows[0]] for rows in self.rows]))
        )
        """The groups of each family."""
        self.batch = min(batch, len(self.rows))

    def __getitem__(self, address: Address) -> Drawn:
        rng = np.random.default_rng(list(address))
        chosen = choose(rng, len(self.rows), self.batch, self.families)
        rows = torch.tensor([int(rng.choice(self.rows[group])) for group in chosen])
        return Drawn(self.pictures[rows], self.tokens[rows])


def alike(labels: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Return the positions of each label, in the order of the labels."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(np.asarray(labels)[order])) + 1)


def choose(
    rng: np.random.Generator, total: int, count: int, families: Sequence[np.ndarray] | None = None
) -> Int[np.ndarray, "count"]:
    """Choose different ones of ``total``; with ``families``, half of them from as few of those as will do."""
    if not families:
        return rng.choice(total, count, replace=False)
    together = np.concatenate([families[family] for family in rng.permutation(len(families))[: count // 2]])
    kin = together[: count // 2]
    others = np.setdiff1d(np.arange(total), kin)
    return np.concatenate([kin, rng.choice(others, count - len(kin), replace=False)])
