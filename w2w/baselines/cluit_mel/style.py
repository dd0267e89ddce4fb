"""Whose voice: a network of its own with the trunk of the critic."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.user_error import UserError
from w2w.baselines.cluit_mel.config import CluitMelConfig
from w2w.baselines.cluit_mel.convolutions import initialised
from w2w.baselines.cluit_mel.critic import Trunk

Mel = Float[Tensor, "batch n_mels frames"]


class StyleEncoder(nn.Module):
    """Log-mels of any length to a voice: the mean over all positions of the trunk, then one Linear."""

    def __init__(self, config: CluitMelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        self.head = initialised(nn.Linear(self.trunk.width, config.style_dim), self.trunk.width)

    def forward(self, mel: Mel) -> Float[Tensor, "batch style"]:
        """Encode natural log-mels; fewer than ``crop_frames`` are continued by their mirror image."""
        return self.head(self.trunk(mirrored(mel, self.config.crop_frames)).pooled)


def mirrored(mel: Mel, frames: int) -> Float[Tensor, "batch n_mels longer"]:
    """Play a short mel to and fro until there are ``frames`` of it."""
    have = mel.shape[-1]
    if not have:
        raise UserError("a reference of no frames has no voice: give it some speech")
    if have >= frames:
        return mel
    position = torch.arange(frames, device=mel.device) % (2 * have)
    return mel[..., torch.where(position < have, position, 2 * have - 1 - position)]
