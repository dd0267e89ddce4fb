"""The converter network: encoders and decoder tied together, so that chunk after chunk equals the whole."""

import math
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.user_error import UserError
from w2w.networks.content import Content, ContentConfig, ContentEncoder, factors
from w2w.networks.decoder import Decoder, DecoderConfig
from w2w.networks.pitch import Pitch, PitchTracker
from w2w.networks.running_mean import RunningMean
from w2w.networks.style import StyleConfig, StyleEncoder
from w2w.networks.wave_network import WaveNetwork

Wave = Float[Tensor, "batch 1 samples"]
Voice = Float[Tensor, "batch voice"]

LOWEST, HIGHEST = math.log(50.0), math.log(600.0)
"""Log of Hz: converted F0 stays inside."""
BLOCK_FRAMES = 400
"""Frames decoded at once where the content of the whole was encoded before."""


@dataclass(frozen=True, kw_only=True)
class ConverterConfig:
    """All that it takes to build the converter's networks."""

    sample_rate: int = 16_000
    """Hz, of all waves in and out."""
    frame_ms: float = 10.0
    """Milliseconds between frames: the hop."""
    window_ms: float = 32.0
    """Milliseconds that one frame's analysis hears."""
    look_ahead_ms: float = 8.0
    """Milliseconds of future that every output sample may hear; live, this and one hop are the latency."""
    n_mels: int = 80
    """Bands of the analysis."""
    pitch_memory_s: float = 10.0
    """Seconds over which the source's mean log-F0 is remembered."""
    content: ContentConfig = field(default_factory=ContentConfig)
    """What is said."""
    style: StyleConfig = field(default_factory=StyleConfig)
    """Whose voice."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """How it is said."""

    def __post_init__(self) -> None:
        try:
            factors(self.hop)
        except ValueError as mistake:
            raise UserError(str(mistake)) from None
        if self.window < self.hop:
            raise UserError(f"window_ms={self.window_ms} must be at least frame_ms={self.frame_ms}")

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return round(self.sample_rate * self.frame_ms / 1000)

    @property
    def window(self) -> int:
        """Samples that one frame's analysis hears."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def look_ahead(self) -> int:
        """Samples of future that every output sample may hear."""
        return round(self.sample_rate * self.look_ahead_ms / 1000)


