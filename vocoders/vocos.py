"""Vocos' generator (Siuzdak 2023, arXiv:2306.00814): ConvNeXt blocks on frames, then an inverse STFT.

All computation is per frame; HiFi-GAN's grows with the sample rate. Parameters have the published names.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vocoders.weight_norm import Foldable

Features = Float[Tensor, "batch channels frames"]
LARGEST = 100.0
"""Maximum magnitude of a spectrum, as published."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Sizes of the backbone; the defaults are the published ones for 24 kHz."""

    n_mels: int = 100
    """Mel bands."""
    channels: int = 512
    """Channels between blocks."""
    hidden: int = 1536
    """Channels within a block."""
    n_blocks: int = 8
    """ConvNeXt blocks."""


@dataclass(frozen=True, kw_only=True)
class VocosConfig(BackboneConfig):
    """Sizes of a Vocos generator."""

    n_fft: int = 1024
    """Length of the inverse STFT and its Hann window, in samples: a multiple of two hops."""
    hop: int = 256
    """Samples per mel frame."""

    def __post_init__(self) -> None:
        if self.n_fft % (2 * self.hop):
            raise ValueError(f"n_fft={self.n_fft} must be an even number of hops of {self.hop} samples")


VOCOS = VocosConfig()
# Our variants at other sample rates, and smaller ones for a CPU.
VOCOS_16K = replace(VOCOS, n_mels=80, n_fft=640, hop=160)
VOCOS_24K = replace(VOCOS, n_fft=960, hop=240)
VOCOS_SMALL_16K = replace(VOCOS_16K, channels=256, hidden=768)
VOCOS_SMALL_24K = replace(VOCOS_24K, channels=256, hidden=768)


class Vocos(Foldable):
    """Vocos' generator: a mel to the wave's STFT, and that to the wave."""

    def __init__(self, config: VocosConfig = VOCOS) -> None:
        super().__init__()
        self.config, self.hop, self.n_mels = config, config.hop, config.n_mels
        self.backbone, self.head = Backbone(config), SpectrumHead(config)

    @property
    def halo(self) -> int:
        """Mel frames on each side of a frame that its samples depend on."""
        return 3 * (self.config.n_blocks + 1) + self.config.n_fft // (2 * self.hop)

    def forward(self, mel: Float[Tensor, "batch n_mels frames"]) -> Float[Tensor, "batch 1 samples"]:
        return self.head(self.backbone(mel))


class Backbone(nn.Module):
    """ConvNeXt blocks on mel frames."""

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
    """A depthwise convolution and two pointwise layers, added to a shortcut (Liu et al. 2022)."""

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
    """Log-magnitude and phase of every bin, and their inverse STFT."""

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
        """Overlap-add frames, and cut the result to one hop per frame."""
        n_frames, edge = frames.shape[-1], (self.n_fft - self.hop) // 2
        whole = (n_frames - 1) * self.hop + self.n_fft
        summed = F.fold(frames, (1, whole), (1, self.n_fft), stride=(1, self.hop))[:, 0, 0]
        return summed[:, edge : edge + n_frames * self.hop]
