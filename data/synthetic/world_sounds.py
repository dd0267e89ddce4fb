"""Sounds of the audio-visual world: short notes of twelve timbres over four noises, in batches."""

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
from jaxtyping import Float, Int

SAMPLE_RATE = 16_000
"""Sample rate in Hz."""
SAMPLES = 16_000
"""Length of every clip in samples."""
PITCHES_HZ = 220.0 * 1.38 ** np.arange(6)
DURATIONS_S = np.array([0.07, 0.12, 0.20])
N_HEARD = 12
"""Random numbers per sound."""
_BANK_SECONDS = 30

Wave = Float[np.ndarray, "#n samples"]
Column = Float[np.ndarray, "#n 1"]


def synthesise(values: Int[np.ndarray, "n 5"], chance: Float[np.ndarray, "n 12"]) -> Wave:
    """Synthesise the sounds of scenes; ``chance``, uniform in [0, 1), determines what the values do not.

    That is: the start, gaps between notes, exact pitch and length, phases, the levels of each note and of the
    noise, and the overall gain.
    """
    shape, colour, size, count, background = values.T
    pitch = (PITCHES_HZ[colour] * 1.03 ** (2 * chance[:, 0] - 1))[:, None]
    seconds = DURATIONS_S[size] * 1.06 ** (2 * chance[:, 1] - 1)
    note = _notes(shape, pitch, seconds[:, None], 2 * np.pi * chance[:, 2:3])
    cuts = (chance[:, 3] * (_BANK_SECONDS * SAMPLE_RATE - SAMPLES)).astype(int)
    noise = np.stack([_bank()[b][s : s + SAMPLES] for b, s in zip(background, cuts)])
    wave = noise * 10 ** ((6 * chance[:, 4:5] - 3) / 20)
    n_samples = np.rint(seconds * SAMPLE_RATE).astype(int)
    n_notes = count + 1
    room = SAMPLES - n_notes * n_samples
    gap = np.minimum((0.035 + 0.065 * chance[:, 5]) * SAMPLE_RATE, room / n_notes).astype(int)
    first = (chance[:, 6] * (room - (n_notes - 1) * gap)).astype(int)
    loud = 10 ** ((4 * chance[:, 7:11] - 4) / 20)
    for row in range(len(wave)):
        length = n_samples[row]
        for number in range(n_notes[row]):
            start = first[row] + number * (length + gap[row])
            wave[row, start : start + length] += loud[row, number] * note[row, :length]
    gain = 0.25 * 10 ** ((12 * chance[:, 11:12] - 6) / 20)
    return np.clip(gain * wave, -1, 1).astype(np.float32)


def _notes(shape: np.ndarray, pitch: Column, seconds: Column, phase: Column) -> Wave:
    """Return one note of each scene at a level of about 1, followed by silence."""
    time = np.arange(int(1.1 * DURATIONS_S.max() * SAMPLE_RATE), dtype=np.float32)[None] / SAMPLE_RATE
    pitch, seconds, phase = (column.astype(np.float32) for column in (pitch, seconds, phase))
    notes = np.empty((len(shape), time.shape[1]), np.float32)
    for number, timbre in enumerate(TIMBRES):
        rows = shape == number
        if rows.any():
            notes[rows] = timbre(time, pitch[rows], seconds[rows], phase[rows])
    edge = np.clip(np.minimum(time, seconds - time) / 0.006, 0, 1)  # no clicks at the ends
    notes *= edge
    power = np.square(notes).sum(1, keepdims=True) / (seconds * SAMPLE_RATE)
    return notes * 0.5 / np.sqrt(power + 1e-9)


Timbre = Callable[[Wave, Column, Column, Column], Wave]
"""From time, pitch, length in seconds and phase to a note."""


def _partials(
    ratios: Sequence[float] | range,
    levels: Sequence[float],
    *,
    fall: float = 0.0,
    bend: Callable[[Wave, Column], Wave] = lambda time, seconds: time,
) -> Timbre:
    """Make a timbre of sines up to 7.6 kHz; partial k decays by a factor of e in 1 / (``fall`` · ratio) s.

    ``bend`` maps time and the note's length to a warped time, which modulates the pitch.
    """
    parts = list(zip(ratios, levels, strict=True))

    def timbre(time: Wave, pitch: Column, seconds: Column, phase: Column) -> Wave:
        time = bend(time, seconds)
        total = np.zeros((len(pitch), time.shape[1]), np.float32)
        turns = 2 * np.pi * time
        for index, (ratio, level) in enumerate(parts):
            below = (pitch * ratio < 7600).astype(np.float32) * np.float32(level)
            if below.any():
                tone = np.sin(np.float32(ratio) * pitch * turns + phase * (index + 1))
                total += below * (tone * np.exp(-np.float32(fall * ratio) * time) if fall else tone)
        return total

    return timbre


