"""Distributions of a WaveNet's next sample: a softmax over μ-law classes, or a mixture over amplitudes.

Network outputs are ``parameters`` (batch n_out samples): logits of the classes; or mixture logits, means and
log scales, a third of the channels each (a single Gaussian has no mixture logits: mean, log scale).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchaudio.functional import mu_law_decoding, mu_law_encoding

from engine.user_error import UserError, at_least

Parameters = Float[Tensor, "batch n_out samples"]
Wave = Float[Tensor, "batch 1 samples"]
Input = Int[Tensor, "batch samples"] | Float[Tensor, "batch 1 samples"]
"""The network's input and target: classes for μ-law, else the wave."""


@dataclass(frozen=True, kw_only=True)
class MuLaw:
    """A softmax over companded classes (van den Oord et al. 2016, section 2.2)."""

    levels: int = 256
    """Number of classes; 256 for 8 bit."""

    def __post_init__(self) -> None:
        at_least(2, self, "levels")

    @property
    def n_out(self) -> int:
        """Channels of the network's output."""
        return self.levels


@dataclass(frozen=True, kw_only=True)
class MixtureOfLogistics:
    """A mixture of discretised logistics (PixelCNN++; Parallel WaveNet), for 16 bit by default."""

    n: int = 10
    """Mixture components."""
    levels: int = 65_536
    """Quantisation levels of the wave's range, -1 to 1."""
    log_scale_min: float = -14.0
    """Minimum of log scales (clamped); -14 is far below a 16-bit step."""
    as_published: bool = False
    """Compute the loss with the published numerical approximations: each level beyond ±.999 gets the whole
    tail, so that with 16 bits, where these are 33 levels at each end, probabilities sum to more than one."""

    def __post_init__(self) -> None:
        at_least(1, self, "n")
        at_least(2, self, "levels")

    @property
    def n_out(self) -> int:
        """Channels of the network's output."""
        return 3 * self.n


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """A Gaussian density (ClariNet), or a mixture of them."""

    n: int = 1
    """Mixture components."""
    log_scale_min: float = -9.0
    """Minimum of log standard deviations (clamped), because the density is otherwise unbounded."""

    def __post_init__(self) -> None:
        at_least(1, self, "n")

    @property
    def n_out(self) -> int:
        """Channels of the network's output."""
        return 2 if self.n == 1 else 3 * self.n


LSB = 2**-15
"""The step of a 16-bit wave."""
Output = MuLaw | MixtureOfLogistics | Gaussian


def encode(output: Output, wave: Wave) -> Input:
    """Convert a wave to the network's input: μ-law classes, or the unchanged wave."""
    if isinstance(output, MuLaw):
        return mu_law_encoding(wave.squeeze(1).clamp(-1, 1), output.levels)
    return wave


def decode(output: Output, samples: Input) -> Wave:
    if isinstance(output, MuLaw):
        return mu_law_decoding(samples, output.levels).unsqueeze(1)
    return samples


def silence(output: Output) -> int | float:
    """Encoded silence, the input before the first sample."""
    return output.levels // 2 if isinstance(output, MuLaw) else 0.0


def delay(output: Output, samples: Input) -> Input:
    """Shift samples by one, with silence first: the network's input to predict them."""
    return F.pad(samples[..., :-1], (1, 0), value=silence(output))


def dither(wave: Wave) -> Wave:
    """Add uniform noise of ±one 16-bit step: without it, digital silence teaches scales near 0."""
    return (wave + (2 * torch.rand_like(wave) - 1) * LSB).clamp(-1, 1)


def split(
    output: MixtureOfLogistics | Gaussian, parameters: Parameters
) -> tuple[
    Float[Tensor, "batch n samples"], Float[Tensor, "batch n samples"], Float[Tensor, "batch n samples"]
]:
    """Mixture logits, means and clamped log scales; the logits of a single component are 0."""
    if parameters.shape[1] == 2:
        mean, log_scale = parameters.chunk(2, dim=1)
        logits = torch.zeros_like(mean)
    else:
        logits, mean, log_scale = parameters.chunk(3, dim=1)
    return logits, mean, log_scale.clamp_min(output.log_scale_min)


def predicted(
    output: Output,
    parameters: Parameters,
    prediction: Float[Tensor, "batch 1 samples"],
    gain: Float[Tensor, "batch 1 samples"],
) -> Parameters:
    """Add a linear prediction to every mean (LP-WaveNet, Hwang et al. 2020).

    The network's output is in units of ``gain``: means and scales are multiplied by it first.
    """
    if isinstance(output, MuLaw):
        raise UserError("linear prediction needs an output with means, not μ-law classes: use another output")
    n = output.n
    kept, mean, log_scale = parameters.split([parameters.shape[1] - 2 * n, n, n], dim=1)
    return torch.cat([kept, mean * gain + prediction, log_scale + gain.log()], dim=1)


def negative_log_likelihood(
    output: Output, parameters: Parameters, target: Input
) -> Float[Tensor, "batch samples"]:
    """Negative log-likelihood of each sample in nats: of its class, or for a Gaussian of its density."""
    if isinstance(output, MuLaw):
        return F.cross_entropy(parameters.float(), target, reduction="none")
    logits, mean, log_scale = split(output, parameters.float())
    centred = target - mean
    if isinstance(output, Gaussian):
        log_probability = -0.5 * (math.log(2 * math.pi) + (centred * (-log_scale).exp()).square()) - log_scale
    else:
        log_probability = _discretised_logistic(output, target, centred, log_scale)
    if output.n == 1:
        return -log_probability.squeeze(1)
    return -(log_probability + logits.log_softmax(dim=1)).logsumexp(dim=1)


def _discretised_logistic(
    output: MixtureOfLogistics, target: Tensor, centred: Tensor, log_scale: Tensor
) -> Tensor:
    """Log-probability of each quantisation level; the outermost levels include the tails."""
    half, sharpness = 1 / (output.levels - 1), (-log_scale).exp()
    above, below = sharpness * (centred + half), sharpness * (centred - half)
    to_the_left, to_the_right = F.logsigmoid(above), F.logsigmoid(-below)
    # σ(a) − σ(b) = σ(a) σ(−b) (1 − exp(b − a)) avoids the difference of nearly equal numbers.
    width = (2 * half * sharpness).clamp_min(1e-30)
    inside = to_the_left + to_the_right + torch.log(-torch.expm1(-width))
    edge = 1 - half
    if output.as_published:
        difference, edge = above.sigmoid() - below.sigmoid(), 0.999
        inside = torch.where(difference > 1e-5, difference.clamp_min(1e-12).log(), inside)
    return torch.where(target < -edge, to_the_left, torch.where(target > edge, to_the_right, inside))
