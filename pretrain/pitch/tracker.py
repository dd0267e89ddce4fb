"""A causal F0 estimator without parameters: normalised cross-correlation and a forward Viterbi pass."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from engine.streaming import running_maximum

Wave = Float[Tensor, "batch 1 samples"]
Curve = Float[Tensor, "batch 1 frames"]
Values = Float[Tensor, "batch frames"]
Salience = Float[Tensor, "batch frames bins"]
Last = Float[Tensor, "batch 1"]
"""The value of the frame before a chunk."""
Bin = Int64[Tensor, "batch frames 1"]

F_MIN, F_MAX = 60.0, 500.0
"""F0 search range in Hz, that of speaking voices."""
BINS_PER_OCTAVE = 36
PAUSE_POWER = 0.002
"""Power relative to the recent peak at which salience is halved, so that hum in pauses is not tracked."""
DECAY = 0.998
"""Decay per frame of the recent peak power."""
QUIET = 1e-5
"""Lower bound of the peak power (-50 dBFS) where levels are absolute."""
FAINT = 1e-10
"""Lower bound of the peak power (-100 dBFS) where quiet recordings are tracked like loud ones."""
PIECE_FRAMES = 50
"""Frames correlated at once; their intermediate results fit into the CPU cache."""


class Pitch(NamedTuple):
    """F0 and voicing per frame."""

    log_f0: Curve
    """Natural log of F0 in Hz; in unvoiced frames the last value is held or a value is estimated."""
    voicing: Curve
    """Probability of being voiced, 0 to 1."""


class CorrelationState(NamedTuple):
    """State carried from chunk to chunk, in float64."""

    wave: Float[Tensor, "batch 1 taps"]
    """Past samples that the low-pass filter still needs."""
    smooth: Float[Tensor, "batch 1 context"]
    """Past low-passed samples that the next frame still needs."""
    loudest: Last
    """Decaying peak of the frames' power."""


class Correlated(NamedTuple):
    """Correlation features of each frame, in float64."""

    salience: Salience
    """Normalised correlation with the signal one period earlier, reduced in quiet frames."""
    power: Values
    """Mean power below 900 Hz of the frame's newest 25 ms."""
    loudest: Values
    """Decaying peak of ``power`` up to this frame."""


class Correlation(nn.Module):
    """Normalised cross-correlation (Talkin 1995) of a frame's newest 25 ms; no parameters, no gradient.

    Frame ``t`` depends on samples before ``(t + 1) * hop``. Computed in float64: F0 is integrated into a
    phase, and float32 rounding, which depends on the chunk size, would become audible after minutes.
    """

    low_lag: Tensor
    fraction: Tensor
    log_f0: Tensor
    lowpass: Tensor

    def __init__(self, sample_rate: int, hop: int, quiet: float) -> None:
        super().__init__()
        self.sample_rate, self.hop, self.quiet = sample_rate, hop, quiet
        self.longest = math.ceil(sample_rate / F_MIN) + 1
        self.width = int(0.025 * sample_rate)
        self.window = self.width + self.longest
        n_bins = int(math.log2(F_MAX / F_MIN) * BINS_PER_OCTAVE) + 1
        f0 = F_MIN * 2 ** (torch.arange(n_bins, dtype=torch.float64) / BINS_PER_OCTAVE)
        lags = sample_rate / f0
        self.register_buffer("low_lag", lags.floor().long(), persistent=False)
        self.register_buffer("fraction", lags - lags.floor(), persistent=False)
        self.register_buffer("log_f0", f0.log(), persistent=False)
        # Formants above 900 Hz only obscure the period; a short Hann low-pass adds negligible latency.
        taps = torch.hann_window(int(sample_rate / 1000) | 1, periodic=False, dtype=torch.float64)
        self.register_buffer("lowpass", taps / taps.sum(), persistent=False)

    @property
    def context(self) -> int:
        """Past low-passed samples that the next frame still needs."""
        return self.window - self.hop

    def begin(self, batch: int) -> CorrelationState:
        return CorrelationState(
            self.lowpass.new_zeros(batch, 1, len(self.lowpass) - 1),
            self.lowpass.new_zeros(batch, 1, self.context),
            self.lowpass.new_full((batch, 1), self.quiet),
        )

    @torch.no_grad()
    def step(self, wave: Wave, state: CorrelationState) -> tuple[Correlated, CorrelationState]:
        """Correlate one chunk, a whole number of hops long."""
        wave = torch.cat([state.wave, wave.double()], dim=-1)
        # A matrix product, as ONNX Runtime has no float64 convolution.
        smooth = torch.cat([state.smooth, wave.unfold(-1, len(self.lowpass), 1) @ self.lowpass], dim=-1)
        frames = smooth[:, 0].unfold(-1, self.window, self.hop)
        parts = [self._salience(part) for part in frames.split(PIECE_FRAMES, dim=1)]
        salience, power = (torch.cat(part, dim=1) for part in zip(*parts))
        loudest = fading_peak(power, state.loudest, self.quiet)
        salience = salience * (power / (power + PAUSE_POWER * loudest))[..., None]
        after = CorrelationState(
            wave[..., wave.shape[-1] - len(self.lowpass) + 1 :],
            smooth[..., smooth.shape[-1] - self.context :],
            loudest[:, -1:],
        )
        return Correlated(salience, power, loudest), after

    def _salience(self, frames: Float[Tensor, "batch frames window"]) -> tuple[Salience, Values]:
        frames = frames - frames.mean(-1, keepdim=True)
        newest = frames[..., self.longest :]
        size = 2 ** math.ceil(math.log2(self.window))
        # A circular correlation as long as the window: lags up to `longest` do not wrap.
        spectrum = torch.fft.rfft(frames, n=size) * torch.fft.rfft(newest, n=size).conj()
        # At start s, newest meets frames[s : s + width]: the lag is longest - s.
        products = torch.fft.irfft(spectrum, n=size)[..., : self.longest + 1].flip(-1)
        summed = F.pad(frames.square().cumsum(-1), (1, 0))
        energy = (summed[..., self.width :] - summed[..., : -self.width]).flip(-1).clamp_min(0.0)
        correlation = products / ((energy[..., :1] * energy).sqrt() + 0.1 * self.quiet * self.width)
        low = correlation[..., self.low_lag]
        high = correlation[..., self.low_lag + 1]
        return low + self.fraction * (high - low), energy[..., 0] / self.width


