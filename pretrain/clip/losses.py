"""CLIP's contrastive loss, and retrieval scores by cosine similarity."""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from engine.processes import gather, n_processes

RECALLS = (1, 5, 10)


def ranks(
    queries: Float[Tensor, "queries dim"],
    answers: Float[Tensor, "answers dim"],
    right: Bool[Tensor, "queries answers"] | None = None,
) -> Int[Tensor, "queries"]:
    """Return the rank, from 1, of the best correct answer; wrong answers that are equally near rank higher.

    ``right`` marks correct answers; by default answer i is correct for query i.
    """
    cosines = F.normalize(queries.float(), dim=-1) @ F.normalize(answers.float(), dim=-1).T
    if right is None:
        right = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
    best = cosines.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return 1 + ((cosines >= best) & ~right).sum(1)


def rank_scores(ranks: Int[Tensor, "queries"]) -> dict[str, Float[Tensor, "queries"]]:
    """Return each query's reciprocal rank and recall at k."""
    return {"MRR": 1.0 / ranks.float()} | {f"R@{k}": (ranks <= k).float() for k in RECALLS}


def retrieval(queries: Float[Tensor, "n dim"], answers: Float[Tensor, "n dim"]) -> dict[str, float]:
    """Return R@1, R@5, R@10 in percent and the mean reciprocal rank."""
    scores = {name: float(v.double().mean()) for name, v in rank_scores(ranks(queries, answers)).items()}
    return {name: value * (1 if name == "MRR" else 100) for name, value in scores.items()}


def neighbour_scores(
    vectors: Float[Tensor, "clips dim"], same: Bool[Tensor, "clips clips"], other: Bool[Tensor, "clips clips"]
) -> dict[str, Float[Tensor, "clips"]]:
    """Rank all other clips for each clip; return the average precision and recall at k.

    ``same`` marks pairs with equal labels, ``other`` pairs to be compared. A query without another clip of
    its label gives NaN.
    """
    vectors, n_clips = F.normalize(vectors, dim=-1), len(vectors)
    compared = other & ~torch.eye(n_clips, dtype=torch.bool)
    similarity = (vectors @ vectors.T).masked_fill(~compared, -torch.inf)
    order = torch.argsort(similarity, dim=1, descending=True, stable=True)
    # Pairs that are not compared come last, where they count as wrong and do not affect the scores.
    right = (same & compared).gather(1, order).float()
    precision = right.cumsum(1) / torch.arange(1, n_clips + 1)
    n_right = right.sum(1)
    scores = {"mAP": (precision * right).sum(1) / n_right}
    scores |= {f"R@{k}": right[:, :k].amax(1) for k in RECALLS}
    return {name: torch.where(n_right > 0, values, torch.nan) for name, values in scores.items()}


FIRST = math.log(1 / 0.07)
"""CLIP's initial log scale."""
MOST = math.log(100)
"""CLIP's maximum log scale."""

Rows = Float[Tensor, "batch dim"]


class LogitScale(nn.Module):
    """Learnable inverse temperature of a contrastive loss, between 1 and 100."""

    def __init__(self, log_scale: float = FIRST) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(log_scale))

    def forward(self) -> Float[Tensor, ""]:
        return self.log_scale.clamp(0.0, MOST).exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Clamp the parameter to its range after a step; outside it there is no gradient."""
        self.log_scale.clamp_(0.0, MOST)


def clip_loss(a: Rows, b: Rows, scale: Float[Tensor, ""], *, gathered: bool = True) -> Float[Tensor, ""]:
    """CLIP's symmetric contrastive loss: row i of ``a`` and row i of ``b`` are a positive pair.

    Vectors are normalised here. Gradients reach both and the scale. With ``gathered``, the rows of all
    processes serve as negatives: each process's loss is over its own rows, and the means of the processes'
    losses and gradients equal those of one process with the whole batch.
    """
    device = a.device.type
    with torch.autocast(device, enabled=False):
        a, b = F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1)
        all_a, all_b, first = a, b, 0
        if gathered and n_processes() > 1:
            all_a, all_b = gather(a), gather(b)
            first = dist.get_rank() * len(a)
        partner = torch.arange(first, first + len(a), device=a.device)
        from_a = F.cross_entropy(scale * a @ all_b.T, partner)
        from_b = F.cross_entropy(scale * b @ all_a.T, partner)
        return (from_a + from_b) / 2
