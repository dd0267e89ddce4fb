"""Adversarial and feature-matching losses over several discriminators.

They are summed over discriminators, as in HiFi-GAN and MelGAN; ``mean=True`` averages them instead.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Scores = Sequence[Tensor]
"""One score map per discriminator."""
Features = Sequence[Sequence[Tensor]]
"""The layer outputs of each discriminator."""


def least_squares_discriminator(real: Scores, fake: Scores, *, mean: bool = False) -> Float[Tensor, ""]:
    """Least-squares loss: real scores to 1, fake ones to 0 (Mao et al. 2017; HiFi-GAN, eq. 1)."""
    return _total(((1 - r).square().mean() + f.square().mean() for r, f in zip(real, fake)), mean)


def least_squares_generator(fake: Scores, *, mean: bool = False) -> Float[Tensor, ""]:
    """Least-squares loss: fake scores to 1 (HiFi-GAN, eq. 2)."""
    return _total(((1 - f).square().mean() for f in fake), mean)


def hinge_discriminator(real: Scores, fake: Scores, *, mean: bool = False) -> Float[Tensor, ""]:
    """Hinge loss: real scores above 1, fake ones below −1 (Lim & Ye 2017; MelGAN, eq. 1)."""
    return _total((F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake)), mean)


def hinge_generator(fake: Scores, *, mean: bool = False) -> Float[Tensor, ""]:
    """Negative mean of the fake scores, which is unbounded (MelGAN, eq. 2)."""
    return _total((-f.mean() for f in fake), mean)


def feature_matching(real: Features, fake: Features, *, mean: bool = False) -> Float[Tensor, ""]:
    """L1 distance of features, over layers and discriminators (MelGAN, eq. 3); no gradient to ``real``."""
    return _total((F.l1_loss(f, r.detach()) for pair in zip(real, fake) for r, f in zip(*pair)), mean)


def melgan_feature_matching(real: Features, fake: Features) -> Float[Tensor, ""]:
    """Feature matching weighted as in the MelGAN code: 4 / (strided layers + 1) / scales."""
    return feature_matching(real, fake) * 4 / ((len(fake[0]) - 1) * len(fake))


def _total(terms: Iterable[Tensor], mean: bool) -> Float[Tensor, ""]:
    stacked = torch.stack(list(terms))
    return stacked.mean() if mean else stacked.sum()


DISCRIMINATOR = {"hinge": hinge_discriminator, "least_squares": least_squares_discriminator}
GENERATOR = {"hinge": hinge_generator, "least_squares": least_squares_generator}
