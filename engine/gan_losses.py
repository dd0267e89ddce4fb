"""Adversarial losses, and feature matching, over the scores and features of several discriminators.

Sums over discriminators, as HiFi-GAN and MelGAN publish them; ``mean=True`` divides by their number.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Scores = Sequence[Tensor]
"""A map of scores for each discriminator."""
Features = Sequence[Sequence[Tensor]]
"""Outputs of each discriminator's layers."""


def least_squares_discriminator(real: Scores, fake: Scores, *, mean: bool = False) -> Float[Tensor, ""]:
    """Bring real scores to 1 and generated ones to 0 (Mao et al. 2017; HiFi-GAN, eq. 1)."""
    return _total(((1 - r).square().mean() + f.square().mean() for r, f in zip(real, fake)), mean)


def least_squares_generator(fake: Scores, *, mean: bool = False) -> Float[Tensor, ""]:
    """Bring generated scores to 1 (HiFi-GAN, eq. 2)."""
    return _total(((1 - f).square().mean() for f in fake), mean)


def hinge_discriminator(real: Scores, fake: Scores, *, mean: bool = False) -> Float[Tensor, ""]:
    """Push real scores above 1 and generated ones below −1 (Lim & Ye 2017; MelGAN, eq. 1)."""
    return _total((F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake)), mean)


def hinge_generator(fake: Scores, *, mean: bool = False) -> Float[Tensor, ""]:
    """Raise generated scores without bound (MelGAN, eq. 2)."""
    return _total((-f.mean() for f in fake), mean)


def feature_matching(real: Features, fake: Features, *, mean: bool = False) -> Float[Tensor, ""]:
    """L1 between features, over layers and discriminators (MelGAN, eq. 3); ``real`` is data."""
    return _total((F.l1_loss(f, r.detach()) for pair in zip(real, fake) for r, f in zip(*pair)), mean)


def melgan_feature_matching(real: Features, fake: Features) -> Float[Tensor, ""]:
    """As the published MelGAN code weights it: 4 / (strided layers + 1) / scales; ``real`` is data."""
    return feature_matching(real, fake) * 4 / ((len(fake[0]) - 1) * len(fake))


def _total(terms: Iterable[Tensor], mean: bool) -> Float[Tensor, ""]:
    stacked = torch.stack(list(terms))
    return stacked.mean() if mean else stacked.sum()


DISCRIMINATOR = {"hinge": hinge_discriminator, "least_squares": least_squares_discriminator}
GENERATOR = {"hinge": hinge_generator, "least_squares": least_squares_generator}
