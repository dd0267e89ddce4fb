"""StarGAN's generator and discriminator, and their configuration."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.user_error import UserError, at_least
from w2w.baselines.stargan.labels import LabelsConfig
from w2w.baselines.stargan.spectrogram import SpectrogramConfig


@dataclass(frozen=True, kw_only=True)
class StarGANConfig:
    """Architecture of generator and discriminator. The defaults are the experiment's."""

    spectrogram: SpectrogramConfig = field(default_factory=SpectrogramConfig)
    """Input spectrogram of both networks."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """Label groups."""
    n_channels: int = 32
    """Generator channels at full resolution; doubled at half and again at quarter resolution."""
    dilations: tuple[int, ...] = (1, 1, 1)
    """Dilation of each residual block; the blocks follow the label merge at quarter resolution. With 1 2 4 8
    16 the receptive field after the merge covers the whole input (63 quarter columns to each side)."""
    norm: Literal["batch", "instance"] = "batch"
    """Normalisation layers of the generator."""
    norm_of_merge: bool = True
    """Normalise the layer that merges the labels. Disable it with InstanceNorm: a label adds a constant to a
    feature map, which InstanceNorm removes except at the map's edges."""
    critic_channels: int = 32
    """Channels of the discriminator's first layer; doubled by each further layer."""
    critic_layers: int = 6
    """Stride-2 layers of the discriminator; 6 reduce 256 × 256 to 4 × 4."""

    def __post_init__(self) -> None:
        at_least(1, self, "n_channels", "critic_channels", "critic_layers")
        if any(dilation < 1 for dilation in self.dilations):
            raise UserError(f"dilations={self.dilations} must be at least 1 each")
        shape, size = self.spectrogram, 2**self.critic_layers
        if shape.n_bins % size or shape.n_frames % size:
            raise UserError(
                f"spectrograms of {shape.n_bins} × {shape.n_frames} cannot be halved {self.critic_layers} "
                f"times: lower critic_layers, or use sizes that are multiples of {size}"
            )


Spectrograms = Float[Tensor, "batch 1 bins frames"]


class DiscriminatorOutput(NamedTuple):
    score: Float[Tensor, "batch 1 height width"]
    """Wasserstein critic scores without sigmoid, high for real; 4 × 4 by default."""
    labels: Float[Tensor, "batch n_out"]
    """Logits of all labels."""
    features: list[Tensor]
    """Output of each convolution of the trunk, after LeakyReLU."""


class Discriminator(nn.Module):
    """Stride-2 4 × 4 convolutions with two heads; no normalisation, because of the gradient penalty."""

    def __init__(self, config: StarGANConfig) -> None:
        super().__init__()
        self.config = config
        widths = [1, *(config.critic_channels * 2**layer for layer in range(config.critic_layers))]
        self.trunk = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inner, outer, 4, 2, 1), nn.LeakyReLU(0.01))
            for inner, outer in pairwise(widths)
        )
        shape, size = config.spectrogram, 2**config.critic_layers
        left = shape.n_bins // size, shape.n_frames // size
        self.classes = nn.Conv2d(widths[-1], config.labels.n_out, left, bias=False)
        self.score = nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False)

    def forward(self, spectrogram: Spectrograms) -> DiscriminatorOutput:
        features: list[Tensor] = []
        x = spectrogram
        for layer in self.trunk:
            x = layer(x)
            features.append(x)
        return DiscriminatorOutput(self.score(x), self.classes(x).flatten(1), features)


Map = Float[Tensor, "batch channels height width"]


class LabelMerge(nn.Conv2d):
    """A 3 × 3 convolution of a feature map concatenated with labels as constant maps, without building those.

    The contribution of a constant map is the sum of the kernel's taps that fall inside the map: nine sums per
    channel instead of height × width products per label. Equal to the dense form up to rounding.
    """

    def __init__(self, channels: int, n_labels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(channels + n_labels, out_channels, 3, padding=1, bias=bias)
        self.n_features = channels

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, features: Map, label: Float[Tensor, "batch n_labels"]
    ) -> Float[Tensor, "batch outer height width"]:
        merged = F.conv2d(features, self.weight[:, : self.n_features], self.bias, padding=1)
        taps = torch.einsum("bl,clyx->bcyx", label, self.weight[:, self.n_features :])
        rows, columns = (_taps_inside(size, merged) for size in features.shape[-2:])
        return merged + torch.einsum("hy,bcyx,wx->bchw", rows, taps, columns)


