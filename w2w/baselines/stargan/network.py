"""StarGAN from wave to wave: what ``w2w.Converter`` drives."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.checkpoint import fill, load_weights
from engine.config import load_config
from engine.user_error import UserError
from vocoders.griffin_lim import GriffinLim
from vocoders.vocoder import Vocoder
from w2w.baselines.stargan.config import StarGANConfig
from w2w.baselines.stargan.inversion import ToMel, ToWave
from w2w.baselines.stargan.pictures import StarGANPictures
from w2w.baselines.stargan.spectrogram import at_full_scale
from w2w.baselines.stargan.voices import Companions, heard_voice, named_voice

Wave = Float[Tensor, "batch 1 samples"]
WavePiece = Float[Tensor, "batch 1 _"]
Voice = Float[Tensor, "batch n_in"]


@dataclass(frozen=True, kw_only=True)
class StarGANUseConfig:
    """What a trained StarGAN is in use."""

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

    def __init__(self, config: StarGANUseConfig, vocoder: Vocoder | None = None) -> None:
        super().__init__()
        self.config, self.vocoder = config, vocoder
        self.mel_network = StarGANPictures(config.network)
        shape, network = config.network.spectrogram, getattr(vocoder, "network", None)
        if vocoder is None or isinstance(network, GriffinLim):
            phases = network.config if isinstance(network, GriffinLim) else None
            self.inversion = ToWave(shape, phases)
        else:
            self.inversion = ToMel(shape, vocoder.mel)

    @property
    def sample_rate(self) -> int:
        """Hz, of waves in and out."""
        return self.config.network.spectrogram.sample_rate

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return self.config.network.spectrogram.hop

    @property
    def look_ahead(self) -> int:
        """No lag, as there are no steps."""
        return 0

    @property
    def voice_dim(self) -> int:
        """Entries of a voice: labels and presence bits."""
        return self.config.network.labels.n_in

    @property
    def moves_pitch(self) -> bool:
        """Never: nothing in the spectrogram names the pitch."""
        return False

    @property
    def streams(self) -> bool:
        """Whether a signal may be converted in pieces."""
        return False

    @property
    def needs_whole(self) -> str:
        """Which part needs the whole utterance, and why."""
        seconds = self.config.network.spectrogram.n_frames * self.hop / self.sample_rate
        return f"generator hears {seconds:.1f} s at once, at the level of the file's peak"

    def style(self, wave: Wave) -> Voice:
        """The labels that the discriminator hears in a wave."""
        return heard_voice(self.mel_network.label_logits(at_full_scale(wave)), self.config.network.labels)

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
        for piece in self._spoken(at_full_scale(source), voice):
            own = piece[..., : wave.shape[-1] - done]
            wave[..., done : done + own.shape[-1]] = own * peak
            done += own.shape[-1]
        return wave

    @torch.no_grad()
    def converted_mel(self, source: Wave, voice: Voice) -> Float[Tensor, "batch n_mels frames"]:
        """The log-mel that the vocoder is to speak, at the source's level, in the source's time."""
        if not isinstance(self.inversion, ToMel):
            raise UserError("StarGAN's phases are retrieved without a mel: name a vocoder that reads mels")
        mel = self.inversion.mel
        pictures = self.mel_network.converted(at_full_scale(source), voice.to(source))
        told = torch.cat(list(self.inversion.stream(pictures, -(-source.shape[-1] // mel.hop))), dim=-1)
        peak, floor = source.abs().amax(-1, keepdim=True), torch.tensor(mel.floor)
        risen = mel.power * (peak.log() if mel.log == "ln" else peak.log10())
        return (told + risen).clamp_min(float(floor.log() if mel.log == "ln" else floor.log10()))

    def _spoken(self, source: Wave, voice: Voice) -> Iterator[WavePiece]:
        pictures = self.mel_network.converted(source, voice)
        if isinstance(self.inversion, ToWave):
            yield from self.inversion.stream(pictures)
        else:
            assert self.vocoder is not None
            n_frames = -(-source.shape[-1] // self.vocoder.hop)
            yield from self.vocoder.stream(self.inversion.stream(pictures, n_frames))

    def begin(self, batch: int) -> NoReturn:
        """There is no live form."""
        raise UserError(f"this converter's {self.needs_whole}: convert whole files with it")

    def step(self, source: Wave, voice: Voice, state: Any, semitones: float = 0.0) -> NoReturn:
        """There is no live form."""
        self.begin(len(source))


def trained(checkpoint: Path) -> tuple[StarGANUseConfig, StarGANPictures]:
    """What a training run's checkpoint leaves for use; speakers' other labels come from the run's data."""
    from w2w.baselines.stargan.batches import told_rows
    from w2w.baselines.stargan.train_config import StarGANTrainConfig
    from w2w.baselines.stargan.voices import companions_if_there

    config = load_config(StarGANTrainConfig, checkpoint / "config.json")
    networks = StarGANPictures(config.stargan)
    for name in ("generator", "discriminator"):
        weights = checkpoint / f"{name}.safetensors"
        fill(getattr(networks, name), load_weights(weights), weights)
    try:
        known = companions_if_there(told_rows(config.data), config.stargan.labels)
    except UserError:  # the data is gone: a speaker is then named by its own label alone
        known = ()
    return StarGANUseConfig(network=config.stargan, companions=known), networks.eval()
