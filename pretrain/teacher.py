"""A frozen speech encoder as a teacher, and the positions of its frames."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SAMPLE_RATE = 16_000
"""Sample rate, in Hz, of all teachers' input."""

Wave = Float[Tensor, "batch 1 samples"]
Features = Float[Tensor, "batch dim frames"]
Hidden = Float[Tensor, "batch frames hidden"]


class Framing(NamedTuple):
    """Positions of an encoder's frames in the wave, in samples."""

    hop: int
    """Samples between frames."""
    offset: int
    """Centre of frame 0's receptive field before the transformer."""
    shortest: int
    """Length of the shortest wave that gives a frame."""


def framing_of(kernels: Sequence[int], strides: Sequence[int]) -> Framing:
    """Return the framing of unpadded strided convolutions: frames at the centre of their receptive field.

    Attention does not move them: linear regression of log-mels on frames is best at that centre.
    """
    receptive_field, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        receptive_field, hop = receptive_field + (kernel - 1) * hop, hop * stride
    return Framing(hop=hop, offset=(receptive_field - 1) // 2, shortest=receptive_field)


class Teacher(nn.Module):
    """A frozen speech encoder: gradients pass through it to the wave, never to its weights.

    Its features are its last hidden states, layer-normalised over the channels, in float32; a network that
    returns the states of ``n_layers`` layers, one after the other, has each of them normalised. It stays in
    evaluation mode; ``train`` has no effect. Waves too short for one frame are padded with silence.
    ``hidden`` computes the network's last hidden states of waves; by default, the network itself does.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        network: nn.Module,
        framing: Framing,
        dim: int,
        hidden: Callable[[Any, Wave], Hidden] = nn.Module.__call__,
        n_layers: int = 1,
    ) -> None:
        super().__init__()
        self.network = network.float().requires_grad_(False)
        self.hidden = hidden
        self.hop, self.offset, self.shortest = framing
        self.dim, self.n_layers = dim * n_layers, n_layers
        """Channels of the features, and layers that these are of."""
        self.train(False)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    def forward(self, wave: Wave) -> Features:
        wave = F.pad(wave, (0, max(0, self.shortest - wave.shape[-1])))
        hidden = self.hidden(self.network, wave).float().unflatten(-1, (self.n_layers, -1))
        return F.layer_norm(hidden, hidden.shape[-1:]).flatten(-2).transpose(1, 2)

    def places(self, n_frames: int, hop: int, look_ahead: int = 0) -> Float[Tensor, " n_frames"]:
        """Return the first frames' positions in fractional frames of another encoder at the same sample rate.

        That encoder has a frame every ``hop`` samples and ``look_ahead`` samples of look-ahead.
        """
        return (torch.arange(n_frames) * self.hop + self.offset + look_ahead) / hop


def at_times(features: Features, places: Float[Tensor, " places"]) -> Float[Tensor, "batch dim places"]:
    """Interpolate linearly at fractional frames; beyond the ends, the first or last frame is repeated."""
    places = places.to(features.device, torch.float32).clamp(0, features.shape[-1] - 1)
    before = places.long()
    after = (before + 1).clamp(max=features.shape[-1] - 1)
    return torch.lerp(features[..., before], features[..., after], (places - before).to(features.dtype))
