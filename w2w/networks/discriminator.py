"""The discriminator: multi-scale MelGAN discriminators whose trunk also feeds the contrastive projector."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Wave = Float[Tensor, "batch 1 samples"]


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The discriminator."""

    n_scales: int = 3
    """Discriminators, each hearing half the rate of the one before (a single one does not converge)."""
    n_channels: int = 16
    """Channels of the first layer; every strided layer has up to four times more."""
    max_channels: int = 256
    """Most channels (MelGAN: 1024)."""
    n_strided: int = 4
    """Layers of stride 4."""
    projection_dim: int = 256
    """Numbers in a projection."""
    n_speakers: int = 0
    """Speakers that the label head tells apart; 0 leaves the head out."""


class DiscriminatorOutput(NamedTuple):
    """What the discriminator makes of some waves."""

    scores: list[Tensor]
    """One map per scale, (batch, 1, frames): large for real speech."""
    features: list[list[Tensor]]
    """Per scale, the outputs of all layers but the last."""
    projection: Float[Tensor, "batch dim"]
    """Of unit length: near for the same voice."""
    speakers: Float[Tensor, "batch n_speakers"]
    """Logits of the label head."""


class Discriminator(nn.Module):
    """Discriminators (Kumar et al. 2019); on their pooled trunks a projector and an optional label head."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.scales = nn.ModuleList(Scale(config) for _ in range(config.n_scales))
        pooled = 2 * sum(scale.width for scale in self.scales)  # type: ignore[misc, arg-type]
        self.projector = nn.Sequential(
            nn.Linear(pooled, 2 * config.projection_dim),
            nn.LeakyReLU(0.2),
            nn.Linear(2 * config.projection_dim, config.projection_dim),
        )
        width, n_speakers = 2 * config.projection_dim, config.n_speakers
        self.speaker = nn.Linear(width, n_speakers) if n_speakers else None

    def forward(self, wave: Wave) -> DiscriminatorOutput:
        """Score a batch; waves of a few thousand samples or more."""
        scores, features, pools = [], [], []
        for i, scale in enumerate(self.scales):
            if i:
                wave = F.avg_pool1d(wave, 4, stride=2, padding=1, count_include_pad=False)
            score, maps = scale(wave)
            scores.append(score)
            features.append(maps)
            trunk = maps[-1]
            pools += [trunk.mean(-1), (trunk.var(-1, unbiased=False) + 1e-5).sqrt()]
        pooled = torch.cat(pools, dim=-1)
        hidden = self.projector[:2](pooled)
        projection = F.normalize(self.projector[2](hidden), dim=-1)
        speakers = self.speaker(hidden) if self.speaker is not None else hidden[:, :0]
        return DiscriminatorOutput(scores, features, projection, speakers)


class Scale(nn.Module):
    """One discriminator: strided grouped convolutions with weight norm, a score per window of the wave."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        width = config.n_channels
        layers = [weight_norm(nn.Conv1d(1, width, 15, padding=7, padding_mode="reflect"))]
        for _ in range(config.n_strided):
            inner, width = width, min(4 * width, config.max_channels)
            groups = max(inner // 4, 1)
            layers.append(weight_norm(nn.Conv1d(inner, width, 41, stride=4, padding=20, groups=groups)))
        layers.append(weight_norm(nn.Conv1d(width, width, 5, padding=2)))
        self.layers = nn.ModuleList(layers)
        self.width = width
        self.score = weight_norm(nn.Conv1d(width, 1, 3, padding=1))

    def forward(self, wave: Wave) -> tuple[Tensor, list[Tensor]]:
        """Scores, and the features on the way."""
        features, hidden = [], wave
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), 0.2)
            features.append(hidden)
        return self.score(hidden), features
