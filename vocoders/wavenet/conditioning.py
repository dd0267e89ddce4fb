"""What a wave is conditioned on: a speaker; frames of features, brought to the rate of samples."""

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
    """One speaker for the whole wave."""

    n_speakers: int = 100
    """Speakers known by number."""
    dim: int = 16
    """Entries of a speaker's embedding."""


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """Features that go with the wave, such as mels."""

    n: int = 80
    """Channels of the features."""
    upsampling: Literal["transposed", "repetition"] = "transposed"
    """transposed: each frame is spread by learned kernels (stretched, then convolved, as published; the two
    are a transposed convolution). repetition: each frame is repeated."""
    scales: tuple[int, ...] = (4, 4, 4, 4)
    """Factors of upsampling, one after the other; their product is the hop."""
    pad: int = 2
    """Frames to either side that a first convolution sees."""
    bands_kernel: int = 1
    """Neighbouring channels that the learned kernels span; odd."""

    def __post_init__(self) -> None:
        at_least(1, self, "n")
        at_least(0, self, "pad")
        if not self.scales or min(self.scales) < 1:
            raise UserError(f"scales={self.scales} must be one factor or more, of at least 1 each")
        if self.bands_kernel % 2 == 0:
            raise UserError(f"bands_kernel={self.bands_kernel} must be odd")

    @property
    def hop(self) -> int:
        return math.prod(self.scales)

    @property
    def halo(self) -> int:
        """Frames to either side of its own that a sample depends on."""
        if self.upsampling == "repetition":
            return self.pad
        return self.pad + (1 if len([scale for scale in self.scales if scale > 1]) <= 1 else 2)


class Upsampling(nn.Module):
    """The published ``upsample_net``: a convolution over frames, then up to the rate of samples."""

    def __init__(self, config: LocalConfig) -> None:
        super().__init__()
        self.config = config
        if config.pad or config.upsampling == "transposed":
            self.conv_in = nn.Conv1d(config.n, config.n, 2 * config.pad + 1, bias=False)
        else:
            self.conv_in = nn.Identity()
        if config.upsampling == "transposed":
            self.upsample = Stretches(config)

    def forward(self, local: Float[Tensor, "batch n frames_and_pad"]) -> Samples:
        """Return ``hop`` samples a frame; ``local`` has ``pad`` more frames at either end."""
        frames = self.conv_in(local)
        if self.config.upsampling == "repetition":
            return frames.repeat_interleave(self.config.hop, dim=-1)
        return self.upsample(frames)

    def padded(self, local: Frames) -> Float[Tensor, "batch n frames_and_pad"]:
        """Repeat the first and last frame ``pad`` times, as the published code does to whole utterances."""
        return F.pad(local, (self.config.pad, self.config.pad), mode="replicate")

    def between(self, padded: Float[Tensor, "batch n frames_and_pad"], start: int, stop: int) -> Samples:
        """Samples of frames ``start`` to ``stop`` only, equal to that part of the whole; in little memory."""
        pad, hop = self.config.pad, self.config.hop
        reach = self.config.halo - pad
        first, last = max(0, start - reach), min(padded.shape[-1] - 2 * pad, stop + reach)
        samples = self(padded[..., first : last + 2 * pad])
        return samples[..., (start - first) * hop : (stop - first) * hop]


class Stretches(nn.Module):
    """Nearest-neighbour stretching, each followed by a smoothing kernel that all channels share."""

    def __init__(self, config: LocalConfig) -> None:
        super().__init__()
        self.up_layers = nn.ModuleList()
        for scale in config.scales:
            size = (config.bands_kernel, 2 * scale + 1)
            conv = nn.Conv2d(1, 1, size, padding=(config.bands_kernel // 2, scale), bias=False)
            nn.init.constant_(conv.weight, 1 / math.prod(size))  # the mean, to begin with
            self.up_layers.extend([nn.Upsample(scale_factor=(1, scale)), weight_norm(conv)])

    def forward(self, frames: Frames) -> Samples:
        x = frames.unsqueeze(1)
        for layer in self.up_layers:
            x = layer(x)
        return x.squeeze(1)
