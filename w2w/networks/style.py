"""The style encoder: reference speech to a voice, which is a few timbre tokens and a mean log-F0."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from data.audio.sinc import resample
from data.causal_mel import FAINT, CausalLogMel, frame_energy
from engine.user_error import UserError
from pretrain.causal.encoder import LOWEST_BAND
from pretrain.clip.audio_config import AudioEncoderConfig
from pretrain.pitch.network import LearnedPitchTracker, tracked
from pretrain.pitch.tracker import Pitch, PitchTracker

FAINTEST = -4.0
"""Floor of log magnitudes relative to the clip's speech, −35 dB: noise in a recording must not identify the
voice."""


@dataclass(frozen=True, kw_only=True)
class StyleConfig:
    """Sizes of the style encoder."""

    n_channels: int = 160
    """Channels of the residual blocks."""
    n_blocks: int = 3
    """Residual blocks."""
    n_tokens: int = 12
    """Timbre tokens, each of which represents the voice in one family of sounds."""
    token_dim: int = 40
    """Dimension of a token."""
    encoder: Literal["tokens", "wav2clip"] = "tokens"
    """Input: ``tokens``: only mels; ``wav2clip``: mels and the features of Wav2CLIP's audio encoder."""
    audio: AudioEncoderConfig | None = None
    """Wav2CLIP's audio encoder, if it is used."""

    def __post_init__(self) -> None:
        if (self.encoder == "wav2clip") != (self.audio is not None):
            raise UserError(
                f"style.encoder={self.encoder!r} goes {'without' if self.audio else 'with'} style.audio: "
                "let --pretrained.style FOLDER set both"
            )

    @property
    def voice_dim(self) -> int:
        """Dimension of a voice: its flattened tokens, then its mean log-F0."""
        return self.n_tokens * self.token_dim + 1


