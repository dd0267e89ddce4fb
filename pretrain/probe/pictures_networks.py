"""Networks trained on images: a generator, and a classifier of the world's attributes.

The generator is a conditional variational autoencoder (Sohn et al., 2015) on CLIP's image embeddings. The
embedding determines the content of the image; a short latent code, sampled at generation, determines position
and appearance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from data.synthetic.world import ATTRIBUTES
from engine.checkpoint import load_network
from engine.seeding import step_seed
from engine.user_error import UserError, at_least

PICTURE = 4.0
"""Loss weight of the squared error of pixels."""
RIDGE = 1e-2
"""Ridge penalty of the map from sounds to images, relative to the embeddings' mean variance."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Sizes and training of the generator."""

    KIND: ClassVar[str] = "picture_generator"
    dim: int = 128
    """Channels of the embedding."""
    size: int = 64
    """Width and height of images in pixels; a multiple of 16."""
    width: int = 24
    """Channels at half the resolution; more at lower resolutions."""
    code: int = 24
    """Channels of the latent code."""
    noise: float = 0.15
    """Standard deviation of noise added to the embeddings in training, relative to theirs, as embeddings of
    sounds are less exact."""
    kl: float = 5e-4
    """Loss weight of the code's KL divergence from the standard normal distribution, in nats per image."""
    clip: float = 0.5
    """Loss weight of 1 − cosine similarity between the embedding and that of an image from a random code."""
    lr: float = 2e-3
    """Adam's peak learning rate; decays to almost zero."""
    batch: int = 32
    """Images per step."""
    steps: int = 900
    """Training steps."""
    teacher: str = ""
    """Key of the CLIP towers of the embeddings; empty: unknown."""

    def __post_init__(self) -> None:
        if self.size % 16 or self.size < 16:
            raise UserError(f"size={self.size} must be a multiple of 16")
        at_least(1, self, "dim", "width", "code", "batch", "steps")


Vectors = Float[Tensor, "batch dim"]
Codes = Float[Tensor, "batch code"]
Pixels = Float[Tensor, "batch 3 size size"]


class PictureGenerator(nn.Module):
    mean: Tensor
    scale: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        w, base = config.width, config.size // 16
        self.register_buffer("mean", torch.zeros(config.dim))
        self.register_buffer("scale", torch.ones(()))
        downs = [_down(inner, outer) for inner, outer in pairwise((3, w, 2 * w, 2 * w, 4 * w))]
        self.encode_picture = nn.Sequential(*downs, nn.Flatten())
        self.code_head = nn.Linear(4 * w * base * base + config.dim, 2 * config.code)
        self.stem = nn.Sequential(
            nn.Linear(config.dim + config.code, 8 * w), nn.SiLU(), nn.Linear(8 * w, 4 * w * base * base)
        )
        widths = (4 * w, 3 * w, 2 * w, w)
        self.blocks = nn.ModuleList(_Up(i, o, config.dim + config.code) for i, o in pairwise(widths))
        self.colour = nn.Conv2d(w, 12, 3, padding=1)

    def forward(self, embedding: Vectors, code: Codes) -> Pixels:
        """Return images in [0, 1] for embeddings and codes."""
        base = self.config.size // 16
        condition = torch.cat([self._standard(embedding), code], dim=-1)
        x = self.stem(condition).unflatten(1, (-1, base, base))
        for block in self.blocks:
            x = block(x, condition)
        return torch.sigmoid(F.pixel_shuffle(self.colour(x), 2))

    def infer(self, picture: Pixels, embedding: Vectors) -> tuple[Codes, Codes]:
        """Return the mean and log variance of an image's code, given its embedding."""
        features = torch.cat([self.encode_picture(2 * picture - 1), self._standard(embedding)], dim=-1)
        mean, logvar = self.code_head(features).chunk(2, dim=-1)
        return mean, logvar.clamp(-8, 4)

    @torch.no_grad()
    def draw(self, embedding: Float[Tensor, "n dim"], *, seed: int = 0) -> UInt8[Tensor, "n 3 size size"]:
        rng = torch.Generator().manual_seed(seed)
        code = torch.randn(len(embedding), self.config.code, generator=rng).to(embedding)
        pictures = map(self, embedding.split(64), code.split(64))
        return (torch.cat(list(pictures)) * 255).round().to(torch.uint8).cpu()

    def _standard(self, embedding: Tensor) -> Tensor:
        return (F.normalize(embedding, dim=-1) - self.mean) / self.scale


class _Up(nn.Module):
    """A convolution at twice the resolution, with FiLM by embedding and code."""

    def __init__(self, inner: int, outer: int, n_conditions: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, 3, padding=1)
        self.norm = nn.GroupNorm(8 if outer % 8 == 0 else 1, outer, affine=False)
        self.film = nn.Linear(n_conditions, 2 * outer)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain, bias = self.film(condition)[..., None, None].chunk(2, dim=1)
        x = self.norm(self.conv(F.interpolate(x, scale_factor=2)))
        return F.silu((1 + gain) * x + bias)


def _down(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 4, 2, 1), nn.SiLU())


def generator_loss(
    generator: PictureGenerator, picture: Pixels, embedding: Vectors, noise: Codes
) -> dict[str, Float[Tensor, ""]]:
    """Return the weighted losses: the squared error per pixel value, and the code's KL divergence in nats.

    Not the absolute error: until the code encodes positions, its minimum is an image of only background.
    """
    mean, logvar = generator.infer(picture, embedding)
    drawn = generator(embedding, mean + (0.5 * logvar).exp() * noise)
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(-1).mean()
    return {"picture": PICTURE * F.mse_loss(drawn, picture), "code": generator.config.kl * divergence}


