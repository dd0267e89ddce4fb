"""A causal content encoder with one code per 10 ms, and the student of a frozen speech encoder using it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.causal_mel import FAINT, CausalLogMel, LevelTracker, frame_energy
from engine.checkpoint import load_network
from engine.streaming import CausalConv1d, ResidualBlock, RunningMean, blocks_step
from engine.user_error import UserError, at_least
from pretrain.teacher import Teacher, at_times

Wave = Float[Tensor, "batch 1 samples"]
Code = Float[Tensor, "batch dim frames"]
Features = Float[Tensor, "batch features frames"]
Curve = Float[Tensor, "batch 1 frames"]
PerItem = Float[Tensor, " batch"]

LOWEST_BAND = 70.0
"""Lower edge of the mel bands, in Hz, above rumble, mains hum and the DC offset of cheap microphones."""
QUIETEST = -7.0
"""Floor of the log magnitude, relative to the level (−61 dB): anything below is treated as silence."""


@dataclass(frozen=True, kw_only=True)
class CausalEncoderConfig:
    n_channels: int = 256
    """Width."""
    n_blocks: int = 8
    """Residual blocks."""
    kernel: int = 5
    """Frames that a block's convolution spans."""
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    """Dilations of the blocks' convolutions, repeated."""
    dim: int = 64
    """Channels of the code."""
    n_mels: int = 80
    """Mel bands."""
    hop_ms: float = 10.0
    """Milliseconds between frames."""
    window_ms: float = 32.0
    """Analysis window in milliseconds."""
    time_constant: float = 200.0
    """Time constant, in frames, of the running mean spectrum that is subtracted from the mels."""
    relative_level: bool = True
    """Use mels relative to the level of the speech so far, without rumble and DC offset."""

    def __post_init__(self) -> None:
        at_least(1, self, "n_channels", "n_blocks", "kernel", "dim", "n_mels")
        if self.window_ms < self.hop_ms:
            raise UserError(f"window_ms={self.window_ms} must be at least hop_ms={self.hop_ms}")


class Content(NamedTuple):
    """The encoder's output, one value or vector per frame."""

    code: Code
    """Content embedding, normalised to unit mean square in every frame."""
    energy: Curve
    """Log of the mean mel magnitude, relative to the level."""
    level: Curve
    """Log magnitude of the loudest speech so far; 0 where energy is absolute."""
    mels: Float[Tensor, "batch n_mels frames"]
    """Log-mels relative to the level; float64 when gradients are disabled."""


