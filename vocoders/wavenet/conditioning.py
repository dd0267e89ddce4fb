"""Conditioning of a WaveNet: a speaker (global), and frames of features upsampled to samples (local)."""

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from engine.user_error import UserError, at_least

Frames = Float[Tensor, "batch n frames"]
Samples = Float[Tensor, "batch n samples"]


@dataclass(frozen=True, kw_only=True)
class GlobalConfig:
    """Global conditioning: one speaker for the whole wave."""

    n_speakers: int = 100
    """Speakers, numbered from 0."""
    dim: int = 16
    """Dimensions of the speaker embedding."""


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """Local conditioning: features over time, such as mels."""

    n: int = 80
    """Feature channels."""
    upsampling: Literal["transposed", "repetition"] = "transposed"
    """transposed: learned upsampling (repetition, then a convolution, as published; together a transposed
    convolution). repetition: each frame is repeated."""
    scales: tuple[int, ...] = (4, 4, 4, 4)
    """Upsampling factors of the stages; their product is the hop."""
    pad: int = 2
    """Frames of context on each side in the first convolution."""
    bands_kernel: int = 1
    """Channels spanned by the learned kernels; odd."""

    def __post_init__(self) -> None:
        at_least(1, self, "n")
        at_least(0, self, "pad")
        if not self.scales or min(self.scales) < 1:
            raise UserError(f"scales={self.scales} must be one or more factors of at least 1 each")
        if self.bands_kernel % 2 == 0:
            raise UserError(f"bands_kernel={self.bands_kernel} must be odd")

    @property
    def hop(self) -> int:
        return math.prod(self.scales)

    @property
    def halo(self) -> int:
        """Frames on each side of its own that a sample depends on."""
        if self.upsampling == "repetition":
            return self.pad
        return self.pad + (1 if sum(scale > 1 for scale in self.scales) <= 1 else 2)


class Upsampling(nn.Module):
    """The published ``upsample_net``: a convolution over frames, then upsampling to the sample rate."""

    def __init__(self, config: LocalConfig) -> None:
        super().__init__()
        self.config = config
        if config.pad or config.upsampling == "transposed":
            self.conv_in = nn.Conv1d(config.n, config.n, 2 * config.pad + 1, bias=False)
        else:
            self.conv_in = nn.Identity()
        if config.upsampling == "transposed":
            self.upsample = UpsamplingStages(config)

    def forward(self, local: Float[Tensor, "batch n frames_and_pad"]) -> Samples:
        """Return ``hop`` samples per frame; ``local`` has ``pad`` additional frames at each end."""
        frames = self.conv_in(local)
        if self.config.upsampling == "repetition":
            return frames.repeat_interleave(self.config.hop, dim=-1)
        return self.upsample(frames)

    def padded(self, local: Frames) -> Float[Tensor, "batch n frames_and_pad"]:
        """Repeat the first and last frame ``pad`` times, as the published code does for whole utterances."""
        return F.pad(local, (self.config.pad, self.config.pad), mode="replicate")

    def between(self, padded: Float[Tensor, "batch n frames_and_pad"], start: int, stop: int) -> Samples:
        """Upsample only frames ``start`` to ``stop``, in little memory; equal to that part of the whole."""
        pad, hop = self.config.pad, self.config.hop
        reach = self.config.halo - pad
        first, last = max(0, start - reach), min(padded.shape[-1] - 2 * pad, stop + reach)
        samples = self(padded[..., first : last + 2 * pad])
        return samples[..., (start - first) * hop : (stop - first) * hop]


class UpsamplingStages(nn.Module):
    """Stages of nearest-neighbour upsampling and a smoothing kernel shared by all channels."""

    def __init__(self, config: LocalConfig) -> None:
        super().__init__()
        self.up_layers = nn.ModuleList()
        for scale in config.scales:
            size = (config.bands_kernel, 2 * scale + 1)
            conv = nn.Conv2d(1, 1, size, padding=(config.bands_kernel // 2, scale), bias=False)
            nn.init.constant_(conv.weight, 1 / math.prod(size))  # initially a moving average
            self.up_layers.extend([nn.Upsample(scale_factor=(1, scale)), weight_norm(conv)])

    def forward(self, frames: Frames) -> Samples:
        x = frames.unsqueeze(1)
        for layer in self.up_layers:
            x = layer(x)
        return x.squeeze(1)
