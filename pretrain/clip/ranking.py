"""Where the right answer stands in a ranking by cosine: recall at k and mean reciprocal rank."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def ranks(query: Float[Tensor, "n dim"], answers: Float[Tensor, "n dim"]) -> Int[Tensor, "n"]:
    """Return, from 1, the rank of answer i for query i; of equally near answers the right one counts last."""
    similarity = F.normalize(query.float(), dim=-1) @ F.normalize(answers.float(), dim=-1).T
    return (similarity >= similarity.diagonal()[:, None]).sum(1).clamp_min(1)


def retrieval(query: Float[Tensor, "n dim"], answers: Float[Tensor, "n dim"]) -> dict[str, float]:
    """Return R@1, R@5, R@10 in percent and the mean reciprocal rank."""
    places = ranks(query, answers)
    scores = {f"R@{k}": 100 * float((places <= k).double().mean()) for k in (1, 5, 10)}
    return {**scores, "MRR": float((1 / places.double()).mean())}
