"""Spectrograms as StarGAN sees them, and waves of them.

A spectrogram is a square of log power scaled to [0, 1]. Back to sound it goes straight, by phase retrieval,
or as a log-mel for a vocoder. Two things are not in it and are assumed, the same in both ways. Below the
floor: most of a spectrogram is black (four fifths, in read speech), and black is taken for ``BLACK`` nepers
of power under the floor, not for the floor itself, which would be heard as hiss. Above the last bin: a
vocoder's bands are filled by continuing the topmost quarter of the bins, falling by ``FALL_DB`` per octave;
phase retrieval leaves them empty. The constants make the log-mel differ least from that of recorded speech.
Nothing is taken from the source: neither its phases nor what it has above 4 kHz.
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
    """A linear spectrogram from above DC: by default 256 bins (to 4 kHz) of 256 frames (4.1 s)."""

    sample_rate: int = 16_000
    """Hz."""
    n_fft: int = 1024
    """Samples of one transform and of its Hamming window."""
    hop: int = 256
    """Samples between frames. The experiment's notes say 512, but its crops of 66304 samples are
    1024 + 255 · 256, which makes 256 frames only with hops of 256; 512 would make 128 of them."""
    n_frames: int = 256
    """Frames of a spectrogram that is trained on."""
    n_bins: int = 256
    """Bins, from the first above DC."""
    floor: float = 1e-3
    """Powers below are raised to it before the logarithm; it becomes 0."""
    maximum: float = 0.0
    """The power that becomes 1, as larger ones do; 0: one that no wave at full scale exceeds."""

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
        """Samples of a spectrogram: 66304 by default."""
        return self.n_fft + (self.n_frames - 1) * self.hop

    @property
    def low(self) -> float:
        """The log-power that becomes 0: the floor's."""
        return math.log(self.floor)

    @property
    def high(self) -> float:
        """The log-power that becomes 1: ``maximum``'s, or that of the window's sum, as no sample exceeds 1.

        The same in every clip, so that a converted spectrogram can be taken back without its source.
        """
        return math.log(self.maximum or (0.54 * self.n_fft) ** 2 / self.n_fft)


class Spectrogram(nn.Module):
    """Waves to spectrograms and back to magnitudes; float32 throughout, also under autocast."""

    def __init__(self, config: SpectrogramConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hamming_window(config.n_fft), persistent=False)

    window: Tensor

    def forward(self, wave: Wave) -> Spectrograms:
        """Power / n_fft of whole frames alone, floored, its natural logarithm scaled to [0, 1].

        Waves are expected with peaks of 1 (see ``at_full_scale``); quieter ones make darker spectrograms.
        """
        config = self.config
        spectrum = stft(wave, n_fft=config.n_fft, hop=config.hop, padding="none", window=self.window)
        spectrum = spectrum[:, 1 : config.n_bins + 1]
        power = (spectrum.real.square() + spectrum.imag.square()) / config.n_fft
        level = power.clamp_min(config.floor).log()
        return ((level - config.low) / (config.high - config.low)).clamp_max(1.0)[:, None]

    def magnitudes(self, spectrogram: Spectrograms) -> Float[Tensor, "batch bins frames"]:
        """The coefficients' magnitudes a spectrogram stands for, from the first bin above DC."""
        config = self.config
        level = spectrogram[:, 0].float() * (config.high - config.low) + config.low
        return (0.5 * level).exp() * math.sqrt(config.n_fft)


def at_full_scale(wave: Wave) -> Wave:
    """Scale each wave so that its peak is 1; digital silence stays as it is."""
    peak = wave.abs().amax(dim=-1, keepdim=True)
    return wave / peak.where(peak > 0, 1.0)


SpectrogramPiece = Float[Tensor, "batch 1 bins _"]
Levels = Float[Tensor, "batch bins frames"]
LevelPiece = Float[Tensor, "batch bins _"]
MelPiece = Float[Tensor, "batch n_mels _"]
WavePiece = Float[Tensor, "batch 1 _"]

BLACK = 4.0
"""Nepers of power (17 dB) that black is taken to lie below the floor."""
KNEE = 0.02
"""Values up to which that sinks to nothing; a spectrogram's are in [0, 1]."""
FALL_DB = 18.0
"""Per octave, above the last bin."""


