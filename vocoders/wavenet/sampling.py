"""Sampling from a WaveNet's distributions, one sample after the other, in plain torch.

Each sample is drawn by inverting the cumulative distribution function. Its two uniforms in [0, 1) are drawn
beforehand, (batch, samples, 2), by one generator per row seeded with (seed, row), so that all backends draw
the same samples and rows are independent of each other. The first uniform selects the μ-law class or mixture
component; the second, mapped to a standard logistic or normal variate, the value within the component. Every
way of sampling is a temperature, which may vary in time: it divides the logits of classes and components (0
takes the likeliest) and multiplies the components' scales (0 takes the mean).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from engine.user_error import UserError, at_least, within
from vocoders.wavenet.distributions import Gaussian, MuLaw, Output, predicted, silence, split
from vocoders.wavenet.layers import bias_of
from vocoders.wavenet.network import WaveNet
from vocoders.wavenet.prediction import Predictor

Factors = Float[Tensor, "batch samples_or_1"]
Noise = Float[Tensor, "batch samples 2"]
MARGIN = 1e-5
"""Distance from 0 and 1 to which uniforms are clamped before they are mapped to variates, as published."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How samples are drawn from the distributions."""

    way: Literal["random", "argmax", "voiced_argmax", "mode"] = "random"
    """random: draw from the distribution. argmax: the likeliest class, or the likeliest component's mean.
    voiced_argmax: argmax in voiced frames, random in others. mode: in voiced frames a lower temperature (see
    ``voiced_sharpness``), random in others."""
    temperature: float = 1.0
    """Temperature of random draws: lower values draw closer to the likeliest; 0 is argmax."""
    top_p: float = 1.0
    """Draw only from the likeliest classes or components with this total probability, and from this central
    share of a component."""
    voiced_sharpness: float = 0.5
    """Factor on the temperature of voiced samples, and so on components' scales; for ``mode``."""

    def __post_init__(self) -> None:
        at_least(0, self, "temperature", "voiced_sharpness")
        within("(0, 1]", self, "top_p")

    @property
    def needs_voicing(self) -> bool:
        """Whether the sampler needs to know which samples are voiced."""
        return self.way in ("voiced_argmax", "mode")


def temperatures(sampler: Sampler, voiced: Bool[Tensor, "batch samples"] | None, batch: int) -> Factors:
    """The temperature of every sample; (batch, 1) if it does not vary."""
    if sampler.way == "argmax":
        return torch.zeros(batch, 1)
    default = torch.full((batch, 1), sampler.temperature)
    if not sampler.needs_voicing:
        return default
    if voiced is None:
        raise UserError(f"sampling by {sampler.way} needs to know which frames are voiced")
    peaked = 0.0 if sampler.way == "voiced_argmax" else sampler.temperature * sampler.voiced_sharpness
    return torch.where(voiced.cpu(), peaked, default)


class Draws:
    """The uniforms of a batch, drawn in blocks; they do not depend on the blocks' lengths."""

    def __init__(self, seed: int, batch: int) -> None:
        if seed < 0:
            raise UserError(f"seed={seed} must be 0 or more")
        self.generators = [np.random.default_rng([seed, row]) for row in range(batch)]

    def next(self, n_samples: int) -> Noise:
        drawn = [generator.random((n_samples, 2), dtype=np.float32) for generator in self.generators]
        return torch.from_numpy(np.stack(drawn))


def noise(output: Output, uniforms: Noise, top_p: float = 1.0) -> Noise:
    """Map the second uniform to a standard variate of the output's components."""
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
    """Draw one sample per row: classes (batch,), or amplitudes within [-1, 1]."""
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
    """The class at which the cumulative distribution function exceeds the uniform."""
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


Conditioning = Float[Tensor, "batch samples_or_1 channels"]
Encoded = Int[Tensor, "batch samples"] | Float[Tensor, "batch samples"]
"""Classes for μ-law, else amplitudes."""


class Matrices(NamedTuple):
    """One layer's weights as matrices, as the sampling loop uses them."""

    dilation: int
    past_and_present: Tensor
    """(gate, kernel · residual), the oldest tap first."""
    out_and_skip: Tensor
    """(residual + skip, gate / 2)."""
    bias: Tensor
    """(residual + skip)."""


