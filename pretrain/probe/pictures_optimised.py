"""Pictures optimised until CLIP's image tower sees in them what the sound's embedding means.

Works with any towers and without training; what comes out convinces these towers, not necessarily a person.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from engine.user_error import UserError
from pretrain.clip.towers import Towers

GREY = 0.2
"""Spread of the first picture's logits: nearly grey."""


@dataclass(frozen=True, kw_only=True)
class DreamConfig:
    """How pictures are searched for."""

    parametrisation: Literal["fourier", "pixels"] = "fourier"
    """What is optimised: amplitudes of waves, the fine ones made less of (Olah et al., 2017), or pixels."""
    steps: int = 150
    """Updates of a picture."""
    lr: float = 0.05
    """Of Adam."""
    shift: float = 0.15
    """Share of a side by which pictures are moved and enlarged at random before the tower sees them, so that
    nothing hangs on single pixels."""
    smoothness: float = 0.1
    """Weight of neighbouring pixels' mean difference."""
    batch: int = 32
    """Pictures optimised at once; none has to do with another."""

    def __post_init__(self) -> None:
        if self.parametrisation not in ("fourier", "pixels"):
            raise UserError(f"parametrisation={self.parametrisation!r} must be fourier or pixels")
        if self.steps < 1 or self.batch < 1 or not 0 <= self.shift < 1:
            raise UserError(f"steps={self.steps}, batch={self.batch}, shift={self.shift}: out of range")


def dream(
    towers: Towers,
    targets: Float[Tensor, "n dim"],
    config: DreamConfig | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
) -> UInt8[Tensor, "n 3 height width"]:
    """A picture for each target, of the towers' own size."""
    config = config or DreamConfig()
    parts = targets.to(towers.device).split(config.batch)
    bar = tqdm(total=len(parts) * config.steps, desc="dreaming", delay=2.0, disable=not progress)
    with bar:
        found = [_dream(towers, part, config, seed + number, bar) for number, part in enumerate(parts)]
    return torch.cat(found)


def _dream(towers: Towers, targets: Tensor, config: DreamConfig, seed: int, bar: tqdm) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    size = towers.height, towers.width
    targets = F.normalize(targets.detach(), dim=-1)
    free, scale = _start(len(targets), size, config.parametrisation, rng)
    free = free.to(targets.device).requires_grad_()
    scale = scale.to(targets.device)
    optimizer = torch.optim.Adam([free], lr=config.lr)
    for _ in range(config.steps):
        pixels = _pixels(free, scale, size)
        cosine = (towers.embed(_moved(pixels, config.shift, rng)) * targets).sum(-1)
        loss = (1 - cosine + config.smoothness * _roughness(pixels)).sum()
        (free.grad,) = torch.autograd.grad(loss, [free])
        optimizer.step()
        bar.update()
    with torch.no_grad():
        return (_pixels(free, scale, size) * 255).round().to(torch.uint8).cpu()


def _start(
    n: int, size: tuple[int, int], parametrisation: str, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What is optimised at first, and what it is multiplied by."""
    height, width = size
    if parametrisation == "pixels":
        return GREY * torch.randn(n, 3, height, width, generator=rng), torch.ones(())
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    frequency = (rows.square() + columns.square()).sqrt().clamp_min(1 / max(size))
    scale = (1 / frequency) * (height * width) ** 0.5 / max(size)
    return GREY * torch.randn(n, 3, height, width // 2 + 1, 2, generator=rng), scale


def _pixels(free: Tensor, scale: Tensor, size: tuple[int, int]) -> Float[Tensor, "n 3 height width"]:
    if scale.ndim:
        return torch.sigmoid(torch.fft.irfft2(torch.view_as_complex(free) * scale, s=size))
    return torch.sigmoid(free)


def _moved(pixels: Tensor, shift: float, rng: torch.Generator) -> Tensor:
    """Each picture a little enlarged and moved, differently."""
    n = len(pixels)
    zoom = 1 - shift * torch.rand(n, generator=rng)
    place = (1 - zoom)[:, None] * (2 * torch.rand(n, 2, generator=rng) - 1)
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = zoom
    matrix[:, :, 2] = place
    grid = F.affine_grid(matrix, list(pixels.shape), align_corners=False).to(pixels)
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def _roughness(pixels: Tensor) -> Float[Tensor, "n"]:
    down = (pixels[..., 1:, :] - pixels[..., :-1, :]).abs().mean((1, 2, 3))
    return down + (pixels[..., 1:] - pixels[..., :-1]).abs().mean((1, 2, 3))
