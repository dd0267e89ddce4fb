"""Pictures optimised until CLIP's image tower embeds them as the sound.

Works with any towers and without training; the result convinces these towers, not necessarily a person.
"""

from dataclasses import dataclass

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
class OptimisedConfig:
    """How pictures are optimised."""

    steps: int = 150
    """Updates of a picture."""
    lr: float = 0.05
    """Of Adam."""
    shift: float = 0.15
    """Share of a side by which pictures are moved and enlarged at random before each step, so that nothing
    depends on single pixels."""
    smoothness: float = 0.1
    """Weight of neighbouring pixels' mean difference."""
    batch: int = 32
    """Pictures optimised at once, each on its own."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 <= self.shift < 1:
            raise UserError(f"steps={self.steps}, batch={self.batch}, shift={self.shift}: out of range")


def optimise(
    towers: Towers,
    targets: Float[Tensor, "n dim"],
    config: OptimisedConfig | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
) -> UInt8[Tensor, "n 3 height width"]:
    """Return a picture for each target, of the towers' own size."""
    config = config or OptimisedConfig()
    parts = targets.to(towers.device).split(config.batch)
    bar = tqdm(total=len(parts) * config.steps, desc="optimising pictures", delay=2.0, disable=not progress)
    with bar:
        found = [_optimise(towers, part, config, seed + number, bar) for number, part in enumerate(parts)]
    return torch.cat(found)


def _optimise(
    towers: Towers, targets: Tensor, config: OptimisedConfig, seed: int, bar: tqdm
) -> UInt8[Tensor, "n 3 height width"]:
    """Optimise amplitudes of waves, the fine ones scaled down (Olah et al., 2017)."""
    rng = torch.Generator().manual_seed(seed)
    height, width = towers.height, towers.width
    targets = F.normalize(targets.detach(), dim=-1)
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    frequency = (rows.square() + columns.square()).sqrt().clamp_min(1 / max(height, width))
    scale = ((1 / frequency) * (height * width) ** 0.5 / max(height, width)).to(targets.device)
    waves = GREY * torch.randn(len(targets), 3, height, width // 2 + 1, 2, generator=rng)
    waves = waves.to(targets.device).requires_grad_()
    optimizer = torch.optim.Adam([waves], lr=config.lr)

    def pixels() -> Float[Tensor, "n 3 height width"]:
        return torch.sigmoid(torch.fft.irfft2(torch.view_as_complex(waves) * scale, s=(height, width)))

    for _ in range(config.steps):
        picture = pixels()
        cosine = (towers.embed(_moved(picture, config.shift, rng)) * targets).sum(-1)
        loss = (1 - cosine + config.smoothness * _roughness(picture)).sum()
        (waves.grad,) = torch.autograd.grad(loss, [waves])
        optimizer.step()
        bar.update()
    with torch.no_grad():
        return (pixels() * 255).round().to(torch.uint8).cpu()


def _moved(pixels: Tensor, shift: float, rng: torch.Generator) -> Tensor:
    """Enlarge and move each picture a little, each differently."""
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
