"""StarGAN from wave to wave: what ``w2w.Converter`` drives."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

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


class StarGANSpectrograms(nn.Module):
    """Both networks; an export holds their weights and nothing else. Waves are expected at full scale.

    The networks hear spectrograms of ``n_frames`` frames, as in training. A longer wave has a row of them,
    evenly spread, whose neighbours share a quarter or more; in the middle of what they share, over half of
    that quarter, the one fades into the other. A shorter wave is repeated, as in training, and the rest cut
    off.
    """

    def __init__(self, config: StarGANConfig) -> None:
        super().__init__()
        self.config, self.spectrogram = config, Spectrogram(config.spectrogram)
        self.generator, self.discriminator = Generator(config), Discriminator(config)

    def label_logits(self, wave: Wave) -> Float[Tensor, "batch n_out"]:
        """What the discriminator's class head makes of a wave, mean over its windows."""
        starts = self.starts(wave.shape[-1])
        logits = [self.discriminator(self._spectrogram(wave, start)).labels for start in starts]
        return torch.stack(logits).mean(0)

    def converted(self, wave: Wave, voice: Voice) -> Iterator[SpectrogramPiece]:
        """The wave's spectrogram with a voice, a frame for each hop begun, in pieces."""
        size, n_frames = self.config.spectrogram.n_frames, self.n_frames(wave.shape[-1])
        starts = self.starts(wave.shape[-1])
        fade = max(size // 8, 1)
        ramp = torch.linspace(0.0, 1.0, fade + 2, device=wave.device)[1:-1]
        done, tail = 0, None  # frames that are out; what fades into the next window
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
        """The first frames of the windows of a wave."""
        size, n_frames = self.config.spectrogram.n_frames, self.n_frames(samples)
        if n_frames <= size:
            return [0]
        n_more = math.ceil((n_frames - size) / (size - size // 4))
        return [round(number * (n_frames - size) / n_more) for number in range(n_more + 1)]

    def _spectrogram(self, wave: Wave, start: int) -> Float[Tensor, "batch 1 bins frames"]:
        """The window that begins with a frame."""
        config = self.config.spectrogram
        if self.n_frames(wave.shape[-1]) <= config.n_frames:
            wave = wave.repeat(1, 1, -(-config.crop_samples // wave.shape[-1]))[..., : config.crop_samples]
        first = start * config.hop - edge(config)
        cut = wave[..., max(first, 0) : first + config.crop_samples]
        before = max(-first, 0)
        return self.spectrogram(F.pad(cut, (before, config.crop_samples - before - cut.shape[-1])))


WavePiece = Float[Tensor, "batch 1 _"]


@dataclass(frozen=True, kw_only=True)
class StarGANUseConfig:
    network: StarGANConfig = field(default_factory=StarGANConfig)
    """Generator, discriminator, spectrogram, and labels with their names."""
    companions: Companions = ()
    """For each speaker its labels in all groups; empty: a speaker is named by its own label alone."""


class StarGANNetwork(nn.Module):
    """Source wave and a voice, an input label, to converted wave.

    Without a vocoder, or with Griffin-Lim as one, the converted spectrogram's phases are retrieved directly;
    a trained vocoder hears it as a log-mel of its own definition. Sources are brought to full scale, as in
    training, and the result back to the source's level. Nothing above 4 kHz comes through.
    """

    look_ahead = 0
    """No lag, as there are no steps."""
    moves_pitch = streams = False
    """Nothing in the spectrogram names the pitch, and no signal may be converted in pieces."""

    def __init__(self, config: StarGANUseConfig, vocoder: Vocoder | None = None) -> None:
        super().__init__()
        self.config, self.vocoder = config, vocoder
        self.mel_network = StarGANSpectrograms(config.network)
        shape, network = config.network.spectrogram, getattr(vocoder, "network", None)
        if vocoder is None or isinstance(network, GriffinLim):
            phases = network.config if isinstance(network, GriffinLim) else None
            self.inversion = ToWave(shape, phases)
        else:
            self.inversion = ToMel(shape, vocoder.mel)

    @property
    def sample_rate(self) -> int:
        return self.config.network.spectrogram.sample_rate

    @property
    def hop(self) -> int:
        return self.config.network.spectrogram.hop

    @property
    def voice_dim(self) -> int:
        return self.config.network.labels.n_in

    @property
    def needs_whole(self) -> str:
        """Which part needs the whole utterance, and why."""
        seconds = self.config.network.spectrogram.n_frames * self.hop / self.sample_rate
        return f"generator hears {seconds:.1f} s at once, at the level of the file's peak"

    def style(self, wave: Wave) -> Voice:
        """The labels that the discriminator hears in a wave."""
        return predicted_voice(self.mel_network.label_logits(at_full_scale(wave)), self.config.network.labels)

    def named_voice(self, name: str) -> Voice:
        """The voice of a label by its name; speakers come with their other labels."""
        return named_voice(name, self.config.network.labels, self.config.companions)

    @torch.no_grad()
    def forward(self, source: Wave, voice: Voice, semitones: float = 0.0) -> Wave:
        """Convert whole waves; the result is as long as the source. ``semitones`` can only be 0.

        Memory beyond source and result does not grow with their length.
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
        """The log-mel that the vocoder is to speak, at the source's level, in the source's time."""
        if not isinstance(self.inversion, ToMel):
            raise UserError("StarGAN's phases are retrieved without a mel: name a vocoder that reads mels")
        mel = self.inversion.mel
        spectrograms = self.mel_network.converted(at_full_scale(source), voice.to(source))
        log_mel = torch.cat(
            list(self.inversion.stream(spectrograms, -(-source.shape[-1] // mel.hop))), dim=-1
        )
        peak = source.abs().amax(-1, keepdim=True)
        risen = mel.power * (peak.log() if mel.log == "ln" else peak.log10())
        return (log_mel + risen).clamp_min(log_floor(mel))

    def invert(self, spectrograms: Iterable[SpectrogramPiece], samples: int) -> Iterator[WavePiece]:
        """Converted spectrograms to pieces of a wave of some length: by retrieved phases, or by a vocoder."""
        if isinstance(self.inversion, ToWave):
            return self.inversion.stream(spectrograms)
        assert self.vocoder is not None
        return self.vocoder.stream(self.inversion.stream(spectrograms, -(-samples // self.vocoder.hop)))

    def begin(self, batch: int) -> NoReturn:
        """There is no live form."""
        raise UserError(f"this converter's {self.needs_whole}: convert whole files with it")

    def step(self, source: Wave, voice: Voice, state: Any, semitones: float = 0.0) -> NoReturn:
        self.begin(len(source))


def trained(checkpoint: Path) -> tuple[StarGANUseConfig, StarGANSpectrograms]:
    """What a training run's checkpoint leaves for use; speakers' other labels come from the run's data."""
    from w2w.baselines.stargan.presets import StarGANTrainConfig

    config = load_config(StarGANTrainConfig, checkpoint / "config.json")
    networks = StarGANSpectrograms(config.stargan)
    for name in ("generator", "discriminator"):
        weights = checkpoint / f"{name}.safetensors"
        fill(getattr(networks, name), load_weights(weights), weights)
    try:
        known = companions(rows_with_known_speakers(config.data), config.stargan.labels)
    except UserError:  # the data is gone or another's: a speaker is then named by its own label alone
        known = ()
    return StarGANUseConfig(network=config.stargan, companions=known), networks.eval()
