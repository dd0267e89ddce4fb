"""F0 inside the converter: its shift to the target voice, and the prediction of the source's mean."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretrain.pitch.tracker import Pitch

Curve = Float[Tensor, "batch 1 frames"]
Voice = Float[Tensor, "batch voice"]
Semitones = float | Float[Tensor, "1"]  # float64: the input of an exported graph
LOWEST, HIGHEST = math.log(50.0), math.log(600.0)
"""Limits of converted log-F0 (log of Hz)."""
MEAN_LOG_F0 = 5.0
"""About 150 Hz: networks get log-F0 relative to this."""


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
