"""Streaming resampling by a short windowed sinc of known delay, with explicit state.

``data.audio.resampling`` is for files, where the filter may be long. Here look-ahead is latency, so the
filter extends only `REACH_S` to either side, at the cost of a wide transition band.
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

In = Float[Tensor, "batch 1 samples"]
Out = Float[Tensor, "batch 1 resampled"]
Piece = tuple[Int64[Tensor, " _"], Float64[Tensor, "_ taps"]]

REACH_S = 15 / 16_000
"""Extent of the filter before and after each sample, in seconds: under a millisecond."""
STOP_DB = 60.0
"""Stop-band attenuation in dB."""
TRANSITION_HZ = (STOP_DB - 7.95) / (14.36 * 2 * REACH_S)
"""Width of the transition band by Kaiser's formula: 1.9 kHz."""
PIECE = 1024
"""Output samples computed at once, few enough for the processor's cache."""
N_PLANS = 16
"""Maximum number of cached plans, one per position and length of a chunk."""


class ResamplerState(NamedTuple):
    """The state of a resampler between chunks, of constant size."""

    past: Float64[Tensor, "batch 1 context"]
    """The newest input samples."""
    place: int
    """Number of input samples since the last one at which the phases of both rates coincided."""


class LiveResampler:
    """A streaming band-limited resampler with a delay of ``delay`` input samples.

    After ``n`` input samples, ``n * to_rate // from_rate`` output samples have been returned. The cutoff is
    half the lower rate minus a quarter of the transition band, so that aliases below the cutoff come from the
    stop band. Computed in float64, so that rounding, which depends on the chunking, vanishes in float32.
    """

    def __init__(self, from_rate: int, to_rate: int, delay: Fraction | None = None) -> None:
        common = math.gcd(from_rate, to_rate)
        self.down, self.up = from_rate // common, to_rate // common
        lower = min(from_rate, to_rate)
        self.cutoff = (lower / 2 - TRANSITION_HZ / 4) / from_rate
        """Cutoff (−6 dB) in cycles per input sample."""
        self.reach = least_delay(from_rate)
        self.delay = self.reach if delay is None else delay
        """Delay of the output in input samples."""
        if self.delay < self.reach:
            raise ValueError(f"delay={self.delay} is below the filter's reach, {self.reach} samples")
        self.n_taps = math.floor(self.reach + self.delay + 1) + 1
        with torch.inference_mode(False):  # later calls may need gradients
            self.table = self._weights(torch.arange(self.up))
        self.plans: dict[tuple[int, int, str], list[Piece]] = {}

    def begin(self, batch: int, device: torch.device | str = "cpu") -> ResamplerState:
        past = torch.zeros(batch, 1, self.n_taps - 1, dtype=torch.float64, device=device)
        return ResamplerState(past, 0)

    def step(self, wave: In, state: ResamplerState) -> tuple[Out, ResamplerState]:
        """Resample one chunk of any length, including 0."""
        if not wave.shape[-1]:
            return wave, state
        window = torch.cat([state.past, wave.double()], dim=-1)
        after = ResamplerState(
            window[..., wave.shape[-1] :].clone(), (state.place + wave.shape[-1]) % self.down
        )
        rows = window[:, 0].unfold(-1, self.n_taps, 1)
        parts = [
            (rows[:, where] * weights).sum(-1)
            for where, weights in self._plan(state.place, wave.shape[-1], wave.device)
        ]
        return torch.cat(parts, dim=-1)[:, None].to(wave.dtype), after

    def _plan(self, place: int, samples: int, device: torch.device) -> list[Piece]:
        """Return the newest input and the filter weights of each output sample; cached for short chunks."""
        key = place, samples, str(device)
        plan = self.plans.get(key)
        if plan is None:
            with torch.inference_mode(False):
                plan = self._new_plan(place, samples, device)
            if sum(len(where) for where, _ in plan) <= PIECE:
                if len(self.plans) >= N_PLANS:
                    self.plans.clear()
                self.plans[key] = plan
        return plan

    def _new_plan(self, place: int, samples: int, device: torch.device) -> list[Piece]:
        outputs = torch.arange(place * self.up // self.down, (place + samples) * self.up // self.down)
        # Output k ends at input time `(k + 1) * down / up`; its newest input ends then, or `phase / up` of an
        # input sample later.
        newest = -(-(outputs + 1) * self.down // self.up) - 1 - place
        phase = -(outputs + 1) * self.down % self.up
        return [
            (where.to(device), self.table[which].to(device))
            for where, which in zip(newest.split(PIECE), phase.split(PIECE))
        ]

    def _weights(self, phase: Int64[Tensor, " samples"]) -> Float64[Tensor, "samples taps"]:
        """Return the filter weights of the newest inputs, oldest first, for outputs of the given phases."""
        age = torch.arange(self.n_taps - 1, -1, -1, dtype=torch.float64)
        distance = age - float(self.delay) - (phase.double() / self.up)[:, None]
        inside = (1.0 - (distance / float(self.reach)).square()).clamp_min(0.0)
        beta = 0.1102 * (STOP_DB - 8.7)
        taper = torch.special.i0(beta * inside.sqrt()) * (inside > 0)
        weights = torch.sinc(2.0 * self.cutoff * distance) * taper
        # Unit gain at DC for every phase; otherwise a constant would be modulated by the phases' period.
        return weights / weights.sum(-1, keepdim=True)


def least_delay(from_rate: int) -> Fraction:
    """Return the minimum delay, the filter's look-ahead, in samples at ``from_rate``."""
    return Fraction(REACH_S).limit_denominator(1_000_000) * from_rate


@lru_cache(maxsize=8)
def live_resampler(from_rate: int, to_rate: int, delay: Fraction | None = None) -> LiveResampler:
    return LiveResampler(from_rate, to_rate, delay)
