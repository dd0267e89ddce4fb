"""What is said: a causal encoder of the wave, with a bottleneck too narrow for a voice."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.streaming import CausalConv1d, StridedCausalConv1d
from w2w.networks.analysis import CausalLogMel, frame_energy
from w2w.networks.blocks import ResidualBlock
from w2w.networks.running_mean import MeanState, RunningMean

Wave = Float[Tensor, "batch 1 samples"]


@dataclass(frozen=True, kw_only=True)
class ContentConfig:
    """The content encoder."""

    frontend: Literal["mel", "conv"] = "mel"
    """``mel``: fixed filters; ``conv``: strided convolutions learned on the samples (NVC-Net's kind)."""
    n_channels: int = 176
    """Width."""
    n_blocks: int = 6
    """Residual blocks; their dilations are 1, 2, 4, 1, 2, 4, …"""
    dim: int = 12
    """Channels of the code: the bottleneck."""
    time_constant: float = 200.0
    """Frames over which the mean spectrum is taken away from the mels; 0 leaves it there."""


class Content(NamedTuple):
    """What the decoder is told of the source."""

    code: Float[Tensor, "batch dim frames"]
    """Of unit length in every frame."""
    energy: Float[Tensor, "batch 1 frames"]
    """Log of the mean mel magnitude."""


class ContentEncoder(nn.Module):
    """Raw wave to one unit-length code per hop; frame ``t`` has seen samples before ``(t + 1) * hop``."""

    def __init__(self, config: ContentConfig, sample_rate: int, hop: int, window: int, n_mels: int) -> None:
        super().__init__()
        self.config, self.hop = config, hop
        self.analysis = CausalLogMel(sample_rate, hop, window, n_mels)
        width = config.n_channels
        self.mean = (
            RunningMean(n_mels, time_constant=config.time_constant, prior_frames=20.0)
            if config.time_constant and config.frontend == "mel"
            else None
        )
        self.samples = nn.ModuleList()
        if config.frontend == "conv":
            channels = [1, 16, 32, 64, width]
            for inner, outer, stride in zip(channels[:-1], channels[1:], factors(hop)):
                self.samples.append(StridedCausalConv1d(inner, outer, 2 * stride, stride=stride))
        self.stem = CausalConv1d(n_mels if config.frontend == "mel" else width, width, 5)
        self.blocks = nn.ModuleList(ResidualBlock(width, 5, 2 ** (i % 3)) for i in range(config.n_blocks))
        self.code = nn.Conv1d(width, config.dim, 1)

    def forward(self, wave: Wave, warp: Float[Tensor, " batch"] | None = None) -> Content:
        """Encode a whole wave; ``warp`` perturbs the voice that the encoder hears, in training."""
        return self.step(wave, self.begin(wave.shape[0]), warp)[0]

    def begin(self, batch: int) -> dict[str, Any]:
        """Silence."""
        return {
            "analysis": self.analysis.begin(batch),
            "mean": self.mean.begin(batch) if self.mean is not None else None,
            "samples": [layer.begin(batch) for layer in self.samples],  # type: ignore[operator]
            "stem": self.stem.begin(batch),
            "blocks": [block.begin(batch) for block in self.blocks],  # type: ignore[operator]
        }

    def step(
        self, wave: Wave, state: dict[str, Any], warp: Float[Tensor, " batch"] | None = None
    ) -> tuple[Content, dict[str, Any]]:
        """Encode one chunk, a whole number of hops long."""
        mels, after_analysis = self.analysis.step(wave, state["analysis"], warp)
        energy = frame_energy(mels)
        after_mean: MeanState | None = None
        samples = []
        if self.config.frontend == "mel":
            hidden = mels
            if self.mean is not None:
                # Speech, not pauses, tells a voice: frames near the floor hardly count.
                mean, after_mean = self.mean.step(mels, torch.sigmoid(2.0 * (energy + 3.0)), state["mean"])
                hidden = mels - mean
            hidden = hidden * 0.5
        else:
            hidden = wave
            for layer, past in zip(self.samples, state["samples"]):
                hidden, after = layer.step(hidden, past)  # type: ignore[operator]
                hidden = F.silu(hidden)
                samples.append(after)
        hidden, stem = self.stem.step(hidden, state["stem"])
        blocks = []
        for block, past in zip(self.blocks, state["blocks"]):
            hidden, after = block.step(hidden, past)  # type: ignore[operator]
            blocks.append(after)
        code = self.code(hidden)
        # The root keeps silence's code short instead of blowing up its direction.
        code = code * torch.rsqrt(code.square().sum(1, keepdim=True) + 1e-4)
        after_all = {
            "analysis": after_analysis,
            "mean": after_mean,
            "samples": samples,
            "stem": stem,
            "blocks": blocks,
        }
        return Content(code, energy), after_all


def factors(hop: int) -> list[int]:
    """Split a hop of 10 ms into four strides: 160 = 2·4·4·5, 240 = 3·4·4·5."""
    rest, strides = hop, []
    for stride in (5, 4, 4):
        if rest % stride:
            raise ValueError(
                f"hop={hop} is not a multiple of 80 samples: choose sample_rate a multiple of 8 kHz"
            )
        rest //= stride
        strides.append(stride)
    return [rest, *reversed(strides)]
