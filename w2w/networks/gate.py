"""Pauses stay as quiet as the source's."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

Wave = Float[Tensor, "batch 1 samples"]
Level = Float[Tensor, "batch 1 frames"]

PAUSE_DB, SPEECH_DB = -45.0, -32.0
"""A frame this far below the speech's level is a pause; above the other, speech that nothing holds back."""
QUIET_DB = -62.0
"""dBFS RMS: pauses of digital silence may hold this much."""
FULL_LEVEL_DB = -18.0
"""dBFS RMS of the loudest frames of speech whose level, a log mel magnitude, is 0."""


class GateState(NamedTuple):
    """What the gate carries from chunk to chunk."""

    source: Float[Tensor, "batch 1 past"]
    gain: Float[Tensor, "batch 1"]


class PauseGate(nn.Module):
    """Holds the output's frames down to the source's own level where the source pauses.

    The source's level is the larger of two frames' standard deviations, so a constant offset is no sound.
    """

    def __init__(self, hop: int, look_ahead: int) -> None:
        super().__init__()
        self.hop, self.past = hop, hop + look_ahead

    def begin(self, batch: int, device: torch.device | None = None) -> GateState:
        """Silence; the gate is open."""
        past = torch.full((batch, 1, self.past), math.nan, device=device)
        return GateState(past, torch.ones(batch, 1, device=device))

    def step(self, source: Wave, output: Wave, level: Level, state: GateState) -> tuple[Wave, GateState]:
        """Hold one chunk down; ``output`` lags the source by the look-ahead, ``level`` is a log magnitude."""
        past = torch.where(state.source.isnan(), source[..., :1], state.source)
        window = torch.cat([past, source], dim=-1)
        frames = window[:, 0].unfold(-1, self.hop + self.past, self.hop)  # (batch, frames, samples)
        halves = frames[..., : 2 * self.hop].unflatten(-1, (2, self.hop))
        newest = frames[..., -self.hop :]
        power = torch.maximum(halves.var(-1, unbiased=False).amax(-1), newest.var(-1, unbiased=False))
        source_db = 10.0 * torch.log10(power + 1e-12)
        speech_db = FULL_LEVEL_DB + (20.0 / math.log(10.0)) * level[:, 0]
        # The limit rises from the source's own level out of the way of speech.
        rise = ((source_db - speech_db - PAUSE_DB) / (SPEECH_DB - PAUSE_DB)).clamp(0.0, 1.0)
        limit_db = source_db.clamp_min(QUIET_DB) + 60.0 * rise
        blocks = output[:, 0].unflatten(-1, (-1, self.hop))
        output_db = 10.0 * torch.log10(blocks.square().mean(-1) + 1e-12)
        gain = 10.0 ** ((limit_db - output_db).clamp(-120.0, 0.0) / 20.0)  # (batch, frames)
        before = torch.cat([state.gain, gain[:, :-1]], dim=-1)
        # A quarter of a frame from gain to gain: no click, and little that is too loud.
        ramp = (torch.arange(1, self.hop + 1, device=output.device) * (4.0 / self.hop)).clamp_max(1.0)
        shaped = before[..., None] + (gain - before)[..., None] * ramp
        after = GateState(window[..., window.shape[-1] - self.past :], gain[:, -1:])
        return (blocks * shaped).flatten(1)[:, None], after
