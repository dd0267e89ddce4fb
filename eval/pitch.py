"""Pitch and timing: F0 contour against the source, mean F0 against the target, duration, pauses."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
from jaxtyping import Bool, Float
from torch import Tensor

from engine.user_error import UserError
from eval.features import Features

SAMPLE_RATE, HARVEST_RATE = 16_000, 4_000
F_MIN, F_MAX = 60.0, 500.0
HOP_MS = 5.0
LOUD_DB = 30.0
"""Frames more than this below the loudest count as unvoiced."""
MAX_LAG = 40
"""Largest delay, in frames, of an output that is aligned to its source by a constant lag."""
N_BANDS = 20


@dataclass(frozen=True)
class Pitch:
    """F0 by WORLD's Harvest every 5 ms (0: unvoiced), levels in dBFS, and band energies for alignment."""

    kind: str = "harvest-3"

    def check(self) -> None:
        world()

    def __call__(self, wave: Float[Tensor, "1 1 samples"]) -> Features:
        samples = wave[0, 0].double().numpy()
        f0 = harvest(samples)
        level = _level(samples, len(f0))
        return {
            "f0": f0.astype(np.float32),
            "level": level.astype(np.float32),
            "bands": _bands(samples, level),
            "seconds": np.array(len(samples) / SAMPLE_RATE),
        }


def world() -> Any:
    """Return pyworld; raise ``UserError`` if it is not installed."""
    try:
        import pyworld
    except ImportError:
        raise UserError("pitch and the WORLD baselines need pyworld: pip install 'timbre[eval]'") from None
    return pyworld


def harvest(samples: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "frames"]:
    """Estimate F0 in Hz; 0 where unvoiced or quiet.

    Harvest, not DIO as in ``vocoders.wavenet.spoken``: on audiobooks DIO misses half of the voiced frames,
    which puts two utterances of one speaker 1.9 semitones apart on average instead of 1.2. F0 needs
    no band above 2 kHz: at a sample rate of 4 kHz Harvest takes half the time and is as accurate.
    """
    low = soxr.resample(samples, SAMPLE_RATE, HARVEST_RATE)
    f0, _ = world().harvest(low, HARVEST_RATE, f0_floor=F_MIN, f0_ceil=F_MAX, frame_period=HOP_MS)
    level = _level(samples, len(f0))
    return np.where(level > level.max() - LOUD_DB, f0, 0.0)


def compare(source: Features, output: Features, target: Features) -> dict[str, float]:
    """Return the pitch columns of one row; NaN without voiced frames to compare."""
    offset = 12 * (log_mean(output["f0"]) - log_mean(target["f0"])) / np.log(2)
    return {
        "f0_correlation": correlation(source, output),
        "f0_offset": offset,
        "f0_distance": abs(offset),
        "f0_within_2": float("nan") if np.isnan(offset) else float(abs(offset) <= 2),
        "duration_ratio": float(output["seconds"] / source["seconds"]),
    }


def log_mean(f0: Float[np.ndarray, "frames"]) -> float:
    """The mean of ln F0 over voiced frames."""
    voiced = f0[f0 > 0]
    return float(np.log(voiced).mean()) if len(voiced) else float("nan")


def correlation(source: Features, output: Features) -> float:
    """Pearson's correlation of log-F0 over frames voiced in both, after alignment."""
    at, to = align(source["bands"], output["bands"])
    a, b = source["f0"][at], output["f0"][to]
    both = (a > 0) & (b > 0)
    if both.sum() < 10:
        return float("nan")
    a, b = np.log(a[both].astype(np.float64)), np.log(b[both].astype(np.float64))
    if min(a.std(), b.std()) < 1e-6:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def align(
    source: Float[np.ndarray, "source_frames bands"], output: Float[np.ndarray, "output_frames bands"]
) -> tuple[np.ndarray, np.ndarray]:
    """Return corresponding frame numbers: by the best constant lag if lengths agree, else by DTW."""
    if abs(len(source) - len(output)) > MAX_LAG:
        return _warp(source, output)
    n, best, best_lag = min(len(source), len(output)), -np.inf, 0
    a, b = source[:, 0] - source[:, 0].mean(), output[:, 0] - output[:, 0].mean()
    for lag in sorted(range(-MAX_LAG, MAX_LAG + 1), key=abs):
        if n - abs(lag) < n // 2:
            continue
        i, j = max(0, -lag), max(0, lag)
        length = min(len(a) - i, len(b) - j)
        x, y = a[i : i + length], b[j : j + length]
        match = float(x @ y / max(np.sqrt((x @ x) * (y @ y)), 1e-9))
        if match > best + 1e-3:  # prefer smaller lags, which come first, unless clearly worse
            best, best_lag = match, lag
    i, j = max(0, -best_lag), max(0, best_lag)
    frames = np.arange(min(len(source) - i, len(output) - j))
    return frames + i, frames + j


