"""Where right answers stand when all are ranked by cosine; several answers may be right for one query."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

RECALLS = (1, 5, 10)


def first_right(
    queries: Float[Tensor, "queries dim"],
    answers: Float[Tensor, "answers dim"],
    right: Bool[Tensor, "queries answers"],
) -> Int[Tensor, "queries"]:
    """The place, from 1, of the best right answer; wrong ones that are as near stand before it."""
    cosines = F.normalize(queries, dim=-1) @ F.normalize(answers, dim=-1).T
    best = cosines.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return 1 + ((cosines >= best) & ~right).sum(1)


def rank_scores(ranks: Int[Tensor, "queries"]) -> dict[str, Float[Tensor, "queries"]]:
    """Each query's reciprocal rank, and whether a right answer is among the first k."""
    return {"MRR": 1.0 / ranks.float()} | {f"R@{k}": (ranks <= k).float() for k in RECALLS}


def neighbour_scores(
    vectors: Float[Tensor, "clips dim"],
    same: Bool[Tensor, "clips clips"],
    other: Bool[Tensor, "clips clips"],
) -> dict[str, Float[Tensor, "clips"]]:
    """Each clip as a query for the others: average precision, and whether any of the first k is right.

    ``same`` says which pairs share a label, ``other`` which pairs are compared at all. A query without
    another clip of its label gives NaN.
    """
    vectors, n_clips = F.normalize(vectors, dim=-1), len(vectors)
    compared = other & ~torch.eye(n_clips, dtype=torch.bool)
    nearness = (vectors @ vectors.T).masked_fill(~compared, -torch.inf)
    order = torch.argsort(nearness, dim=1, descending=True, stable=True)
    # What is not compared comes last, where it neither counts as right nor moves anything.
    right = (same & compared).gather(1, order).float()
    precision = right.cumsum(1) / torch.arange(1, n_clips + 1)
    n_right = right.sum(1)
    found = {"mAP": (precision * right).sum(1) / n_right}
    found |= {f"R@{k}": right[:, :k].amax(1) for k in RECALLS}
    return {name: torch.where(n_right > 0, values, torch.nan) for name, values in found.items()}