def _vibrato(time: Wave, seconds: Column) -> Wave:
    depth, rate = 0.09, 2 * np.pi * 18.0
    return time + depth / rate * np.sin(rate * time)


def _glide(time: Wave, seconds: Column, *, excess: float) -> Wave:
    """Warp time so that the pitch starts off by the ratio ``excess`` and reaches its target half way."""
    half = seconds / 2
    inside = np.minimum(time, half)
    return time + np.float32(excess) * (inside - inside**2 / (2 * half))


def _tremolo(time: Wave, pitch: Column, seconds: Column, phase: Column) -> Wave:
    beat = 0.5 - 0.5 * np.cos(2 * np.pi * 40.0 * time)
    return beat * _partials([1.0, 2.0, 3.0], [1.0, 0.5, 0.25])(time, pitch, seconds, phase)


def _buzz(time: Wave, pitch: Column, seconds: Column, phase: Column) -> Wave:
    return _partials(range(1, 33), [1.0] + [0.7] * 31)(time, pitch, seconds, 0 * phase)


def _breath(time: Wave, pitch: Column, seconds: Column, phase: Column) -> Wave:
    length = time.shape[1]
    start = (phase[:, 0] / (2 * np.pi) * (_BANK_SECONDS - 1) * SAMPLE_RATE).astype(int)
    hiss = np.stack([_bank()[4][s : s + length] for s in start])
    return _partials([1.0], [1.0])(time, pitch, seconds, phase) + 0.9 * hiss


TIMBRES: tuple[Timbre, ...] = (
    _partials([1.0], [1.0]),
    _tremolo,
    _partials(range(1, 14, 2), [1 / k for k in range(1, 14, 2)]),  # a reed
    _partials(range(1, 15), [1.0] + [0.8] * 13, fall=9.0),  # a pluck
    _partials([1.0, 2.41, 3.89, 5.43, 6.79], [1.0, 0.8, 0.8, 0.6, 0.5], fall=2.0),  # a bell
    _buzz,
    _partials([1.0, 5.0], [1.0, 0.9]),  # glass
    _partials([1.0, 2.0, 3.0, 4.0], [1.0, 0.6, 0.35, 0.2], bend=_vibrato),
    _partials([1.0, 2.0, 4.0, 8.0, 16.0], [1.0, 0.9, 0.8, 0.7, 0.6]),  # octaves
    _partials([1.0, 2.0, 3.0], [1.0, 0.5, 0.3], bend=partial(_glide, excess=-0.45)),  # upwards
    _partials([1.0, 2.0, 3.0], [1.0, 0.5, 0.3], bend=partial(_glide, excess=0.8)),  # downwards
    _breath,
)
"""Timbres in the order of the shapes."""


@cache
def _bank() -> Float[np.ndarray, "5 samples"]:
    """Return half a minute of each noise, from which clips are cut: hiss, rumble, crackle, surf, breath."""
    rng = np.random.default_rng(4)
    n = _BANK_SECONDS * SAMPLE_RATE
    white = rng.standard_normal((5, n)).astype(np.float32)
    hz = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    below = 1 / (1 + (hz / 120.0) ** 4)
    rumble = np.fft.irfft(np.fft.rfft(white[1]) * below, n)
    clicks = white[2] * 6 * (rng.random(n) < 30 / SAMPLE_RATE)
    crackle = np.fft.irfft(np.fft.rfft(clicks) * np.exp(-((hz / 5000.0) ** 4)), n)
    surf = np.fft.irfft(np.fft.rfft(white[3]) * ((hz > 1500) & (hz < 5000)), n)
    surf *= 0.55 + 0.45 * np.sin(2 * np.pi * 5.0 * np.arange(n) / SAMPLE_RATE)
    breath = np.fft.irfft(np.fft.rfft(white[4]) * ((hz > 2500) & (hz < 6500)), n)
    noises = np.stack([white[0], rumble, crackle, surf, breath])
    level = np.array([0.004, 0.12, 0.04, 0.04, 1.0])
    noises *= (level / np.sqrt(np.square(noises).mean(1)))[:, None]
    noises[1:4] += 0.002 * white[:3]
    return noises.astype(np.float32)