def _warp(source: np.ndarray, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        import librosa
    except ImportError:
        raise UserError(
            "aligning outputs of another length needs librosa: pip install 'timbre[eval]'"
        ) from None
    # Every second frame: steps of 10 ms are fine enough.
    a, b = (((x - x.mean(0)) / (x.std(0) + 1e-6)).T for x in (source[::2], output[::2]))
    _, path = librosa.sequence.dtw(a, b)
    return path[::-1, 0] * 2, path[::-1, 1] * 2


def _level(samples: np.ndarray, n_frames: int) -> np.ndarray:
    """Level in dB of the 40 ms around each frame."""
    hop, width = round(HOP_MS * SAMPLE_RATE / 1000), SAMPLE_RATE // 25
    total = np.concatenate([[0.0], np.cumsum(samples**2)])
    centre = np.arange(n_frames) * hop
    low, high = (np.clip(centre + d, 0, len(samples)) for d in (-width // 2, width // 2))
    return 10 * np.log10((total[high] - total[low]) / width + 1e-10)


def _bands(samples: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Level, then log-energies of mel-spaced bands, at the frames of ``f0``."""
    n_fft, hop, n_frames = 512, round(HOP_MS * SAMPLE_RATE / 1000), len(level)
    padded = np.pad(samples, (n_fft // 2, n_fft + n_frames * hop))
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop][:n_frames]
    power = np.abs(np.fft.rfft(windows * np.hanning(n_fft))) ** 2
    mel = 2595 * np.log10(1 + np.arange(n_fft // 2 + 1) * SAMPLE_RATE / n_fft / 700)
    band = np.minimum((mel / mel[-1] * N_BANDS).astype(int), N_BANDS - 1)
    sums = np.stack([power[:, band == i].sum(1) for i in range(N_BANDS)], axis=1)
    return np.column_stack([np.maximum(level, level.max() - 60), np.log(sums + 1e-6)]).astype(np.float32)


LOUD_PERCENTILE, PAUSE_DB = 95, 35.0
"""A pause is more than ``PAUSE_DB`` below this percentile of the levels."""
MARGIN = 20
"""Frames of 5 ms excluded next to speech, to allow for reverberation and delay."""


def pauses(level: Float[np.ndarray, "frames"]) -> Bool[np.ndarray, "frames"]:
    """Whether each frame and all its neighbours within 100 ms are quiet."""
    quiet = level < np.percentile(level, LOUD_PERCENTILE) - PAUSE_DB
    around = np.pad(quiet, MARGIN, constant_values=True)
    return np.lib.stride_tricks.sliding_window_view(around, 2 * MARGIN + 1).min(-1)


def compare_pauses(source: Features, output: Features) -> dict[str, float]:
    """Measure noise that a converter adds to the source's pauses.

    Returns the output's mean level in them, in dBFS (at least -100), and its difference from the source's
    level; both are NaN without a pause.
    """
    at, to = align(source["bands"], output["bands"])
    paused = pauses(source["level"])[at]
    if not paused.any():
        return {"pause_level": float("nan"), "pause_above_source": float("nan")}
    of_source, of_output = (_mean_db(level[paused]) for level in (source["level"][at], output["level"][to]))
    return {"pause_level": of_output, "pause_above_source": of_output - of_source}


def _mean_db(level: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(10 ** (level / 10))))
