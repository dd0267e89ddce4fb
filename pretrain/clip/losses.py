"""CLIP's contrastive loss and temperature, Wav2CLIP's form of it, and ranks of right answers by cosine."""

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
    vectors: Float[Tensor, "clips dim"], same: Bool[Tensor, "clips clips"], other: Bool[Tensor, "clips clips"]
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


FIRST = math.log(1 / 0.07)
"""CLIP's first log scale."""
MOST = math.log(100)
"""CLIP's largest: a scale of 100."""

Rows = Float[Tensor, "batch dim"]


class LogitScale(nn.Module):
    """The learnable inverse temperature of a contrastive loss, between 1 and 100."""

    def __init__(self, log_scale: float = FIRST) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(log_scale))

    def forward(self) -> Float[Tensor, ""]:
        return self.log_scale.clamp(0.0, MOST).exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring the parameter back into its range after a step: outside it there is no gradient."""
        self.log_scale.clamp_(0.0, MOST)


def clip_loss(a: Rows, b: Rows, scale: Float[Tensor, ""], *, gathered: bool = True) -> Float[Tensor, ""]:
    """Ask every row of ``a`` for its partner among ``b``, and the other way; the mean of both answers.

    Vectors are brought to unit length here. Gradients reach both and the scale. With ``gathered``, the rows
    of all processes are each other's negatives: this process's loss is over its own rows, and the mean of
    the processes' losses and gradients are those of one process with the whole batch.
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


def cx_loss(
    audio: Float[Tensor, "batch channels"],
    image: Float[Tensor, "batch dim"],
    audio_as_image: Float[Tensor, "batch dim"],
    image_as_audio: Float[Tensor, "batch channels"],
    scale_audio: Float[Tensor, ""],
    scale_image: Float[Tensor, ""],
    *,
    gathered: bool = True,
) -> Float[Tensor, ""]:
    """Wav2CLIP's loss: ½ [CLIP(a, f(i)) + CLIP(g(a), i)], each comparison with its own temperature."""
    in_audio = clip_loss(audio, image_as_audio, scale_audio, gathered=gathered)
    in_image = clip_loss(audio_as_image, image, scale_image, gathered=gathered)
    return (in_audio + in_image) / 2
