"""HiFi-GAN's generator (Kong, Kim, Bae 2020, arXiv:2010.05646): upsampling, then mixed receptive fields.

Parameters have the published names: only the weight norm pair is renamed to load published weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from vocoders.weight_norm import Foldable

Features = Float[Tensor, "batch channels time"]


@dataclass(frozen=True, kw_only=True)
class HiFiGANConfig:
    """Sizes of a HiFi-GAN generator; the defaults are the published V1."""

    n_mels: int = 80
    """Mel bands."""
    upsample_rates: tuple[int, ...] = (8, 8, 2, 2)
    """Stride of each transposed convolution; their product is the hop."""
    upsample_kernels: tuple[int, ...] = (16, 16, 4, 4)
    """Kernel of each transposed convolution: at least its rate, and of the same parity."""
    channels: int = 512
    """Channels after the first convolution; each upsampling halves them."""
    resblock: Literal["1", "2"] = "1"
    """"1": pairs of convolutions, the second undilated. "2": single convolutions."""
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    """Kernel size of each parallel residual block after an upsampling; odd."""
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    """Dilations of the convolutions in each parallel residual block."""

    def __post_init__(self) -> None:
        if len(self.upsample_rates) != len(self.upsample_kernels):
            raise ValueError(
                f"{len(self.upsample_rates)} upsample_rates but {len(self.upsample_kernels)} upsample_kernels"
            )
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernels):
            if kernel < rate or (kernel - rate) % 2:
                raise ValueError(
                    f"upsample kernel {kernel} at rate {rate}: use one of {rate}, {rate + 2}, {rate + 4}, …"
                )
        if self.channels % 2 ** len(self.upsample_rates):
            raise ValueError(
                f"channels={self.channels} cannot be halved {len(self.upsample_rates)} times; "
                f"use a multiple of {2 ** len(self.upsample_rates)}"
            )
        if len(self.resblock_kernels) != len(self.resblock_dilations):
            raise ValueError(
                f"{len(self.resblock_kernels)} resblock_kernels but "
                f"{len(self.resblock_dilations)} resblock_dilations"
            )
        if any(kernel % 2 == 0 for kernel in self.resblock_kernels):
            raise ValueError(f"resblock_kernels={self.resblock_kernels} must be odd")

    @property
    def hop(self) -> int:
        return math.prod(self.upsample_rates)


V1 = HiFiGANConfig()
V2 = replace(V1, channels=128)
V3 = HiFiGANConfig(
    upsample_rates=(8, 8, 4),
    upsample_kernels=(16, 16, 8),
    channels=256,
    resblock="2",
    resblock_kernels=(3, 5, 7),
    resblock_dilations=((1, 2), (2, 6), (3, 12)),
)
# Our variants at other sample rates: hop 160 for 16 kHz; hop 240 and 100 bands for 24 kHz.
V1_16K = replace(V1, upsample_rates=(5, 4, 4, 2), upsample_kernels=(11, 8, 8, 4))
V1_24K = replace(V1, n_mels=100, upsample_rates=(6, 5, 4, 2), upsample_kernels=(12, 11, 8, 4))
V2_16K, V2_24K = replace(V1_16K, channels=128), replace(V1_24K, channels=128)
V3_16K = replace(V3, upsample_rates=(5, 8, 4), upsample_kernels=(11, 16, 8))
V3_24K = replace(V3, n_mels=100, upsample_rates=(6, 10, 4), upsample_kernels=(12, 20, 8))


class HiFiGAN(Foldable):
    """HiFi-GAN's generator, mel to wave; all convolutions have weight norm until ``fold``."""

    def __init__(self, config: HiFiGANConfig = V1) -> None:
        super().__init__()
        self.config, self.hop, self.n_mels = config, config.hop, config.n_mels
        self.conv_pre = weight_norm(nn.Conv1d(config.n_mels, config.channels, 7, padding=3))
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        channels = config.channels
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernels):
            padding = (kernel - rate) // 2
            self.ups.append(weight_norm(nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding)))
            channels //= 2
            for k, dilations in zip(config.resblock_kernels, config.resblock_dilations):
                block = PairedBlock if config.resblock == "1" else SingleBlock
                self.resblocks.append(block(channels, k, dilations))
        self.conv_post = weight_norm(nn.Conv1d(channels, 1, 7, padding=3))
        # The published code initialises with N(0, .01) after weight norm, into a weight that each forward
        # pass recomputes: its training starts from PyTorch's default initialisation, and so does ours.

    @property
    def halo(self) -> int:
        """Mel frames on each side of a frame that its samples depend on."""
        config = self.config
        widest = max(
            (kernel - 1) // 2 * (sum(dilations) + (len(dilations) if config.resblock == "1" else 0))
            for kernel, dilations in zip(config.resblock_kernels, config.resblock_dilations)
        )
        ups = [(rate, k, (k - rate) // 2) for rate, k in zip(config.upsample_rates, config.upsample_kernels)]
        return upsampling_halo(ups, widest)

    def forward(self, mel: Float[Tensor, "batch n_mels frames"]) -> Float[Tensor, "batch 1 samples"]:
        x, n_blocks = self.conv_pre(mel), len(self.config.resblock_kernels)
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            blocks = self.resblocks[stage * n_blocks : (stage + 1) * n_blocks]
            x = torch.stack([block(x) for block in blocks]).mean(0)
        return torch.tanh(self.conv_post(F.leaky_relu(x, 0.01)))  # slope .01 as published, .1 elsewhere


def upsampling_halo(ups: Sequence[tuple[int, int, int]], widest: int) -> int:
    """Frames on each side that the samples of one frame depend on.

    ``ups`` are rate, kernel and padding of the transposed convolutions, ``widest`` the context in samples, to
    each side, of the residual blocks after each of them; the first and last convolution have 7 taps.
    """
    hop = math.prod(rate for rate, _, _ in ups)
    first, last = -3, hop - 1 + 3  # range of inputs that frame 0's samples need, from the output backwards
    for rate, kernel, padding in reversed(ups):
        first = -((kernel - 1 - padding - (first - widest)) // rate)
        last = (last + widest + padding) // rate
    return max(3 - first, last + 3)


class PairedBlock(nn.Module):
    """Residual block of V1 and V2: dilated convolutions, each followed by an undilated one."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_same(channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_same(channels, kernel, 1) for _ in dilations)

    def forward(self, x: Features) -> Features:
        for dilated, undilated in zip(self.convs1, self.convs2):
            x = x + undilated(F.leaky_relu(dilated(F.leaky_relu(x, 0.1)), 0.1))
        return x


class SingleBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_same(channels, kernel, dilation) for dilation in dilations)

    def forward(self, x: Features) -> Features:
        for conv in self.convs:
            x = x + conv(F.leaky_relu(x, 0.1))
        return x


def _same(channels: int, kernel: int, dilation: int) -> nn.Module:
    """A convolution with weight norm that keeps the length."""
    padding = dilation * (kernel - 1) // 2
    return weight_norm(nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=padding))
