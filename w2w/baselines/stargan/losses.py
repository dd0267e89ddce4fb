"""StarGAN's losses: Wasserstein with gradient penalty, labels that may be missing, matched features."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Picture = Float[Tensor, "batch 1 bins frames"]


def wasserstein(
    real: Float[Tensor, "batch 1 height width"], fake: Float[Tensor, "batch 1 height width"]
) -> Float[Tensor, ""]:
    """The critic's side of the Wasserstein distance: scores of fakes down, of real ones up."""
    return fake.float().mean() - real.float().mean()


def gradient_penalty(
    score: Callable[[Picture], Float[Tensor, "batch 1 height width"]],
    real: Picture,
    fake: Picture,
    share: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, ""]:
    """How far the critic's slope is from 1 between real and fake (Gulrajani et al. 2017): mean (‖∇‖ − 1)².

    ``share`` in [0, 1] is how real each point is. The slope is that of the sum over the map of scores, as in
    StarGAN's own code (Choi et al. 2018), beside which the other losses' weights of 10 were chosen; the slope
    of the mean would let the adversary pull 16 times as hard. Always float32: the slope is differentiated.
    """
    with torch.autocast(real.device.type, enabled=False):
        between = (share * real.float() + (1 - share) * fake.detach().float()).requires_grad_()
        (slope,) = torch.autograd.grad(score(between).sum(), between, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def masked_cross_entropy(
    logits: Float[Tensor, "batch labels"], target: Float[Tensor, "batch labels"]
) -> Float[Tensor, ""]:
    """Sigmoid cross-entropy of each label, summed over a clip's known groups, mean over clips.

    Targets below 0 belong to groups that are not known of a clip and count nothing. A sum over labels, as in
    StarGAN's own code: a mean over 1476, nearly all of them 0, would drown the one that matters.
    """
    known = target >= 0
    loss = F.binary_cross_entropy_with_logits(logits.float(), target.clamp_min(0.0), reduction="none")
    return (loss * known).sum() / len(logits)


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Squared distance of the batch's mean features, mean over layers (Salimans et al. 2016).

    Means over the batch, not pairs: a converted clip has no real one to be paired with, and paired with its
    source it would be rewarded for not being converted. ``real`` receives no gradient.
    """
    terms = [
        F.mse_loss(f.float().mean(0), r.detach().float().mean(0)) for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()
