"""Whose voice: an encoder of reference speech into a few timbre tokens and a mean pitch."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from w2w.networks.analysis import CausalLogMel, frame_energy
from w2w.networks.pitch import PitchTracker

Voice = Float[Tensor, "batch voice"]


@dataclass(frozen=True, kw_only=True)
class StyleConfig:
    """The style encoder."""

    n_channels: int = 128
    """Width."""
    n_blocks: int = 3
    """Residual blocks."""
    n_tokens: int = 8
    """Timbre tokens: each gathers the voice's way with one family of sounds."""
    token_dim: int = 32
    """Channels of a token."""

    @property
    def voice_dim(self) -> int:
        """Numbers that make a voice: its tokens, and last its mean log-F0."""
        return self.n_tokens * self.token_dim + 1


class StyleEncoder(nn.Module):
    """Reference wave to a voice: attention gathers each timbre token from the frames that show it.

    A voice is a plain vector whose last entry is the mean of log-F0 (natural log of Hz) over voiced
    frames; voices may be averaged and blended entry by entry. Not causal: the reference is known beforehand.
    """

    def __init__(self, config: StyleConfig, sample_rate: int, hop: int, window: int, n_mels: int) -> None:
        super().__init__()
        self.config = config
        self.analysis = CausalLogMel(sample_rate, hop, window, n_mels)
        self.pitch = PitchTracker(sample_rate, hop)
        width = config.n_channels
        self.stem = nn.Conv1d(n_mels, width, 5, padding=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, width),
                nn.Conv1d(width, 2 * width, 5, padding=2),
                nn.GLU(1),
                nn.Conv1d(width, width, 1),
            )
            for _ in range(config.n_blocks)
        )
        self.relevance = nn.Conv1d(width, config.n_tokens, 1)
        self.value = nn.Conv1d(width + n_mels, config.n_tokens * config.token_dim, 1)

    def forward(self, wave: Float[Tensor, "batch 1 samples"]) -> Voice:
        """Encode clips into voices; gradients reach the tokens, not the pitch."""
        mels = self.analysis(wave)
        return torch.cat([self.timbre(mels), self.mean_log_f0(wave)], dim=-1)

    def timbre(self, mels: Float[Tensor, "batch n_mels frames"]) -> Float[Tensor, "batch tokens"]:
        """Gather the timbre tokens, flattened; pauses do not speak, and loudness says nothing."""
        energy = frame_energy(mels)
        audible = F.logsigmoid(2.0 * (energy - energy.amax(-1, keepdim=True) + 3.5))
        mels = mels - (energy * audible.softmax(-1)).sum(-1, keepdim=True)
        hidden = self.stem(mels * 0.5)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        attention = (self.relevance(hidden) + audible).softmax(-1)  # (batch, tokens, frames)
        values = self.value(torch.cat([hidden, mels * 0.5], dim=1))
        values = values.unflatten(1, (self.config.n_tokens, self.config.token_dim))
        return torch.einsum("bkt,bkdt->bkd", attention, values).flatten(1)

    def mean_log_f0(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch 1"]:
        """Mean log-F0 of voiced frames within half an octave of their median; 150 Hz where none is voiced."""
        pitch = self.pitch(wave)
        log_f0, known = pitch.log_f0[:, 0], pitch.voicing[:, 0] > 0.5
        median = log_f0.masked_fill(~known, math.nan).nanmedian(-1, keepdim=True).values
        near = (known & ((log_f0 - median).abs() < 0.5 * math.log(2.0))).double()
        # A hundredth of a frame of the default, so that silence, too, has a pitch.
        total = (log_f0 * near).sum(-1, keepdim=True) + 0.01 * math.log(150.0)
        return (total / (near.sum(-1, keepdim=True) + 0.01)).float()