class CausalEncoder(nn.Module):
    """Dilated causal convolutions on level- and mean-normalised log-mels, with a linear output layer.

    Frame ``t`` depends on samples before ``(t + 1) * hop``.
    """

    def __init__(self, config: CausalEncoderConfig, sample_rate: int) -> None:
        super().__init__()
        self.config, self.sample_rate = config, sample_rate
        self.hop = round(sample_rate * config.hop_ms / 1000)
        window = round(sample_rate * config.window_ms / 1000)
        conditioned = {"f_min": LOWEST_BAND, "floor": FAINT} if config.relative_level else {}
        self.analysis = CausalLogMel(sample_rate, self.hop, window, config.n_mels, **conditioned)
        self.level = LevelTracker() if config.relative_level else None
        self.mean = RunningMean(config.n_mels, time_constant=config.time_constant, prior_frames=20.0)
        width, dilations = config.n_channels, config.dilations
        self.stem = CausalConv1d(config.n_mels, width, 5)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, config.kernel, dilations[i % len(dilations)]) for i in range(config.n_blocks)
        )
        self.code = nn.Conv1d(width, config.dim, 1)

    def forward(self, wave: Wave, warp: PerItem | None = None) -> Code:
        """Return the codes of a whole wave; ``warp`` scales the frequencies of each item."""
        return self.encode(wave, warp).code

    def encode(self, wave: Wave, warp: PerItem | None = None, level: PerItem | None = None) -> Content:
        """Encode a whole wave; ``level`` is the log magnitude of the speech before it, if any."""
        return self.step(wave, self.begin(wave.shape[0], level), warp)[0]

    def begin(self, batch: int, level: PerItem | None = None) -> dict[str, Any]:
        """Return the initial state: silence, or silence after speech of the given level."""
        levels = self.level.begin(batch, self.analysis.bands.device) if self.level else None
        if levels is not None and level is not None:
            levels = levels._replace(level=level[:, None, None], peak=level[:, None, None])
        return {
            "analysis": self.analysis.begin(batch),
            "level": levels,
            "mean": self.mean.begin(batch),
            "stem": self.stem.begin(batch),
            "blocks": [block.begin(batch) for block in self.blocks],  # type: ignore[operator]
        }

    def step(
        self, wave: Wave, state: dict[str, Any], warp: PerItem | None = None
    ) -> tuple[Content, dict[str, Any]]:
        """Encode one chunk, a whole number of hops long."""
        features, levels, after = self.features(wave, state, warp)
        code, after_code = self.from_features(features, state)
        return Content(code, *levels), after | after_code

    def features(
        self, wave: Wave, state: dict[str, Any], warp: PerItem | None = None
    ) -> tuple[Features, tuple[Curve, Curve, Features], dict[str, Any]]:
        """Return the convolutions' input for one chunk; its energy, level and mels; and the next state."""
        # F0 may be predicted from these mels and is integrated into a phase: float32 rounding, which depends
        # on the chunk size, would become audible after a second.
        exact = self.level is not None and not torch.is_grad_enabled()
        mels, analysis = self.analysis.step(wave, state["analysis"], warp, exact=exact)
        energy, level, after_level = frame_energy(mels), mels.new_zeros(()), None
        if self.level is not None:
            level, after_level = self.level.step(energy, state["level"])
            mels = (mels - level).clamp_min(QUIETEST)
            energy = (energy - level).clamp_min(QUIETEST)
        # The channel is estimated from speech, not pauses: frames near the floor have almost no weight.
        mel, energy, level = mels.float(), energy.float(), level.float()
        mean, after_mean = self.mean.step(mel, torch.sigmoid(2.0 * (energy + 3.0)), state["mean"])
        after = {"analysis": analysis, "level": after_level, "mean": after_mean}
        return (mel - mean) * 0.5, (energy, level.expand_as(energy), mels), after

    def from_features(self, features: Features, state: dict[str, Any]) -> tuple[Code, dict[str, Any]]:
        """Return the code of one chunk and the next state of the convolutions."""
        hidden, stem = self.stem.step(features, state["stem"])
        hidden, blocks = blocks_step(self.blocks, hidden, state["blocks"])
        code = self.code(hidden).float()
        # The epsilon keeps the code of silence small instead of amplifying its arbitrary direction.
        code = code * torch.rsqrt(code.square().mean(1, keepdim=True) + 1e-5)
        return code, {"stem": stem, "blocks": blocks}


RELEASED = Path(__file__).parents[1] / "released" / "student"
"""Packaged student of Moonshine's encoder."""


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    KIND: ClassVar[str] = "causal_student"
    encoder: CausalEncoderConfig = field(default_factory=CausalEncoderConfig)
    sample_rate: int = 16_000
    """Sample rate of the input, in Hz."""
    look_ahead_ms: float = 8.0
    """Delay of the student's frames relative to the teacher's, in milliseconds: the student's look-ahead."""
    teacher_dim: int = 288
    """Channels of the teacher's features."""

    def __post_init__(self) -> None:
        at_least(0, self, "look_ahead_ms")


class Student(nn.Module):
    """The causal encoder with a linear head that predicts the teacher's features from the code."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = CausalEncoder(config.encoder, config.sample_rate)
        self.head = nn.Conv1d(config.encoder.dim, config.teacher_dim, 1)

    @property
    def look_ahead(self) -> int:
        """Look-ahead in samples."""
        return round(self.config.sample_rate * self.config.look_ahead_ms / 1000)

    def forward(self, wave: Wave, warp: PerItem | None = None) -> Code:
        """Return the codes of a whole wave."""
        return self.encoder(wave, warp)

    def places(self, teacher: Teacher, n_frames: int) -> Float[Tensor, " n_frames"]:
        """Return the positions of the teacher's frames, in fractional student frames."""
        return teacher.places(n_frames, self.encoder.hop, self.look_ahead)

    def predict(
        self, code: Code, places: Float[Tensor, " places"]
    ) -> Float[Tensor, "batch teacher_dim places"]:
        """Predict the teacher's features at these frame positions."""
        return self.head(at_times(code, places)).float()


def load_student(folder: str | Path) -> Student:
    """Load a student from an export or a run, ready for use; ``released`` is the packaged one."""
    return load_network(RELEASED if str(folder) == "released" else folder, StudentConfig, Student)
