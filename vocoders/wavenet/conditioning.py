"""What a WaveNet is told besides its past: features that change with time, at its rate, and voices."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from engine.user_error import UserError

Local = Float[Tensor, "batch channels frames"]
Upsampled = Float[Tensor, "batch channels samples"]


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """Features of every frame."""

    channels: int = 80
    """Numbers in a frame: a mel's bands, or phonemes, durations and F0."""
    kind: Literal["smoothed", "transposed", "repetition"] = "smoothed"
    """smoothed: repeated, then smoothed by short learned filters, scale by scale (the published code).
    transposed: transposed convolutions over time (the paper, section 2.5). repetition: frames as they are."""
    scales: tuple[int, ...] = (4, 4, 4, 4)
    """Factors whose product is the hop."""
    pad: int = 0
    """Frames on either side that a first convolution looks at; the features then come with that many more at
    each end."""

    def __post_init__(self) -> None:
        if self.channels < 1 or self.pad < 0 or not self.scales or min(self.scales) < 1:
            raise UserError(
                f"local features need channels, scales and pad of at least 1, 1 and 0, not {self}"
            )

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.scales)

    @property
    def halo(self) -> int:
        """Frames beyond a frame, on either side, that its samples depend on, besides ``pad``."""
        return 0 if self.kind == "repetition" else 2


@dataclass(frozen=True, kw_only=True)
class GlobalConfig:
    """Voices, each a learned vector."""

    n_speakers: int = 1
    """How many."""
    dim: int = 16
    """Numbers in a vector."""


class Smoothed(nn.Module):
    """Repeat each frame and smooth, scale by scale; ``up_layers.1``, ``.3``, … are the smoothing filters."""

    def __init__(self, config: LocalConfig) -> None:
        super().__init__()
        self.scales = config.scales
        layers: list[nn.Module] = []
        for scale in config.scales:
            conv = nn.Conv2d(1, 1, (1, 2 * scale + 1), padding=(0, scale), bias=False)
            nn.init.constant_(conv.weight, 1 / (2 * scale + 1))
            layers += [nn.Identity(), weight_norm(conv)]
        self.up_layers = nn.ModuleList(layers)

    def forward(self, local: Local) -> Upsampled:
        x = local[:, None]
        for scale, smooth in zip(self.scales, self.up_layers[1::2]):
            x = smooth(x.repeat_interleave(scale, dim=-1))
        return x[:, 0]


class Transposed(nn.Module):
    """A transposed convolution for every scale, begun as linear interpolation of each channel."""

    def __init__(self, config: LocalConfig) -> None:
        super().__init__()
        self.up_layers = nn.ModuleList()
        for scale in config.scales:
            conv = nn.ConvTranspose1d(config.channels, config.channels, 3 * scale, scale, padding=scale)
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
            ramp = 1 - (torch.arange(3 * scale) + 0.5 - 1.5 * scale).abs() / scale
            conv.weight.data += torch.eye(config.channels)[..., None] * ramp.clamp_min(0)
            self.up_layers.append(conv)

    def forward(self, local: Local) -> Upsampled:
        for layer in self.up_layers:
            local = layer(local)
        return local


class Repetition(nn.Module):
    """Each frame as often as it has samples."""

    def __init__(self, config: LocalConfig) -> None:
        super().__init__()
        self.hop = config.hop

    def forward(self, local: Local) -> Upsampled:
        return local.repeat_interleave(self.hop, dim=-1)


class Upsampling(nn.Module):
    """Features to the samples' rate: an optional convolution over frames, then one of three ways up."""

    def __init__(self, config: LocalConfig) -> None:
        super().__init__()
        self.config = config
        # Published: this convolution is there wherever the filters are learned, even if it sees one frame.
        learned = config.kind == "smoothed" or config.pad > 0
        size = 2 * config.pad + 1
        self.conv_in = nn.Conv1d(config.channels, config.channels, size, bias=False) if learned else None
        self.upsample = {"smoothed": Smoothed, "transposed": Transposed, "repetition": Repetition}[
            config.kind
        ](config)

    def forward(self, local: Local) -> Upsampled:
        if local.shape[1] != self.config.channels:
            raise ValueError(
                f"features have {local.shape[1]} channels; the network wants {self.config.channels}"
            )
        return self.upsample(self.conv_in(local) if self.conv_in is not None else local)

    def padded(self, local: Local) -> Local:
        """Repeat the first and the last frame ``pad`` times, for features that come without."""
        return (
            F.pad(local, (self.config.pad, self.config.pad), mode="replicate") if self.config.pad else local
        )
