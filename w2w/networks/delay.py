"""A delay of the decoder's other inputs, which gives codes more look-ahead, and a gate for pauses."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.causal_mel import SILENCE
from engine.streaming import running_maximum
from pretrain.causal.encoder import QUIETEST, Content

Wave = Float[Tensor, "batch 1 samples"]


class DelayState(NamedTuple):
    source: Wave
    energy: Float[Tensor, "batch 1 delay"]
    level: Float[Tensor, "batch 1 delay"]
    mels: Float[Tensor, "batch n_mels delay"]


class Delay:
    """Delays the source, its energy, level and mels by a number of frames; codes pass undelayed."""

    def __init__(self, n_frames: int, hop: int, n_mels: int) -> None:
        self.n_frames, self.hop, self.n_mels = n_frames, hop, n_mels

    def begin(self, batch: int, device: torch.device | None = None) -> DelayState:
        """State before the first chunk: silence, at the first sample's offset (NaN until it is known)."""
        frames = torch.zeros(batch, 1, self.n_frames, device=device)
        source = torch.full((batch, 1, self.n_frames * self.hop), math.nan, device=device)
        mels = frames.new_full((batch, self.n_mels, self.n_frames), QUIETEST, dtype=torch.float64)
        return DelayState(source, frames + QUIETEST, frames + SILENCE, mels)

    def step(self, source: Wave, content: Content, state: DelayState) -> tuple[Wave, Content, DelayState]:
        """Delay one chunk; the result is as long."""
        now = (source, content.energy, content.level, content.mels)
        before = (torch.where(state.source.isnan(), source[..., :1], state.source), *state[1:])
        n_samples = self.n_frames * self.hop
        delayed, after = [], []
        for new, old, length in zip(now, before, (n_samples, *[self.n_frames] * 3)):
            joined = torch.cat([old.to(new.dtype), new], dim=-1)
            delayed.append(joined[..., : joined.shape[-1] - length])
            after.append(joined[..., joined.shape[-1] - length :].to(old.dtype))
        return delayed[0], Content(content.code, *delayed[1:]), DelayState(*after)


Level = Float[Tensor, "batch 1 frames"]

PAUSE_DB, SPEECH_DB = -45.0, -32.0
"""Frame levels relative to speech: a pause up to the first, speech that is not gated from the second."""
QUIET_DB = -62.0
"""dBFS RMS that is allowed in pauses of digital silence."""
FULL_LEVEL_DB = -18.0
"""dBFS RMS of the loudest frames of speech whose level, a log mel magnitude, is 0."""
NEAR_FRAMES = 100.0
"""Frames after the last voiced one in which loud frames count as speech; later ones count as noise."""


class GateState(NamedTuple):
    source: Float[Tensor, "batch 1 past"]
    gain: Float[Tensor, "batch 1"]
    unvoiced: Float[Tensor, "batch 1"]
    """Frames since the last voiced one."""


class PauseGate(nn.Module):
    """Limits the output's frames to the source's own level where the source pauses or is only noise.

    The source's level is the largest standard deviation of nearby frames, so a constant offset has none.
    """

    def __init__(self, hop: int, look_ahead: int) -> None:
        super().__init__()
        self.hop, self.past = hop, hop + look_ahead

    def begin(self, batch: int, device: torch.device | None = None) -> GateState:
        """State before the first chunk: silence, gate open."""
        past = torch.full((batch, 1, self.past), math.nan, device=device)
        gain = torch.ones(batch, 1, device=device)
        return GateState(past, gain, 2.0 * NEAR_FRAMES * gain)

    def step(
        self, source: Wave, output: Wave, level: Level, voiced: Level, state: GateState
    ) -> tuple[Wave, GateState]:
        """Gate one chunk; ``output`` lags the source by the look-ahead.

        ``level`` is a log magnitude, ``voiced`` 1 in voiced frames and 0 in others.
        """
        past = torch.where(state.source.isnan(), source[..., :1], state.source)
        window = torch.cat([past, source], dim=-1)
        frames = window[:, 0].unfold(-1, self.hop + self.past, self.hop)  # (batch, frames, samples)
        halves = frames[..., : 2 * self.hop].unflatten(-1, (2, self.hop))
        newest = frames[..., -self.hop :]
        power = torch.maximum(halves.var(-1, unbiased=False).amax(-1), newest.var(-1, unbiased=False))
        source_db = 10.0 * torch.log10(power + 1e-12)
        speech_db = FULL_LEVEL_DB + (20.0 / math.log(10.0)) * level[:, 0]
        # From pause to speech, the limit rises from the source's level to 60 dB above it.
        rise = ((source_db - speech_db - PAUSE_DB) / (SPEECH_DB - PAUSE_DB)).clamp(0.0, 1.0)
        frame = torch.arange(1, rise.shape[-1] + 1, device=rise.device, dtype=rise.dtype)
        newest_voiced = running_maximum(torch.where(voiced[:, 0] > 0.5, frame, -state.unvoiced))
        unvoiced = frame - newest_voiced
        limit_db = source_db.clamp_min(QUIET_DB) + 60.0 * rise * (unvoiced <= NEAR_FRAMES)
        blocks = output[:, 0].unflatten(-1, (-1, self.hop))
        output_db = 10.0 * torch.log10(blocks.square().mean(-1) + 1e-12)
        gain = 10.0 ** ((limit_db - output_db).clamp(-120.0, 0.0) / 20.0)  # (batch, frames)
        before = torch.cat([state.gain, gain[:, :-1]], dim=-1)
        # Gains change over a quarter of a frame: no click, and little output above the limit.
        ramp = (torch.arange(1, self.hop + 1, device=output.device) * (4.0 / self.hop)).clamp_max(1.0)
        shaped = before[..., None] + (gain - before)[..., None] * ramp
        past = window[..., window.shape[-1] - self.past :]
        after = GateState(past, gain[:, -1:], unvoiced[:, -1:].clamp_max(2.0 * NEAR_FRAMES))
        return (blocks * shaped).flatten(1)[:, None], after
