"""Watermark detection: marked audio is correlated with its own past at the delays of the key's echo."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from w2w.watermark.echo import DEFAULT_KEY, FIRST, LAST, SAMPLE_RATE, SPAN, gaussian_taps, in_band

FALSE_ALARM = 1e-4
"""False-alarm probability up to which a file counts as marked."""
BLOCK_S = 10
"""Seconds of audio whitened at once (an integer); bounds memory."""
WINDOW, HOP = 512, 128
"""Window length and hop of the STFT, in samples."""
SMOOTH_BINS = 3
"""Adjacent frequency bins whose mean power normalises a bin."""
FLOOR_DB = -50.0
"""Floor of the normalisation, relative to the mean power; fainter bins are not raised to the common level."""
NOISE = 2.5
"""Factor of the spectral subtraction; the background is the 10th percentile of each bin's power over time."""
LOUDEST = 2.0
"""Clipping of the correlation in robust standard deviations; a voice's pitch peaks far exceed the echo's."""
SPEEDS = np.geomspace(0.75, 1 / 0.75, 577)
"""Candidate factors by which speed or pitch may have been changed, in steps of 0.1 %, up to 5 semitones."""
SECOND_SCORE = 2.326
"""Score above which a single second counts as marked; 1 % of unmarked seconds reach it by chance."""
WINDOWS_S = (4, 16, 64, 256)
"""Lengths in seconds of the excerpts that are tested separately; only those shorter than the file."""

