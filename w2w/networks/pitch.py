"""F0 on its way through the converter: moved to another voice, its mean predicted."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretrain.pitch.tracker import Pitch

Curve = Float[Tensor, "batch 1 frames"]
Voice = Float[Tensor, "batch voice"]
Semitones = float | Float[Tensor, "1"]  # of float64: what a graph takes
LOWEST, HIGHEST = math.log(50.0), math.log(600.0)
"""Log of Hz: converted F0 stays inside."""
MEAN_LOG_F0 = 5.0
"""About 150 Hz: log-F0 is fed to networks as its distance from here."""


def shift_pitch(pitch: Pitch, mean_log_f0: Curve, voice: Voice, semitones: Semitones = 0.0) -> Pitch:
    """Move log-F0 from the source's mean to the voice's, and by ``semitones`` beyond."""
    shift = torch.as_tensor(semitones * math.log(2.0) / 12.0, dtype=voice.dtype, device=voice.device)
    target = voice[:, -1:, None] + shift
    moved = pitch.log_f0 - mean_log_f0 + target
    return Pitch(moved.clamp_min(LOWEST).clamp_max(HIGHEST), pitch.voicing)


class PitchPredictor(nn.Module):
    """How far a frame's log-F0 lies from its speaker's mean, told by its spectrum: (batch, 1, frames).

    In the precision of the mels.
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
        return 0.3 * pointwise(self.distance, F.silu(hidden)).to(mels.dtype)  # back from autocast's


def pointwise(
    layer: nn.Conv1d, x: Float[Tensor, "batch inner frames"]
) -> Float[Tensor, "batch outer frames"]:
    """Apply a convolution of length 1 in its input's precision; onnxruntime convolves float32 alone."""
    assert layer.bias is not None
    weight, bias = layer.weight[..., 0].to(x.dtype), layer.bias.to(x.dtype)
    return F.linear(x.transpose(1, 2), weight, bias).transpose(1, 2)
