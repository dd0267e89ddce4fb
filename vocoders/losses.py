"""Adversarial losses as HiFi-GAN and MelGAN publish them: sums over discriminators."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vocoders.discriminators import Judgement

Judgements = Sequence[Judgement]


def least_squares_critic(real: Judgements, fake: Judgements) -> Float[Tensor, ""]:
    """Bring real scores to 1 and generated ones to 0 (Mao et al. 2017; HiFi-GAN, eq. 1)."""
    return torch.stack(
        [(1 - r.score).square().mean() + f.score.square().mean() for r, f in zip(real, fake)]
    ).sum()


def least_squares_generator(fake: Judgements) -> Float[Tensor, ""]:
    """Bring generated scores to 1 (HiFi-GAN, eq. 2)."""
    return torch.stack([(1 - f.score).square().mean() for f in fake]).sum()


def hinge_critic(real: Judgements, fake: Judgements) -> Float[Tensor, ""]:
    """Push real scores above 1 and generated ones below −1 (Lim & Ye 2017; MelGAN, eq. 1)."""
    return torch.stack(
        [F.relu(1 - r.score).mean() + F.relu(1 + f.score).mean() for r, f in zip(real, fake)]
    ).sum()


def hinge_generator(fake: Judgements) -> Float[Tensor, ""]:
    """Raise generated scores without bound (MelGAN, eq. 2)."""
    return torch.stack([-f.score.mean() for f in fake]).sum()


def feature_matching(real: Judgements, fake: Judgements) -> Float[Tensor, ""]:
    """L1 between features, summed over layers and discriminators (MelGAN, eq. 3); ``real`` is data."""
    terms = [F.l1_loss(b, a.detach()) for r, f in zip(real, fake) for a, b in zip(r.features, f.features)]
    return torch.stack(terms).sum()


def melgan_feature_matching(real: Judgements, fake: Judgements) -> Float[Tensor, ""]:
    """As the published MelGAN code weights it: 4 / (strided layers + 1) / scales; ``real`` is data."""
    layers = len(fake[0].features) - 1
    return feature_matching(real, fake) * 4 / (layers * len(fake))
