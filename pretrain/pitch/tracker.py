"""A causal F0 estimator without parameters: normalised correlation, tracked forward in time."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from engine.streaming import running_maximum

Curve = Float[Tensor, "batch 1 frames"]
Powers = Float[Tensor, "batch frames"]

F_MIN, F_MAX = 60.0, 500.0
"""Hz: the range of speaking voices."""
BINS_PER_OCTAVE = 36
HUSH = 0.002
"""Share of the recent loudest frame's energy at which correlation counts half: hum in pauses is no voice."""
DECAY = 0.998
"""How fast the recent loudest frame is forgotten, per frame."""
QUIET = 1e-5
"""Mean power (-50 dBFS) that the loudest frame is never taken to be below, where levels are absolute."""
FAINT = 1e-10
"""The same (-100 dBFS) where a quiet recording must be tracked like a loud one."""
PIECE_FRAMES = 50
"""Frames correlated at once: what they need stays in the cache."""


class Pitch(NamedTuple):
    """F0 per frame."""

    log_f0: Curve
    """Natural log of Hz; through unvoiced frames a value is held or guessed."""
    voicing: Curve
    """0 to 1."""


class CorrelationState(NamedTuple):
    """What is carried from chunk to chunk, in float64."""

    wave: Float[Tensor, "batch 1 taps"]
    """The samples that the low-pass still needs."""
    smooth: Float[Tensor, "batch 1 context"]
    """What the next frame still needs of its result."""
    loudest: Float[Tensor, "batch 1"]


class Correlated(NamedTuple):
    """What is heard of each frame, in float64."""

    salience: Float[Tensor, "batch frames bins"]
    """Normalised correlation with one period earlier, less where the frame is faint."""
    power: Powers
    """Mean power of the frame's newest stretch below 900 Hz."""
    loudest: Powers
    """The greatest of these so far, slowly forgotten."""


class Correlation(nn.Module):
    """Normalised cross-correlation (Talkin 1995) of a frame's newest 25 ms; no parameters, no gradient.

    Frame ``t`` has seen samples before ``(t + 1) * hop``. All is computed in float64: phases add F0 up, and
    float32's rounding, which differs with the chunking, would be heard after minutes.
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
        # Formants above 900 Hz only blur the period; a short Hann low-pass costs no latency worth naming.
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
    def step(
        self, wave: Float[Tensor, "batch 1 samples"], state: CorrelationState
    ) -> tuple[Correlated, CorrelationState]:
        """Correlate one chunk, a whole number of hops long."""
        wave = torch.cat([state.wave, wave.double()], dim=-1)
        # A product in place of a convolution: onnxruntime has none in float64.
        smooth = torch.cat([state.smooth, wave.unfold(-1, len(self.lowpass), 1) @ self.lowpass], dim=-1)
        frames = smooth[:, 0].unfold(-1, self.window, self.hop)
        parts = [self._salience(part) for part in frames.split(PIECE_FRAMES, dim=1)]
        salience, power = (torch.cat(part, dim=1) for part in zip(*parts))
        loudest = fading_peak(power, state.loudest, self.quiet)
        salience = salience * (power / (power + HUSH * loudest))[..., None]
        after = CorrelationState(
            wave[..., wave.shape[-1] - len(self.lowpass) + 1 :],
            smooth[..., smooth.shape[-1] - self.context :],
            loudest[:, -1:],
        )
        return Correlated(salience, power, loudest), after

    def _salience(
        self, frames: Float[Tensor, "batch frames window"]
    ) -> tuple[Float[Tensor, "batch frames bins"], Float[Tensor, "batch frames"]]:
        frames = frames - frames.mean(-1, keepdim=True)
        newest = frames[..., self.longest :]
        size = 2 ** math.ceil(math.log2(self.window))
        # A circular correlation as long as the window: lags up to `longest` do not wrap.
        spectrum = torch.fft.rfft(frames, n=size) * torch.fft.rfft(newest, n=size).conj()
        # At start s, newest meets frames[s : s + width]: the lag is longest - s.
        products = torch.fft.irfft(spectrum, n=size)[..., : self.longest + 1].flip(-1)
        summed = F.pad(frames.square().cumsum(-1), (1, 0))
        energy = (summed[..., self.width :] - summed[..., : -self.width]).flip(-1).clamp_min(0.0)
        likeness = products / ((energy[..., :1] * energy).sqrt() + 0.1 * self.quiet * self.width)
        low = likeness[..., self.low_lag]
        high = likeness[..., self.low_lag + 1]
        return low + self.fraction * (high - low), energy[..., 0] / self.width


def fading_peak(
    power: Float[Tensor, "batch frames"], before: Float[Tensor, "batch 1"], quiet: float = QUIET
) -> Float[Tensor, "batch frames"]:
    """The loudest frame so far, forgotten at ``DECAY`` per frame; never below ``quiet``."""
    age = torch.arange(1, power.shape[-1] + 1, device=power.device, dtype=power.dtype) * math.log(DECAY)
    lifted = torch.maximum(power.clamp_min(quiet).log() - age, before.log())
    return (running_maximum(lifted) + age).exp().clamp_min(quiet)


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
        return self.step(wave, self.begin(wave.shape[0]))[0]

    def begin(self, batch: int) -> PitchState:
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
