"""How a sample is drawn from what a WaveNet says of it: by inversion of the distribution function.

The uniforms, in [0, 1), are drawn beforehand: two for each sample, (batch, samples, 2), from a generator of
each row's own, addressed by (seed, row), so that all backends draw the same samples, and a row does not
depend on its neighbours. The first picks the μ-law class or the mixture's component; the second, mapped to a
standard logistic or normal variate, the place within the component. All ways of
sampling are a temperature that may vary in time: of classes and components (0 takes the likeliest), and a
factor on components' scales (0 takes the mean).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from engine.user_error import UserError
from vocoders.wavenet.distributions import Gaussian, MuLaw, Output, split

Factors = Float[Tensor, "batch samples_or_1"]
Noise = Float[Tensor, "batch samples 2"]
MARGIN = 1e-5
"""Uniforms of variates keep this far from 0 and 1, as published."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A way of sampling."""

    way: Literal["random", "argmax", "voiced_argmax", "mode"] = "random"
    """random: from the distribution. argmax: the likeliest class, or the likeliest component's mean.
    voiced_argmax: argmax where voiced, elsewhere random. mode: where voiced, drawn nearer to the peak, by
    ``voiced_sharpness``, elsewhere random."""
    temperature: float = 1.0
    """Of what is drawn at random: below 1, nearer to the likeliest; 0 is argmax."""
    top_p: float = 1.0
    """Keep the likeliest classes, or components, whose probability reaches this, and that much of a component
    around its mean."""
    voiced_sharpness: float = 0.5
    """Factor on the temperature, and so on components' scales, of voiced samples; for ``mode``."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.voiced_sharpness < 0:
            raise UserError(
                f"temperature={self.temperature}, voiced_sharpness={self.voiced_sharpness} cannot be below 0"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1")

    @property
    def needs_voicing(self) -> bool:
        """Whether it must be told which samples are voiced."""
        return self.way in ("voiced_argmax", "mode")


def temperatures(sampler: Sampler, voiced: Bool[Tensor, "batch samples"] | None, batch: int) -> Factors:
    """The temperature of every sample; (batch, 1) if it does not vary."""
    if sampler.way == "argmax":
        return torch.zeros(batch, 1)
    usual = torch.full((batch, 1), sampler.temperature)
    if not sampler.needs_voicing:
        return usual
    if voiced is None:
        raise UserError(f"sampling by {sampler.way} needs to know which frames are voiced")
    peaked = 0.0 if sampler.way == "voiced_argmax" else sampler.temperature * sampler.voiced_sharpness
    return torch.where(voiced.cpu(), peaked, usual)


class Draws:
    """The uniforms of a batch, block after block; blocks of any lengths give the same numbers."""

    def __init__(self, seed: int, batch: int) -> None:
        if seed < 0:
            raise UserError(f"seed={seed} must be 0 or more")
        self.generators = [np.random.default_rng([seed, row]) for row in range(batch)]

    def next(self, n_samples: int) -> Noise:
        """Uniforms of the next samples."""
        drawn = [generator.random((n_samples, 2), dtype=np.float32) for generator in self.generators]
        return torch.from_numpy(np.stack(drawn))


def noise(output: Output, uniforms: Noise, top_p: float = 1.0) -> Noise:
    """Map the second uniform to the variate of the output's components."""
    if isinstance(output, MuLaw):
        return uniforms
    place = uniforms[..., 1].double().clamp(MARGIN, 1 - MARGIN)
    place = 0.5 + (place - 0.5) * top_p
    variate = torch.special.ndtri(place) if isinstance(output, Gaussian) else torch.logit(place)
    return torch.stack([uniforms[..., 0], variate.float()], dim=-1)


def draw(
    output: Output,
    parameters: Float[Tensor, "batch n_out"],
    noise: Float[Tensor, "batch 2"],
    temperature: Float[Tensor, "batch"],
    top_p: float = 1.0,
) -> Tensor:
    """One sample for each row: classes (batch,), or amplitudes within [-1, 1]."""
    if isinstance(output, MuLaw):
        return pick(parameters, noise[:, 0], temperature, top_p)
    logits, mean, log_scale = (part[..., 0] for part in split(output, parameters[..., None]))
    component = pick(logits, noise[:, 0], temperature, top_p)[:, None]
    mean, log_scale = mean.gather(1, component)[:, 0], log_scale.gather(1, component)[:, 0]
    return (mean + log_scale.exp() * temperature * noise[:, 1]).clamp(-1, 1)


def pick(
    logits: Float[Tensor, "batch classes"],
    uniform: Float[Tensor, "batch"],
    temperature: Float[Tensor, "batch"],
    top_p: float = 1.0,
) -> Tensor:
    """The class at which the distribution function passes the uniform."""
    likeliest = logits.argmax(dim=1)
    if logits.shape[1] == 1:
        return likeliest
    weights = ((logits - logits.amax(1, keepdim=True)) / temperature.clamp_min(1e-6)[:, None]).exp()
    if top_p < 1:
        ordered, order = weights.sort(dim=1, descending=True, stable=True)
        before = ordered.cumsum(1) - ordered
        kept = ordered.where(before < top_p * ordered.sum(1, keepdim=True), 0.0)
        weights = torch.zeros_like(weights).scatter(1, order, kept)
    passed = weights.cumsum(1)
    wanted = uniform[:, None] * passed[:, -1:]
    drawn = (passed <= wanted).sum(1).clamp_max(logits.shape[1] - 1)
    drawn = torch.where(weights.gather(1, drawn[:, None])[:, 0] > 0, drawn, likeliest)
    return torch.where(temperature > 0, drawn, likeliest)
