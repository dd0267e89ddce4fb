"""The converter network: encoders and decoder tied together, so that chunk after chunk equals the whole."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.running_mean import MeanState, RunningMean
from engine.user_error import UserError
from pretrain.causal.encoder import CausalEncoder, CausalEncoderConfig, Content, PerItem
from pretrain.pitch.network import LearnedPitchTracker, PitchNetworkConfig
from pretrain.pitch.tracker import Pitch, PitchTracker
from w2w.networks.decoder import Decoder, DecoderConfig, PitchPredictor
from w2w.networks.delay import Delay, PauseGate
from w2w.networks.style import StyleConfig, StyleEncoder
from w2w.networks.trunk import PretrainedContent, TrunkConfig
from w2w.networks.wave_network import WaveNetwork

Wave = Float[Tensor, "batch 1 samples"]
Voice = Float[Tensor, "batch voice"]
Curve = Float[Tensor, "batch 1 frames"]

Semitones = float | Float[Tensor, "1"]  # of float64: what a graph takes
LOWEST, HIGHEST = math.log(50.0), math.log(600.0)
"""Log of Hz: converted F0 stays inside."""
BLOCK_FRAMES = 400
"""Frames decoded at once where the content of the whole was encoded before."""


@dataclass(frozen=True, kw_only=True)
class ConverterConfig:
    """All that it takes to build the converter's networks."""

    KIND: ClassVar[str] = "converter"
    sample_rate: int = 16_000
    """Hz, of all waves in and out."""
    look_ahead_ms: float = 8.0
    """Milliseconds of future that outputs may depend on; live, this and one hop are the latency."""
    content_ahead_ms: float = 0.0
    """Milliseconds of speech beyond ``look_ahead_ms`` that a code has heard; they add to the latency."""
    pitch_memory_s: float = 10.0
    """Seconds over which the source's mean log-F0 is remembered."""
    pitch_predictor: bool = True
    """Whether each frame's distance from the speaker's mean log-F0 is predicted from its spectrum, so that
    the mean is known after a few frames."""
    pitch: PitchNetworkConfig | None = None
    """The network that tracks F0, taught by ``pretrain/f0.py``; none: a classical tracker."""
    content: CausalEncoderConfig = field(default_factory=CausalEncoderConfig)
    """What is said: the content encoder."""
    trunk: TrunkConfig | None = None
    """A pretrained speech encoder in the place of the content encoder's mels; it needs whole utterances."""
    style: StyleConfig = field(default_factory=StyleConfig)
    """Whose voice."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """How it is said."""

    def __post_init__(self) -> None:
        if self.hop % 80:
            raise UserError(
                f"a hop of {self.hop} samples is not a multiple of 80: choose a sample_rate that is a"
                " multiple of 8 kHz and a content.hop_ms of 10"
            )
        if self.content_ahead_ms < 0 or (self.content_ahead_ms and self.trunk):
            raise UserError(
                f"content_ahead_ms={self.content_ahead_ms} must be 0 or more, and 0 with a pretrained trunk"
            )
        if self.pitch and (self.pitch.sample_rate, self.pitch.hop) != (self.sample_rate, self.hop):
            raise UserError(
                f"pitch is tracked at {self.pitch.sample_rate} Hz every {self.pitch.hop_ms} ms: it must be"
                f" the converter's {self.sample_rate} Hz and {self.content.hop_ms} ms"
            )

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return round(self.sample_rate * self.content.hop_ms / 1000)

    @property
    def window(self) -> int:
        """Samples that one frame's analysis spans."""
        return round(self.sample_rate * self.content.window_ms / 1000)

    @property
    def look_ahead(self) -> int:
        """Samples of future that every output sample may depend on."""
        return round(self.sample_rate * self.look_ahead_ms / 1000) + self.frames_ahead * self.hop

    @property
    def frames_ahead(self) -> int:
        """Frames by which codes are ahead of what else the decoder hears."""
        return round(self.content_ahead_ms / self.content.hop_ms)


class Encoded(NamedTuple):
    """What is taken from a source before a voice is chosen."""

    content: Content
    pitch: Pitch
    mean_log_f0: Curve
    """Of the source, as far as known."""