def fading_peak(power: Values, before: Last, quiet: float = QUIET) -> Values:
    """Return the peak power up to each frame, decaying by ``DECAY`` per frame; never below ``quiet``."""
    age = torch.arange(1, power.shape[-1] + 1, device=power.device, dtype=power.dtype) * math.log(DECAY)
    lifted = torch.maximum(power.clamp_min(quiet).log() - age, before.log())
    return (running_maximum(lifted) + age).exp().clamp_min(quiet)


OCTAVE_COST = 0.06
"""Penalty per octave of lower F0: multiples of the period correlate as well and would otherwise win ties."""
JUMP_COST = 0.016
"""Transition penalty per bin between consecutive frames."""
REACH = 9
"""Maximum transition in bins per frame (a quarter of an octave in 10 ms); larger jumps are restarts."""
RESTART = 0.35
"""Penalty of restarting the path at any other bin."""
FORGET = 0.8
"""Factor of the previous frame's path score."""
VOICED = 0.7
"""Correlation at which the probability of voicing is one half."""


class PitchState(NamedTuple):
    """State of the tracker carried from chunk to chunk, in float64."""

    correlation: CorrelationState
    score: Float[Tensor, "batch bins"]
    held: Last


class PitchTracker(nn.Module):
    """F0 by normalised cross-correlation, tracked by a forward Viterbi pass without look-ahead.

    It has no parameters and passes no gradient, so that no loss can change the source's F0. Frame ``t``
    depends on samples before ``(t + 1) * hop``. Results are float64.
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

    def forward(self, wave: Wave) -> Pitch:
        return self.step(wave, self.begin(wave.shape[0]))[0]

    def begin(self, batch: int) -> PitchState:
        return PitchState(
            self.correlation.begin(batch),
            self.bias.new_zeros(batch, len(self.bias)),
            self.bias.new_full((batch, 1), math.log(150.0)),
        )

    @torch.no_grad()
    def step(self, wave: Wave, state: PitchState) -> tuple[Pitch, PitchState]:
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

    def _scores(self, salience: Salience, score: Float[Tensor, "batch bins"]) -> Salience:
        """Return the score of the best path into each bin; only this recursion runs frame by frame."""
        scores = []
        for now in salience.unbind(1):
            reachable = F.pad(score, (REACH, REACH), value=-10.0).unfold(-1, 2 * REACH + 1, 1)
            arrived = (reachable - self.jump).amax(-1)
            # A restart is always possible, so that the track recovers from an octave error.
            restarted = score.amax(-1, keepdim=True) - RESTART
            score = now + FORGET * torch.maximum(arrived, restarted)
            scores.append(score)
        return torch.stack(scores, dim=1)

    def _refined(self, salience: Salience, best: Bin) -> Values:
        """Return log-F0 at the maximum of the parabola through the best bin and its neighbours."""
        inner = best.clamp(1, salience.shape[-1] - 2)
        left, centre, right = (salience.gather(-1, inner + offset) for offset in (-1, 0, 1))
        curvature = left - 2 * centre + right
        shift = torch.where(curvature < -1e-6, 0.5 * (left - right) / curvature, torch.zeros_like(curvature))
        shift = shift.clamp(-0.5, 0.5)
        return (self.correlation.log_f0[inner] + shift * math.log(2.0) / BINS_PER_OCTAVE)[..., 0]


def is_summit(salience: Salience, best: Bin) -> Bool[Tensor, "batch frames 1"]:
    """Whether a bin or a neighbour is a local maximum; correlation that only decays from lag 0 has none."""
    # With a tolerance, because in digital silence neighbours differ by rounding only.
    middle = salience[..., 1:-1] + 1e-9
    peak = (middle >= salience[..., :-2]) & (middle >= salience[..., 2:])
    near = F.max_pool1d(F.pad(peak, (2, 2)).double(), 3, stride=1) > 0
    return near.gather(-1, best)


def hold(values: Values, known: Bool[Tensor, "batch frames"], before: Last) -> Values:
    """Return the newest known value up to each frame."""
    places = torch.arange(1, values.shape[-1] + 1, device=values.device)
    newest = running_maximum(torch.where(known, places, torch.zeros_like(places)))
    return torch.cat([before, values], dim=-1).gather(-1, newest)
