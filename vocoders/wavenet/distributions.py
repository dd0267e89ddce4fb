"""What a WaveNet says of the next sample: 256 classes, or a mixture over 16-bit amplitudes.

Losses are negative log-likelihoods in nats, a number per sample; every distribution sums to one over the
values a sample may take (Gaussians: integrates).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from data.frontends import mu_law_decode, mu_law_encode
from engine.user_error import UserError

Parameters = Float[Tensor, "batch outputs samples"]
Samples = Float[Tensor, "batch samples"]


@dataclass(frozen=True, kw_only=True)
class MuLaw:
    """A softmax over classes of the companded amplitude (van den Oord et al. 2016, section 2.2)."""

    levels: int = 256
    """Classes."""

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise UserError(f"levels={self.levels} must be at least 2")

    @property
    def channels(self) -> int:
        """Outputs of the network."""
        return self.levels

    @property
    def silence(self) -> int:
        """The class of amplitude 0."""
        return int(self.encode(torch.zeros(1, 1))[0, 0])

    def encode(self, wave: Samples) -> Int[Tensor, "batch samples"]:
        """Amplitudes to classes."""
        return mu_law_encode(wave, levels=self.levels)

    def decode(self, classes: Int[Tensor, "batch samples"]) -> Samples:
        """Classes to amplitudes."""
        return mu_law_decode(classes, levels=self.levels)

    def loss(self, parameters: Parameters, target: Int[Tensor, "batch samples"]) -> Samples:
        """Cross-entropy."""
        return F.cross_entropy(parameters.float(), target, reduction="none")


@dataclass(frozen=True, kw_only=True)
class MixtureOfLogistics:
    """Logistics integrated over the step around each amplitude (Salimans et al. 2017, eq. 2)."""

    n: int = 10
    """Components: outputs are the logits of all, then their means, then their log-scales."""
    classes: int = 65_536
    """Amplitudes a sample may have; 16 bits."""
    log_scale_min: float = -14.0
    """Least log-scale; a 16-bit step is e^-10.4."""
    published_tails: bool = False
    """Give every class beyond ±.999 a whole tail, as the published code does at any number of classes: with 16
    bits, where that is 32 classes at either end, probabilities then sum to more than one."""

    def __post_init__(self) -> None:
        _check(self.n)

    @property
    def channels(self) -> int:
        """Outputs of the network."""
        return 3 * self.n

    def encode(self, wave: Samples) -> Samples:
        """Amplitudes as they are."""
        return wave

    def loss(self, parameters: Parameters, target: Samples) -> Samples:
        """−log of the probability of the class that the amplitude falls into."""
        logits, means, log_scales = parameters.float().chunk(3, dim=1)
        log_scales = log_scales.clamp_min(self.log_scale_min)
        half = 1 / (self.classes - 1)
        centred, inverse = target[:, None] - means, torch.exp(-log_scales)
        above, below = inverse * (centred + half), inverse * (centred - half)
        delta = torch.sigmoid(above) - torch.sigmoid(below)
        # Where the difference of two nearly equal numbers would be noise: the density times the step's width.
        middle = inverse * centred
        density = middle - log_scales - 2 * F.softplus(middle) + math.log(2 * half)
        inside = torch.where(delta > 1e-5, delta.clamp_min(1e-12).log(), density)
        # The outermost classes hold the tails.
        edge = 0.999 if self.published_tails else 1 - half
        lowest = (target[:, None] < -edge).expand_as(means)
        highest = (target[:, None] > edge).expand_as(means)
        log_probs = torch.where(lowest, above - F.softplus(above), inside)
        log_probs = torch.where(highest, -F.softplus(below), log_probs)
        return -torch.logsumexp(log_probs + F.log_softmax(logits, dim=1), dim=1)


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """One Gaussian, or a mixture of them, over the amplitude (ClariNet, Ping et al. 2019, section 3.1)."""

    n: int = 1
    """Components; one has no logit: its outputs are a mean and a log-scale."""
    log_scale_min: float = -9.0
    """Least log standard deviation."""

    def __post_init__(self) -> None:
        _check(self.n)

    @property
    def channels(self) -> int:
        """Outputs of the network."""
        return 2 if self.n == 1 else 3 * self.n

    def encode(self, wave: Samples) -> Samples:
        """Amplitudes as they are."""
        return wave

    def loss(self, parameters: Parameters, target: Samples) -> Samples:
        """−log of the density at the amplitude."""
        parts = parameters.float()
        logits = torch.zeros_like(parts[:, :1]) if self.n == 1 else parts[:, : self.n]
        means, log_scales = parts[:, -2 * self.n :].chunk(2, dim=1)
        log_scales = log_scales.clamp_min(self.log_scale_min)
        squared = ((target[:, None] - means) * torch.exp(-log_scales)).square()
        log_probs = -0.5 * squared - log_scales - 0.5 * math.log(2 * math.pi)
        return -torch.logsumexp(log_probs + F.log_softmax(logits, dim=1), dim=1)


def _check(n: int) -> None:
    if n < 1:
        raise UserError(f"n={n} must be at least 1: a distribution has a component")
