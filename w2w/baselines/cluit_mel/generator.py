"""CLUIT's generator and critic on mels."""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.user_error import UserError
from w2w.baselines.cluit_mel.blocks import (
    Affine,
    Block,
    Modulation,
    StyledBlock,
    advance,
    initialised,
    leaky,
    same,
)
from w2w.baselines.cluit_mel.config import CluitMelConfig

Mel = Float[Tensor, "batch n_mels frames"]


class TrunkOutput(NamedTuple):
    pooled: Float[Tensor, "batch width"]
    """Mean over time."""
    features: list[Tensor]
    """Outputs of the stem and of all blocks, (batch, channels, frames)."""


class Trunk(nn.Module):
    """Stem, log2(crop) - 2 downsampling residual blocks, and a convolution over the remaining 4 frames.

    For longer inputs that convolution slides over the remaining frames, and its outputs are averaged after
    LeakyReLU. A linear head of this average equals the average of the head over all positions; a training
    crop has one position.
    """

    def __init__(self, config: CluitMelConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths(config.n_critic_blocks)
        self.width = widths[-1]
        self.stem = same(config.mel.n_mels, widths[0], causal=False)
        self.blocks = nn.ModuleList(Block(a, b, halve=True) for a, b in pairwise(widths))
        self.whole = initialised(nn.Conv1d(self.width, self.width, 4), 4 * self.width)

    def forward(self, mel: Mel) -> TrunkOutput:
        """Encode natural log-mels of at least ``crop_frames`` frames."""
        if mel.shape[-1] < self.config.crop_frames:
            raise UserError(
                f"{mel.shape[-1]} frames are too few for a critic of crop_frames={self.config.crop_frames}: "
                "give at least that many"
            )
        features = [self.stem(self.config.standardised(mel))]
        for block in self.blocks:
            features.append(block(features[-1]))
        hidden = F.leaky_relu(self.whole(F.leaky_relu(features[-1], 0.2)), 0.2)
        return TrunkOutput(hidden.mean(-1), features)


class CriticOutput(NamedTuple):
    score: Float[Tensor, " batch"]
    """Logit of being real."""
    projection: Float[Tensor, "batch dim"]
    """Embedding of unit length; close for the same voice."""
    speakers: Float[Tensor, "batch n_speakers"]
    """Logits of the label head."""
    features: list[Tensor]
    """Outputs of the trunk's stem and blocks, (batch, channels, frames)."""


class MelCritic(nn.Module):
    """The critic: a trunk with adversarial and projection heads, and a speaker head if there are labels.

    Not specified by the recipe: the projection head is linear, as the trunk's last convolution acts as its
    hidden layer. Outputs are float32 also under autocast.
    """

    def __init__(self, config: CluitMelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        width = self.trunk.width
        self.score = initialised(nn.Linear(width, 1), width)
        self.projector = initialised(nn.Linear(width, config.projection_dim), width)
        self.speaker = initialised(nn.Linear(width, config.n_speakers), width) if config.n_speakers else None

    def forward(self, mel: Mel) -> CriticOutput:
        pooled, features = self.trunk(mel)
        with torch.autocast(mel.device.type, enabled=False):
            pooled = pooled.float()
            projection = F.normalize(self.projector(pooled), dim=-1)
            speakers = self.speaker(pooled) if self.speaker is not None else pooled[:, :0]
            return CriticOutput(self.score(pooled)[:, 0], projection, speakers, features)


Voice = Float[Tensor, "batch style"]

MEDLEY_CROPS = 8
"""Training crops, from different utterances, that give the frozen statistics unless a clip is set."""


class Generator(nn.Module):
    """Encoder (stem, downsampling and bottleneck blocks) and decoder with AdaIN, ending in a 1×1 convolution.

    Not specified by the recipe: as many upsampling as downsampling blocks, AdaIN in all decoder blocks, and
    InstanceNorm and LeakyReLU before the final 1×1 convolution (all as in StarGAN v2). The stem pads by
    replication, not with zeros, so that a gain, which adds a constant to the log-mels, does not change the
    normalised channels: the non-causal converter is invariant to the source's level.
    """

    def __init__(self, config: CluitMelConfig) -> None:
        super().__init__()
        self.config = config
        widths, norm, causal = config.widths(config.n_down), config.norm, config.causal
        self.stem = stem(config.mel.n_mels, widths[0], causal=causal)
        lowest = [widths[-1]] * config.n_bottleneck
        self.encoder = nn.ModuleList(
            [Block(a, b, halve=True, norm=norm, causal=causal) for a, b in pairwise(widths)]
            + [Block(a, a, halve=False, norm=norm, causal=causal) for a in lowest]
        )
        style, up = config.style_dim, widths[::-1]
        self.decoder = nn.ModuleList(
            [StyledBlock(a, a, style, double=False, norm=norm, causal=causal) for a in lowest]
            + [StyledBlock(a, b, style, double=True, norm=norm, causal=causal) for a, b in pairwise(up)]
        )
        self.norm = Affine(widths[0], norm)
        self.to_mel = initialised(nn.Conv1d(widths[0], config.mel.n_mels, 1), widths[0])
        if norm == "frozen":
            # Noise until speech is seen, with unit variance as standardised mels have, to keep scales normal.
            noise = torch.randn(config.mel.n_mels, MEDLEY_CROPS * config.crop_frames)
            self.register_buffer("clip", noise)

    clip: Tensor
    """Standardised mels (n_mels, frames) that give the frozen statistics: the last training crops, or the
    clip given to ``freeze_statistics``."""

    def modulations(self, voice: Voice) -> list[Modulation]:
        """The modulations of all normalisation layers, in order.

        Frozen statistics depend on the voice, as AdaIN changes those of all later layers. The stored clip is
        therefore converted to the voice once, which fixes each layer's statistics.
        """
        modulations = [m for block in self.blocks for m in block.modulations(voice)]
        modulations.append(self.norm.modulation(voice))
        if self.config.norm == "frozen" and not self.training:
            self.run(self.clip.expand(len(voice), -1, -1), modulations, self.whole)
        return modulations

    @torch.no_grad()
    def keep(self, mel: Mel) -> None:
        """Append one crop of a training batch to the clip and drop the oldest crop."""
        frames = self.config.crop_frames
        if mel.shape[-1] >= frames:
            self.clip.copy_(torch.cat([self.clip[:, frames:], mel[0, :, :frames]], dim=-1))

    def forward(self, mel: Mel, voice: Voice) -> Mel:
        """Convert whole blocks of ``frames_per_step`` standardised frames."""
        return self.run(mel, self.modulations(voice), self.whole)[0]

    @property
    def blocks(self) -> list[Any]:
        return [*self.encoder, *self.decoder]

    @property
    def whole(self) -> list[Any]:
        return [None, *[(None, None)] * len(self.blocks)]

    def begin(self, batch: int) -> list[Any]:
        return [layer.begin(batch) for layer in (self.stem, *self.blocks)]  # type: ignore[operator]

    def run(self, mel: Mel, modulations: list[Modulation], pasts: list[Any]) -> tuple[Mel, list[Any]]:
        """Process one chunk of whole blocks, or a whole utterance if the pasts are None."""
        hidden, after = advance(self.stem, mel, pasts[0])
        afters = [after]
        for i, (block, past) in enumerate(zip(self.blocks, pasts[1:])):
            hidden, after = block.run(hidden, modulations[2 * i : 2 * i + 2], past)
            afters.append(after)
        return self.to_mel(leaky(self.norm(hidden, modulations[-1]))), afters


def stem(n_mels: int, n_channels: int, *, causal: bool) -> nn.Module:
    layer = same(n_mels, n_channels, causal=causal)
    if causal:
        return layer
    repeated = nn.Conv1d(n_mels, n_channels, 3, padding=1, padding_mode="replicate")
    return initialised(repeated, n_mels * 3)


def whole_blocks(mel: Mel, frames: int) -> Float[Tensor, "batch n_mels whole"]:
    """Pad to a multiple of ``frames`` by repeating the last frame."""
    missing = -mel.shape[-1] % frames
    return torch.cat([mel, mel[..., -1:].expand(-1, -1, missing)], dim=-1) if missing else mel
