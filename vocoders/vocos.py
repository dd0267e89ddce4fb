"""Vocos' generator (Siuzdak 2023, arXiv:2306.00814): ConvNeXt blocks on frames, then an inverse STFT.

All of its arithmetic is done once a frame, where HiFi-GAN's grows with the wave's rate. Parameters bear the
published names.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Features = Float[Tensor, "batch channels frames"]
LARGEST = 100.0
"""Of a spectrum's magnitude, as published."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The sizes of what works on frames; the defaults are published for 24 kHz."""

    n_mels: int = 100
    """Bands of the mel."""
    channels: int = 512
    """Width."""
    hidden: int = 1536
    """Width inside a block."""
    n_blocks: int = 8
    """ConvNeXt blocks."""


@dataclass(frozen=True, kw_only=True)
class VocosConfig(BackboneConfig):
    """A generator's sizes."""

    n_fft: int = 1024
    """Samples of the inverse transform and of its Hann window: an even number of hops, two or more."""
    hop: int = 256
    """Samples per frame."""

    def __post_init__(self) -> None:
        if self.n_fft % (2 * self.hop):
            raise ValueError(f"n_fft={self.n_fft} must be an even number of hops of {self.hop} samples")


VOCOS = VocosConfig()
# Not published: the same at other rates, and sizes for a CPU.
VOCOS_16K = replace(VOCOS, n_mels=80, n_fft=640, hop=160)
VOCOS_24K = replace(VOCOS, n_fft=960, hop=240)
VOCOS_SMALL_16K = replace(VOCOS_16K, channels=256, hidden=768)
VOCOS_SMALL_24K = replace(VOCOS_24K, channels=256, hidden=768)


class Vocos(nn.Module):
    """A mel to a wave by way of its spectrum."""

    def __init__(self, config: VocosConfig = VOCOS) -> None:
        super().__init__()
        self.config, self.hop, self.n_mels = config, config.hop, config.n_mels
        self.backbone, self.head = Backbone(config), SpectrumHead(config)

    @property
    def halo(self) -> int:
        """Frames of mel on either side of a frame that its samples depend on."""
        return 3 * (self.config.n_blocks + 1) + self.config.n_fft // (2 * self.hop)

    def forward(self, mel: Float[Tensor, "batch n_mels frames"]) -> Float[Tensor, "batch 1 samples"]:
        return self.head(self.backbone(mel))

    def fold(self) -> "Vocos":
        """Do nothing: there is no weight norm."""
        return self


class Backbone(nn.Module):
    """What each frame needs to know of its neighbours."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.embed = nn.Conv1d(config.n_mels, config.channels, 7, padding=3)
        self.norm = nn.LayerNorm(config.channels, eps=1e-6)
        self.convnext = nn.ModuleList(ConvNeXtBlock(config) for _ in range(config.n_blocks))
        self.final_layer_norm = nn.LayerNorm(config.channels, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, mel: Float[Tensor, "batch n_mels frames"]) -> Float[Tensor, "batch frames channels"]:
        x = self.norm(self.embed(mel).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            x = block(x)
        return self.final_layer_norm(x.transpose(1, 2))


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, then two layers within each frame, beside a shortcut (Liu et al. 2022)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        width = config.channels
        self.dwconv = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, config.hidden)
        self.pwconv2 = nn.Linear(config.hidden, width)
        self.gamma = nn.Parameter(torch.full((width,), 1.0 / config.n_blocks))

    def forward(self, x: Features) -> Features:
        hidden = self.norm(self.dwconv(x).transpose(1, 2))
        return x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(hidden)))).transpose(1, 2)


class SpectrumHead(nn.Module):
    """Log-magnitude and phase of every bin, and the wave that overlapping frames make of them."""

    window: Tensor

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.n_fft, self.hop = config.n_fft, config.hop
        self.out = nn.Linear(config.channels, config.n_fft + 2)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def forward(self, x: Float[Tensor, "batch frames channels"]) -> Float[Tensor, "batch 1 samples"]:
        log_magnitude, phase = self.out(x).float().transpose(1, 2).chunk(2, dim=1)
        spectrum = torch.polar(log_magnitude.exp().clamp_max(LARGEST), phase)
        frames = torch.fft.irfft(spectrum, self.n_fft, dim=1) * self.window[:, None]
        weight = self.window.square()[:, None].expand(-1, frames.shape[-1])
        wave = self.overlap_add(frames) / self.overlap_add(weight[None])
        return wave[:, None]

    def overlap_add(self, frames: Float[Tensor, "batch n_fft frames"]) -> Float[Tensor, "batch samples"]:
        """Frames a hop apart, without what lies outside of the frames' own hops."""
        n_frames, edge = frames.shape[-1], (self.n_fft - self.hop) // 2
        whole = (n_frames - 1) * self.hop + self.n_fft
        summed = F.fold(frames, (1, whole), (1, self.n_fft), stride=(1, self.hop))[:, 0, 0]
        return summed[:, edge : edge + n_frames * self.hop]
