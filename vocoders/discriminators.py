"""Discriminators of waves: HiFi-GAN's multi-period and multi-scale ones, and MelGAN's.

Parameters have the published names: only weight and spectral norm are renamed to load published files.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from engine.user_error import UserError
from vocoders.cpu import GroupedConv1d

Wave = Float[Tensor, "batch 1 samples"]


class DiscriminatorOutput(NamedTuple):
    """Outputs of several discriminators, one list entry for each."""

    scores: list[Tensor]
    """Score maps, larger for real speech; shapes differ between discriminators."""
    features: list[list[Tensor]]
    """Layer outputs of each discriminator, for feature matching."""


@dataclass(frozen=True, kw_only=True)
class MultiPeriodConfig:
    """HiFi-GAN's multi-period discriminators (Kong et al. 2020, section 2.3)."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Period of each discriminator, which convolves every p-th sample; primes overlap least."""
    channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    """Channels of the layers."""
    kernel: int = 5
    """Kernel size of the layers."""
    stride: int = 3
    """Stride of all layers but the last, which has 1."""


@dataclass(frozen=True, kw_only=True)
class MultiScaleConfig:
    """HiFi-GAN's multi-scale discriminators: larger versions of MelGAN's."""

    n_scales: int = 3
    """Discriminators, each at half the sample rate of the previous; the first has spectral norm."""
    channels: tuple[int, ...] = (128, 128, 256, 512, 1024, 1024, 1024)
    """Channels of the layers."""
    kernels: tuple[int, ...] = (15, 41, 41, 41, 41, 41, 5)
    """Kernel sizes of the layers."""
    strides: tuple[int, ...] = (1, 2, 2, 4, 4, 1, 1)
    """Strides of the layers."""
    groups: tuple[int, ...] = (1, 4, 16, 16, 16, 16, 1)
    """Groups of the layers."""

    def __post_init__(self) -> None:
        if len({len(self.channels), len(self.kernels), len(self.strides), len(self.groups)}) != 1:
            raise UserError("channels, kernels, strides and groups must have the same number of entries")


@dataclass(frozen=True, kw_only=True)
class MelGANCriticConfig:
    """MelGAN's discriminators (Kumar et al. 2019, section 2.2); with one scale, the paper's ablation."""

    n_scales: int = 3
    """Discriminators, each at half the sample rate of the previous."""
    channels: int = 16
    """Channels of the first layer; each strided layer multiplies them by ``stride``."""
    n_layers: int = 4
    """Strided layers."""
    stride: int = 4
    """Stride of the strided layers; their kernel size is 10 · stride + 1."""
    max_channels: int = 1024
    """Maximum channels of a layer."""


class MultiPeriodDiscriminator(nn.Module):
    """Discriminators of the wave, reshaped to two dimensions at several periods."""

    def __init__(self, config: MultiPeriodConfig) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(_Period(config, period) for period in config.periods)

    def forward(self, wave: Wave) -> DiscriminatorOutput:
        """Return one entry per period; the last feature is the score map, as published."""
        return _outputs(discriminator(wave) for discriminator in self.discriminators)


class _Period(nn.Module):
    def __init__(self, config: MultiPeriodConfig, period: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, *config.channels]
        last, pad = len(config.channels) - 1, (config.kernel // 2, 0)
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (config.kernel, 1), (1 if i == last else config.stride, 1), pad))
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.conv_post = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Wave) -> tuple[Tensor, list[Tensor]]:
        missing = -wave.shape[-1] % self.period
        hidden = F.pad(wave, (0, missing), mode="reflect") if missing else wave
        hidden = hidden.unflatten(-1, (-1, self.period))  # (batch, 1, turns, period)
        return _scored(self.convs, self.conv_post, hidden)


class MultiScaleDiscriminator(nn.Module):
    """Discriminators of the wave and of its average-pooled versions at lower sample rates."""

    def __init__(self, config: MultiScaleConfig) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            _Scale(config, spectral_norm if i == 0 else weight_norm) for i in range(config.n_scales)
        )

    def forward(self, wave: Wave) -> DiscriminatorOutput:
        """Return one entry per scale; the last feature is the score map, as published."""
        waves = [wave]
        for _ in self.discriminators[1:]:
            waves.append(F.avg_pool1d(waves[-1], 4, 2, padding=2))
        return _outputs(discriminator(w) for discriminator, w in zip(self.discriminators, waves))


