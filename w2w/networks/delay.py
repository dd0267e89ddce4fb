"""What the decoder hears beside the code, late, so that a code has heard what comes after its frame."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from data.causal_mel import SILENCE
from pretrain.causal.encoder import QUIETEST, Content

Wave = Float[Tensor, "batch 1 samples"]


class DelayState(NamedTuple):
    """What is still to come out."""

    source: Wave
    energy: Float[Tensor, "batch 1 delay"]
    level: Float[Tensor, "batch 1 delay"]
    mels: Float[Tensor, "batch n_mels delay"]


class Delay:
    """Holds back the source, its energy, level and mels by a number of frames; the code passes."""

    def __init__(self, n_frames: int, hop: int, n_mels: int) -> None:
        self.n_frames, self.hop, self.n_mels = n_frames, hop, n_mels

    def begin(self, batch: int, device: torch.device | None = None) -> DelayState:
        """Silence, at the height of the first sample."""
        frames = torch.zeros(batch, 1, self.n_frames, device=device)
        source = torch.full((batch, 1, self.n_frames * self.hop), math.nan, device=device)
        mels = frames.new_full((batch, self.n_mels, self.n_frames), QUIETEST, dtype=torch.float64)
        return DelayState(source, frames + QUIETEST, frames + SILENCE, mels)

    def step(self, source: Wave, content: Content, state: DelayState) -> tuple[Wave, Content, DelayState]:
        """Take one chunk in, and give as much out."""
        now = (source, content.energy, content.level, content.mels)
        before = (torch.where(state.source.isnan(), source[..., :1], state.source), *state[1:])
        n_samples = self.n_frames * self.hop
        late, kept = [], []
        for new, old, length in zip(now, before, (n_samples, *[self.n_frames] * 3)):
            joined = torch.cat([old.to(new.dtype), new], dim=-1)
            late.append(joined[..., : joined.shape[-1] - length])
            kept.append(joined[..., joined.shape[-1] - length :].to(old.dtype))
        return late[0], Content(content.code, *late[1:]), DelayState(*kept)
