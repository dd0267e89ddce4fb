"""Changing the sample rate live: a short windowed sinc whose delay is known, with its state in the open.

``data.audio.resampling`` is for files, where a filter may be long. Here every sample a filter waits for is
latency, so it reaches `REACH_S` to either side and no further, and pays with its transition band.
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
"""Seconds that the filter hears before and after each sample: under a millisecond."""
STOP_DB = 60.0
"""How far the stop band lies below the pass band."""
TRANSITION_HZ = (STOP_DB - 7.95) / (14.36 * 2 * REACH_S)
"""From pass band to stop band, by Kaiser's formula: 1.9 kHz."""
PIECE = 1024
"""Samples made at once: what they need stays in the cache."""
N_PLANS = 16
"""Chunks, by place and length, whose weights are looked up once."""


class ResamplerState(NamedTuple):
    """What a resampler carries from chunk to chunk; it does not grow."""

    past: Float64[Tensor, "batch 1 context"]
    """The newest samples."""
    place: int
    """Samples taken in, counted from the last one at which both rates met."""


class LiveResampler:
    """A band-limited wave at another rate, ``delay`` samples late, chunk after chunk.

    Of ``n`` samples taken in, ``n * to_rate // from_rate`` are out: with the last sample of a chunk comes all
    that it completes. The cutoff lies a quarter of the transition below half the lower rate, so that what
    folds back to below the cutoff lies in the stop band. It is computed in float64, that rounding, which
    differs with the chunking, should vanish in a float32 sample.
    """

    def __init__(self, from_rate: int, to_rate: int, delay: Fraction | None = None) -> None:
        common = math.gcd(from_rate, to_rate)
        self.down, self.up = from_rate // common, to_rate // common
        lower = min(from_rate, to_rate)
        self.cutoff = (lower / 2 - TRANSITION_HZ / 4) / from_rate
        """Cycles per sample taken in; there the filter passes half the amplitude."""
        self.reach = least_delay(from_rate)
        self.delay = self.reach if delay is None else delay
        """Samples taken in by which what comes out is late."""
        if self.delay < self.reach:
            raise ValueError(f"delay={self.delay} is below the filter's reach, {self.reach} samples")
        self.n_taps = math.floor(self.reach + self.delay + 1) + 1
        with torch.inference_mode(False):  # gradients may pass later
            self.table = self._weights(torch.arange(self.up))
        self.plans: dict[tuple[int, int, str], list[Piece]] = {}

    def begin(self, batch: int, device: torch.device | str = "cpu") -> ResamplerState:
        past = torch.zeros(batch, 1, self.n_taps - 1, dtype=torch.float64, device=device)
        return ResamplerState(past, 0)

    def step(self, wave: In, state: ResamplerState) -> tuple[Out, ResamplerState]:
        """Resample one chunk of any length, also none."""
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
        """Which samples of a chunk complete which new ones, with what weights; kept where chunks repeat."""
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
        made = torch.arange(place * self.up // self.down, (place + samples) * self.up // self.down)
        # Sample k ends where `(k + 1) * down / up` samples end; the newest of its inputs ends then, or
        # `phase / up` of a sample later.
        newest = -(-(made + 1) * self.down // self.up) - 1 - place
        phase = -(made + 1) * self.down % self.up
        return [
            (where.to(device), self.table[which].to(device))
            for where, which in zip(newest.split(PIECE), phase.split(PIECE))
        ]

    def _weights(self, phase: Int64[Tensor, " samples"]) -> Float64[Tensor, "samples taps"]:
        """What each of the newest samples, oldest first, gives to one that ends ``phase / up`` earlier."""
        age = torch.arange(self.n_taps - 1, -1, -1, dtype=torch.float64)
        distance = age - float(self.delay) - (phase.double() / self.up)[:, None]
        inside = (1.0 - (distance / float(self.reach)).square()).clamp_min(0.0)
        beta = 0.1102 * (STOP_DB - 8.7)
        taper = torch.special.i0(beta * inside.sqrt()) * (inside > 0)
        weights = torch.sinc(2.0 * self.cutoff * distance) * taper
        # Each phase passes a constant as it is, or a hum at the difference of the rates would be heard.
        return weights / weights.sum(-1, keepdim=True)


def least_delay(from_rate: int) -> Fraction:
    """Samples at a rate that the filter must wait for."""
    return Fraction(REACH_S).limit_denominator(1_000_000) * from_rate


@lru_cache(maxsize=8)
def live_resampler(from_rate: int, to_rate: int, delay: Fraction | None = None) -> LiveResampler:
    return LiveResampler(from_rate, to_rate, delay)
