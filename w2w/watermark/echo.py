"""The watermark: a keyed pattern of faint echoes, added to a sound as it passes, whatever the chunks.

It is found where a sound resembles its own past at the delays of the key's echo more than chance would.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from data.audio.resampling import resample
from engine.user_error import UserError

DEFAULT_KEY = "timbre"
"""Whoever knows a key can find its mark, and remove it; this one is known to all."""
SAMPLE_RATE = 16_000
"""Hz at which patterns are drawn and looked for."""
FIRST, LAST = round(0.008 * SAMPLE_RATE), round(0.064 * SAMPLE_RATE)
"""Delays in samples between which the echo lies: long enough that speech no longer resembles itself, short
enough to stay hidden behind the sound."""
LOW_HZ, HIGH_HZ = 1_500.0, 7_500.0
"""Band of the echo. Below it, it is heard most for what it adds to the detection."""
LEVEL_DB = -21.0
"""Energy of the echo of white noise against the noise; speech is fainter above ``LOW_HZ``: so is its echo."""
SPAN = 2_048
"""Samples in which a pattern is drawn; silence around its taps keeps what is resampled whole."""
GUARD = FIRST // 2
"""Samples at either end of the taps that the band's edges ring into."""
RATES = range(8_000, 192_001)
"""Hz at which sounds can be marked."""


def gaussian_taps(key: str | int) -> Float[np.ndarray, "taps"]:
    """Independent Gaussian numbers, one for each delay from ``FIRST`` to ``LAST``, that only the key gives.

    Gaussian, so that the score of any sound that does not bear the mark is Gaussian when the key is drawn:
    false alarms are known, not guessed.
    """
    digest = hashlib.sha256(f"watermark:{key}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32)).standard_normal(LAST - FIRST)


def in_band(x: Float[np.ndarray, "*batch span"]) -> Float[np.ndarray, "*batch span"]:
    """What of ``SPAN`` samples at ``SAMPLE_RATE`` lies in the band."""
    frequencies = np.fft.rfftfreq(SPAN, 1 / SAMPLE_RATE)
    inside = (frequencies >= LOW_HZ) & (frequencies <= HIGH_HZ)
    return np.fft.irfft(np.fft.rfft(x, axis=-1) * inside, SPAN, axis=-1)


def echo(key: str | int, sample_rate: int) -> tuple[int, Float[Tensor, "taps"]]:
    """The echo of a key for sounds at a rate: the delay of its first tap in samples, and its taps."""
    if sample_rate not in RATES:
        raise UserError(
            f"a watermark can be put in sounds of {RATES[0]} to {RATES[-1]} Hz, not of {sample_rate} Hz"
        )
    drawn = np.zeros(SPAN)
    drawn[FIRST:LAST] = gaussian_taps(key)
    drawn = in_band(drawn)
    drawn *= 10 ** (LEVEL_DB / 20) / np.linalg.norm(drawn)
    taps = resample(torch.from_numpy(drawn).float()[None, None], SAMPLE_RATE, sample_rate)[0, 0]
    first = math.floor((FIRST - GUARD) * sample_rate / SAMPLE_RATE)
    last = math.ceil((LAST + GUARD) * sample_rate / SAMPLE_RATE)
    return first, taps[first:last] * (SAMPLE_RATE / sample_rate)


Wave = Float[Tensor, "batch 1 samples"]
Piece = Float[Tensor, "batch 1 _"]
Past = Float[Tensor, "batch 1 _"]
BLOCK = 1 << 14
"""Samples marked at once, at most: bounds memory."""


class Marker:
    """Adds a key's mark to sounds: a faint echo spread over some hundredths of a second.

    The echo follows the sound, so it is masked by it and silent in silence; it is the same filter throughout,
    so any stretch carries it, and rooms, equalizers and gains leave it in place. It adds no delay.
    Time-spread echo hiding: Ko, Nishimura & Suzuki, 2005.
    """

    def __init__(self, sample_rate: int, key: str | int = DEFAULT_KEY) -> None:
        self.sample_rate, self.key = sample_rate, key
        self.delay, self.taps = echo(key, sample_rate)
        self.spectra: dict[int, Tensor] = {}
        """The echo's spectrum by transform length; a stream needs few lengths."""

    @property
    def context(self) -> int:
        """Past samples that still echo."""
        return self.delay + len(self.taps) - 1

    def begin(self, batch: int) -> Past:
        """Return the past before the first chunk: silence."""
        return torch.zeros(batch, 1, self.context)

    def step(self, wave: Wave, past: Past) -> tuple[Wave, Past]:
        """Mark one chunk; feeding chunks in order equals one ``mark``."""
        if wave.shape[-1] <= BLOCK:
            return self._step(wave, past)
        marked = []
        for block in wave.split(BLOCK, dim=-1):
            block, past = self._step(block, past)
            marked.append(block)
        return torch.cat(marked, dim=-1), past

    def mark(self, wave: Wave) -> Wave:
        """Mark a whole sound."""
        return self.step(wave, self.begin(len(wave)).to(wave))[0]

    def marked(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Mark one sound that comes in pieces."""
        past = None
        for piece in pieces:
            past = self.begin(len(piece)).to(piece) if past is None else past
            piece, past = self.step(piece, past)
            yield piece

    def _step(self, wave: Wave, past: Past) -> tuple[Wave, Past]:
        window = torch.cat([past, wave], dim=-1)
        past = window[..., wave.shape[-1] :]
        return (wave + self._echo(window, wave.shape[-1]), past) if wave.shape[-1] else (wave, past)

    def _echo(self, window: Past, samples: int) -> Wave:
        """The echo in the window's last samples, by a circular convolution whose start wraps unused."""
        end = window.shape[-1] - self.delay
        length = _fast_length(end)
        spectrum = self.spectra.get(length)
        if spectrum is None or spectrum.device != window.device:
            spectrum = torch.fft.rfft(self.taps.to(window.device), length)
            if len(self.spectra) >= 64:
                self.spectra.clear()
            self.spectra[length] = spectrum
        whole = torch.fft.irfft(torch.fft.rfft(window[..., :end], length) * spectrum, length)
        return whole[..., end - samples : end]


def _fast_length(samples: int) -> int:
    """A transform length of at least that: a power of two, or three quarters of one."""
    power = 1 << (samples - 1).bit_length()
    return power * 3 // 4 if power * 3 // 4 >= samples and power >= 4 else power


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