class ConverterNetwork(nn.Module):
    """Source wave and a voice to converted wave.

    Inside, everything is causal and lags the source by ``look_ahead`` samples: the one place where future is
    used.
    """

    def __init__(self, config: ConverterConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.sample_rate, config.hop, config.window, config.n_mels)
        self.content = ContentEncoder(config.content, *shape, look_ahead=config.look_ahead)
        self.style = StyleEncoder(config.style, *shape)
        self.decoder = Decoder(
            config.decoder, config.style, config.content.dim, config.sample_rate, config.hop
        )
        self.pitch = PitchTracker(config.sample_rate, config.hop)
        frames = 1000.0 * config.pitch_memory_s / config.frame_ms
        self.usual_pitch = RunningMean(1, time_constant=frames, prior_frames=0.5)
        self.usual_pitch.prior.requires_grad_(False).fill_(math.log(150.0))

    @property
    def sample_rate(self) -> int:
        """Hz, of waves in and out."""
        return self.config.sample_rate

    @property
    def hop(self) -> int:
        """Samples that a step takes a multiple of."""
        return self.config.hop

    @property
    def look_ahead(self) -> int:
        """Samples by which steps lag behind."""
        return self.config.look_ahead

    @property
    def voice_dim(self) -> int:
        """Entries of a voice: its timbre, and its mean log-F0."""
        return self.config.style.voice_dim

    @property
    def moves_pitch(self) -> bool:
        """Whether the pitch can be moved beyond the voice's own."""
        return self.decoder.needs_pitch

    @property
    def streams(self) -> bool:
        """Whether a signal may be converted in pieces."""
        return not self.needs_whole

    @property
    def needs_whole(self) -> str:
        """Which part needs the whole utterance, and why; empty where none does."""
        if not self.content.streams:
            return "content.frontend is 'pretrained', whose transformer hears the whole utterance"
        return "" if self.decoder.streams else "decoder.norm is 'adain', which needs the whole utterance"

    def forward(self, source: Wave, voice: Voice, semitones: float = 0.0) -> Wave:
        """Convert whole waves; the result is as long as the source."""
        samples, led, state = source.shape[-1], self.lead(source), self.begin(source.shape[0])
        if self.content.streams:
            wave, _ = self.step(led, voice, state, semitones)
        else:
            content, parts = self.content(led), []
            # Codes are few; what the decoder makes of them on its way to samples is not.
            block = BLOCK_FRAMES if self.decoder.streams else content.code.shape[-1]
            pieces = zip(content.code.split(block, dim=-1), content.energy.split(block, dim=-1))
            for (code, energy), chunk in zip(pieces, led.split(block * self.config.hop, dim=-1)):
                part, state = self.speak(chunk, Content(code, energy), voice, state, semitones)
                parts.append(part)
            wave = torch.cat(parts, dim=-1)
        return wave[..., self.config.look_ahead :][..., :samples]

    def lead(self, source: Wave) -> Float[Tensor, "batch 1 led"]:
        """The source followed by the silence that brings its last samples out, in whole hops."""
        samples = source.shape[-1] + self.config.look_ahead
        return F.pad(source, (0, -samples % self.config.hop + self.config.look_ahead))

    def begin(self, batch: int) -> dict[str, Any]:
        """Silence, and nothing known of the source's pitch."""
        return {
            "content": self.content.begin(batch),
            "pitch": self.pitch.begin(batch),
            "usual_pitch": self.usual_pitch.begin(batch),
            "decoder": self.decoder.begin(batch),
        }

    def step(
        self, source: Wave, voice: Voice, state: dict[str, Any], semitones: float = 0.0
    ) -> tuple[Wave, dict[str, Any]]:
        """Convert one chunk, a whole number of hops long; the output lags by ``look_ahead`` samples."""
        content, after_content = self.content.step(source, state["content"])
        wave, after = self.speak(source, content, voice, state, semitones)
        return wave, after | {"content": after_content}

    def speak(
        self, source: Wave, content: Content, voice: Voice, state: dict[str, Any], semitones: float = 0.0
    ) -> tuple[Wave, dict[str, Any]]:
        """Speak what was encoded of one chunk; its pitch is found here."""
        if self.decoder.needs_pitch:
            pitch, after_pitch = self.pitch.step(source, state["pitch"])
            usual, after_usual = self.usual_pitch.step(pitch.log_f0, voiced(pitch), state["usual_pitch"])
            pitch = move(pitch, usual, voice, semitones)
        else:
            pitch = Pitch(torch.zeros_like(content.energy), torch.zeros_like(content.energy))
            after_pitch, after_usual = state["pitch"], state["usual_pitch"]
        wave, after_decoder = self.decoder.step(content, pitch, voice, state["decoder"])
        return wave, state | {"pitch": after_pitch, "usual_pitch": after_usual, "decoder": after_decoder}


# By name, because its style is a submodule, which Pythons from 3.12 on do not count as a member.
cast(Any, WaveNetwork).register(ConverterNetwork)


def voiced(pitch: Pitch) -> Float[Tensor, "batch 1 frames"]:
    """One where there is a pitch."""
    return (pitch.voicing > 0.5).to(pitch.voicing.dtype)


def move(pitch: Pitch, usual: Float[Tensor, "batch 1 frames"], voice: Voice, semitones: float = 0.0) -> Pitch:
    """Move log-F0 from the source's usual one to the voice's mean, and by ``semitones`` beyond."""
    target = voice[:, -1:, None] + semitones * math.log(2.0) / 12.0
    return Pitch((pitch.log_f0 - usual + target).clamp(LOWEST, HIGHEST), pitch.voicing)
