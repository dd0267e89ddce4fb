"""Pitch scores of a copy: errors of periodicity, voicing and F0 (Morrison et al. 2021, CARGAN).

The paper uses CREPE. The tracker here is normalised autocorrelation, which needs no weights, is deterministic
and 50 times faster. Its voicing agrees with CREPE's with an F1 of .81 (Harvest's with CREPE's: .84). Scores
by different trackers are not comparable. Scores are per recording, while the paper pools all frames.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data.audio import resample

Wave = Float[Tensor, "1 1 samples"]
Copy = Float[Tensor, "1 1 copy_samples"]

RATE, HOP = 16_000, 160
"""Sample rate of pitch tracking, Hz, and samples between frames: 10 ms."""
F_MIN, F_MAX = 60.0, 500.0
"""Range of F0, Hz."""
WINDOW = 640
"""Samples of a frame: 40 ms, about two and a half periods of the lowest pitch."""
VOICED_FROM, VOICED_TO = 0.65, 0.5
"""Hysteresis of voicing: periodicity above which a segment is voiced, and below which it ends."""
SILENCE_DB = -60.0
"""Level in dBFS below which a frame has no periodicity, as in the paper."""
N_CANDIDATES, OCTAVE_COST, JUMP_COST = 6, 0.02, 0.5
"""Candidate peaks per frame; costs of an octave lower, and of a jump by an octave between frames."""


@dataclass(frozen=True, kw_only=True)
class PitchTrack:
    """A recording's pitch every 10 ms."""

    f0: Float[np.ndarray, "frames"]
    """F0, Hz; in unvoiced frames, that of the likeliest period."""
    periodicity: Float[np.ndarray, "frames"]
    """0 (noise, silence) to 1 (every period equals the previous)."""
    voiced: Bool[np.ndarray, "frames"]
    """Whether a frame is voiced."""


def pitch_track(wave: Wave, sample_rate: int) -> PitchTrack:
    """Track a recording's pitch, 60 to 500 Hz."""
    wave = resample(wave, sample_rate, RATE).detach().float().cpu()
    f0, periodicity = _autocorrelation(wave)
    return PitchTrack(f0=f0, periodicity=periodicity, voiced=_hysteresis(periodicity, VOICED_TO, VOICED_FROM))


def pitch_scores(reference: Wave, generated: Copy, sample_rate: int) -> dict[str, float]:
    """``periodicity_error``, ``vuv_f1`` and ``pitch_error`` of one copy."""
    return compare(pitch_track(reference, sample_rate), pitch_track(generated, sample_rate))


def compare(reference: PitchTrack, generated: PitchTrack) -> dict[str, float]:
    """The scores of ``pitch_scores``, from pitch tracks."""
    n_frames = min(len(reference.f0), len(generated.f0))
    periodicity = [track.periodicity[:n_frames] for track in (reference, generated)]
    a, b = (track.voiced[:n_frames] for track in (reference, generated))
    both, voiced = a & b, a.sum() + b.sum()
    cents = 1200 * np.log2(generated.f0[:n_frames][both] / reference.f0[:n_frames][both])
    return {
        "periodicity_error": _root_mean_square(periodicity[0] - periodicity[1]),
        "vuv_f1": float(2 * both.sum() / voiced) if voiced else math.nan,
        "pitch_error": _root_mean_square(cents),
    }


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else math.nan


def _autocorrelation(wave: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """F0 and periodicity: the normalised autocorrelation at the lag of one period."""
    longest, shortest = math.ceil(RATE / F_MIN) + 1, math.floor(RATE / F_MAX) - 1
    reach = WINDOW + longest
    # Windows of ``reach`` samples, one per hop.
    padded = torch.nn.functional.pad(wave[0, 0].double(), (reach // 2, reach))
    frames = padded.unfold(0, reach, HOP)[: 1 + wave.shape[-1] // HOP]
    frames = frames - frames.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(frames, 2048)
    products = torch.fft.irfft(torch.fft.rfft(frames[:, :WINDOW], 2048).conj() * spectrum, 2048)[
        :, : longest + 1
    ]
    total = torch.nn.functional.pad(frames.square().cumsum(1), (1, 0))
    energy = total[:, WINDOW:] - total[:, : longest + 1]  # of the window that starts at each lag
    similar = (products / (energy[:, :1] * energy + 1e-12).sqrt().clamp_min(1e-9)).numpy()
    level = 10 * torch.log10(energy[:, 0] / WINDOW + 1e-12).numpy()
    lags, strengths = _peaks(similar, shortest, longest)
    path = _smoothest(lags, strengths - OCTAVE_COST * np.log2(lags / shortest))
    rows = np.arange(len(path))
    periodicity = np.where(level > SILENCE_DB, strengths[rows, path].clip(0, 1), 0.0)
    return (RATE / lags[rows, path]), periodicity


def _peaks(similar: np.ndarray, shortest: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Lags (by parabolic interpolation) and heights of each frame's highest peaks; -1 if there are fewer."""
    left, middle, right = (similar[:, shortest + d : longest + d] for d in (-1, 0, 1))
    peak = (middle >= left) & (middle > right)
    height = np.where(peak, middle, -1.0)
    best = np.argpartition(-height, N_CANDIDATES, axis=1)[:, :N_CANDIDATES]
    rows = np.arange(len(best))[:, None]
    before, top, after = left[rows, best], middle[rows, best], right[rows, best]
    bend = np.minimum(before - 2 * top + after, -1e-9)
    shift = np.where(peak[rows, best], ((before - after) / (2 * bend)).clip(-0.5, 0.5), 0.0)
    refined = np.where(peak[rows, best], top - 0.25 * (before - after) * shift, -1.0)
    return best + shortest + shift, refined


def _smoothest(lags: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """The path through the candidates with the best sum of strengths and jump costs (Viterbi)."""
    octaves = np.log2(lags)
    back = np.zeros(lags.shape, dtype=int)
    score = strengths[0]
    for i in range(1, len(lags)):
        arriving = score[:, None] - JUMP_COST * np.abs(octaves[i - 1][:, None] - octaves[i][None])
        back[i] = arriving.argmax(0)
        score = arriving[back[i], np.arange(lags.shape[1])] + strengths[i]
    path = np.empty(len(lags), dtype=int)
    path[-1] = score.argmax()
    for i in range(len(lags) - 1, 0, -1):
        path[i - 1] = back[i, path[i]]
    return path


def _hysteresis(periodicity: np.ndarray, low: float, high: float) -> np.ndarray:
    """True in segments above ``low`` with a maximum above ``high``."""
    above = np.concatenate([[False], periodicity > low, [False]])
    voiced = np.zeros(len(periodicity), dtype=bool)
    for start, end in np.flatnonzero(above[1:] != above[:-1]).reshape(-1, 2):
        voiced[start:end] = periodicity[start:end].max() > high
    return voiced
