"""A causal network that estimates F0 and voicing from normalised correlations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.checkpoint import load_network
from engine.streaming import CausalConv1d, ResidualBlock, blocks_step
from engine.user_error import UserError, at_least
from pretrain.pitch.tracker import FAINT, Correlation, CorrelationState, Pitch, PitchTracker

PACKAGED = Path(__file__).parents[1] / "released"
RELEASED = {"released": PACKAGED / "pitch", "released_ahead": PACKAGED / "pitch_ahead"}
"""Packaged trackers, with 8 ms and 168 ms of look-ahead."""
REACH = 4
"""Bins on either side of the most likely one over which log-F0 is averaged."""
PIECE_FRAMES = 400
"""Frames of a whole wave processed at once, which bounds memory."""

Wave = Float[Tensor, "batch 1 samples"]
Features = Float[Tensor, "batch features frames"]


@dataclass(frozen=True, kw_only=True)
class PitchNetworkConfig:
    KIND: ClassVar[str] = "pitch_tracker"
    sample_rate: int = 16_000
    """Sample rate of the input, in Hz."""
    hop_ms: float = 10.0
    """Milliseconds between frames."""
    look_ahead_ms: float = 8.0
    """Look-ahead: the output describes the time this many milliseconds before the end of the newest frame."""
    n_channels: int = 96
    """Width."""
    n_blocks: int = 4
    """Residual blocks; their dilations are 1, 2, 4, 1, …"""

    def __post_init__(self) -> None:
        if min(self.sample_rate, self.n_channels, self.n_blocks) < 1 or self.hop_ms <= 0:
            raise UserError("sample_rate, hop_ms, n_channels and n_blocks must be above 0")
        at_least(0, self, "look_ahead_ms")

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return round(self.sample_rate * self.hop_ms / 1000)


class PitchLogits(NamedTuple):
    bins: Float[Tensor, "batch bins frames"]
    """Unnormalised log-probability of each F0 bin."""
    voicing: Float[Tensor, "batch 1 frames"]
    """Logit of the probability of being voiced."""


class LearnedPitchTracker(nn.Module):
    """A causal convolutional network that classifies F0 into bins and estimates voicing.

    Its input is the normalised correlations of a classical tracker, and levels. F0 is the weighted mean of
    log-F0 around the most likely bin (Kim et al. 2018, eq. 2). Use it as ``double()``: F0 is integrated into
    a phase, and float32 rounding, which depends on the chunk size, would become audible after a second.
    """

    log_f0: Tensor

    def __init__(self, config: PitchNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.correlation = Correlation(config.sample_rate, config.hop, FAINT)
        self.register_buffer("log_f0", self.correlation.log_f0, persistent=False)
        width, n_bins = config.n_channels, len(self.log_f0)
        self.stem = CausalConv1d(n_bins + 1, width, 3)
        self.blocks = nn.ModuleList(ResidualBlock(width, 5, 2 ** (i % 3)) for i in range(config.n_blocks))
        self.out = nn.Conv1d(width, n_bins + 1, 1)

    def forward(self, wave: Wave) -> Pitch:
        return self.step(wave, self.begin(wave.shape[0]))[0]

    def begin(self, batch: int) -> dict[str, Any]:
        return {
            "correlation": self.correlation.begin(batch),
            "stem": self.stem.begin(batch),
            "blocks": [block.begin(batch) for block in self.blocks],  # type: ignore[operator]
        }

    @torch.no_grad()
    def step(self, wave: Wave, state: dict[str, Any]) -> tuple[Pitch, dict[str, Any]]:
        """Track one chunk, a whole number of hops long; float64."""
        logits, after = self.logits(wave, state)
        return self.decode(logits), after

    def logits(self, wave: Wave, state: dict[str, Any]) -> tuple[PitchLogits, dict[str, Any]]:
        """Return the network's output for one chunk; gradients reach the network, not the wave."""
        with torch.no_grad():
            features, correlation = self.features(wave, state["correlation"])
        hidden, stem = self.stem.step(features, state["stem"])
        hidden, blocks = blocks_step(self.blocks, F.silu(hidden), state["blocks"])
        bins, voicing = self.out(hidden).split([len(self.log_f0), 1], dim=1)
        return PitchLogits(bins, voicing), {"correlation": correlation, "stem": stem, "blocks": blocks}

    def features(self, wave: Wave, state: CorrelationState) -> tuple[Features, CorrelationState]:
        """Return correlations and, as the last channel, the level relative to the peak, about −1 to 0."""
        (salience, power, loudest), after = self.correlation.step(wave, state)
        level = ((power / loudest).clamp_min(1e-6).log10() / 6.0)[..., None]
        features = torch.cat([salience, level], dim=-1).transpose(1, 2)
        return features.to(self.stem.weight.dtype), after

    def decode(self, logits: PitchLogits) -> Pitch:
        """Return the mean of log-F0 around the most likely bin, and the probability of being voiced."""
        last = len(self.log_f0) - 1
        around = torch.arange(-REACH, REACH + 1, device=self.log_f0.device)[:, None]
        near = logits.bins.argmax(1, keepdim=True).clamp(REACH, last - REACH) + around
        weight = logits.bins.gather(1, near).double().softmax(1)
        log_f0 = (weight * self.log_f0[near]).sum(1, keepdim=True)
        return Pitch(log_f0, logits.voicing.double().sigmoid())


def load_pitch_tracker(folder: str | Path) -> LearnedPitchTracker:
    """Load a tracker from an export, a run or by its name in ``RELEASED``, in float64 and ready for use."""
    folder = RELEASED.get(str(folder), Path(folder))
    return load_network(folder, PitchNetworkConfig, LearnedPitchTracker).double()


def tracked(
    tracker: LearnedPitchTracker | PitchTracker, wave: Float[Tensor, "batch 1 samples"], frames_ahead: int
) -> Pitch:
    """Track a whole wave with a tracker that is ``frames_ahead`` frames late, and undo this delay."""
    hop, pieces = tracker.correlation.hop, []
    state: Any = tracker.begin(len(wave))
    padded = F.pad(wave, (0, frames_ahead * hop), mode="replicate")
    whole = padded[..., : padded.shape[-1] // hop * hop]
    for piece in whole.split(PIECE_FRAMES * hop, dim=-1):
        pitch, state = tracker.step(piece, state)
        pieces.append(pitch)
    return Pitch(*(torch.cat(part, dim=-1)[..., frames_ahead:] for part in zip(*pieces)))
