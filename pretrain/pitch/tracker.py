"""A causal F0 estimator without parameters: normalised correlation, tracked forward in time."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from engine.running_mean import running_maximum
from pretrain.pitch.correlation import (
    BINS_PER_OCTAVE,
    F_MAX,
    FAINT,
    QUIET,
    Correlation,
    CorrelationState,
    Pitch,
)

OCTAVE_COST = 0.06
"""Correlation that a candidate one octave lower must gain: periods repeat, so it would win all ties."""
JUMP_COST = 0.016
"""Correlation lost per bin that the track moves between frames."""
REACH = 9
"""Bins the track may slide in one frame (a quarter of an octave in 10 ms); further is a new start."""
RESTART = 0.35
"""Score that a path loses when it begins anywhere else."""
FORGET = 0.8
"""How much of the past a frame's score keeps."""
VOICED = 0.7
"""Correlation above which a frame is voiced half the time."""


class PitchState(NamedTuple):
    """What the tracker carries from chunk to chunk, in float64."""

    correlation: CorrelationState
    score: Float[Tensor, "batch bins"]
    held: Float[Tensor, "batch 1"]


class PitchTracker(nn.Module):
    """F0 by normalised cross-correlation, tracked by a forward Viterbi pass without look-ahead.

    It has no parameters and passes no gradient: F0 is a fact about the source, not something to bargain with.
    Frame ``t`` has seen samples before ``(t + 1) * hop``. Results are float64.
    """

    bias: Tensor
    jump: Tensor

    def __init__(self, sample_rate: int, hop: int, *, relative_level: bool = False) -> None:
        super().__init__()
        self.correlation = Correlation(sample_rate, hop, FAINT if relative_level else QUIET)
        octaves = (self.correlation.log_f0 - math.log(F_MAX)) / math.log(2.0)
        self.register_buffer("bias", OCTAVE_COST * octaves, persistent=False)
        shifts = torch.arange(-REACH, REACH + 1).abs().double()
        self.register_buffer("jump", JUMP_COST * shifts, persistent=False)

    def forward(self, wave: Float[Tensor, "batch 1 samples"]) -> Pitch:
        """Track a whole wave."""
        return self.step(wave, self.begin(wave.shape[0]))[0]

    def begin(self, batch: int) -> PitchState:
        """Silence, and no opinion."""
        return PitchState(
            self.correlation.begin(batch),
            self.bias.new_zeros(batch, len(self.bias)),
            self.bias.new_full((batch, 1), math.log(150.0)),
        )

    @torch.no_grad()
    def step(self, wave: Float[Tensor, "batch 1 samples"], state: PitchState) -> tuple[Pitch, PitchState]:
        """Track one chunk, a whole number of hops long."""
        (salience, _, _), correlation = self.correlation.step(wave, state.correlation)
        scores = self._scores(salience, state.score)
        best = (scores + self.bias).argmax(-1, keepdim=True)
        strength = salience.gather(-1, best) * is_summit(salience, best)
        voicing = torch.sigmoid((strength - VOICED) * 20.0)[..., 0]
        log_f0 = hold(self._refined(salience, best), voicing > 0.5, state.held)
        return Pitch(log_f0[:, None], voicing[:, None]), PitchState(
            correlation, scores[:, -1], log_f0[:, -1:]
        )

    def _scores(
        self, salience: Float[Tensor, "batch frames bins"], score: Float[Tensor, "batch bins"]
    ) -> Float[Tensor, "batch frames bins"]:
        """The best path's score into every bin: the recursion, and nothing else, runs frame by frame."""
        scores = []
        for now in salience.unbind(1):
            # Runs once per 10 ms of audio: few operations, on little data.
            reachable = F.pad(score, (REACH, REACH), value=-10.0).unfold(-1, 2 * REACH + 1, 1)
            arrived = (reachable - self.jump).amax(-1)
            # A new start is always open, so one bad syllable cannot hold the track for ever.
            fresh = score.amax(-1, keepdim=True) - RESTART
            score = now + FORGET * torch.maximum(arrived, fresh)
            scores.append(score)
        return torch.stack(scores, dim=1)

    def _refined(
        self, salience: Float[Tensor, "batch frames bins"], best: Int64[Tensor, "batch frames 1"]
    ) -> Float[Tensor, "batch frames"]:
        """Log-F0 at the summit of the parabola through the best bin and its neighbours."""
        inner = best.clamp(1, salience.shape[-1] - 2)
        left, centre, right = (salience.gather(-1, inner + offset) for offset in (-1, 0, 1))
        bend = left - 2 * centre + right
        shift = torch.where(bend < -1e-6, 0.5 * (left - right) / bend, torch.zeros_like(bend)).clamp(
            -0.5, 0.5
        )
        return (self.correlation.log_f0[inner] + shift * math.log(2.0) / BINS_PER_OCTAVE)[..., 0]


def is_summit(
    salience: Float[Tensor, "batch frames bins"], best: Int64[Tensor, "batch frames 1"]
) -> Bool[Tensor, "batch frames 1"]:
    """Whether a bin or one beside it is a summit: correlation that only decays from lag 0 shows no period."""
    # A shade lower still counts: where digital silence makes neighbours equal, rounding must not decide.
    middle = salience[..., 1:-1] + 1e-9
    peak = (middle >= salience[..., :-2]) & (middle >= salience[..., 2:])
    near = F.max_pool1d(F.pad(peak, (2, 2)).double(), 3, stride=1) > 0
    return near.gather(-1, best)


def hold(
    values: Float[Tensor, "batch frames"],
    known: Bool[Tensor, "batch frames"],
    before: Float[Tensor, "batch 1"],
) -> Float[Tensor, "batch frames"]:
    """Each frame's newest known value."""
    places = torch.arange(1, values.shape[-1] + 1, device=values.device)
    newest = running_maximum(torch.where(known, places, torch.zeros_like(places)))
    return torch.cat([before, values], dim=-1).gather(-1, newest)
