"""StarGAN from wave to wave, with the interface that ``w2w.Converter`` expects."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.checkpoint import fill, load_weights
from engine.config import load_config
from engine.user_error import UserError
from vocoders.griffin_lim import GriffinLim
from vocoders.vocoder import Vocoder
from w2w.baselines.stargan.labels import (
    Companions,
    companions,
    named_voice,
    predicted_voice,
    rows_with_known_speakers,
)
from w2w.baselines.stargan.networks import Discriminator, Generator, StarGANConfig
from w2w.baselines.stargan.spectrogram import Spectrogram, ToMel, ToWave, at_full_scale, edge
from w2w.baselines.two_stage import log_floor

Wave = Float[Tensor, "batch 1 samples"]
Voice = Float[Tensor, "batch n_in"]
SpectrogramPiece = Float[Tensor, "batch 1 bins _"]
WavePiece = Float[Tensor, "batch 1 _"]


class StarGANSpectrograms(nn.Module):
    """Generator and discriminator, whose weights an export contains. Waves must be at full scale.

    The networks process windows of ``n_frames`` frames, as in training. A longer wave is split into evenly
    spaced windows that overlap by at least a quarter, with a cross-fade of an eighth of a window in the
    middle of each overlap. A shorter wave is repeated, as in training, and the output truncated.
    """

    def __init__(self, config: StarGANConfig) -> None:
        super().__init__()
        self.config, self.spectrogram = config, Spectrogram(config.spectrogram)
        self.generator, self.discriminator = Generator(config), Discriminator(config)

    def label_logits(self, wave: Wave) -> Float[Tensor, "batch n_out"]:
        """Logits of the discriminator's class head, averaged over a wave's windows."""
        starts = self.starts(wave.shape[-1])
        logits = [self.discriminator(self._spectrogram(wave, start)).labels for start in starts]
        return torch.stack(logits).mean(0)

    def converted(self, wave: Wave, voice: Voice) -> Iterator[SpectrogramPiece]:
        """Yield the converted spectrogram in pieces, with one frame for each whole or partial hop."""
        size, n_frames = self.config.spectrogram.n_frames, self.n_frames(wave.shape[-1])
        starts = self.starts(wave.shape[-1])
        fade = max(size // 8, 1)
        ramp = torch.linspace(0.0, 1.0, fade + 2, device=wave.device)[1:-1]
        done, tail = 0, None  # frames yielded so far; frames to cross-fade into the next window
        for start, following in zip(starts, [*starts[1:], None]):
            window = self.generator(self._spectrogram(wave, start), voice)[..., done - start :]
            if tail is not None:
                window = torch.cat([tail.lerp(window[..., :fade], ramp), window[..., fade:]], dim=-1)
            if following is None:
                yield window[..., : n_frames - done]
                return
            turn = (following + start + size - fade) // 2
            yield window[..., : turn - done]
            tail = window[..., turn - done : turn - done + fade]
            done = turn

    def n_frames(self, samples: int) -> int:
        return -(-samples // self.config.spectrogram.hop)

    def starts(self, samples: int) -> list[int]:
        """The first frame of each window."""
        size, n_frames = self.config.spectrogram.n_frames, self.n_frames(samples)
        if n_frames <= size:
            return [0]
        n_more = math.ceil((n_frames - size) / (size - size // 4))
        return [round(number * (n_frames - size) / n_more) for number in range(n_more + 1)]

    def _spectrogram(self, wave: Wave, start: int) -> Float[Tensor, "batch 1 bins frames"]:
        config = self.config.spectrogram
        if self.n_frames(wave.shape[-1]) <= config.n_frames:
            wave = wave.repeat(1, 1, -(-config.crop_samples // wave.shape[-1]))[..., : config.crop_samples]
        first = start * config.hop - edge(config)
        cut = wave[..., max(first, 0) : first + config.crop_samples]
        before = max(-first, 0)
        return self.spectrogram(F.pad(cut, (before, config.crop_samples - before - cut.shape[-1])))


@dataclass(frozen=True, kw_only=True)
class StarGANUseConfig:
    network: StarGANConfig = field(default_factory=StarGANConfig)
    """Architecture of the networks, spectrogram, and labels with their names."""
    companions: Companions = ()
    """Each speaker's labels in all groups; empty: only the speaker label is used."""


