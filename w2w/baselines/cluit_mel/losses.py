"""The losses that CLUIT on mels does not share with waves: adversarial terms, energy and distance of mels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from w2w.cluit.losses import r1

Mel = Float[Tensor, "batch n_mels frames"]
Scores = Float[Tensor, "batch"]


def softplus_critic(real: Scores, fake: Scores) -> Float[Tensor, ""]:
    """The critic's side of the non-saturating loss (Goodfellow et al. 2014)."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def softplus_generator(fake: Scores) -> Float[Tensor, ""]:
    """The generator's side: raise the critic's scores where they are low."""
    return F.softplus(-fake.float()).mean()


def frame_energy(mel: Mel) -> Float[Tensor, "batch frames"]:
    """The logarithm of each frame's energy, which is the sum over its bands."""
    return torch.logsumexp(mel.float(), dim=1)


def norm_loss(converted: Mel, source: Mel) -> Float[Tensor, ""]:
    """L1 between frame energies; ``source`` is data.

    Of their logarithms: the energies themselves differ by four powers of ten, and only the loudest frames
    would be heard.
    """
    return F.l1_loss(frame_energy(converted), frame_energy(source.detach()))


def mel_distance(mel: Mel, target: Mel, spread: float) -> Float[Tensor, ""]:
    """L1 between log-mels in units of their ``spread``; ``target`` is data.

    The recipe's weights are meant for pictures in [−1, 1].
    """
    return F.l1_loss(mel.float(), target.detach().float()) / spread


def gradient_penalty(score: Scores, flat: Float[Tensor, "batch 1 all"], spread: float) -> Float[Tensor, ""]:
    """R1 of a critic of mels, whose values ``flat`` holds: its gradient by mels in units of ``spread``."""
    return r1([score], flat) * spread**2
