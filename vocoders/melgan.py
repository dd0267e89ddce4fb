"""MelGAN's generator (Kumar et al. 2019, arXiv:1910.06711): upsampling, then dilated residual blocks.

Parameters have the published names: only the weight norm pair is renamed to load published weights.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from vocoders.hifigan import Features, upsampling_halo
from vocoders.weight_norm import Foldable


@dataclass(frozen=True, kw_only=True)
class MelGANConfig:
    """Sizes of a MelGAN generator; the defaults are the published ones."""

    n_mels: int = 80
    """Mel bands."""
    channels: int = 32
    """Channels at the sample rate; each earlier stage has twice as many."""
    ratios: tuple[int, ...] = (8, 8, 2, 2)
    """Stride of each transposed convolution; their product is the hop."""
    n_residual_layers: int = 3
    """Residual blocks after each upsampling, with dilations 1, 3, 9, …"""

    @property
    def hop(self) -> int:
        return math.prod(self.ratios)


MELGAN = MelGANConfig()
# Our variants at other sample rates: hop 160 for 16 kHz; hop 240 and 100 bands for 24 kHz.
MELGAN_16K = MelGANConfig(ratios=(5, 4, 4, 2))
MELGAN_24K = MelGANConfig(n_mels=100, ratios=(6, 5, 4, 2))


class MelGAN(Foldable):
    """MelGAN's generator, mel to wave; all convolutions have weight norm until ``fold``.

    The mel needs more than 3 frames, because its edges are padded by reflection.
    """

    def __init__(self, config: MelGANConfig = MELGAN) -> None:
        super().__init__()
        self.config, self.hop, self.n_mels = config, config.hop, config.n_mels
        channels = config.channels * 2 ** len(config.ratios)
        layers = [nn.ReflectionPad1d(3), weight_norm(nn.Conv1d(config.n_mels, channels, 7))]
        for ratio in config.ratios:
            up = nn.ConvTranspose1d(
                channels,
                channels // 2,
                kernel_size=2 * ratio,
                stride=ratio,
                padding=ratio // 2 + ratio % 2,
                output_padding=ratio % 2,
            )
            channels //= 2
            layers += [nn.LeakyReLU(0.2), weight_norm(up)]
            layers += [ResidualBlock(channels, dilation=3**n) for n in range(config.n_residual_layers)]
        layers += [
            nn.LeakyReLU(0.2),
            nn.ReflectionPad1d(3),
            weight_norm(nn.Conv1d(channels, 1, 7)),
            nn.Tanh(),
        ]
        self.model = nn.Sequential(*layers)
        # The published code initialises with N(0, .02) after weight norm, into a weight that each forward
        # pass recomputes: its training starts from PyTorch's default initialisation, and so does ours.

    @property
    def halo(self) -> int:
        """Mel frames on each side of a frame that its samples depend on."""
        ups = [(ratio, 2 * ratio, ratio // 2 + ratio % 2) for ratio in self.config.ratios]
        return upsampling_halo(ups, sum(3**n for n in range(self.config.n_residual_layers)))

    def forward(self, mel: Float[Tensor, "batch n_mels frames"]) -> Float[Tensor, "batch 1 samples"]:
        return self.model(mel)


class ResidualBlock(nn.Module):
    """A dilated and a pointwise convolution, added to a pointwise shortcut."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.LeakyReLU(0.2),
            nn.ReflectionPad1d(dilation),
            weight_norm(nn.Conv1d(channels, channels, 3, dilation=dilation)),
            nn.LeakyReLU(0.2),
            weight_norm(nn.Conv1d(channels, channels, 1)),
        )
        self.shortcut = weight_norm(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Features) -> Features:
        return self.shortcut(x) + self.block(x)