class StarGANNetwork(nn.Module):
    """Source wave and a voice (an input label) to converted wave.

    Without a vocoder, or with Griffin-Lim, phases are retrieved directly for the converted spectrogram; for a
    trained vocoder it is mapped to a log-mel of that vocoder's definition. Sources are scaled to full scale,
    as in training, and the result back to the source's level. Nothing of the source above 4 kHz is used.
    """

    look_ahead = 0
    """No look-ahead, as there is no streaming."""
    moves_pitch = streams = False
    """The spectrogram has no explicit pitch to shift, and signals cannot be converted in chunks."""

    def __init__(self, config: StarGANUseConfig, vocoder: Vocoder | None = None) -> None:
        super().__init__()
        self.config, self.vocoder = config, vocoder
        self.sample_rate = config.network.spectrogram.sample_rate
        self.hop, self.voice_dim = config.network.spectrogram.hop, config.network.labels.n_in
        seconds = config.network.spectrogram.n_frames * self.hop / self.sample_rate
        self.needs_whole = f"generator needs {seconds:.1f} s at once, scaled by the peak of the file"
        self.mel_network = StarGANSpectrograms(config.network)
        shape, network = config.network.spectrogram, getattr(vocoder, "network", None)
        if vocoder is None or isinstance(network, GriffinLim):
            phases = network.config if isinstance(network, GriffinLim) else None
            self.inversion = ToWave(shape, phases)
        else:
            self.inversion = ToMel(shape, vocoder.mel)

    def style(self, wave: Wave) -> Voice:
        """The labels that the discriminator predicts for a wave."""
        return predicted_voice(self.mel_network.label_logits(at_full_scale(wave)), self.config.network.labels)

    def named_voice(self, name: str) -> Voice:
        """The voice of a named label; a speaker's voice includes its labels in the other groups."""
        return named_voice(name, self.config.network.labels, self.config.companions)

    @torch.no_grad()
    def forward(self, source: Wave, voice: Voice, semitones: float = 0.0) -> Wave:
        """Convert whole waves; the result is as long as the source. ``semitones`` must be 0.

        Working memory does not grow with the source's length.
        """
        wave = source.new_zeros(source.shape)
        peak = source.abs().amax(dim=-1, keepdim=True)
        voice, done = voice.to(source).expand(len(source), -1), 0
        spectrograms = self.mel_network.converted(at_full_scale(source), voice)
        for piece in self.invert(spectrograms, source.shape[-1]):
            new = piece[..., : wave.shape[-1] - done]
            wave[..., done : done + new.shape[-1]] = new * peak
            done += new.shape[-1]
        return wave

    @torch.no_grad()
    def converted_mel(self, source: Wave, voice: Voice) -> Float[Tensor, "batch n_mels frames"]:
        """The converted log-mel, the vocoder's input, at the source's level and aligned with the source."""
        if not isinstance(self.inversion, ToMel):
            raise UserError("StarGAN retrieves phases without a mel here: choose a vocoder that reads mels")
        mel = self.inversion.mel
        spectrograms = self.mel_network.converted(at_full_scale(source), voice.to(source))
        log_mel = torch.cat(
            list(self.inversion.stream(spectrograms, -(-source.shape[-1] // mel.hop))), dim=-1
        )
        peak = source.abs().amax(-1, keepdim=True)
        gain = mel.power * (peak.log() if mel.log == "ln" else peak.log10())
        return (log_mel + gain).clamp_min(log_floor(mel))

    def invert(self, spectrograms: Iterable[SpectrogramPiece], samples: int) -> Iterator[WavePiece]:
        """Convert spectrograms to a wave of ``samples`` samples, by phase retrieval or by the vocoder."""
        if isinstance(self.inversion, ToWave):
            return self.inversion.stream(spectrograms)
        assert self.vocoder is not None
        return self.vocoder.stream(self.inversion.stream(spectrograms, -(-samples // self.vocoder.hop)))


def trained(checkpoint: Path) -> tuple[StarGANUseConfig, StarGANSpectrograms]:
    """Load the networks of a training checkpoint; speakers' other labels come from the run's data."""
    from w2w.baselines.stargan.presets import StarGANTrainConfig

    config = load_config(StarGANTrainConfig, checkpoint / "config.json")
    networks = StarGANSpectrograms(config.stargan)
    for name in ("generator", "discriminator"):
        weights = checkpoint / f"{name}.safetensors"
        fill(getattr(networks, name), load_weights(weights), weights)
    try:
        known = companions(rows_with_known_speakers(config.data), config.stargan.labels)
    except UserError:  # the data is missing or does not fit: only speaker labels are used then
        known = ()
    return StarGANUseConfig(network=config.stargan, companions=known), networks.eval()