Sound = Float[Tensor, "1 1 samples"]
Correlation = Float[np.ndarray, "seconds span"]
Profile = Float[np.ndarray, "*batch span"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of the detection in one recording."""

    marked: bool
    false_alarm: float
    """Probability that audio without this watermark scores as high; smaller is more certain."""
    seconds: int
    """Approximate number of marked seconds (1 % of unmarked seconds are counted by chance)."""
    duration: float
    """Duration of the recording in seconds."""
    speed: float
    """Factor by which speed or pitch was changed since marking; 1 if unchanged or not marked."""


def detect(
    pieces: Iterable[Sound], key: str | int = DEFAULT_KEY, *, false_alarm: float = FALSE_ALARM
) -> Finding:
    """Detect a key's watermark in mono audio at ``SAMPLE_RATE``, given in pieces (or as ``[wave]``)."""
    rows, samples, rest = [np.zeros((0, SPAN))], 0, torch.zeros(1, 1, 0)
    for piece in pieces:
        samples += piece.shape[-1]
        rest = torch.cat([rest, piece], dim=-1)
        while rest.shape[-1] >= 2 * BLOCK_S * SAMPLE_RATE:  # so that the last block is not a short one
            block, rest = rest.tensor_split([BLOCK_S * SAMPLE_RATE], dim=-1)
            rows.append(likeness(block))
    if rest.shape[-1]:
        rows.append(likeness(rest))
    return judge(np.concatenate(rows), key, samples / SAMPLE_RATE, false_alarm)


def judge(rows: Correlation, key: str | int, duration: float, false_alarm: float = FALSE_ALARM) -> Finding:
    """Decide by each second's autocorrelation whether the recording is marked.

    A Bonferroni correction divides the false-alarm probability: half for the whole recording at its present
    speed, a quarter shared by its excerpts, and a quarter shared by the whole recording at other speeds.
    """
    taps, whole = gaussian_taps(key), rows.sum(0)
    chances = [(2 * chance(score(whole, taps)), 1.0)]
    excerpts = _excerpts(len(rows))
    if excerpts:
        best = max(float(score(rows[start : start + length].sum(0), taps)) for start, length in excerpts)
        chances.append((4 * len(excerpts) * chance(best), 1.0))
    if min(chances)[0] > false_alarm:  # other speeds are tested only if the present one has no watermark
        by_speed = score(stretched(whole, SPEEDS), taps)
        fastest = int(by_speed.argmax())
        chances.append((4 * len(SPEEDS) * chance(by_speed[fastest]), float(SPEEDS[fastest])))
    probability, speed = min(chances)
    marked = probability <= false_alarm
    at_speed = rows if speed == 1.0 else np.concatenate([stretched(row, np.array([speed])) for row in rows])
    marked_seconds = score(at_speed, taps) > SECOND_SCORE
    return Finding(
        marked=marked,
        false_alarm=min(1.0, probability),
        seconds=int(marked_seconds.sum()),
        duration=duration,
        speed=round(speed, 4) if marked else 1.0,
    )


def score(profile: Profile, taps: Float[np.ndarray, "taps"]) -> Float[np.ndarray, "*batch"]:
    """Match of an autocorrelation with a key's echo; standard normal over unrelated keys."""
    seen = in_band(profile)[..., FIRST:LAST]
    limit = LOUDEST / 0.6745 * np.median(np.abs(seen), axis=-1, keepdims=True)
    seen = np.clip(seen, -limit, limit)
    return np.asarray(seen @ taps / np.maximum(np.linalg.norm(seen, axis=-1), 1e-30))


def chance(deviations: float | np.floating | np.ndarray) -> float:
    """Probability that a standard normal variable exceeds ``deviations``."""
    return 0.5 * math.erfc(float(deviations) / math.sqrt(2))


def likeness(wave: Sound) -> Correlation:
    """Autocorrelation of the whitened audio for each second, by delay in samples."""
    flat = flattened(wave)[0, 0].double().numpy()
    n_rows = math.ceil(len(flat) / SAMPLE_RATE)
    flat = np.pad(flat, (SPAN, n_rows * SAMPLE_RATE - len(flat)))
    length = 1 << (SPAN + SAMPLE_RATE).bit_length()
    rows = []
    for start in range(0, n_rows * SAMPLE_RATE, SAMPLE_RATE):
        past = np.fft.rfft(flat[start : start + SPAN + SAMPLE_RATE], length)
        now = np.fft.rfft(flat[start + SPAN : start + SPAN + SAMPLE_RATE], length)
        # A delay of d samples of ``now`` after ``past`` is at index SPAN - d.
        rows.append(np.fft.irfft(past * now.conj(), length)[SPAN:0:-1].astype(np.float32))
    return np.stack(rows)


def flattened(wave: Sound) -> Sound:
    """Whiten audio in time and frequency, after spectral subtraction of the steady background."""
    samples = wave.shape[-1]
    window = torch.hann_window(WINDOW).sqrt()
    padded = F.pad(wave, (WINDOW, WINDOW + -samples % HOP))[0]
    spectra = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)[0]
    power = spectra.abs().square().T[:, None]  # (frames, 1, frequencies)
    smooth = F.avg_pool1d(power, SMOOTH_BINS, 1, SMOOTH_BINS // 2, count_include_pad=False)[:, 0].T
    background = smooth.quantile(0.1, dim=-1, keepdim=True)
    floor = smooth.mean() * 10 ** (FLOOR_DB / 10) + 1e-20
    gain = (1 - NOISE * background / (smooth + 1e-20)).clamp(min=0)
    spectra = spectra * gain * (smooth + floor).rsqrt()
    frames = torch.fft.irfft(spectra.T, WINDOW) * window
    size = (1, (frames.shape[0] - 1) * HOP + WINDOW)
    whole = F.fold(frames.T[None], size, (1, WINDOW), stride=(1, HOP))[..., 0, :]
    return whole[..., WINDOW : WINDOW + samples]


def stretched(
    profile: Float[np.ndarray, "span"], speeds: Float[np.ndarray, "speeds"]
) -> Float[np.ndarray, "speeds span"]:
    """Resample the autocorrelation of audio played at these speeds to the speed at which it was marked."""
    fine = np.fft.irfft(np.fft.rfft(profile), 8 * SPAN)
    return np.interp(np.arange(SPAN) / speeds[:, None], np.arange(8 * SPAN) / 8, fine)


def _excerpts(seconds: int) -> list[tuple[int, int]]:
    """Start and length of every excerpt, in seconds; neighbours overlap by half."""
    lengths = [length for length in WINDOWS_S if length < seconds]
    return [(start, n) for n in lengths for start in range(0, seconds - n // 2, n // 2)]
