"""What a student is asked for: the averaged teacher's view of the whole clip (Baevski et al., 2022)."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.user_error import UserError
from pretrain.speech.encoder import Frames, SpeechEncoder
from pretrain.speech.layers import transformer_layer


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The average of the student's weights, and what is taken from it."""

    top: int = 8
    """Layers, from the last on, whose feed-forward outputs are averaged."""
    decay_first: float = 0.999
    """Share of the teacher that one update leaves, at the beginning."""
    decay_last: float = 0.9999
    """The same from ``decay_steps`` on."""
    decay_steps: int = 30_000
    """Updates over which it rises linearly."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay_first <= self.decay_last <= 1 or self.decay_steps < 1 or self.top < 1:
            raise UserError(
                "a teacher needs 0 <= decay_first <= decay_last <= 1, decay_steps and top of at least 1"
            )

    def decay(self, update: int) -> float:
        """Return the share of the teacher that is left after the ``update``-th update, counted from 0."""
        done = min(update / self.decay_steps, 1.0)
        return self.decay_first + (self.decay_last - self.decay_first) * done


class Teacher(nn.Module):
    """The average of the encoder's transformer layers, float32, in eval mode; all before them is shared."""

    def __init__(self, encoder: SpeechEncoder, config: TeacherConfig) -> None:
        super().__init__()
        n_layers = len(encoder.trunk.encoder.layers)
        if config.top > n_layers:
            raise UserError(f"teacher.top={config.top} asks for more layers than the encoder's {n_layers}")
        self.config = config
        self.layers = copy.deepcopy(encoder.trunk.encoder.layers)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, positioned: Frames) -> Frames:
        """Return the mean of the top layers' feed-forward outputs, each normalised over time, as float32."""
        x, total = positioned, torch.zeros_like(positioned, dtype=torch.float32)
        first = len(self.layers) - self.config.top
        for number, layer in enumerate(self.layers):
            x, fed = transformer_layer(layer, x)
            if number >= first:
                total += normalised_over_time(fed)
        return total / self.config.top

    @torch.no_grad()
    def follow(self, encoder: SpeechEncoder, update: int) -> None:
        """Move towards the student after its ``update``-th update, counted from 0."""
        ours: list[Tensor] = list(self.layers.parameters())
        theirs: list[Tensor] = list(encoder.trunk.encoder.layers.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - self.config.decay(update))


def normalised_over_time(x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
    """Bring each channel of each clip to zero mean and unit variance."""
    return F.instance_norm(x.float().transpose(1, 2)).transpose(1, 2)