class _Scale(nn.Module):
    def __init__(self, config: MultiScaleConfig, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        widths = [1, *config.channels]
        layers = zip(widths, widths[1:], config.kernels, config.strides, config.groups)
        self.convs = nn.ModuleList(
            norm(GroupedConv1d(a, b, kernel, stride, padding=kernel // 2, groups=groups))
            for a, b, kernel, stride, groups in layers
        )
        self.conv_post = norm(nn.Conv1d(widths[-1], 1, 3, padding=1))

    def forward(self, wave: Wave) -> tuple[Tensor, list[Tensor]]:
        return _scored(self.convs, self.conv_post, wave)


class MelGANDiscriminator(nn.Module):
    """MelGAN's discriminators at several sample rates; features do not include the score map."""

    def __init__(self, config: MelGANCriticConfig) -> None:
        super().__init__()
        self.model = nn.ModuleDict({f"disc_{i}": _Window(config) for i in range(config.n_scales)})

    def forward(self, wave: Wave) -> DiscriminatorOutput:
        """Return one entry per scale."""
        waves = [wave]
        for _ in list(self.model)[1:]:
            waves.append(F.avg_pool1d(waves[-1], 4, stride=2, padding=1, count_include_pad=False))
        return _outputs(discriminator(w) for discriminator, w in zip(self.model.values(), waves))


class _Window(nn.Module):
    """A window-based discriminator: one score for each window of the wave."""

    def __init__(self, config: MelGANCriticConfig) -> None:
        super().__init__()
        stride, width = config.stride, config.channels
        layers = [nn.Sequential(nn.ReflectionPad1d(7), _melgan(nn.Conv1d(1, width, 15)))]
        before = width
        for _ in range(config.n_layers):
            before, width = width, min(width * stride, config.max_channels)
            conv = GroupedConv1d(
                before, width, 10 * stride + 1, stride, padding=5 * stride, groups=max(before // 4, 1)
            )
            layers.append(nn.Sequential(_melgan(conv)))
        wide = min(2 * width, config.max_channels)
        layers.append(nn.Sequential(_melgan(nn.Conv1d(width, wide, 5, padding=2))))
        named = {f"layer_{i}": layer for i, layer in enumerate(layers)}
        self.model = nn.ModuleDict(
            {**named, f"layer_{len(layers)}": _melgan(nn.Conv1d(wide, 1, 3, padding=1))}
        )

    def forward(self, wave: Wave) -> tuple[Tensor, list[Tensor]]:
        *layers, last = self.model.values()
        features = _features(layers, wave, 0.2)
        return last(features[-1]), features


def _melgan(conv: nn.Conv1d) -> nn.Module:
    """Initialise weights as published, then apply weight norm."""
    nn.init.normal_(conv.weight, 0.0, 0.02)
    return weight_norm(conv)


def _scored(convs: Iterable[nn.Module], last: nn.Module, hidden: Tensor) -> tuple[Tensor, list[Tensor]]:
    """HiFi-GAN's score map and features, of which the score map is the last."""
    features = _features(convs, hidden, 0.1)
    score = last(features[-1])
    return score.flatten(1), [*features, score]


def _features(layers: Iterable[nn.Module], hidden: Tensor, slope: float) -> list[Tensor]:
    """Outputs of successive layers, each with a leaky ReLU."""
    features = []
    for layer in layers:
        hidden = F.leaky_relu(layer(hidden), slope)
        features.append(hidden)
    return features


def _outputs(pairs: Iterable[tuple[Tensor, list[Tensor]]]) -> DiscriminatorOutput:
    scores, features = zip(*pairs)
    return DiscriminatorOutput(list(scores), list(features))


def build_discriminator(config: MultiPeriodConfig | MultiScaleConfig | MelGANCriticConfig) -> nn.Module:
    return {
        MultiPeriodConfig: MultiPeriodDiscriminator,
        MultiScaleConfig: MultiScaleDiscriminator,
        MelGANCriticConfig: MelGANDiscriminator,
    }[type(config)](config)
