"""Where right answers stand in a ranking by cosine: recall at k, reciprocal rank, average precision."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

RECALLS = (1, 5, 10)


def ranks(
    queries: Float[Tensor, "queries dim"],
    answers: Float[Tensor, "answers dim"],
    right: Bool[Tensor, "queries answers"] | None = None,
) -> Int[Tensor, "queries"]:
    """Return, from 1, the rank of the best right answer; equally near wrong answers stand before it.

    Without ``right``, answer i is the right one for query i.
    """
    cosines = F.normalize(queries.float(), dim=-1) @ F.normalize(answers.float(), dim=-1).T
    if right is None:
        right = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
    best = cosines.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return 1 + ((cosines >= best) & ~right).sum(1)


def rank_scores(ranks: Int[Tensor, "queries"]) -> dict[str, Float[Tensor, "queries"]]:
    """Return each query's reciprocal rank, and whether a right answer is among the first k."""
    return {"MRR": 1.0 / ranks.float()} | {f"R@{k}": (ranks <= k).float() for k in RECALLS}


def retrieval(queries: Float[Tensor, "n dim"], answers: Float[Tensor, "n dim"]) -> dict[str, float]:
    """Return R@1, R@5, R@10 in percent and the mean reciprocal rank."""
    scores = {name: float(v.double().mean()) for name, v in rank_scores(ranks(queries, answers)).items()}
    return {name: value * (1 if name == "MRR" else 100) for name, value in scores.items()}


def neighbour_scores(
    vectors: Float[Tensor, "clips dim"],
    same: Bool[Tensor, "clips clips"],
    other: Bool[Tensor, "clips clips"],
) -> dict[str, Float[Tensor, "clips"]]:
    """Rank all clips for each one: average precision, and whether any of the first k is right.

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
    scores = {"mAP": (precision * right).sum(1) / n_right}
    scores |= {f"R@{k}": right[:, :k].amax(1) for k in RECALLS}
    return {name: torch.where(n_right > 0, values, torch.nan) for name, values in scores.items()}