class StyleEncoder(nn.Module):
    """Reference wave to a voice: each timbre token is an attention-weighted sum over the frames.

    A voice is a plain vector whose last entry is the mean of log-F0 (natural log of Hz) over voiced
    frames; voices may be averaged and blended entry by entry. Not causal: the reference is known beforehand.

    Wav2CLIP's frames, each of 32 of its hops, are too long to separate single sounds: they are interpolated
    to the mels' frames, so that tokens still attend to single sounds, with Wav2CLIP's features as context.
    """

    def __init__(
        self,
        config: StyleConfig,
        sample_rate: int,
        hop: int,
        window: int,
        n_mels: int,
        pitch: LearnedPitchTracker | PitchTracker,
        *,
        pitch_ahead: int = 0,
        relative_level: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.sample_rate, self.relative_level = config, sample_rate, relative_level
        conditioned = {"f_min": LOWEST_BAND, "floor": FAINT} if relative_level else {}
        self.analysis = CausalLogMel(sample_rate, hop, window, n_mels, **conditioned)
        self.pitch, self.pitch_ahead = pitch, pitch_ahead
        width = config.n_channels
        self.stem = nn.Conv1d(n_mels, width, 5, padding=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                FrameNorm(width) if relative_level else nn.GroupNorm(1, width),
                nn.Conv1d(width, 2 * width, 5, padding=2),
                nn.GLU(1),
                nn.Conv1d(width, width, 1),
            )
            for _ in range(config.n_blocks)
        )
        self.relevance = nn.Conv1d(width, config.n_tokens, 1)
        self.value = nn.Conv1d(width + n_mels, config.n_tokens * config.token_dim, 1)
        self.audio: Any = None
        if config.audio is not None:
            from pretrain.clip.audio_encoder import AudioEncoder

            # Without the projection to CLIP's space, and independent of the batch's other items.
            sizes = replace(config.audio, transform=False, dim=config.audio.channels, normalisation="clip")
            self.audio = AudioEncoder(sizes)
            self.lay = nn.Conv1d(config.audio.channels, width, 1)
            self.train()

    def train(self, mode: bool = True) -> "StyleEncoder":
        """Keep Wav2CLIP's batch norm in evaluation mode: a voice must not depend on others in its batch."""
        super().train(mode)
        for module in self.audio.modules() if self.audio is not None else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch voice"]:
        """Encode clips into voices; gradients reach the tokens, not the pitch.

        Frames far from voiced speech, such as clicks, slams and noise, are ignored, unless nothing is voiced.
        """
        pitch = tracked(self.pitch, wave, self.pitch_ahead)
        speech = near_voiced(pitch.voicing).to(wave.dtype) if self.relative_level else None
        return torch.cat([self.timbre_of(wave, speech), self.mean_log_f0(wave, pitch, speech)], dim=-1)

    def timbre_of(
        self, wave: Float[Tensor, "batch 1 samples"], speech: Float[Tensor, "batch 1 frames"] | None = None
    ) -> Float[Tensor, "batch tokens"]:
        """Flattened timbre tokens of a wave; ``speech`` is 1 in the frames to use, by default in all."""
        mels = self.analysis(wave)
        if self.audio is None:
            return self.timbre(mels, speech)
        features = self.audio.features(resample(wave, self.sample_rate, self.audio.config.sample_rate))
        return self.timbre(mels, speech, F.interpolate(features, mels.shape[-1], mode="linear"))

    def timbre(
        self,
        mels: Float[Tensor, "batch n_mels frames"],
        speech: Float[Tensor, "batch 1 frames"] | None = None,
        audio_features: Float[Tensor, "batch channels frames"] | None = None,
    ) -> Float[Tensor, "batch tokens"]:
        """Flattened timbre tokens of mels, independent of pauses and of loudness.

        ``audio_features`` are Wav2CLIP's, in as many frames.
        """
        mels, audible = self.leveled(mels, speech)
        hidden = self.stem(mels * 0.5)
        if audio_features is not None:
            hidden = hidden + self.lay(audio_features)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        attention = (self.relevance(hidden) + audible).softmax(-1)  # (batch, tokens, frames)
        values = self.value(torch.cat([hidden, mels * 0.5], dim=1))
        values = values.unflatten(1, (self.config.n_tokens, self.config.token_dim))
        return torch.einsum("bkt,bkdt->bkd", attention, values).flatten(1)

    def leveled(
        self,
        mels: Float[Tensor, "batch n_mels frames"],
        speech: Float[Tensor, "batch 1 frames"] | None = None,
    ) -> tuple[Float[Tensor, "batch n_mels frames"], Float[Tensor, "batch 1 frames"]]:
        """Mels relative to the level of the clip's speech, and the log weight of each frame."""
        energy = frame_energy(mels)
        if not self.relative_level:
            audible = F.logsigmoid(2.0 * (energy - energy.amax(-1, keepdim=True) + 3.5))
            return mels - (energy * audible.softmax(-1)).sum(-1, keepdim=True), audible
        mask = 0.0 if speech is None else 30.0 * (speech - 1.0)
        # Weighted by amplitude: minutes of silence, or one click, hardly change it.
        level = (energy * (energy + mask).softmax(-1)).sum(-1, keepdim=True)
        audible = F.logsigmoid(6.0 * (energy - level + 2.5)) + mask
        return (mels - level).clamp_min(FAINTEST), audible

    def mean_log_f0(
        self,
        wave: Float[Tensor, "batch 1 samples"],
        pitch: Pitch | None = None,
        speech: Float[Tensor, "batch 1 frames"] | None = None,
    ) -> Float[Tensor, "batch 1"]:
        """Mean log-F0 of audible voiced frames; that of 150 Hz if no frame is voiced.

        With absolute levels, the mean is over voiced frames within half an octave of their median.
        """
        if pitch is None:
            pitch = tracked(self.pitch, wave, self.pitch_ahead)
        log_f0, known = pitch.log_f0[:, 0], pitch.voicing[:, 0] > 0.5
        if self.relative_level:
            audible = self.leveled(self.analysis(wave), speech)[1][:, 0]
            weight = known * audible.exp().double()
        else:
            median = log_f0.masked_fill(~known, math.nan).nanmedian(-1, keepdim=True).values
            weight = (known & ((log_f0 - median).abs() < 0.5 * math.log(2.0))).double()
        # A hundredth of a frame of the default defines the mean of silence.
        total = (log_f0 * weight).sum(-1, keepdim=True) + 0.01 * math.log(150.0)
        return (total / (weight.sum(-1, keepdim=True) + 0.01)).float()


def near_voiced(voicing: Float[Tensor, "batch 1 frames"]) -> Bool[Tensor, "batch 1 frames"]:
    """Frames within 0.1 s of a window of 0.2 s with 60 ms voiced; all frames if there is no such window."""
    voiced = (voicing > 0.5).double()
    lasting = F.avg_pool1d(F.pad(voiced, (10, 10)), 21, 1) > 0.24
    near = F.max_pool1d(lasting.double(), 21, 1, padding=10) > 0
    return near | ~near.any(-1, keepdim=True)


class FrameNorm(nn.Module):
    """Normalises each frame over its channels, independently of the clip's other frames, such as silence."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_channels, 1))
        self.bias = nn.Parameter(torch.zeros(n_channels, 1))

    def forward(self, x: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels frames"]:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-4) * self.weight + self.bias
