"""Finding the watermark: a marked sound resembles its own past at the delays of the key's echo."""

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
"""A file is called marked when chance would do as well less often than this."""
BLOCK_S = 10
"""Whole seconds flattened at once; bounds memory."""
WINDOW, HOP = 512, 128
"""Samples of a short-time spectrum, and between two."""
SMOOTH_BINS = 3
"""Neighbouring frequencies whose mean power a frequency is divided by."""
FLOOR_DB = -50.0
"""Of the mean power: what is fainter is not raised to the level of the rest."""
NOISE = 2.5
"""How much of the steady background is left out, as a multiple of the faintest tenth of each frequency."""
LOUDEST = 2.0
"""Likeness is limited to this many (robust) deviations: a voice's pitch is far more alike than the echo."""
SPEEDS = np.geomspace(0.75, 1 / 0.75, 577)
"""Factors by which the sound's speed, or its pitch, may have been changed: .1 % apart, up to 5 semitones."""
ALONE = 2.326
"""The score from which a second bears the mark by itself: chance lets one in a hundred reach it."""
WINDOWS_S = (4, 16, 64, 256)
"""Seconds of excerpts that are judged by themselves, where the file is longer."""

Sound = Float[Tensor, "1 1 samples"]
Likeness = Float[np.ndarray, "seconds span"]
Profile = Float[np.ndarray, "*batch span"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found in one sound."""

    marked: bool
    false_alarm: float
    """Probability that a sound without this mark scores as high; the smaller, the surer the mark."""
    seconds: int
    """Seconds that bear the mark by themselves, roughly (one in a hundred without a mark seems to)."""
    duration: float
    """Seconds in all."""
    speed: float
    """Or pitch, of the marked sound against when it was marked; 1 where it is not marked."""


def detect(
    pieces: Iterable[Sound], key: str | int = DEFAULT_KEY, *, false_alarm: float = FALSE_ALARM
) -> Finding:
    """Look for a key's mark in a mono sound at ``SAMPLE_RATE``, given in pieces (or in one: ``[wave]``)."""
    rows, samples, rest = [np.zeros((0, SPAN))], 0, torch.zeros(1, 1, 0)
    for piece in pieces:
        samples += piece.shape[-1]
        rest = torch.cat([rest, piece], dim=-1)
        while rest.shape[-1] >= 2 * BLOCK_S * SAMPLE_RATE:  # the last block is never a mere rest
            block, rest = rest.tensor_split([BLOCK_S * SAMPLE_RATE], dim=-1)
            rows.append(likeness(block))
    if rest.shape[-1]:
        rows.append(likeness(rest))
    return judge(np.concatenate(rows), key, samples / SAMPLE_RATE, false_alarm)


def judge(rows: Likeness, key: str | int, duration: float, false_alarm: float = FALSE_ALARM) -> Finding:
    """Decide by the likeness of each second.

    Half of the false alarms allowed go to the whole at its own speed, a quarter each to its excerpts and to
    the whole at other speeds; each of the two shares its quarter out evenly.
    """
    taps, whole = gaussian_taps(key), rows.sum(0)
    chances = [(2 * chance(score(whole, taps)), 1.0)]
    excerpts = _excerpts(len(rows))
    if excerpts:
        best = max(float(score(rows[start : start + length].sum(0), taps)) for start, length in excerpts)
        chances.append((4 * len(excerpts) * chance(best), 1.0))
    if min(chances)[0] > false_alarm:  # a mark found at the sound's own speed is not looked for at others
        by_speed = score(stretched(whole, SPEEDS), taps)
        fastest = int(by_speed.argmax())
        chances.append((4 * len(SPEEDS) * chance(by_speed[fastest]), float(SPEEDS[fastest])))
    probability, speed = min(chances)
    marked = probability <= false_alarm
    at_speed = rows if speed == 1.0 else np.concatenate([stretched(row, np.array([speed])) for row in rows])
    alone = score(at_speed, taps) > ALONE
    return Finding(
        marked=marked,
        false_alarm=min(1.0, probability),
        seconds=int(alone.sum()),
        duration=duration,
        speed=round(speed, 4) if marked else 1.0,
    )


def score(profile: Profile, taps: Float[np.ndarray, "taps"]) -> Float[np.ndarray, "*batch"]:
    """How well a likeness fits a key: standard normal over the keys it has nothing to do with."""
    seen = in_band(profile)[..., FIRST:LAST]
    limit = LOUDEST / 0.6745 * np.median(np.abs(seen), axis=-1, keepdims=True)
    seen = np.clip(seen, -limit, limit)
    return np.asarray(seen @ taps / np.maximum(np.linalg.norm(seen, axis=-1), 1e-30))


def chance(deviations: float | np.floating | np.ndarray) -> float:
    """Probability that a standard normal number exceeds this."""
    return 0.5 * math.erfc(float(deviations) / math.sqrt(2))


def likeness(wave: Sound) -> Likeness:
    """For each second, how alike the flattened sound is to itself, by delay in samples."""
    flat = flattened(wave)[0, 0].double().numpy()
    n_rows = math.ceil(len(flat) / SAMPLE_RATE)
    flat = np.pad(flat, (SPAN, n_rows * SAMPLE_RATE - len(flat)))
    length = 1 << (SPAN + SAMPLE_RATE).bit_length()
    rows = []
    for start in range(0, n_rows * SAMPLE_RATE, SAMPLE_RATE):
        past = np.fft.rfft(flat[start : start + SPAN + SAMPLE_RATE], length)
        now = np.fft.rfft(flat[start + SPAN : start + SPAN + SAMPLE_RATE], length)
        # Delay d of ``now`` against ``past`` stands at SPAN - d.
        rows.append(np.fft.irfft(past * now.conj(), length)[SPAN:0:-1].astype(np.float32))
    return np.stack(rows)


def flattened(wave: Sound) -> Sound:
    """The sound with its times and frequencies made about equally strong, steady background left out."""
    samples = wave.shape[-1]
    window = torch.hann_window(WINDOW).sqrt()
    padded = F.pad(wave, (WINDOW, WINDOW + -samples % HOP))[0]
    spectra = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)[0]
    power = spectra.abs().square().T[:, None]  # (frames, 1, frequencies)
    smooth = F.avg_pool1d(power, SMOOTH_BINS, 1, SMOOTH_BINS // 2, count_include_pad=False)[:, 0].T
    background = smooth.quantile(0.1, dim=-1, keepdim=True)
    floor = smooth.mean() * 10 ** (FLOOR_DB / 10) + 1e-20
    kept = (1 - NOISE * background / (smooth + 1e-20)).clamp(min=0)
    spectra = spectra * kept * (smooth + floor).rsqrt()
    frames = torch.fft.irfft(spectra.T, WINDOW) * window
    size = (1, (frames.shape[0] - 1) * HOP + WINDOW)
    whole = F.fold(frames.T[None], size, (1, WINDOW), stride=(1, HOP))[..., 0, :]
    return whole[..., WINDOW : WINDOW + samples]


def stretched(
    profile: Float[np.ndarray, "span"], speeds: Float[np.ndarray, "speeds"]
) -> Float[np.ndarray, "speeds span"]:
    """The likeness of a sound at these speeds, as it would be at the speed at which it was marked."""
    fine = np.fft.irfft(np.fft.rfft(profile), 8 * SPAN)
    return np.interp(np.arange(SPAN) / speeds[:, None], np.arange(8 * SPAN) / 8, fine)


def _excerpts(seconds: int) -> list[tuple[int, int]]:
    """Start and length of every excerpt of a file, half over its neighbour."""
    lengths = [length for length in WINDOWS_S if length < seconds]
    return [(start, n) for n in lengths for start in range(0, seconds - n // 2, n // 2)]
