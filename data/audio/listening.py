"""Measurements of a recording in one pass over a file of any length: level, clipping, hum, pitch, timbre."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data.audio.decoding import opened
from data.audio.hum import MAINS
from data.audio.mixing import mixed
from data.audio.resampling import Frames, Resampler

FRAME_SECONDS = 0.02
PLATEAU = 1e-4
"""Relative distance from the highest sample within which samples count as equal to it."""
HUM_FRAME = 4_096
"""Samples per frame at ``VOICE_RATE``: half a second, so hum is in few bins and some frames in pauses."""
TIMBRE_BANDS = 20
VOICE_RATE = 8_000
"""Sample rate in Hz for the analysis of hum, pitch and timbre."""
VOICE_SECONDS = 40
"""Length of the beginning of a file that is analysed for hum, pitch and timbre."""
PITCH_FRAME = 512
PITCH_RANGE = (40, 900)
"""Range of F0 in Hz; wider than that of any voice, so that voices at a wrong sample rate are found too."""
OCTAVE_COST = 0.04
"""Gain in correlation required per doubling of the period, because multiples of a period correlate too."""


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Pitch and tempo of a voice at the sample rate in the file's header."""

    pitch: float
    """Median F0 of the clearly voiced frames, in Hz."""
    low_pitch: float
    """10th percentile of F0 in these frames, in Hz."""
    tempo: float
    """Median modulation frequency of the level, in Hz."""


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Measurements of one recording."""

    sample_rate: int
    samples: int
    loudest_db: float
    """RMS of the loudest 20 ms frame without its mean, in dBFS."""
    level_db: float
    """RMS over the 20 ms frames within 20 dB of the loudest, in dBFS."""
    noise_db: float
    """10th percentile of the RMS of the 20 ms frames, in dBFS."""
    offset: float
    """DC offset: the mean of all samples."""
    hum: tuple[float, int] | None
    """Level in dBFS and frequency in Hz of mains hum with its first harmonics; None for short files."""
    peak: float
    clipped: float
    """Fraction of samples in runs of three or more at the highest or lowest value."""
    digest: bytes
    """Hash of the samples rounded to 16 bits, independent of container and sample rate."""
    voice: Voice | None
    """None if no voice was found."""
    timbre: Float[np.ndarray, " bands"]
    """Mean and standard deviation over loud frames of the log spectrum in bands, without the level."""

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.samples / self.sample_rate


def measure(path: str | Path) -> Measurements:
    """Decode and measure a file in constant memory; raises ``AudioError`` if it cannot be decoded."""
    path = Path(path)
    with opened(path) as sound:
        rate = sound.sample_rate
        digest, plateaus = hashlib.blake2b(digest_size=16), _Plateaus(sound.channels)
        resampler, pieces, missing = Resampler(rate, VOICE_RATE, 1), [], VOICE_SECONDS * VOICE_RATE
        samples, total, peak, levels = 0, 0.0, 0.0, []
        for frames in sound.decode():
            mono = mixed(frames, path)[:, 0]
            samples += len(mono)
            peak = max(peak, float(np.abs(frames).max()))
            total += float(mono.sum(dtype=np.float64))
            frame = max(1, min(int(rate * FRAME_SECONDS), len(mono)))
            levels.append(mono[: len(mono) // frame * frame].reshape(-1, frame).std(axis=1))
            plateaus.add(frames)
            digest.update(np.rint(mono.clip(-1, 1) * 32_767).astype("<i2").tobytes())
            if missing > 0:
                pieces.append(resampler.push(mono[:, None])[:missing, 0])
                missing -= len(pieces[-1])
        if missing > 0:
            pieces.append(resampler.flush()[:missing, 0])
    power = np.concatenate(levels) ** 2
    speaking, wave = power[power >= 0.01 * power.max()], np.concatenate(pieces)
    return Measurements(
        sample_rate=rate,
        samples=samples,
        loudest_db=_db(power.max()),
        level_db=_db(speaking.mean()),
        noise_db=_db(np.quantile(power, 0.1)),
        offset=total / samples,
        hum=hum_in(wave),
        peak=peak,
        clipped=plateaus.samples / (samples * frames.shape[1]),
        digest=digest.digest(),
        voice=voice_in(wave),
        timbre=timbre_of(wave),
    )


def _db(power: float | np.floating) -> float:
    return 10 * float(np.log10(power + 1e-24))


def hum_in(wave: Float[np.ndarray, " samples"]) -> tuple[float, int] | None:
    """Return level in dBFS and frequency of the stationary mains hum in a wave at ``VOICE_RATE``."""
    if len(wave) < 6 * HUM_FRAME:
        return None
    window = np.hanning(HUM_FRAME)
    frames = np.lib.stride_tricks.sliding_window_view(wave, HUM_FRAME)[:: HUM_FRAME // 4]
    # The 10th percentile over time of each bin: unlike speech, hum is stationary.
    power = np.quantile(np.abs(np.fft.rfft(frames * window)) ** 2, 0.1, axis=0)
    power *= 2 / (HUM_FRAME * np.square(window).sum())
    found = []
    for mains in MAINS:
        total = 0.0
        for line in range(mains, 6 * mains + 1, mains):
            at = round(line * HUM_FRAME / VOICE_RATE)
            around = np.median(np.r_[power[at - 12 : at - 3], power[at + 4 : at + 13]])
            total += max(0.0, float(power[at - 2 : at + 3].sum() - 5 * around))
        found.append((_db(total), mains))
    return max(found)


def timbre_of(wave: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " bands"]:
    """Return the timbre of a voice in a wave at ``VOICE_RATE``, for comparison with other recordings."""
    wave = np.pad(wave, (0, max(0, PITCH_FRAME - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(wave, PITCH_FRAME)[:: PITCH_FRAME // 2]
    energy = frames.var(axis=1)
    frames = frames[energy >= 0.003 * energy.max()] * np.hanning(PITCH_FRAME)
    power = np.abs(np.fft.rfft(frames, 2 * PITCH_FRAME)) ** 2 @ _bands()
    log = np.log(power + 1e-10 * power.max() + 1e-24)
    log -= log.mean(axis=1, keepdims=True)
    return np.concatenate([log.mean(axis=0), log.std(axis=0)])


@lru_cache(maxsize=1)
def _bands() -> Float[np.ndarray, "bins bands"]:
    """Make triangular filters, equidistant in mels from 100 to 3800 Hz."""
    edges = 700 * (10 ** (np.linspace(0.0580, 0.8081, TIMBRE_BANDS + 2)) - 1)
    bins = np.arange(PITCH_FRAME + 1)[:, None] * VOICE_RATE / (2 * PITCH_FRAME)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    return np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None)


class _Plateaus:
    """A counter of samples in runs at the extremes, which are updated while the file is read."""

    def __init__(self, channels: int) -> None:
        self.extremes = np.zeros((2, channels))
        self.counts = np.zeros((2, channels), int)

    @property
    def samples(self) -> int:
        """Number of samples in runs, except for runs at extremes of up to 0.05, which are near silence."""
        return int(self.counts[self.extremes > 0.05].sum())

    def add(self, frames: Frames) -> None:
        for side, signed in enumerate((frames, -frames)):
            top = signed.max(axis=0)
            higher = top > self.extremes[side] * (1 + PLATEAU)
            self.counts[side][higher] = 0
            self.extremes[side] = np.maximum(self.extremes[side], top)
            at = signed >= self.extremes[side] * (1 - PLATEAU)
            core = at[:-2] & at[1:-1] & at[2:]  # middles of three
            run = np.zeros_like(at)
            for shift in range(3):
                run[shift : shift + len(core)] |= core
            self.counts[side] += run.sum(axis=0)


def voice_in(wave: Float[np.ndarray, " samples"]) -> Voice | None:
    """Analyse the voice in a wave at ``VOICE_RATE``, from the more periodic half of its loud frames.

    Returns None if these are too few, not periodic, or of constant pitch (noise, a tone, hum).
    """
    n, spans = PITCH_FRAME, np.arange(VOICE_RATE // PITCH_RANGE[1], VOICE_RATE // PITCH_RANGE[0])
    if len(wave) < 4 * n:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(wave, n)[:: n // 2]
    energy = frames.var(axis=1)
    window = np.hanning(n)
    frames = frames[energy > 0.01 * energy.max()] * window
    correlation = _autocorrelation(frames) / (_autocorrelation(window[None]) + 1e-9)
    correlation = correlation[:, spans] / (correlation[:, :1] + 1e-12)
    salience = correlation - OCTAVE_COST * np.log2(spans / spans[0])
    inner = salience[:, 1:-1]
    salience = np.where((inner > salience[:, :-2]) & (inner >= salience[:, 2:]), inner, -1)
    best = salience.argmax(axis=1) + 1
    strength = correlation[np.arange(len(best)), best]
    clear = strength >= max(0.6, float(np.median(strength)))
    if clear.sum() < 8:
        return None
    low, quarter, middle, third = np.quantile(VOICE_RATE / spans[best[clear]], [0.1, 0.25, 0.5, 0.75])
    if third < 1.04 * quarter:
        return None
    return Voice(pitch=float(middle), low_pitch=float(low), tempo=_tempo(wave))


def _tempo(wave: np.ndarray) -> float:
    step = VOICE_RATE // 100
    envelope = np.sqrt((wave[: len(wave) // step * step].reshape(-1, step) ** 2).mean(axis=1))
    level = np.log(envelope + 3e-3 * envelope.max() + 1e-12)
    rates = np.fft.rfftfreq(4_096, 0.01)
    power = np.abs(np.fft.rfft((level - level.mean()) * np.hanning(len(level)), 4_096)) ** 2 * rates
    within = (rates > 0.7) & (rates < 30)
    total = np.cumsum(power[within])
    return float(np.interp(0.5 * total[-1], total, rates[within]))


def _autocorrelation(frames: np.ndarray) -> np.ndarray:
    n = frames.shape[1]
    return np.fft.irfft(np.abs(np.fft.rfft(frames, 2 * n)) ** 2)[:, :n]
