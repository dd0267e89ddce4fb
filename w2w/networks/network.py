"""The converter network: encoders, decoder and gate; converting in chunks equals converting the whole."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.streaming import MeanState, RunningMean
from pretrain.causal.encoder import CausalEncoder, Content, PerItem
from pretrain.pitch.network import PIECE_FRAMES, LearnedPitchTracker, tracked
from pretrain.pitch.tracker import Pitch, PitchTracker
from w2w.networks.config import ConverterConfig
from w2w.networks.decoder import MEAN_LOG_F0, Decoder
from w2w.networks.delay import Delay, PauseGate
from w2w.networks.style import StyleEncoder
from w2w.networks.wave_network import Wave, WaveNetwork
from w2w.networks.whole_content import RecogniserContent, WholeContent

Voice = Float[Tensor, "batch voice"]
Curve = Float[Tensor, "batch 1 frames"]
Semitones = float | Float[Tensor, "1"]  # float64: the input of an exported graph
LOWEST, HIGHEST = math.log(50.0), math.log(600.0)
"""Limits of converted log-F0 (log of Hz)."""
KNOWN_FRAMES = 1e18
"""Weight in frames of a mean log-F0 known in advance, which holds for five minutes, silent or not."""
STEADY_FRAMES = 5
"""Consecutive voiced frames before one counts in the mean: a slamming door has two or three."""


class Encoded(NamedTuple):
    """Features of a source that do not depend on the target voice."""

    content: Content
    pitch: Pitch
    mean_log_f0: Curve
    """Running mean of the source's log-F0."""