def fit_generator(
    pictures: UInt8[Tensor, "n 3 size size"],
    embeddings: Float[Tensor, "n dim"],
    config: GeneratorConfig,
    *,
    embed_image: Callable[[Pixels], Vectors] | None = None,
) -> PictureGenerator:
    """Train a generator of images from their embeddings; ``embed_image`` is CLIP's, for ``config.clip``.

    With squared error only, images are averages over possible positions, without clear shapes.
    """
    device = embeddings.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(0, 0))
        generator = PictureGenerator(config).to(device)
        unit = F.normalize(embeddings, dim=-1)
        generator.mean.copy_(unit.mean(0))
        generator.scale.copy_((unit - unit.mean(0)).square().mean().sqrt())
        deviation = config.noise * generator.scale

        def loss() -> Tensor:
            index = torch.randint(len(pictures), (config.batch,))
            picture = pictures[index].to(device).float() / 255
            embedding = unit[index.to(device)]
            embedding = embedding + deviation * torch.randn(embedding.shape).to(device)
            noise = torch.randn(len(index), config.code).to(device)
            terms = generator_loss(generator, picture, embedding, noise)
            if embed_image is not None and config.clip:
                embedded = embed_image(generator(embedding, torch.randn_like(noise)))
                terms["clip"] = config.clip * (1 - (embedded * unit[index.to(device)]).sum(-1)).mean()
            return sum(terms.values(), torch.zeros((), device=device))

        optimizer = torch.optim.Adam(generator.parameters(), lr=config.lr)
        minimise(optimizer, loss, steps=config.steps, about="generator", clip=1.0)
    return generator.eval().requires_grad_(False)


def load_generator(folder: Path | str) -> PictureGenerator:
    return load_network(folder, GeneratorConfig, PictureGenerator).requires_grad_(False)


class AttributeClassifier(nn.Module):
    """A classifier of the world's images with concatenated logits of all attributes, independent of CLIP."""

    def __init__(self, size: int = 64, width: int = 24) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            convolution = nn.Conv2d(inner, outer, 3, padding=1)
            layers += [convolution, nn.BatchNorm2d(outer), nn.ReLU(), nn.MaxPool2d(2)]
        self.size, self.features = size, nn.Sequential(*layers, nn.Flatten())
        self.sizes = [len(attribute.values) for attribute in ATTRIBUTES]
        n_features = widths[-1] * (size // 16) ** 2
        self.head = nn.Sequential(nn.Linear(n_features, 128), nn.ReLU(), nn.Linear(128, sum(self.sizes)))

    def forward(self, picture: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch values"]:
        if picture.shape[-2:] != (self.size, self.size):
            picture = F.interpolate(picture, (self.size, self.size), mode="bilinear", antialias=True)
        return self.head(self.features(2 * picture - 1))

    @torch.no_grad()
    def values(self, pictures: UInt8[Tensor, "n 3 height width"]) -> Int[Tensor, "n 5"]:
        """Return the most likely value of each attribute."""
        logits = torch.cat([self(part.float() / 255) for part in pictures.split(128)])
        return torch.stack([part.argmax(-1) for part in logits.split(self.sizes, dim=-1)], dim=-1)


def fit_classifier(
    values: Int[Tensor, "n 5"],
    pictures: UInt8[Tensor, "n 3 height width"],
    *,
    steps: int = 400,
    batch: int = 48,
) -> AttributeClassifier:
    """Train a classifier of attributes on a world's training images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(0, 1))
        network = AttributeClassifier(pictures.shape[-1])

        def loss() -> Tensor:
            index = torch.randint(len(pictures), (batch,))
            logits = network(pictures[index].float() / 255).split(network.sizes, dim=-1)
            losses = [F.cross_entropy(part, values[index, number]) for number, part in enumerate(logits)]
            return torch.stack(losses).sum()

        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
        minimise(optimizer, loss, steps=steps, about="classifier of attributes")
    return network.eval().requires_grad_(False)


def minimise(
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    *,
    steps: int,
    about: str,
    clip: float = math.inf,
) -> None:
    """Minimise a loss with a one-cycle learning rate schedule and clipping of the gradient norm."""
    lr, parameters = optimizer.defaults["lr"], optimizer.param_groups[0]["params"]
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=0.1)
    for _ in tqdm(range(steps), desc=f"training the {about}", delay=2.0):
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        cycle.step()


def fit_linear_map(
    sounds: Float[Tensor, "n dim"], images: Float[Tensor, "n dim"]
) -> Callable[[Float[Tensor, "m dim"]], Float[Tensor, "m dim"]]:
    """Fit a linear map from sounds' to images' embeddings by ridge regression.

    It closes the modality gap: embeddings of sounds and images form separate clusters, and generators are
    trained on images only.
    """
    a, b = sounds.double(), images.double()
    sound_mean, image_mean = a.mean(0), b.mean(0)
    a, b = a - sound_mean, b - image_mean
    gram = a.T @ a
    shrink = RIDGE * gram.diagonal().mean().clamp_min(1e-12)
    weight = torch.linalg.solve(gram + shrink * torch.eye(len(gram), dtype=gram.dtype), a.T @ b).float()
    return lambda x: F.normalize((x - sound_mean.float()) @ weight + image_mean.float(), dim=-1)
