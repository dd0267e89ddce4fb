"""Learned correction of the source-filter wave, in frames of 2.5 ms."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from engine.streaming import ResidualBlock, blocks_step
from engine.user_error import UserError, at_least
from w2w.networks.heads import Features, Wave, overlap_add


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """Sizes of the network between the source-filter wave and the output."""

    n_channels: int = 128
    """Channels of the residual blocks, and filters in the bank."""
    n_blocks: int = 4
    """Residual blocks; their dilations are 1, 2, 4, 1, …"""
    per_frame: int = 4
    """Short frames per frame of the decoder."""

    def __post_init__(self) -> None:
        at_least(1, self, "n_channels", "n_blocks", "per_frame", prefix="refiner.")


class Refiner(nn.Module):
    """Adds a correction to a wave: a linear filter bank on the wave, gated by a network.

    Since only the gated wave itself is added, silence stays silent and the frame rate leaves no audible
    pattern. Phases come from the wave, gates from the wave and the decoder's features. Initialised as the
    identity. Causal, without latency: a correction starts with its frame's samples.
    """

    def __init__(self, config: RefinerConfig, n_features: int, hop: int) -> None:
        super().__init__()
        self.per_frame, width = config.per_frame, config.n_channels
        if hop % self.per_frame:
            raise UserError(f"refiner.per_frame={self.per_frame} must divide the hop of {hop} samples")
        self.short = short = hop // self.per_frame
        self.window = 4 * short
        self.bank = nn.Linear(self.window, width, bias=False)
        self.analysis = nn.Linear(self.window, width, bias=False)
        self.condition = nn.Conv1d(n_features, width * self.per_frame, 1)
        self.blocks = nn.ModuleList(ResidualBlock(width, 5, 2 ** (i % 3)) for i in range(config.n_blocks))
        self.gate = nn.Conv1d(width, width, 1)
        self.synthesis = nn.Linear(width, 2 * short, bias=False)
        with torch.no_grad():
            for bank in (self.bank, self.analysis):  # waves have amplitudes of about 0.1
                bank.weight.mul_(5.0)
            self.gate.weight.zero_()
            self.gate.bias.zero_()  # type: ignore[union-attr]

    def begin(self, batch: int) -> dict[str, Any]:
        zeros = self.bank.weight.new_zeros
        return {
            "past": zeros(batch, 1, self.window - self.short),
            "blocks": [block.begin(batch) for block in self.blocks],  # type: ignore[operator]
            "tail": zeros(batch, self.short),
        }

    def step(self, wave: Wave, features: Features, state: dict[str, Any]) -> tuple[Wave, dict[str, Any]]:
        """Correct one chunk, a whole number of the decoder's frames long."""
        window = torch.cat([state["past"], wave], dim=-1)
        frames = window[:, 0].unfold(-1, self.window, self.short)
        condition = self.condition(features).unflatten(1, (-1, self.per_frame))  # (b, c, short, frames)
        hidden = self.analysis(frames).transpose(1, 2) + condition.transpose(2, 3).flatten(2)
        hidden, blocks = blocks_step(self.blocks, F.silu(hidden), state["blocks"])
        gated = self.bank(frames) * self.gate(hidden).transpose(1, 2)
        correction, tail = overlap_add(self.synthesis(gated).float(), self.short, state["tail"])
        past = window[..., window.shape[-1] - self.window + self.short :]
        return wave + correction, {"past": past, "blocks": blocks, "tail": tail}
