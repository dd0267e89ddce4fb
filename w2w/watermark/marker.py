"""Marking: an echo is added to a sound as it passes, at once, whatever the chunks."""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from w2w.watermark.pattern import DEFAULT_KEY, echo

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