class ConverterNetwork(nn.Module):
    """Source wave and a voice to converted wave.

    Inside, everything is causal and lags the source by ``look_ahead`` samples: the one place where future is
    used.
    """

    def __init__(self, config: ConverterConfig) -> None:
        super().__init__()
        self.config = config
        relative = config.content.relative_level
        self.content: CausalEncoder = (
            CausalEncoder(config.content, config.sample_rate)
            if config.trunk is None
            else PretrainedContent(config.content, config.trunk, config.sample_rate, config.look_ahead)
        )
        shape = (config.sample_rate, config.hop, config.window, config.content.n_mels)
        pitch = (
            LearnedPitchTracker(config.pitch).double().requires_grad_(False)
            if config.pitch
            else PitchTracker(config.sample_rate, config.hop, relative_level=relative)
        )
        self.style = StyleEncoder(config.style, *shape, pitch, relative_level=relative)
        self.decoder = Decoder(
            config.decoder, config.style, config.content.dim, config.sample_rate, config.hop
        )
        frames = 1000.0 * config.pitch_memory_s / config.content.hop_ms
        self.mean_log_f0 = RunningMean(1, time_constant=frames, prior_frames=1e-9 if relative else 0.5)
        self.mean_log_f0.prior.requires_grad_(False).fill_(math.log(150.0))
        self.pitch_predictor = PitchPredictor(config.content.n_mels) if config.pitch_predictor else None
        ahead = config.frames_ahead
        self.gate = PauseGate(config.hop, config.look_ahead - ahead * config.hop) if relative else None
        self.delay = Delay(ahead, config.hop, config.content.n_mels) if ahead else None

    @property
    def pitch(self) -> LearnedPitchTracker | PitchTracker:
        """The F0 tracker: one for sources and references."""
        return self.style.pitch

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
        return True

    @property
    def streams(self) -> bool:
        """Whether a signal may be converted in pieces."""
        return self.config.trunk is None

    @property
    def needs_whole(self) -> str:
        """Which part needs the whole utterance, and why; empty where none does."""
        if self.streams:
            return ""
        return "content encoder is a pretrained transformer, which needs the whole utterance"

    def forward(self, source: Wave, voice: Voice, semitones: float = 0.0) -> Wave:
        """Convert whole waves; the result is as long as the source."""
        samples, padded, state = source.shape[-1], self.pad_look_ahead(source), self.begin(source.shape[0])
        if self.streams:
            wave, _ = self.step(padded, voice, state, semitones)
        else:
            content, parts = self.content.encode(padded), []
            # Codes are few; what the decoder makes of them on its way to samples is not.
            pieces = zip(*(part.split(BLOCK_FRAMES, dim=-1) for part in content))
            for piece, chunk in zip(pieces, padded.split(BLOCK_FRAMES * self.hop, dim=-1)):
                part, state = self._speak(chunk, Content(*piece), voice, state, semitones)
                parts.append(part)
            wave = torch.cat(parts, dim=-1)
        return wave[..., self.look_ahead :][..., :samples]

    def pad_look_ahead(self, source: Wave) -> Float[Tensor, "batch 1 padded"]:
        """The source, its last sample held for as long as it takes to bring all out, in whole hops."""
        samples = source.shape[-1] + self.look_ahead
        return F.pad(source, (0, -samples % self.hop + self.look_ahead), mode="replicate")

    def begin(self, batch: int) -> dict[str, Any]:
        """Silence, and nothing known of the source's pitch."""
        return {
            "content": self.content.begin(batch) if self.streams else None,
            "delay": self.delay.begin(batch, self.mean_log_f0.prior.device) if self.delay else None,
            "pitch": self.pitch.begin(batch),
            "mean_log_f0": MeanState(*(part.double() for part in self.mean_log_f0.begin(batch))),
            "decoder": self.begin_decoder(batch),
            "gate": self.gate.begin(batch, self.mean_log_f0.prior.device) if self.gate else None,
        }

    def begin_decoder(self, batch: int, *, random: bool = False) -> dict[str, Any]:
        """The decoder's state before the first frame, whose level is not known yet (NaN)."""
        level = self.mean_log_f0.prior.new_full((batch, 1, 1), math.nan)
        return self.decoder.begin(batch, random=random) | {"level": level}

    def step(
        self, source: Wave, voice: Voice, state: dict[str, Any], semitones: Semitones = 0.0
    ) -> tuple[Wave, dict[str, Any]]:
        """Convert one chunk, a whole number of hops long; the output lags by ``look_ahead`` samples."""
        content, after_content = self.content.step(source, state["content"])
        source, content, after_delay = self._delayed(source, content, state["delay"])
        wave, after = self._speak(source, content, voice, state, semitones)
        return wave, after | {"content": after_content, "delay": after_delay}

    def encode(
        self, source: Wave, truth: Wave, warp: PerItem | None = None, level: PerItem | None = None
    ) -> Encoded:
        """What is taken from whole padded waves: content of the source, F0 of the truth, equally long."""
        state = self.begin(len(source))
        content = self.content.encode(source, warp, level)
        truth, content, _ = self._delayed(truth, content, state["delay"])
        return self.track(truth, content, state)[0]

    def _delayed(self, source: Wave, content: Content, state: Any) -> Any:
        return (source, content, None) if self.delay is None else self.delay.step(source, content, state)

    def _speak(
        self, source: Wave, content: Content, voice: Voice, state: dict[str, Any], semitones: Semitones
    ) -> tuple[Wave, dict[str, Any]]:
        """Speak what was encoded of one chunk; its pitch is found here."""
        encoded, after = self.track(source, content, state)
        pitch = shift_pitch(encoded.pitch, encoded.mean_log_f0, voice, semitones)
        wave, decoder = self.decode(encoded, pitch, voice, state["decoder"])
        after |= {"decoder": decoder}
        if self.gate is not None:
            wave, after["gate"] = self.gate.step(source, wave, content.level, state["gate"])
        return wave, after

    def track(self, source: Wave, content: Content, state: dict[str, Any]) -> tuple[Encoded, dict[str, Any]]:
        """Find the pitch of one chunk and the mean log-F0 of the source so far."""
        pitch, after_pitch = self.pitch.step(source, state["pitch"])
        weight = (pitch.voicing > 0.5).to(pitch.voicing.dtype)
        log_f0 = pitch.log_f0
        if self.config.content.relative_level:
            # By the level so far: hum before the first word, faint as it is, must not tell the voice's pitch.
            heard = torch.sigmoid(6.0 * (content.energy.double() + 2.5)) * content.level.double().exp()
            weight = weight * heard
        if self.pitch_predictor is not None:
            log_f0 = log_f0 + self.pitch_predictor(content.mels, pitch).double()
        mean, after_mean = self.mean_log_f0.step(log_f0, weight, state["mean_log_f0"])
        if self.config.content.relative_level:
            pitch = Pitch(octave_raised(pitch.log_f0, mean), pitch.voicing)
        return Encoded(content, pitch, mean), state | {"pitch": after_pitch, "mean_log_f0": after_mean}

    def decode(
        self, encoded: Encoded, pitch: Pitch, voice: Voice, state: dict[str, Any]
    ) -> tuple[Wave, dict[str, Any]]:
        """Speak what was encoded, at the source's level."""
        content = encoded.content
        wave, after = self.decoder.step(content.code, content.energy, pitch, voice, state)
        # A level is a log magnitude; within a frame it moves in a straight line from the last frame's.
        before = torch.where(state["level"].isnan(), content.level[..., :1], state["level"])
        gain = torch.cat([before, content.level], dim=-1).exp()
        rise = torch.arange(1, self.hop + 1, device=wave.device) / self.hop
        gain = gain[..., :-1, None] * (1.0 - rise) + gain[..., 1:, None] * rise  # (batch, 1, frames, hop)
        return wave * gain.flatten(2), after | {"level": content.level[..., -1:]}


# By name, because its style is a submodule, which Pythons from 3.12 on do not count as a member.
cast(Any, WaveNetwork).register(ConverterNetwork)


def octave_raised(log_f0: Curve, mean_log_f0: Curve) -> Curve:
    """Log-F0 an octave higher where it lies .7 octaves and more below the mean: a tracker's error."""
    octave = math.log(2.0)
    return log_f0 + octave * (log_f0 < mean_log_f0 - 0.7 * octave).to(log_f0.dtype)


def shift_pitch(pitch: Pitch, mean_log_f0: Curve, voice: Voice, semitones: Semitones = 0.0) -> Pitch:
    """Move log-F0 from the source's mean to the voice's, and by ``semitones`` beyond."""
    shift = torch.as_tensor(semitones * math.log(2.0) / 12.0, dtype=voice.dtype, device=voice.device)
    target = voice[:, -1:, None] + shift
    moved = pitch.log_f0 - mean_log_f0 + target
    return Pitch(moved.clamp_min(LOWEST).clamp_max(HIGHEST), pitch.voicing)
