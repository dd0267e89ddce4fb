"""The watermark: a keyed pattern of faint echoes, added by an FIR filter that can run in chunks."""

import hashlib
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.audio.resampling import resample
from engine.user_error import UserError

DEFAULT_KEY = "timbre"
"""Anyone who knows a key can detect its watermark and remove it; this key is public."""
SAMPLE_RATE = 16_000
"""Hz; rate at which patterns are drawn and detected."""
FIRST, LAST = round(0.008 * SAMPLE_RATE), round(0.064 * SAMPLE_RATE)
"""Delays in samples between which the echo lies: long enough that the autocorrelation of speech has decayed,
short enough that the echo is masked by the sound."""
LOW_HZ, HIGH_HZ = 1_500.0, 7_500.0
"""Band of the echo. Lower frequencies would be the most audible for what they add to the detection."""
LEVEL_DB = -21.0
"""Energy of white noise's echo relative to the noise; speech and its echo are fainter above ``LOW_HZ``."""
SPAN = 2_048
"""Samples in which a pattern is drawn; zeros around its taps leave room for the resampling filter."""
GUARD = FIRST // 2
"""Samples at either end of the taps into which the band-pass filter rings."""
RATES = range(8_000, 192_001)
"""Hz; sample rates of audio that can be marked."""


def gaussian_taps(key: str | int) -> Float[np.ndarray, "taps"]:
    """Independent Gaussian taps, one for each delay from ``FIRST`` to ``LAST``, derived from the key.

    As they are Gaussian, the score of any unmarked audio is Gaussian over random keys, so the false-alarm
    probability is known, not estimated.
    """
    digest = hashlib.sha256(f"watermark:{key}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32)).standard_normal(LAST - FIRST)


def in_band(x: Float[np.ndarray, "*batch span"]) -> Float[np.ndarray, "*batch span"]:
    """Band-pass ``SPAN`` samples at ``SAMPLE_RATE`` from ``LOW_HZ`` to ``HIGH_HZ``."""
    frequencies = np.fft.rfftfreq(SPAN, 1 / SAMPLE_RATE)
    inside = (frequencies >= LOW_HZ) & (frequencies <= HIGH_HZ)
    return np.fft.irfft(np.fft.rfft(x, axis=-1) * inside, SPAN, axis=-1)


def echo(key: str | int, sample_rate: int) -> tuple[int, Float[Tensor, "taps"]]:
    """The delay of the echo's first tap in samples, and its taps, for a key and a sample rate."""
    if sample_rate not in RATES:
        raise UserError(
            f"a watermark can be added to audio of {RATES[0]} to {RATES[-1]} Hz, not of {sample_rate} Hz"
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
"""Most samples marked at once; bounds memory."""


class Marker:
    """Adds a key's watermark to audio: a faint echo spread over 8 to 64 ms.

    The echo follows the sound, so it is masked by it, and silence stays silent. As the filter is constant,
    every segment carries the watermark, and reverberation, equalisers and gains do not remove it. It adds no
    latency. Time-spread echo hiding: Ko, Nishimura & Suzuki, 2005.
    """

    def __init__(self, sample_rate: int, key: str | int = DEFAULT_KEY) -> None:
        self.sample_rate, self.key = sample_rate, key
        self.delay, self.taps = echo(key, sample_rate)
        self.spectra: dict[int, Tensor] = {}
        """Cache of the taps' spectra by FFT length; a stream needs few lengths."""

    @property
    def context(self) -> int:
        """Past samples whose echoes reach the next sample."""
        return self.delay + len(self.taps) - 1

    def begin(self, batch: int) -> Past:
        return torch.zeros(batch, 1, self.context)

    def step(self, wave: Wave, past: Past) -> tuple[Wave, Past]:
        """Mark one chunk; chunks marked in order equal one ``mark`` of the whole."""
        if wave.shape[-1] <= BLOCK:
            return self._step(wave, past)
        marked = []
        for block in wave.split(BLOCK, dim=-1):
            block, past = self._step(block, past)
            marked.append(block)
        return torch.cat(marked, dim=-1), past

    def mark(self, wave: Wave) -> Wave:
        return self.step(wave, self.begin(len(wave)).to(wave))[0]

    def marked(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
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
        """The echo in the window's last samples, by FFT convolution; the part that wraps around is unused."""
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
    """The smallest FFT length of at least ``samples`` that is a power of two or three quarters of one."""
    power = 1 << (samples - 1).bit_length()
    return power * 3 // 4 if power * 3 // 4 >= samples and power >= 4 else power
