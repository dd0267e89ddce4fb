"""The critic of CLUIT on mels: one trunk without normalisation, judged for truth, voice and speaker."""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.user_error import UserError
from w2w.baselines.cluit_mel.blocks import Block
from w2w.baselines.cluit_mel.config import CluitMelConfig
from w2w.baselines.cluit_mel.convolutions import initialised, same

Mel = Float[Tensor, "batch n_mels frames"]


class Heard(NamedTuple):
    """What a trunk makes of some mels."""

    pooled: Float[Tensor, "batch width"]
    """One vector for all of it."""
    features: list[Tensor]
    """Outputs of the stem and of all blocks, (batch, channels, frames)."""


class Trunk(nn.Module):
    """Stem, log2(crop) - 2 residual blocks that halve time, and a convolution over the 4 frames left.

    For any length: that convolution slides over the frames left, and its outputs, behind LeakyReLU, are
    averaged. Linear heads of the average are the average of the heads at every position; a training crop
    has one.
    """

    def __init__(self, config: CluitMelConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths(config.n_critic_blocks)
        self.width = widths[-1]
        self.stem = same(config.mel.n_mels, widths[0], causal=False)
        self.blocks = nn.ModuleList(Block(a, b, halve=True) for a, b in pairwise(widths))
        self.whole = initialised(nn.Conv1d(self.width, self.width, 4), 4 * self.width)

    def forward(self, mel: Mel) -> Heard:
        """Hear natural log-mels of at least ``crop_frames``."""
        if mel.shape[-1] < self.config.crop_frames:
            raise UserError(
                f"{mel.shape[-1]} frames are too few for a critic of crop_frames={self.config.crop_frames}: "
                "give it at least as many"
            )
        features = [self.stem(self.config.standardised(mel))]
        for block in self.blocks:
            features.append(block(features[-1]))
        hidden = F.leaky_relu(self.whole(F.leaky_relu(features[-1], 0.2)), 0.2)
        return Heard(hidden.mean(-1), features)


class MelJudgement(NamedTuple):
    """What the critic makes of some mels."""

    score: Float[Tensor, " batch"]
    """Large for real speech: a logit."""
    projection: Float[Tensor, "batch dim"]
    """Of unit length: near for the same voice."""
    speakers: Float[Tensor, "batch n_speakers"]
    """Logits of the label head."""
    features: list[Tensor]
    """Outputs of the trunk's stem and blocks, (batch, channels, frames)."""


class MelCritic(nn.Module):
    """A trunk with a head for real or fake, a projector, and a label head where speakers are known.

    Where the recipe is silent: the projector is linear, for the trunk's last convolution stands before it as
    a projector's hidden layer would. Judgements are float32 also under autocast.
    """

    def __init__(self, config: CluitMelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        width = self.trunk.width
        self.score = initialised(nn.Linear(width, 1), width)
        self.projector = initialised(nn.Linear(width, config.projection_dim), width)
        self.speaker = initialised(nn.Linear(width, config.n_speakers), width) if config.n_speakers else None

    def forward(self, mel: Mel) -> MelJudgement:
        """Judge natural log-mels of at least ``crop_frames``."""
        pooled, features = self.trunk(mel)
        with torch.autocast(mel.device.type, enabled=False):
            pooled = pooled.float()
            projection = F.normalize(self.projector(pooled), dim=-1)
            speakers = self.speaker(pooled) if self.speaker is not None else pooled[:, :0]
            return MelJudgement(self.score(pooled)[:, 0], projection, speakers, features)
