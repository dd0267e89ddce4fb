"""WaveNet (van den Oord et al. 2016): causal dilated gated convolutions with residual and skip connections.

Parameters bear the names that r9y9's published checkpoints use, so that those load by renaming weight norm.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from engine.user_error import UserError
from vocoders.hifigan import fold_weight_norm
from vocoders.wavenet.conditioning import LocalConfig, GlobalConfig, Upsampling
from vocoders.wavenet.distributions import Gaussian, MixtureOfLogistics, MuLaw

Output = MuLaw | MixtureOfLogistics | Gaussian
Wave = Float[Tensor, "batch 1 samples"]
Classes = Int[Tensor, "batch samples"]
Local = Float[Tensor, "batch channels frames"]
LSB = 2.0**-15
"""The step of a 16-bit wave."""


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """A stack that hears further back and conditions the main one (section 2.6); it runs on means of samples."""

    stride: int = 16
    """Samples averaged into one step of this stack."""
    layers: int = 8
    """Residual layers, dilations doubling from 1."""
    channels: int = 32
    """Residual channels, and what the main stack is given."""

    def __post_init__(self) -> None:
        if self.stride < 2 or self.layers < 1:
            raise UserError(f"a context stack needs stride={self.stride} ≥ 2 and layers={self.layers} ≥ 1")


@dataclass(frozen=True, kw_only=True)
class WaveNetConfig:
    """Sizes, conditioning and output of a WaveNet."""

    layers: int = 24
    """Residual layers in all."""
    stacks: int = 4
    """Times the dilations 1, 2, 4, … are gone through."""
    residual: int = 128
    """Channels from layer to layer."""
    gate: int = 256
    """Channels before the gates; half of them after."""
    skip: int = 128
    """Channels of the skip connections."""
    kernel: int = 3
    """Taps of a dilated convolution; 2 in the paper, 3 in the published code."""
    dropout: float = 0.0
    """Share of a layer's inputs dropped while training."""
    output: Output = field(default_factory=MuLaw)
    """The distribution of the next sample."""
    local: LocalConfig | None = field(default_factory=LocalConfig)
    """Features that change with time, such as a mel; none: the network babbles."""
    global_: GlobalConfig | None = None
    """Voices to tell apart; none: one voice, or the features carry it."""
    context: ContextConfig | None = None
    """A stack that hears further back."""
    lsb_noise: bool = True
    """Add noise of one step of a 16-bit wave while training: a network that only met digital silence diverges
    in it."""

    def __post_init__(self) -> None:
        if self.stacks < 1 or self.layers % self.stacks:
            raise UserError(f"layers={self.layers} must be a multiple of stacks={self.stacks}")
        if self.gate % 2:
            raise UserError(f"gate={self.gate} must be even: half are gates of the other half")
        if self.kernel < 2:
            raise UserError(f"kernel={self.kernel} must be at least 2")

    @property
    def dilations(self) -> list[int]:
        """Samples between the taps of each layer."""
        return [2 ** (layer % (self.layers // self.stacks)) for layer in range(self.layers)]

    @property
    def receptive_field(self) -> int:
        """Samples of the past, the newest included, that the next one depends on."""
        field_of_main = (self.kernel - 1) * sum(self.dilations) + 1
        if self.context is None:
            return field_of_main
        return field_of_main - 1 + self.context.stride * (2**self.context.layers + 1)


class WaveNet(nn.Module):
    """The distribution of each sample given the past and what is to be said.

    ``forward(x)`` at time t sees x up to and including t: for likelihoods, x is the past, delayed by one.
    """

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__()
        self.config, self.output = config, config.output
        classes = isinstance(config.output, MuLaw)
        self.first_conv = _pointwise(config.output.levels if classes else 1, config.residual)
        self.conv_layers = nn.ModuleList(Layer(config, dilation) for dilation in config.dilations)
        self.last_conv_layers = nn.ModuleList(
            [
                nn.ReLU(),
                _pointwise(config.skip, config.skip),
                nn.ReLU(),
                _pointwise(config.skip, config.output.channels),
            ]
        )
        self.upsample_net: Upsampling | None = Upsampling(config.local) if config.local else None
        self.embed_speakers: nn.Embedding | None = None
        if config.global_:
            self.embed_speakers = nn.Embedding(config.global_.n_speakers, config.global_.dim)
            nn.init.normal_(self.embed_speakers.weight, 0.0, 0.1)
        self.context = ContextStack(config.context) if config.context else None

    @property
    def hop(self) -> int:
        """Samples per frame of the local features; 1 without any."""
        return self.config.local.hop if self.config.local else 1

    def forward(
        self, x: Wave | Classes, local: Local | None = None, speaker: Int[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "batch outputs samples"]:
        """Parameters of each next sample's distribution; x holds classes for μ-law, amplitudes else."""
        given = self.condition(local, speaker, x.shape[-1])
        hidden, skips = self.enter(x), None
        past = self.context(self.amplitudes(x)) if self.context else None
        for layer in self.conv_layers:
            hidden, skip = layer(hidden, given.local, given.speaker, past)
            skips = skip if skips is None else skips + skip
        assert skips is not None
        x = skips * math.sqrt(1.0 / len(self.conv_layers))
        for step in self.last_conv_layers:
            x = step(x)
        return x

    def amplitudes(self, x: Wave | Classes) -> Wave:
        """The wave that the inputs stand for."""
        return self.output.decode(x)[:, None] if isinstance(self.output, MuLaw) else x

    def enter(self, x: Wave | Classes) -> Float[Tensor, "batch residual samples"]:
        """The first convolution; a class is a column of its weight."""
        if not isinstance(self.output, MuLaw):
            return self.first_conv(x)
        columns = F.embedding(x, self.first_conv.weight[:, :, 0].T)  # (batch, samples, residual)
        return columns.mT + self.first_conv.bias[:, None]

    def condition(self, local: Local | None, speaker: Tensor | None, n_samples: int) -> "Given":
        """Bring what conditions the network to the samples' rate, and refuse what it was not made for."""
        self._check(local, speaker)
        upsampled = self.upsample_net(local) if self.upsample_net and local is not None else None
        if upsampled is not None and upsampled.shape[-1] < n_samples:
            raise ValueError(f"local features reach for {upsampled.shape[-1]} samples, not for {n_samples}")
        vector = self.embed_speakers(speaker)[..., None] if self.embed_speakers is not None else None
        return Given(None if upsampled is None else upsampled[..., :n_samples], vector)

    def _check(self, local: Local | None, speaker: Tensor | None) -> None:
        config = self.config
        if (local is None) != (config.local is None):
            raise ValueError(
                "this network needs local features" if config.local else "it takes no local features"
            )
        if (speaker is None) != (config.global_ is None):
            raise ValueError("this network needs speakers" if config.global_ else "it takes no speakers")
        n_speakers = config.global_.n_speakers if config.global_ else 0
        if speaker is not None and not 0 <= int(speaker.min()) <= int(speaker.max()) < n_speakers:
            raise UserError(f"speakers {speaker.tolist()}: the network knows 0 … {n_speakers - 1}")

    def conditioning(
        self,
        local: Local | None,
        speaker: Int[Tensor, "batch"] | None,
        n_samples: int,
        *,
        batch: int = 1,
    ) -> Float[Tensor, "batch layers_times_gate samples"]:
        """All that layers add to their gates besides their convolutions of the past, their biases included.

        Without features that change with time the last axis is 1, to be broadcast.
        """
        given = self.condition(local, speaker, n_samples)
        total = torch.cat([layer.conv.bias for layer in self.conv_layers])[None, :, None].expand(batch, -1, 1)
        if given.speaker is not None:
            total = total + F.conv1d(
                given.speaker, torch.cat([layer.conv1x1g.weight for layer in self.conv_layers])
            )
        if given.local is not None:
            weights = torch.cat([layer.conv1x1c.weight for layer in self.conv_layers])
            total = total + F.conv1d(given.local, weights)
        return total

    def loss(
        self,
        wave: Wave,
        local: Local | None = None,
        speaker: Int[Tensor, "batch"] | None = None,
        lengths: Int[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of the samples, in nats; of the first ``lengths`` of each row."""
        if self.training and self.config.lsb_noise:
            wave = (wave + (torch.rand_like(wave) - 0.5) * (2 * LSB)).clamp(-1, 1)
        target = self.output.encode(wave[:, 0])
        past = self.delayed(target if isinstance(self.output, MuLaw) else wave)
        losses = self.output.loss(self(past, local, speaker), target)
        if lengths is None:
            return losses.mean()
        heard = torch.arange(losses.shape[-1], device=losses.device) < lengths[:, None]
        return losses.where(heard, 0.0).sum() / heard.sum()

    def delayed(self, x: Wave | Classes) -> Wave | Classes:
        """Put silence in front and drop the last sample."""
        silence = self.output.silence if isinstance(self.output, MuLaw) else 0.0
        return F.pad(x, (1, 0), value=silence)[..., :-1]

    def fold(self) -> "WaveNet":
        """Remove weight norm in place, which changes the parameters' names and not the outputs."""
        return fold_weight_norm(self)


class Given(NamedTuple):
    """What conditions every layer."""

    local: Tensor | None
    """(batch, channels, samples)."""
    speaker: Tensor | None
    """(batch, dim, 1)."""


class Layer(nn.Module):
    """One gated residual layer (the paper's figure 4 and equation 5)."""

    def __init__(self, config: WaveNetConfig, dilation: int) -> None:
        super().__init__()
        self.reach = (config.kernel - 1) * dilation
        half = config.gate // 2
        self.dropout = config.dropout
        self.conv = _convolution(config.residual, config.gate, config.kernel, dilation)
        self.conv1x1c = _pointwise(config.local.channels, config.gate, bias=False) if config.local else None
        self.conv1x1g = _pointwise(config.global_.dim, config.gate, bias=False) if config.global_ else None
        self.conv1x1p = (
            _pointwise(config.context.channels, config.gate, bias=False) if config.context else None
        )
        self.conv1x1_out = _pointwise(half, config.residual)
        self.conv1x1_skip = _pointwise(half, config.skip)

    def forward(
        self, x: Tensor, local: Tensor | None, speaker: Tensor | None, past: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        hidden = F.dropout(x, self.dropout, self.training) if self.dropout else x
        gates = self.conv(F.pad(hidden, (self.reach, 0)))
        for conv, given in ((self.conv1x1c, local), (self.conv1x1g, speaker), (self.conv1x1p, past)):
            if conv is not None:
                gates = gates + conv(given)
        value, gate = gates.chunk(2, dim=1)
        hidden = torch.tanh(value) * torch.sigmoid(gate)
        return (self.conv1x1_out(hidden) + x) * math.sqrt(0.5), self.conv1x1_skip(hidden)


class ContextStack(nn.Module):
    """Dilated causal convolutions over means of ``stride`` samples, repeated back to the samples' rate.

    Within a step the main stack is given what was known when the step began, so nothing looks ahead.
    """

    def __init__(self, config: ContextConfig) -> None:
        super().__init__()
        self.config = config
        self.first = _pointwise(1, config.channels)
        self.convs = nn.ModuleList(
            _convolution(config.channels, config.channels, 2, 2**layer) for layer in range(config.layers)
        )

    def forward(self, wave: Wave) -> Float[Tensor, "batch channels samples"]:
        stride, n_samples = self.config.stride, wave.shape[-1]
        # x at t is the sample before t: the step that begins at t may hear means of x up to t.
        steps = F.avg_pool1d(F.pad(wave[..., 1:], (stride, stride)), stride)[..., : n_samples // stride + 1]
        hidden = self.first(steps)
        for conv in self.convs:
            hidden = hidden + torch.tanh(conv(F.pad(hidden, (conv.dilation[0], 0))))
        return hidden.repeat_interleave(stride, dim=-1)[..., :n_samples]


def _pointwise(inner: int, outer: int, bias: bool = True) -> nn.Conv1d:
    return _convolution(inner, outer, 1, 1, bias)


def _convolution(inner: int, outer: int, kernel: int, dilation: int, bias: bool = True) -> nn.Conv1d:
    """As published: weights of the variance that keeps activations' size, biases of zero, weight norm."""
    conv = nn.Conv1d(inner, outer, kernel, dilation=dilation, bias=bias)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear" if kernel == 1 else "relu")
    if bias:
        nn.init.zeros_(conv.bias)
    return weight_norm(conv)
