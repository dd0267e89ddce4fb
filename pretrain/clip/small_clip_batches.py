"""Batches of pictures with captions, the pairs of which are each other's negatives."""

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
    """Batches of pairs by address; rows of one group (the same caption in other words) never meet in one."""

    def __init__(
        self,
        pictures: UInt8[Tensor, "n 3 height width"],
        tokens: Int[Tensor, "n context"],
        groups: Sequence[int] | np.ndarray,
        batch: int,
    ) -> None:
        self.pictures, self.tokens = pictures, tokens
        order = np.argsort(groups, kind="stable")
        self.rows = np.split(order, np.flatnonzero(np.diff(np.asarray(groups)[order])) + 1)
        """The rows of each group."""
        self.batch = min(batch, len(self.rows))

    def __getitem__(self, address: Address) -> Drawn:
        rng = np.random.default_rng(list(address))
        chosen = rng.choice(len(self.rows), self.batch, replace=False)
        rows = torch.tensor([int(rng.choice(self.rows[group])) for group in chosen])
        return Drawn(self.pictures[rows], self.tokens[rows])
