"""StarGAN's spectrograms, and their inversion to waves.

A spectrogram is a square of log power scaled to [0, 1]. It is inverted by phase retrieval, or mapped to a
log-mel for a vocoder. Both make an assumption about values below the floor: most of a spectrogram is 0 (four
fifths, in read speech), and 0 is taken as ``BLACK`` nepers of power below the floor, as the floor itself
would be audible as hiss. Above the last bin, the log-mel extrapolates the mean of the topmost quarter of the
bins with a slope of ``FALL_DB`` per octave; phase retrieval leaves those bands empty. The constants minimise
the difference to the log-mel of recorded speech. The source's phases and content above 4 kHz are not used.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import LogMel, MelConfig, hz_to_mel, mel_to_hz, stft
from engine.user_error import UserError, within
from pretrain.teacher import at_times
from vocoders.griffin_lim import GriffinLimConfig, PhaseRetrieval

Spectrograms = Float[Tensor, "batch 1 bins frames"]

Wave = Float[Tensor, "batch 1 samples"]


@dataclass(frozen=True, kw_only=True)
class SpectrogramConfig:
    """A linear-frequency spectrogram without DC; by default 256 bins (to 4 kHz) × 256 frames (4.1 s)."""

    sample_rate: int = 16_000
    """Sample rate in Hz."""
    n_fft: int = 1024
    """FFT size and length of the Hamming window, in samples."""
    hop: int = 256
    """Samples between frames. The experiment's notes say 512, but its crops have 66304 = 1024 + 255 · 256
    samples, which are 256 frames only with a hop of 256; a hop of 512 would give 128."""
    n_frames: int = 256
    """Frames of a training crop."""
    n_bins: int = 256
    """Number of bins, from the first above DC."""
    floor: float = 1e-3
    """Lower limit of the power before the logarithm; it is mapped to 0."""
    maximum: float = 0.0
    """Power that is mapped to 1; larger values are clipped. 0: one that no wave at full scale exceeds."""

    def __post_init__(self) -> None:
        within(f"[1, {self.n_fft}]", self, "hop")
        within(f"[1, {self.n_fft // 2}]", self, "n_bins")
        if self.n_bins % 4 or self.n_frames % 4 or self.n_frames < 1:
            raise UserError(
                f"n_bins={self.n_bins} and n_frames={self.n_frames} must be multiples of 4: "
                "the generator halves both twice"
            )
        within("(0, inf)", self, "floor")
        if self.maximum and self.maximum <= self.floor:
            raise UserError(f"maximum={self.maximum} must be above floor={self.floor}, or 0")

    @property
    def crop_samples(self) -> int:
        """Samples of a training crop: 66304 by default."""
        return self.n_fft + (self.n_frames - 1) * self.hop

    @property
    def low(self) -> float:
        """The log power that is mapped to 0: the floor's."""
        return math.log(self.floor)

    @property
    def high(self) -> float:
        """The log power that is mapped to 1: ``maximum``, or the window's sum squared over ``n_fft``.

        It is the same for every clip, so that a converted spectrogram can be inverted without its source.
        """
        return math.log(self.maximum or (0.54 * self.n_fft) ** 2 / self.n_fft)


class Spectrogram(nn.Module):
    """Waves to spectrograms, in float32 also under autocast."""

    def __init__(self, config: SpectrogramConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hamming_window(config.n_fft), persistent=False)

    window: Tensor

    def forward(self, wave: Wave) -> Spectrograms:
        """Natural log of power / n_fft, floored and scaled to [0, 1], for complete frames only.

        Waves should have a peak of 1 (see ``at_full_scale``); quieter ones give lower values.
        """
        config = self.config
        spectrum = stft(wave, n_fft=config.n_fft, hop=config.hop, padding="none", window=self.window)
        spectrum = spectrum[:, 1 : config.n_bins + 1]
        power = (spectrum.real.square() + spectrum.imag.square()) / config.n_fft
        level = power.clamp_min(config.floor).log()
        return ((level - config.low) / (config.high - config.low)).clamp_max(1.0)[:, None]


def at_full_scale(wave: Wave) -> Wave:
    """Scale each wave so that its peak is 1; digital silence stays as it is."""
    peak = wave.abs().amax(dim=-1, keepdim=True)
    return wave / peak.where(peak > 0, 1.0)


