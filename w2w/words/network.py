"""The two maps of the tie: from a CLIP embedding to a density of voices, and from a voice to CLIP's space."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretrain.clip.towers import TowersConfig

Embedding = Float[Tensor, "batch clip_dim"]
Voice = Float[Tensor, "batch voice_dim"]
Coordinates = Float[Tensor, "batch coordinates"]
LEAST_SPREAD = 0.05
"""Smallest standard deviation of a component, where a coordinate has 1: no component fits a single voice."""
LOWEST, HIGHEST = math.log(60.0), math.log(450.0)
"""Range of the mean log F0 (Hz) of a generated voice."""


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    """Sizes of a tie, and which converter and CLIP it belongs to."""

    KIND: ClassVar[str] = "text_to_voice"
    towers: TowersConfig = field(default_factory=TowersConfig)
    """The CLIP. If this file's folder has a sub-folder of its name, that is used."""
    towers_key: str = ""
    """Digest of the CLIP weights; embeddings of other weights are not compatible."""
    converter_key: str = ""
    """Digest of the converter's style encoder."""
    clip_dim: int = 512
    voice_dim: int = 257
    """Size of the converter's voice: timbre embedding and, last, mean log F0."""
    n_timbre: int = 24
    """Principal components of the timbre; with log F0 they are a voice's coordinates."""
    n_components: int = 2
    """Gaussians in the mixture density."""
    hidden: int = 128
    """Width of the hidden layer of both maps."""
    n_memory: int = 512
    """Caption embeddings stored to map picture embeddings to text embeddings."""


class Density(NamedTuple):
    """A mixture of Gaussians over a voice's coordinates."""

    log_weight: Float[Tensor, "batch components"]
    mean: Float[Tensor, "batch components coordinates"]
    spread: Float[Tensor, "batch components coordinates"]


class WordsNetwork(nn.Module):
    """Coordinates of voices, and the maps between coordinates and CLIP embeddings."""

    def __init__(self, config: WordsConfig) -> None:
        super().__init__()
        self.config = config
        n = self.n_coordinates = config.n_timbre + 1
        self.register_buffer("centre", torch.zeros(config.voice_dim))
        self.register_buffer("axes", torch.zeros(config.voice_dim, n))
        self.register_buffer("reading", torch.zeros(n, config.voice_dim))
        self.register_buffer("caption_mean", torch.zeros(config.clip_dim))
        self.register_buffer("memory", torch.zeros(config.n_memory, config.clip_dim))
        # Linear map from captions to voices: few speakers support little more than this.
        self.straight = nn.Linear(config.clip_dim, n)
        outputs = config.n_components * (1 + 2 * n)
        self.to_voice = nn.Sequential(
            nn.Linear(config.clip_dim, config.hidden),
            nn.SiLU(),
            nn.Dropout(0.1),
            nn.Linear(config.hidden, outputs),
        )
        self.to_clip = nn.Sequential(
            nn.Linear(n, config.hidden), nn.SiLU(), nn.Dropout(0.1), nn.Linear(config.hidden, config.clip_dim)
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    centre: Tensor
    axes: Tensor
    reading: Tensor
    caption_mean: Tensor
    memory: Tensor

    @torch.no_grad()
    def settle(self, voices: Voice) -> None:
        """Set the coordinates: principal components of timbre, and log F0, each with unit variance."""
        self.centre.copy_(voices.mean(0))
        timbre = (voices - self.centre)[:, :-1]
        _, values, axes = torch.linalg.svd(timbre.double(), full_matrices=False)
        n = min(self.config.n_timbre, len(values))
        spread = (values[:n] / math.sqrt(max(1, len(voices) - 1))).clamp_min(1e-6)
        self.axes.zero_()
        self.reading.zero_()
        self.axes[:-1, :n] = (axes[:n].T * spread).float()
        self.reading[:n, :-1] = (axes[:n] / spread[:, None]).float()
        pitch = voices[:, -1].std().clamp_min(1e-3)
        self.axes[-1, -1], self.reading[-1, -1] = pitch, 1.0 / pitch

    def coordinates(self, voice: Voice) -> Coordinates:
        return (voice - self.centre) @ self.reading.T

    def voice(self, coordinates: Coordinates) -> Voice:
        """The voice at these coordinates, its log F0 clamped to ``LOWEST``–``HIGHEST``."""
        voice = self.centre + coordinates @ self.axes.T
        return torch.cat([voice[:, :-1], voice[:, -1:].clamp(LOWEST, HIGHEST)], dim=-1)

    def centred(self, embedding: Embedding) -> Embedding:
        """An embedding without the mean of all captions, scaled to about unit variance per dimension."""
        return self.meaning(embedding) * math.sqrt(self.config.clip_dim)

    @torch.no_grad()
    def solve(self, embedding: Embedding, voice: Voice) -> None:
        """Set the linear map by ridge regression of coordinates on embeddings."""
        x, y = self.centred(embedding).double(), self.coordinates(voice).double()
        bias = y.mean(0)
        gram = x.T @ x + 0.02 * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        self.straight.weight.copy_(torch.linalg.solve(gram, x.T @ (y - bias)).T)
        self.straight.bias.copy_(bias)
        last = self.to_voice[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(0.1)

    def density(self, embedding: Embedding) -> Density:
        """The density of voices that match a caption's embedding."""
        centred = self.centred(embedding)
        out = self.to_voice(centred).unflatten(-1, (self.config.n_components, -1))
        weight, apart, spread = out.split([1, self.n_coordinates, self.n_coordinates], dim=-1)
        mean = self.straight(centred)[:, None] + apart
        return Density(weight[..., 0].log_softmax(-1), mean, F.softplus(spread) + LEAST_SPREAD)

    def voice_embedding(self, voice: Voice) -> Embedding:
        """The unit vector of a voice in CLIP's space, with the captions' mean removed."""
        return F.normalize(self.to_clip(self.coordinates(voice)), dim=-1)

    def meaning(self, embedding: Embedding) -> Embedding:
        """A caption's embedding in the space of ``voice_embedding``: centred, and of unit length."""
        return F.normalize(embedding - self.caption_mean, dim=-1)

    def recall(self, image: Embedding, sharpness: float) -> Embedding:
        """Map a picture's embedding to the captions' part of CLIP's space, by attention over the memory.

        Pictures and captions lie in different parts of that space, and the maps are trained on captions only
        (Li et al. 2023, DeCap).
        """
        weights = (sharpness * image @ self.memory.T).softmax(-1)
        return F.normalize(weights @ self.memory, dim=-1)


def negative_log_likelihood(density: Density, coordinates: Coordinates) -> Float[Tensor, " batch"]:
    """Negative log-likelihood of voices under a density, in nats per coordinate."""
    z = (coordinates[:, None] - density.mean) / density.spread
    log_gauss = -(0.5 * z.square() + density.spread.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
    return -torch.logsumexp(density.log_weight + log_gauss, dim=-1) / coordinates.shape[-1]


def draw(density: Density, *, variety: float = 0.0, generator: torch.Generator | None = None) -> Coordinates:
    """Coordinates from the density: the mean of the most likely component, or a sample if ``variety`` > 0.

    ``variety`` scales the components' standard deviations; 1 samples from the density itself.
    """
    if variety == 0.0:
        chosen = density.log_weight.argmax(-1)
    else:
        chosen = torch.multinomial(density.log_weight.exp(), 1, generator=generator)[:, 0]
    rows = torch.arange(len(chosen))
    mean, spread = density.mean[rows, chosen], density.spread[rows, chosen]
    return mean + variety * spread * torch.randn(mean.shape, generator=generator) if variety else mean