class ToWave(nn.Module):
    """A spectrogram's wave by phase retrieval on its own magnitudes; no vocoder, no mel."""

    def __init__(self, config: SpectrogramConfig, phases: GriffinLimConfig | None = None) -> None:
        super().__init__()
        self.spectrogram = Spectrogram(config)
        self.phases = PhaseRetrieval(
            phases or GriffinLimConfig(), torch.hamming_window(config.n_fft), hop=config.hop
        )

    def forward(self, spectrogram: Spectrograms) -> Float[Tensor, "batch 1 samples"]:
        """A wave of frames · hop samples, whose first frame's window begins (n_fft − hop) / 2 before it."""
        return torch.cat(list(self.stream([spectrogram])), dim=-1)

    def stream(self, pieces: Iterable[SpectrogramPiece]) -> Iterator[WavePiece]:
        """Pieces of spectrogram to pieces of wave, in flat memory; where they are cut makes no difference."""
        yield from self.phases.stream((piece[:, 0] for piece in pieces), self._magnitudes)

    def _magnitudes(self, values: Levels) -> Float[Tensor, "batch frames n_bins"]:
        config = self.spectrogram.config
        magnitudes = (0.5 * levels(values[:, None], config)).exp() * math.sqrt(config.n_fft)
        return F.pad(magnitudes, (0, 0, 1, config.n_fft // 2 - config.n_bins)).transpose(1, 2)


class ToMel(nn.Module):
    """A spectrogram's log-mel by a definition of the same sample rate, for the definition's vocoder.

    The levels, logarithms of power, are interpolated linearly to the definition's frames, then scaled so that
    speech has the level that ``LogMel`` hears: the two windows differ in length and shape.
    """

    def __init__(self, config: SpectrogramConfig, mel: MelConfig) -> None:
        super().__init__()
        if mel.sample_rate != config.sample_rate:
            raise UserError(
                f"the vocoder makes waves of {mel.sample_rate} Hz, StarGAN's spectrogram is of "
                f"{config.sample_rate} Hz: take a vocoder of that rate, or griffin_lim"
            )
        self.config, self.mel = config, mel
        # The definition's bands, laid over our transform's bins.
        self.log_mel = LogMel(replace(mel, n_fft=config.n_fft, win=config.n_fft, hop=config.hop))
        self.gain = 1.0
        self.gain = self._ratio()

    def forward(self, spectrogram: Spectrograms, n_frames: int | None = None) -> MelPiece:
        """The log-mel of ``n_frames`` frames, by default as many as fill the spectrogram's samples."""
        samples = spectrogram.shape[-1] * self.config.hop
        return torch.cat(list(self.stream([spectrogram], n_frames or -(-samples // self.mel.hop))), dim=-1)

    def stream(self, pieces: Iterable[SpectrogramPiece], n_frames: int) -> Iterator[MelPiece]:
        """Pieces of spectrogram to pieces of its log-mel, ``n_frames`` in all; cuts make no difference."""
        known = (levels(piece, self.config) for piece in pieces)
        for piece in in_other_frames(known, self._position, n_frames):
            yield self._bands(piece)

    def _position(self, frame: int) -> float:
        """Where a frame of the mel lies, in frames of the spectrogram."""
        mel, half = self.mel, self.mel.n_fft / 2
        centre = {
            "same": half - (mel.n_fft - mel.hop) // 2,
            "center": 0.0,
            "causal": mel.hop - mel.win / 2,
            "none": half,
        }[mel.padding]
        return (frame * mel.hop + centre - self.config.hop / 2) / self.config.hop

    def _ratio(self) -> float:
        """What our magnitudes are multiplied by to have, in the mean of logarithms, the definition's level.

        It lies between noise, whose magnitudes follow the root of the window's power, and tones, whose lines
        follow its sum but are the narrower for it; so it is measured, on a sound that has both.
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
    """The spectrogram of a wave of any length, a frame for each hop begun; silence lies around the wave."""
    config = spectrogram.config
    before, rest = edge(config), -wave.shape[-1] % config.hop
    return spectrogram(F.pad(wave, (before, config.n_fft - config.hop - before + rest)))


def edge(config: SpectrogramConfig) -> int:
    """Samples by which the first frame's window begins before the wave."""
    return (config.n_fft - config.hop) // 2


def levels(spectrogram: SpectrogramPiece, config: SpectrogramConfig) -> LevelPiece:
    """The logarithms of power that a spectrogram stands for, black lowered below the floor."""
    values = spectrogram[:, 0].float()
    sunk = BLACK * (1.0 - values / KNEE).clamp_min(0.0)
    return values * (config.high - config.low) + config.low - sunk


def in_other_frames(
    pieces: Iterable[LevelPiece], position: Callable[[int], float], n_frames: int
) -> Iterator[LevelPiece]:
    """Interpolate what comes in frames to ``n_frames`` others, of which the t-th lies at ``position(t)``.

    Before the first frame and behind the last, those two are repeated.
    """
    kept: Tensor | None = None
    first = done = 0  # the frame that ``kept`` begins with; frames that are out
    for piece in pieces:
        kept = piece if kept is None else torch.cat([kept, piece], dim=-1)
        ready = done
        while ready < n_frames and position(ready) < first + kept.shape[-1] - 1:
            ready += 1
        if ready > done:
            yield at_times(kept, torch.tensor([position(t) - first for t in range(done, ready)]))
            done = ready
        drop = min(max(math.floor(position(done)) - first, 0), kept.shape[-1] - 1)
        kept, first = kept[..., drop:], first + drop
    if kept is not None and done < n_frames:
        yield at_times(kept, torch.tensor([position(t) - first for t in range(done, n_frames)]))


def hum(sample_rate: int) -> Float[Tensor, "1 1 samples"]:
    """Two seconds of a gliding voiced sound and noise, loud enough in every band to lie above the floor."""
    time = torch.arange(2 * sample_rate) / sample_rate
    turns = 2 * torch.pi * (120.0 * time + 6.0 * torch.sin(2 * torch.pi * 0.7 * time))
    harmonics = torch.stack([torch.sin(n * turns + n * n) for n in range(1, 30)]).sum(0)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return at_full_scale((harmonics + 2.0 * noise)[None, None])
