"""How a wave's newest stretch correlates with what it was a period earlier, for every F0 in question."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.running_mean import running_maximum

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
        """Silence."""
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