class CachedTorch:
    """Sampling with cached layer inputs in plain torch, on any device.

    The reference for the compiled loop, which has the same method ``run``, and the fallback where that is not
    available. ``predictor`` predicts the generated wave linearly (LP-WaveNet).
    """

    def __init__(self, network: WaveNet, batch: int, predictor: Predictor | None = None) -> None:
        self.output, self.sizes, self.predictor = network.config.output, network.config, predictor
        self.layers = [
            Matrices(
                layer.conv.dilation[0],
                layer.conv.weight.transpose(1, 2).flatten(1).contiguous(),
                torch.cat([layer.conv1x1_out.weight, layer.conv1x1_skip.weight]).squeeze(-1),
                torch.cat([bias_of(layer.conv1x1_out), bias_of(layer.conv1x1_skip)]),
            )
            for layer in network.layers
        ]
        first, head = network.first_conv, [c for c in network.last_conv_layers if isinstance(c, nn.Conv1d)]
        self.first = (first.weight.squeeze(-1).T.contiguous(), bias_of(first))
        self.head = [(conv.weight.squeeze(-1), bias_of(conv)) for conv in head]
        zeros = first.weight.new_zeros(batch, self.sizes.residual)
        self.rings = [[zeros] * ((self.sizes.kernel - 1) * layer.dilation) for layer in self.layers]
        self.position = 0
        dtype = torch.long if isinstance(self.output, MuLaw) else first.weight.dtype
        self.previous = torch.full((batch,), silence(self.output), dtype=dtype, device=zeros.device)
        order = predictor.coefficients.shape[1] if predictor else 0
        self.recent = zeros.new_zeros(batch, order)  # newest first

    def run(
        self,
        conditioning: Conditioning,
        noise: Float[Tensor, "batch samples 2"],
        temperature: Float[Tensor, "batch _"],
        top_p: float,
    ) -> Encoded:
        """Draw as many samples as there is noise for, continuing from the state."""
        drawn = []
        for i in range(noise.shape[1]):
            parameters = self._predicted(self._step(self.previous, _at(conditioning, i)))
            self.previous = draw(self.output, parameters, noise[:, i], _at(temperature, i), top_p)
            if self.predictor is not None:
                self.recent = torch.cat([self.previous[:, None], self.recent[:, :-1]], dim=1)
            self.position += 1
            drawn.append(self.previous)
        return torch.stack(drawn, dim=1)

    def _step(self, x: Tensor, gates: Tensor) -> Tensor:
        """Output parameters after one more input; ``gates``: (batch, layers · gate)."""
        table, bias = self.first
        hidden = (F.embedding(x, table) if isinstance(self.output, MuLaw) else x[:, None] * table) + bias
        skips, half, taps = None, self.sizes.gate // 2, self.sizes.kernel - 1
        shares = gates.split(self.sizes.gate, dim=1)
        for layer, ring, share in zip(self.layers, self.rings, shares):
            span = len(ring)
            oldest = self.position % span
            window = [ring[(oldest + tap * layer.dilation) % span] for tap in range(taps)]
            z = share + F.linear(torch.cat([*window, hidden], dim=1), layer.past_and_present)
            ring[oldest] = hidden
            unit = torch.tanh(z[:, :half]) * torch.sigmoid(z[:, half:])
            both = F.linear(unit, layer.out_and_skip, layer.bias)
            hidden = (hidden + both[:, : self.sizes.residual]) * 0.5**0.5
            skip = both[:, self.sizes.residual :]
            skips = skip if skips is None else skips + skip
        assert skips is not None
        x = skips * len(self.layers) ** -0.5
        for weight, bias in self.head:
            x = F.linear(F.relu(x), weight, bias)
        return x

    def _predicted(self, parameters: Tensor) -> Tensor:
        if self.predictor is None:
            return parameters
        coefficients, gain, hop = self.predictor
        index = self.position // hop
        expected = (self.recent * coefficients[..., index]).sum(1)[:, None, None]
        return predicted(self.output, parameters[..., None], expected, gain[..., index : index + 1])[..., 0]


def _at(values: Tensor, i: int) -> Tensor:
    return values[:, min(i, values.shape[1] - 1)]
