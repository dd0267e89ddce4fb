"""Acoustic measurement of a voice in four numbers: pitch, melody, brightness and roughness."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError

Curve = Float[Tensor, "frames"]
SAMPLE_RATE = 16_000
F_MIN, F_MAX = 60.0, 500.0
"""Range of F0 in Hz of speaking voices."""
HOP, WINDOW, N_FFT = 160, 800, 2048
"""Samples: frames every 10 ms of 50 ms each, which contain three periods of the lowest voice."""
OCTAVE_COST = 0.04
"""Gain in correlation required per doubling of the period, because multiples of a period correlate too."""
VOICED = 0.6
"""Minimum correlation of a voiced frame."""
LOUD_DB = 30.0
"""Distance from the 90th percentile of the level below which frames are not speech."""
FEWEST = 10
"""Minimum number of voiced frames for a measurement."""
BRIGHT_BAND = (200.0, 6_000.0)
"""Band in Hz of the spectral centroid: excludes hum and room modes below, and codecs' band limits above."""


class VoiceMeasures(NamedTuple):
    log_f0: float
    """Mean log F0 (natural log of Hz) over voiced frames near their median."""
    melody: float
    """Standard deviation of F0 around that mean, in semitones."""
    brightness: float
    """Mean spectral centroid of the voiced frames, in octaves above 1 kHz."""
    roughness: float
    """Negative harmonics-to-noise ratio of the voiced frames in dB: their noise and irregularity."""


def measure_voice(wave: Float[Tensor, "1 1 samples"], *, log_f0: float | None = None) -> VoiceMeasures:
    """Measure a recording at 16 kHz; raises ``UserError`` if it has no voiced speech.

    ``log_f0`` is its mean log F0 if known from a better tracker; periods are then searched within half an
    octave. Without it, one recording in fifty (with a strong first formant) is measured octaves too high.
    """
    if wave.shape[-1] < WINDOW:
        raise UserError(f"{1000 * wave.shape[-1] / SAMPLE_RATE:.0f} ms are too short to measure a voice on")
    frames = wave[0, 0].double().unfold(-1, WINDOW, HOP)
    frames = frames - frames.mean(-1, keepdim=True)
    level = 10 * torch.log10(frames.square().mean(-1) + 1e-10)
    loud = level > level.quantile(0.9) - LOUD_DB
    windowed = frames * torch.hann_window(WINDOW, dtype=torch.float64)
    low, high = F_MIN, F_MAX
    if log_f0 is not None:
        low, high = max(low, math.exp(log_f0) * 0.66), min(high, math.exp(log_f0) * 1.5)
    f0, strength = _periods(windowed, low, high)
    voiced = loud & (strength > VOICED)
    if int(voiced.sum()) < FEWEST:
        raise UserError("no voiced speech was found to measure a voice on")
    track = f0[voiced].log()
    near = (track - track.median()).abs() < 0.5 * math.log(2.0)
    # Limits the harmonics-to-noise ratio to 40 dB.
    r = strength[voiced].clamp(max=0.9999)
    magnitude = torch.fft.rfft(windowed[voiced], n=N_FFT).abs()
    hertz = torch.arange(magnitude.shape[-1]) * SAMPLE_RATE / N_FFT
    band = (hertz >= BRIGHT_BAND[0]) & (hertz <= BRIGHT_BAND[1])
    centroid = (magnitude[:, band] * hertz[band]).sum(-1) / magnitude[:, band].sum(-1).clamp_min(1e-9)
    return VoiceMeasures(
        log_f0=float(track[near].mean()),
        melody=float(track[near].std(correction=0)) * 12 / math.log(2.0),
        brightness=float((centroid / 1000).log2().mean()),
        roughness=-float((10 * torch.log10(r / (1 - r))).mean()),
    )


def _periods(frames: Float[Tensor, "frames window"], f_min: float, f_max: float) -> tuple[Curve, Curve]:
    """Return the F0 in Hz of each frame and the correlation at its period (Boersma 1993)."""
    power = torch.fft.rfft(frames, n=N_FFT).abs().square()
    hann = torch.hann_window(WINDOW, dtype=torch.float64)
    window_power = torch.fft.irfft(torch.fft.rfft(hann, n=N_FFT).abs().square())
    fall = (window_power / window_power[0]).clamp_min(1e-3)
    correlation = torch.fft.irfft(power)
    correlation = correlation / correlation[:, :1].clamp_min(1e-12) / fall
    low, high = math.floor(SAMPLE_RATE / f_max), math.ceil(SAMPLE_RATE / f_min)
    lags = torch.arange(low, high + 1)
    inside = correlation[:, low : high + 1]
    summit = F.max_pool1d(correlation[:, None, low - 1 : high + 2], 3, stride=1)[:, 0] == inside
    cost = OCTAVE_COST * torch.log2(lags / high)
    best = (inside - cost).masked_fill(~summit, -1.0).argmax(-1)
    left, middle, right = (correlation.gather(1, (best + low + d)[:, None])[:, 0] for d in (-1, 0, 1))
    bend = (left - 2 * middle + right).clamp(max=-1e-9)
    shift = (0.5 * (left - right) / bend).clamp(-0.5, 0.5)
    strength = (middle - 0.25 * (left - right) * shift).clamp(0.0, 1.0)
    return SAMPLE_RATE / (best + low + shift), strength
