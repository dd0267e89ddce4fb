"""The watermark: a keyed pattern of faint echoes, added to a sound as it passes, whatever the chunks."""

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