class ConverterNetwork(nn.Module):
    """Source wave and a voice to converted wave.

    All layers are causal; the output lags the source by ``look_ahead`` samples, the only use of the future.
    """

    def __init__(self, config: ConverterConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate, self.hop, self.look_ahead = config.sample_rate, config.hop, config.look_ahead
        self.voice_dim, self.streams, self.moves_pitch = config.style.voice_dim, config.streams, True
        transformer = "content encoder is a pretrained transformer, which needs the whole utterance"
        self.needs_whole = "" if self.streams else transformer
        relative = config.content.relative_level
        rate, ahead = config.sample_rate, config.look_ahead
        if config.recogniser:
            self.content: CausalEncoder = RecogniserContent(
                config.content, config.recogniser, rate, ahead, config.recogniser_layers
            )
        elif config.trunk:
            # Imported here: transformers takes longer to import than all the rest and is rarely needed.
            from w2w.networks.trunk import PretrainedContent

            self.content = PretrainedContent(config.content, config.trunk, rate, ahead)
        else:
            self.content = CausalEncoder(config.content, rate)
        shape = (config.sample_rate, config.hop, config.window, config.content.n_mels)
        pitch = (
            LearnedPitchTracker(config.pitch).double().requires_grad_(False)
            if config.pitch
            else PitchTracker(config.sample_rate, config.hop, relative_level=relative)
        )
        self.style = StyleEncoder(
            config.style, *shape, pitch, pitch_ahead=config.pitch_ahead, relative_level=relative
        )
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
        return self.style.pitch

    def forward(self, source: Wave, voice: Voice, semitones: float = 0.0) -> Wave:
        """Convert whole waves; the result is as long as the source."""
        if not self.streams:
            return torch.cat(list(self.pieces(source, voice, semitones)), dim=-1)
        wave, _ = self.step(self.pad_look_ahead(source), voice, self.begin(len(source)), semitones)
        return wave[..., self.look_ahead :][..., : source.shape[-1]]

    def pieces(
        self, source: Wave, voice: Voice, semitones: float = 0.0, mean_log_f0: float | None = None
    ) -> Iterator[Wave]:
        """Encode whole waves, then decode piece by piece, since the decoder needs far more memory than codes.

        ``mean_log_f0`` is the source's, if known.
        """
        assert isinstance(self.content, WholeContent)
        padded, state = self.pad_look_ahead(source), self.begin(len(source), mean_log_f0)
        pitch = tracked(self.pitch, padded, self.config.pitch_ahead)
        start, skipped, left = 0, self.look_ahead, source.shape[-1]
        for encoded in self.content.pieces(padded):
            for piece in zip(*(part.split(PIECE_FRAMES, dim=-1) for part in encoded)):
                stop = start + piece[0].shape[-1]
                chunk = padded[..., start * self.hop : stop * self.hop]
                curve = Pitch(*(part[..., start:stop] for part in pitch))
                part, state = self._synthesise(chunk, Content(*piece), curve, voice, state, semitones)
                part, skipped, start = part[..., skipped:], max(skipped - part.shape[-1], 0), stop
                yield part[..., :left]
                left -= min(left, part.shape[-1])

    def pad_look_ahead(self, source: Wave) -> Float[Tensor, "batch 1 padded"]:
        """Pad the source with its last sample by the look-ahead, and to whole hops."""
        samples = source.shape[-1] + self.look_ahead
        return F.pad(source, (0, -samples % self.hop + self.look_ahead), mode="replicate")

    def begin(self, batch: int, mean_log_f0: float | None = None) -> dict[str, Any]:
        """State before the first chunk: silence, with the source's mean log-F0, if it is known."""
        mean = MeanState(*(part.double() for part in self.mean_log_f0.begin(batch)))
        if mean_log_f0 is not None:
            mean = MeanState(*map(torch.full_like, mean, (mean_log_f0 * KNOWN_FRAMES, KNOWN_FRAMES)))
        return {
            "content": self.content.begin(batch) if self.streams else None,
            "delay": self.delay.begin(batch, self.mean_log_f0.prior.device) if self.delay else None,
            "pitch": self.pitch.begin(batch),
            "mean_log_f0": mean,
            "voiced": mean.weight.new_zeros(batch, 1, STEADY_FRAMES - 1),
            "decoder": self.begin_decoder(batch),
            "gate": self.gate.begin(batch, self.mean_log_f0.prior.device) if self.gate else None,
        }

    def begin_decoder(self, batch: int, *, random: bool = False) -> dict[str, Any]:
        """The decoder's state before the first frame; NaN stands for the first frame's level."""
        level = self.mean_log_f0.prior.new_full((batch, 1, 1), math.nan)
        return self.decoder.begin(batch, random=random) | {"level": level}

    def step(
        self, source: Wave, voice: Voice, state: dict[str, Any], semitones: Semitones = 0.0
    ) -> tuple[Wave, dict[str, Any]]:
        """Convert one chunk, a whole number of hops long; the output lags by ``look_ahead`` samples."""
        content, after_content = self.content.step(source, state["content"])
        delayed, content, after_delay = self._delayed(source, content, state["delay"])
        pitch, after_pitch = self.pitch.step(source if self.config.pitch_ahead else delayed, state["pitch"])
        wave, after = self._synthesise(delayed, content, pitch, voice, state, semitones)
        return wave, after | {"content": after_content, "delay": after_delay, "pitch": after_pitch}

    def encode(
        self, source: Wave, truth: Wave, warp: PerItem | None = None, level: PerItem | None = None
    ) -> Encoded:
        """Encode whole padded waves of equal length: content of the source, F0 of the ground truth."""
        state = self.begin(len(source))
        content = self.content.encode(source, warp, level)
        delayed, content, _ = self._delayed(truth, content, state["delay"])
        ahead = self.config.pitch_ahead
        pitch = tracked(self.pitch, truth, ahead - self.config.frames_ahead) if ahead else self.pitch(delayed)
        return self.place_pitch(pitch, content, state)[0]

    def _delayed(self, source: Wave, content: Content, state: Any) -> Any:
        return (source, content, None) if self.delay is None else self.delay.step(source, content, state)

    def _synthesise(
        self,
        source: Wave,
        content: Content,
        pitch: Pitch,
        voice: Voice,
        state: dict[str, Any],
        semitones: Semitones,
    ) -> tuple[Wave, dict[str, Any]]:
        encoded, after = self.place_pitch(pitch, content, state)
        pitch = shift_pitch(encoded.pitch, encoded.mean_log_f0, voice, semitones)
        wave, decoder = self.decode(encoded, pitch, voice, state["decoder"], sharpen=True)
        after |= {"decoder": decoder}
        if self.gate is not None:
            voiced, _ = steadily_voiced(encoded.pitch, state["voiced"])
            wave, after["gate"] = self.gate.step(source, wave, content.level, voiced, state["gate"])
        return wave, after

    def place_pitch(
        self, pitch: Pitch, content: Content, state: dict[str, Any]
    ) -> tuple[Encoded, dict[str, Any]]:
        """Add the running mean of the source's log-F0, relative to which one chunk's F0 is shifted."""
        weight, voiced = steadily_voiced(pitch, state["voiced"])
        log_f0 = pitch.log_f0
        if self.config.content.relative_level:
            # Weighted by the level so far, so that faint hum before the first word does not set the mean.
            audible = torch.sigmoid(6.0 * (content.energy.double() + 2.5)) * content.level.double().exp()
            weight = weight * audible
        if self.pitch_predictor is not None:
            log_f0 = log_f0 + self.pitch_predictor(content.mels, pitch).double()
        mean, after_mean = self.mean_log_f0.step(log_f0, weight, state["mean_log_f0"])
        after = {"mean_log_f0": after_mean, "voiced": voiced}
        return Encoded(content, pitch, mean), state | after

    def decode(
        self, encoded: Encoded, pitch: Pitch, voice: Voice, state: dict[str, Any], *, sharpen: bool = False
    ) -> tuple[Wave, dict[str, Any]]:
        """Decode what was encoded, at the source's level; ``sharpen`` is for conversion, not for training."""
        content = encoded.content
        wave, after = self.decoder.step(content.code, content.energy, pitch, voice, state, sharpen=sharpen)
        # A level is a log magnitude; within a frame, the gain is interpolated linearly from the last frame's.
        before = torch.where(state["level"].isnan(), content.level[..., :1], state["level"])
        gain = torch.cat([before, content.level], dim=-1).exp()
        rise = torch.arange(1, self.hop + 1, device=wave.device) / self.hop
        gain = gain[..., :-1, None] * (1.0 - rise) + gain[..., 1:, None] * rise  # (batch, 1, frames, hop)
        return wave * gain.flatten(2), after | {"level": content.level[..., -1:]}


# Registered, because its `style` is a submodule, which Python 3.12 and later do not count as a member.
cast(Any, WaveNetwork).register(ConverterNetwork)


def shift_pitch(pitch: Pitch, mean_log_f0: Curve, voice: Voice, semitones: Semitones = 0.0) -> Pitch:
    """Shift log-F0 from the source's mean to the voice's, plus ``semitones``."""
    shift = torch.as_tensor(semitones * math.log(2.0) / 12.0, dtype=voice.dtype, device=voice.device)
    target = voice[:, -1:, None] + shift
    log_f0 = pitch.log_f0 - mean_log_f0 + target
    return Pitch(log_f0.clamp_min(LOWEST).clamp_max(HIGHEST), pitch.voicing)


class PitchPredictor(nn.Module):
    """Predicts what to add to a frame's log-F0 to get its speaker's mean, from the frame's mels and F0.

    The result, (batch, 1, frames), is in the precision of the mels.
    """

    def __init__(self, n_mels: int, n_channels: int = 96) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(n_mels + 1, n_channels, 1)
        self.distance = nn.Conv1d(n_channels, 1, 1)
        nn.init.zeros_(self.distance.weight)
        nn.init.zeros_(self.distance.bias)  # type: ignore[arg-type]

    def forward(self, mels: Float[Tensor, "batch n_mels frames"], pitch: Pitch) -> Curve:
        log_f0 = (pitch.log_f0 - MEAN_LOG_F0).to(mels.dtype)
        hidden = pointwise(self.hidden, torch.cat([0.3 * mels, 3.0 * log_f0], dim=1))
        return 0.3 * pointwise(self.distance, F.silu(hidden)).to(mels.dtype)  # undoes autocast


def pointwise(
    layer: nn.Conv1d, x: Float[Tensor, "batch inner frames"]
) -> Float[Tensor, "batch outer frames"]:
    """Apply a convolution of kernel size 1 in its input's precision; onnxruntime only convolves float32."""
    assert layer.bias is not None
    weight, bias = layer.weight[..., 0].to(x.dtype), layer.bias.to(x.dtype)
    return F.linear(x.transpose(1, 2), weight, bias).transpose(1, 2)


def steadily_voiced(
    pitch: Pitch, before: Float[Tensor, "batch 1 before"]
) -> tuple[Curve, Float[Tensor, "batch 1 before"]]:
    """1 where the last ``STEADY_FRAMES`` frames are voiced, else 0; and the frames for the next chunk."""
    voiced = torch.cat([before, (pitch.voicing > 0.5).double()], dim=-1)
    return -F.max_pool1d(-voiced, STEADY_FRAMES, stride=1), voiced[..., 1 - STEADY_FRAMES :]