def _taps_inside(size: int, like: Tensor) -> Tensor:
    """Mask ``size 3`` of the kernel taps that fall inside the map at each position."""
    inside = like.new_ones(size, 3)
    inside[0, 0] = inside[-1, 2] = 0.0
    return inside


class OneMap(nn.Conv2d):
    """A square convolution to a single output channel, computed per kernel row and then summed.

    Equal to the plain form up to rounding. On a CPU it takes a fifth of the time of the plain form, which is
    inefficient for one output channel and would take half of a small generator's time.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__(channels, 1, size, padding=size // 2)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Map
    ) -> Float[Tensor, "batch 1 height width"]:
        size, height = self.kernel_size[0], x.shape[-2]
        by_row = F.conv2d(x, self.weight[0].transpose(0, 1)[:, :, None], padding=(0, size // 2))
        by_row = F.pad(by_row.float(), (0, 0, size // 2, size // 2))
        parts = [by_row[:, row, row : row + height] for row in range(size)]
        assert self.bias is not None
        return torch.stack(parts).sum(0)[:, None] + self.bias.float()


class ResidualBlock(nn.Module):
    """Two normalised 3 × 3 convolutions with a residual connection."""

    def __init__(self, channels: int, dilation: int, norm: str) -> None:
        super().__init__()
        options = {"kernel_size": 3, "padding": dilation, "dilation": dilation, "bias": False}
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, **options),
            _norm(norm, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, **options),
            _norm(norm, channels),
        )

    def forward(self, x: Map) -> Map:
        return x + self.layers(x)


class Generator(nn.Module):
    """Two downsampling layers, label merge, residual blocks, two upsampling layers and a sigmoid.

    Both sides of a spectrogram must be multiples of 4.
    """

    def __init__(self, config: StarGANConfig) -> None:
        super().__init__()
        self.config = config
        n, norm = config.n_channels, config.norm
        self.encoder = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(1, n, 7, padding=3, bias=False), _norm(norm, n), nn.ReLU()),
                nn.Sequential(nn.Conv2d(n, 2 * n, 4, 2, 1, bias=False), _norm(norm, 2 * n), nn.ReLU()),
                nn.Sequential(nn.Conv2d(2 * n, 4 * n, 4, 2, 1, bias=False), _norm(norm, 4 * n), nn.ReLU()),
            ]
        )
        bare = not config.norm_of_merge
        self.merge = LabelMerge(4 * n, config.labels.n_in, 4 * n, bias=bare)
        self.after_merge = nn.Sequential(nn.Identity() if bare else _norm(norm, 4 * n), nn.ReLU())
        self.residual = nn.ModuleList(ResidualBlock(4 * n, dilation, norm) for dilation in config.dilations)
        self.decoder = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(4 * n, 2 * n, 4, 2, 1, bias=False), _norm(norm, 2 * n), nn.ReLU()
                ),
                nn.Sequential(nn.ConvTranspose2d(2 * n, n, 4, 2, 1, bias=False), _norm(norm, n), nn.ReLU()),
            ]
        )
        self.out = OneMap(n, 7)

    def forward(self, spectrogram: Spectrograms, label: Float[Tensor, "batch n_in"]) -> Spectrograms:
        x = spectrogram
        for layer in self.encoder:
            x = layer(x)
        return self.decode(self.after_merge(self.merge(x, label)))

    def decode(self, merged: Map) -> Spectrograms:
        """The layers after the label merge, which are the ones that depend on the labels."""
        x = merged
        for layer in [*self.residual, *self.decoder]:
            x = layer(x)
        return self.out(x).sigmoid()


def _norm(norm: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.InstanceNorm2d(channels, affine=True)