SpectrogramPiece = Float[Tensor, "batch 1 bins _"]
Levels = Float[Tensor, "batch bins frames"]
LevelPiece = Float[Tensor, "batch bins _"]
MelPiece = Float[Tensor, "batch n_mels _"]

BLACK = 4.0
"""Nepers of power (17 dB) by which the value 0 is lowered below the floor."""
KNEE = 0.02
"""Spectrogram value, in [0, 1], up to which this offset decreases linearly to zero."""
FALL_DB = 18.0
"""Slope of the extrapolation above the last bin, in dB per octave."""


class ToWave(nn.Module):
    """Inverts a spectrogram by phase retrieval from its magnitudes, without mel or vocoder."""

    def __init__(self, config: SpectrogramConfig, phases: GriffinLimConfig | None = None) -> None:
        super().__init__()
        self.spectrogram = Spectrogram(config)
        self.phases = PhaseRetrieval(
            phases or GriffinLimConfig(), torch.hamming_window(config.n_fft), hop=config.hop
        )

    def forward(self, spectrogram: Spectrograms) -> Float[Tensor, "batch 1 samples"]:
        """A wave of frames · hop samples; the first window starts (n_fft − hop) / 2 samples before it."""
        return torch.cat(list(self.stream([spectrogram])), dim=-1)

    def stream(self, pieces: Iterable[SpectrogramPiece]) -> Iterator[Float[Tensor, "batch 1 _"]]:
        """Invert a spectrogram given in pieces, in bounded memory; the result does not depend on the cuts."""
        yield from self.phases.stream((piece[:, 0] for piece in pieces), self._magnitudes)

    def _magnitudes(self, values: Levels) -> Float[Tensor, "batch frames n_bins"]:
        config = self.spectrogram.config
        magnitudes = (0.5 * levels(values[:, None], config)).exp() * math.sqrt(config.n_fft)
        return F.pad(magnitudes, (0, 0, 1, config.n_fft // 2 - config.n_bins)).transpose(1, 2)


class ToMel(nn.Module):
    """Maps a spectrogram to a log-mel of a definition with the same sample rate, for a vocoder.

    Log powers are interpolated linearly to the definition's frames and scaled to the level that ``LogMel``
    gives, as the windows differ in length and shape.
    """

    def __init__(self, config: SpectrogramConfig, mel: MelConfig) -> None:
        super().__init__()
        if mel.sample_rate != config.sample_rate:
            raise UserError(
                f"the vocoder has a sample rate of {mel.sample_rate} Hz, but StarGAN's spectrogram "
                f"{config.sample_rate} Hz: use a vocoder of that rate, or griffin_lim"
            )
        self.config, self.mel = config, mel
        # The definition's mel filters on the bins of this spectrogram's FFT.
        self.log_mel = LogMel(replace(mel, n_fft=config.n_fft, win=config.n_fft, hop=config.hop))
        self.gain = 1.0
        self.gain = self._ratio()

    def forward(self, spectrogram: Spectrograms, n_frames: int | None = None) -> MelPiece:
        """The log-mel of ``n_frames`` frames; by default as many as cover the spectrogram."""
        samples = spectrogram.shape[-1] * self.config.hop
        return torch.cat(list(self.stream([spectrogram], n_frames or -(-samples // self.mel.hop))), dim=-1)

    def stream(self, pieces: Iterable[SpectrogramPiece], n_frames: int) -> Iterator[MelPiece]:
        """Map a spectrogram in pieces to ``n_frames`` mel frames; the result does not depend on the cuts."""
        known = (levels(piece, self.config) for piece in pieces)
        for piece in in_other_frames(known, self._position, n_frames):
            yield self._bands(piece)

    def _position(self, frame: int) -> float:
        """Position of a mel frame in units of spectrogram frames."""
        mel, half = self.mel, self.mel.n_fft / 2
        centre = {
            "same": half - (mel.n_fft - mel.hop) // 2,
            "center": 0.0,
            "causal": mel.hop - mel.win / 2,
            "none": half,
        }[mel.padding]
        return (frame * mel.hop + centre - self.config.hop / 2) / self.config.hop

    def _ratio(self) -> float:
        """Factor of the magnitudes that matches the mean log-mel to the definition's.

        It depends on the signal: magnitudes of noise scale with the root of the window's power, and those of
        tones with its sum, with narrower peaks. It is therefore measured on a test signal with both.
        """
        config, mel, wave = self.config, self.mel, hum(self.config.sample_rate)
        ours, theirs = self(framed(Spectrogram(config), wave)), LogMel(mel)(wave)
        low, high = hz_to_mel(np.array([mel.f_min, mel.f_max]), mel.scale)
        tops = mel_to_hz(np.linspace(low, high, mel.n_mels + 2), mel.scale)[2:]
        below = torch.from_numpy(tops <= config.n_bins * config.sample_rate / config.n_fft)
        frames = min(ours.shape[-1], theirs.shape[-1]) - 8
        difference = (theirs[:, below, 8:frames] - ours[:, below, 8:frames]).mean()
        unit = 1.0 if self.mel.log == "ln" else math.log(10.0)
        return math.exp(float(difference) * unit / self.mel.power)

    def _bands(self, known: Levels) -> Float[Tensor, "batch n_mels frames"]:
        config = self.config
        quarter = config.n_bins // 4
        top = known[:, -quarter:].mean(1, keepdim=True)
        above = torch.arange(config.n_bins + 1, config.n_fft // 2 + 1, device=known.device)
        octaves = torch.log2(above / (config.n_bins - quarter / 2))
        filled = torch.cat([known, top - FALL_DB / 10 * math.log(10.0) * octaves[:, None]], dim=1)
        power = F.pad(filled.exp(), (0, 0, 1, 0)) * (config.n_fft * self.gain**2)
        return self.log_mel.compress(power.sqrt() if self.mel.power == 1 else power)


def framed(spectrogram: Spectrogram, wave: Float[Tensor, "batch 1 samples"]) -> Spectrograms:
    """The spectrogram of a wave of any length, padded with silence, with a frame per whole or partial hop."""
    config = spectrogram.config
    before, rest = edge(config), -wave.shape[-1] % config.hop
    return spectrogram(F.pad(wave, (before, config.n_fft - config.hop - before + rest)))


def edge(config: SpectrogramConfig) -> int:
    """Samples by which the first frame's window starts before the wave."""
    return (config.n_fft - config.hop) // 2


def levels(spectrogram: SpectrogramPiece, config: SpectrogramConfig) -> LevelPiece:
    """Log powers of a spectrogram, with values near 0 lowered below the floor."""
    values = spectrogram[:, 0].float()
    offset = BLACK * (1.0 - values / KNEE).clamp_min(0.0)
    return values * (config.high - config.low) + config.low - offset


def in_other_frames(
    pieces: Iterable[LevelPiece], position: Callable[[int], float], n_frames: int
) -> Iterator[LevelPiece]:
    """Interpolate frames that come in pieces to ``n_frames`` new frames at the positions ``position(t)``.

    The first and the last frame are repeated beyond the ends.
    """
    buffer: Tensor | None = None
    first = done = 0  # number of the buffer's first frame; frames yielded so far
    for piece in pieces:
        buffer = piece if buffer is None else torch.cat([buffer, piece], dim=-1)
        ready = done
        while ready < n_frames and position(ready) < first + buffer.shape[-1] - 1:
            ready += 1
        if ready > done:
            yield at_times(buffer, torch.tensor([position(t) - first for t in range(done, ready)]))
            done = ready
        drop = min(max(math.floor(position(done)) - first, 0), buffer.shape[-1] - 1)
        buffer, first = buffer[..., drop:], first + drop
    if buffer is not None and done < n_frames:
        yield at_times(buffer, torch.tensor([position(t) - first for t in range(done, n_frames)]))


def hum(sample_rate: int) -> Float[Tensor, "1 1 samples"]:
    """Two seconds of a gliding harmonic sound with noise, above the floor in every band."""
    time = torch.arange(2 * sample_rate) / sample_rate
    turns = 2 * torch.pi * (120.0 * time + 6.0 * torch.sin(2 * torch.pi * 0.7 * time))
    harmonics = torch.stack([torch.sin(n * turns + n * n) for n in range(1, 30)]).sum(0)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return at_full_scale((harmonics + 2.0 * noise)[None, None])
