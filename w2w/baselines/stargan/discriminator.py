"""StarGAN's discriminator: is a picture real, and which labels does it bear?"""

from itertools import pairwise
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from w2w.baselines.stargan.config import StarGANConfig

Picture = Float[Tensor, "batch 1 bins frames"]


class Judgement(NamedTuple):
    """What the discriminator makes of pictures."""

    score: Float[Tensor, "batch 1 height width"]
    """High where real: 4 × 4 by default. No sigmoid: a Wasserstein critic has none."""
    labels: Float[Tensor, "batch n_out"]
    """Logits of all labels."""
    features: list[Tensor]
    """What each convolution of the trunk saw, after its LeakyReLU."""


class Discriminator(nn.Module):
    """4 × 4 convolutions of stride 2 and two heads; no normalisation, which a gradient penalty forbids."""

    def __init__(self, config: StarGANConfig) -> None:
        super().__init__()
        self.config = config
        widths = [1, *(config.critic_channels * 2**layer for layer in range(config.critic_layers))]
        self.trunk = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inner, outer, 4, 2, 1), nn.LeakyReLU(0.01))
            for inner, outer in pairwise(widths)
        )
        shape, size = config.spectrogram, 2**config.critic_layers
        left = shape.n_bins // size, shape.n_frames // size
        self.classes = nn.Conv2d(widths[-1], config.labels.n_out, left, bias=False)
        self.score = nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False)

    def forward(self, picture: Picture) -> Judgement:
        features: list[Tensor] = []
        x = picture
        for layer in self.trunk:
            x = layer(x)
            features.append(x)
        return Judgement(self.score(x), self.classes(x).flatten(1), features)
