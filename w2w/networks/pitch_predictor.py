"""How high a voice speaks on average, told from single frames."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretrain.pitch.correlation import Pitch
from w2w.networks.decoder import MEAN_LOG_F0

Curve = Float[Tensor, "batch 1 frames"]


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
