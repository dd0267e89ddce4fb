"""A small generator: pictures from a CLIP image embedding, and chance for what the embedding leaves open.

A conditional variational autoencoder (Sohn et al., 2015). The embedding says what is to be seen; a short
code, drawn at random when generating, says where and how.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from engine.checkpoint import export, fill, load_export
from engine.seeding import step_seed
from engine.user_error import UserError

PICTURE = 4.0
"""Weight of the squared difference."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Size and training of the generator."""

    KIND: ClassVar[str] = "picture_generator"
    dim: int = 128
    """Of the embedding."""
    size: int = 64
    """Pixels on a side; a multiple of 16."""
    width: int = 24
    """Channels at half the size; more at smaller ones."""
    code: int = 24
    """Numbers drawn at random for a picture."""
    noise: float = 0.15
    """Spread added to the embeddings in training, relative to theirs: what sounds give is less exact."""
    kl: float = 5e-4
    """Weight of the code's divergence from chance, in nats a picture."""
    lr: float = 2e-3
    """Of Adam at its highest; falls to nothing."""
    batch: int = 32
    """Pictures in a step."""
    steps: int = 900
    """Updates."""
    teacher: str = ""
    """The key of the CLIP towers whose embeddings are understood; empty: not known."""

    def __post_init__(self) -> None:
        if self.size % 16 or self.size < 16:
            raise UserError(f"size={self.size} must be a multiple of 16")
        for name in ("dim", "width", "code", "batch", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")


class PictureGenerator(nn.Module):
    """Draws what an embedding means; what it leaves open is drawn from chance."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        w, base = config.width, config.size // 16
        self.register_buffer("mean", torch.zeros(config.dim))
        self.register_buffer("scale", torch.ones(()))
        self.look = nn.Sequential(
            _down(3, w), _down(w, 2 * w), _down(2 * w, 2 * w), _down(2 * w, 4 * w), nn.Flatten()
        )
        self.guess = nn.Linear(4 * w * base * base + config.dim, 2 * config.code)
        self.start = nn.Sequential(
            nn.Linear(config.dim + config.code, 8 * w), nn.SiLU(), nn.Linear(8 * w, 4 * w * base * base)
        )
        widths = (4 * w, 3 * w, 2 * w, w)
        self.grow = nn.ModuleList(_Up(i, o, config.dim + config.code) for i, o in pairwise(widths))
        self.colour = nn.Conv2d(w, 12, 3, padding=1)

    def forward(
        self, embedding: Float[Tensor, "batch dim"], code: Float[Tensor, "batch code"]
    ) -> Float[Tensor, "batch 3 size size"]:
        """Pictures in [0, 1] of embeddings and codes."""
        base = self.config.size // 16
        about = torch.cat([self._standard(embedding), code], dim=-1)
        x = self.start(about).unflatten(1, (-1, base, base))
        for grow in self.grow:
            x = grow(x, about)
        return torch.sigmoid(F.pixel_shuffle(self.colour(x), 2))

    def infer(
        self, picture: Float[Tensor, "batch 3 size size"], embedding: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch code"], Float[Tensor, "batch code"]]:
        """Mean and logarithmic variance of the code that a picture shows beyond its embedding."""
        seen = torch.cat([self.look(2 * picture - 1), self._standard(embedding)], dim=-1)
        mean, logvar = self.guess(seen).chunk(2, dim=-1)
        return mean, logvar.clamp(-8, 4)

    @torch.no_grad()
    def draw(self, embedding: Float[Tensor, "n dim"], *, seed: int = 0) -> UInt8[Tensor, "n 3 size size"]:
        """One picture for each embedding."""
        rng = torch.Generator().manual_seed(seed)
        code = torch.randn(len(embedding), self.config.code, generator=rng).to(embedding)
        parts = zip(embedding.split(64), code.split(64))
        pictures = [self(one, other) for one, other in parts]
        return (torch.cat(pictures) * 255).round().to(torch.uint8).cpu()

    def _standard(self, embedding: Tensor) -> Tensor:
        return (F.normalize(embedding, dim=-1) - self.mean) / self.scale


class _Up(nn.Module):
    """Twice the size, with what is to be drawn scaling and shifting the channels."""

    def __init__(self, inner: int, outer: int, about: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, 3, padding=1)
        self.norm = nn.GroupNorm(8 if outer % 8 == 0 else 1, outer, affine=False)
        self.film = nn.Linear(about, 2 * outer)

    def forward(self, x: Tensor, about: Tensor) -> Tensor:
        gain, bias = self.film(about)[..., None, None].chunk(2, dim=1)
        x = self.norm(self.conv(F.interpolate(x, scale_factor=2)))
        return F.silu((1 + gain) * x + bias)


def _down(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 4, 2, 1), nn.SiLU())


def generator_loss(
    generator: PictureGenerator,
    picture: Float[Tensor, "batch 3 size size"],
    embedding: Float[Tensor, "batch dim"],
    chance: Float[Tensor, "batch code"],
) -> dict[str, Float[Tensor, ""]]:
    """Squared difference per pixel value, and the code's divergence from chance in nats, weighted.

    Squared, not absolute: until the code says where things are, the likeliest pixel is background everywhere,
    and nothing would be learned of them.
    """
    mean, logvar = generator.infer(picture, embedding)
    drawn = generator(embedding, mean + (0.5 * logvar).exp() * chance)
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(-1).mean()
    return {"picture": PICTURE * F.mse_loss(drawn, picture), "code": generator.config.kl * divergence}


def fit_generator(
    pictures: UInt8[Tensor, "n 3 size size"],
    embeddings: Float[Tensor, "n dim"],
    config: GeneratorConfig,
    *,
    seed: int = 0,
    progress: bool = True,
) -> PictureGenerator:
    """Learn to draw pictures from their embeddings."""
    device = embeddings.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(seed, 0))
        generator = PictureGenerator(config).to(device)
        unit = F.normalize(embeddings, dim=-1)
        generator.mean.copy_(unit.mean(0))
        generator.scale.copy_((unit - unit.mean(0)).square().mean().sqrt())
        spread = config.noise * generator.scale
        optimizer = torch.optim.Adam(generator.parameters(), lr=config.lr)
        falling = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.lr, total_steps=config.steps + 1, pct_start=0.1
        )
        bar = tqdm(range(config.steps), desc="learning to draw", delay=2.0, disable=not progress)
        for step in bar:
            index = torch.randint(len(pictures), (config.batch,))
            picture = pictures[index].to(device).float() / 255
            embedding = unit[index.to(device)]
            embedding = embedding + spread * torch.randn(embedding.shape).to(device)
            chance = torch.randn(len(index), config.code).to(device)
            terms = generator_loss(generator, picture, embedding, chance)
            optimizer.zero_grad(set_to_none=True)
            sum(terms.values(), torch.zeros((), device=device)).backward()
            nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
            optimizer.step()
            falling.step()
            if step % 20 == 0:
                bar.set_postfix({name: round(term.item(), 4) for name, term in terms.items()})
    return generator.eval().requires_grad_(False)


def save_generator(generator: PictureGenerator, folder: Path) -> Path:
    """Write a generator as ``config.json`` and ``model.safetensors``."""
    return export(folder, generator.config, generator)


def load_generator(folder: Path | str) -> PictureGenerator:
    """Open a generator that ``save_generator`` wrote."""
    config, state = load_export(folder, GeneratorConfig)
    generator = PictureGenerator(config)
    fill(generator, state, Path(folder) / "model.safetensors")
    return generator.eval().requires_grad_(False)
