"""Images of sounds without training a generator: by optimisation, or by a published diffusion decoder.

Optimisation changes an image until CLIP's image tower embeds it like the sound; it works with any towers, but
the result need not be recognisable to people. Diffusion uses unCLIP pipelines of diffusers, such as Karlo:
the encoder must have been distilled from the CLIP that the pipeline was trained with (Karlo: OpenAI's
ViT-L/14, 768 dimensions). Weights are read from a local folder and never downloaded.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from engine.user_error import UserError
from pretrain.clip.towers import Pictures, Towers

PIPELINES = {
    "UnCLIPImageVariationPipeline": ("image_embeddings", "decoder_num_inference_steps", {}),
    "StableUnCLIPImg2ImgPipeline": ("image_embeds", "num_inference_steps", {"prompt": ""}),
}
"""Pipelines conditioned on an image embedding: argument names of embedding and steps, and other arguments."""
N_NOISE = 8
"""Noise images used to estimate the norm of the pipeline's image embeddings."""


def open_unclip(folder: Path | str, device: str = "cpu") -> Any:
    """Load a pipeline from its folder, which contains model_index.json."""
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{folder} is not a pipeline of diffusers: model_index.json is missing")
    try:
        name = json.loads(index.read_text()).get("_class_name")
    except (OSError, ValueError):
        raise UserError(f"{index} cannot be read as JSON") from None
    if name not in PIPELINES:
        known = " or ".join(PIPELINES)
        raise UserError(f"{folder} is a {name}, which does not take image embeddings: give a {known}")
    pipeline = from_diffusers(name, folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def from_diffusers(name: str, folder: Path) -> Any:
    """Load an object of the class ``diffusers.NAME`` from a local folder."""
    import diffusers  # pyright: ignore[reportMissingImports]

    try:
        return getattr(diffusers, name).from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # missing parts, other versions, damaged files
        reason = " ".join(str(error).split())[:160].rstrip(".")
        raise UserError(f"the {name} in {folder} cannot be loaded: {reason}") from None


@torch.no_grad()
def own_length(pipeline: Any) -> float:
    """Return the mean norm of the pipeline's image embeddings, which are not of unit length as ours are."""
    encoder, rng = pipeline.image_encoder, torch.Generator().manual_seed(0)
    size = encoder.config.image_size
    noise = torch.randn(N_NOISE, 3, size, size, generator=rng).to(next(encoder.parameters()))
    return encoder(noise).image_embeds.norm(dim=-1).mean().item()


def diffuse(pipeline: Any, embeddings: Float[Tensor, "n dim"], *, steps: int = 25) -> Pictures:
    """Generate an image for each embedding, one at a time."""
    argument, n_steps, others = PIPELINES[type(pipeline).__name__]
    wanted = int(pipeline.image_encoder.config.projection_dim)
    if embeddings.shape[1] != wanted:
        raise UserError(
            f"the pipeline needs embeddings of {wanted} dimensions, the encoder has {embeddings.shape[1]}:"
            " distil it from the CLIP that the pipeline was trained with"
        )
    scaled = F.normalize(embeddings, dim=-1) * own_length(pipeline)
    parameter = next(pipeline.image_encoder.parameters())
    drawn = []
    for number, embedding in enumerate(tqdm(scaled, desc="diffusing", delay=2.0)):
        generator = torch.Generator().manual_seed(number)
        given = {argument: embedding[None].to(parameter), n_steps: steps, **others}
        picture = np.asarray(pipeline(**given, generator=generator, output_type="np").images)[0]
        drawn.append(torch.from_numpy(picture.transpose(2, 0, 1) * 255).round().clamp(0, 255).to(torch.uint8))
    return torch.stack(drawn)


GREY = 0.2
"""Standard deviation of the initial amplitudes; the initial image is nearly grey."""


@dataclass(frozen=True, kw_only=True)
class OptimisedConfig:
    steps: int = 150
    """Optimisation steps per image."""
    lr: float = 0.05
    """Adam's learning rate."""
    shift: float = 0.15
    """Maximum random shift and zoom of images before each step, relative to their size, against adversarial
    pixels."""
    smoothness: float = 0.1
    """Loss weight of the mean absolute difference of neighbouring pixels."""
    batch: int = 32
    """Images optimised at once, independently of each other."""


Drawn = tuple[Tensor, Callable[[Tensor], Tensor]]
"""Initial parameters of images, and their decoder to pixels in [0, 1]."""
Canvas = Callable[[Tensor, torch.Generator], Drawn]
"""A function from targets to the parameters that are optimised."""


def optimise(
    towers: Towers, targets: Float[Tensor, "n dim"], config: OptimisedConfig, canvas: Canvas | None = None
) -> Pictures:
    """Optimise an image for each target; by default, Fourier amplitudes at the towers' input size."""
    canvas = canvas or (lambda part, rng: _waves(towers, part, rng))
    parts = targets.to(towers.device).split(config.batch)
    with tqdm(total=len(parts) * config.steps, desc="optimising pictures", delay=2.0) as bar:
        pictures = [_optimise(towers, part, config, canvas, seed, bar) for seed, part in enumerate(parts)]
    return torch.cat(pictures)


def _optimise(
    towers: Towers, targets: Tensor, config: OptimisedConfig, canvas: Canvas, seed: int, bar: tqdm
) -> Pictures:
    rng = torch.Generator().manual_seed(seed)
    targets = F.normalize(targets.detach(), dim=-1)
    drawn, pixels = canvas(targets, rng)
    drawn = drawn.to(targets.device).requires_grad_()
    optimizer = torch.optim.Adam([drawn], lr=config.lr)
    for _ in range(config.steps):
        picture = pixels(drawn)
        cosine = (towers.embed_resized(_shifted(picture, config.shift, rng)) * targets).sum(-1)
        loss = (1 - cosine + config.smoothness * _roughness(picture)).sum()
        (drawn.grad,) = torch.autograd.grad(loss, [drawn])
        optimizer.step()
        bar.update()
    with torch.no_grad():
        return (pixels(drawn) * 255).round().to(torch.uint8).cpu()


def _waves(towers: Towers, targets: Tensor, rng: torch.Generator) -> Drawn:
    """Return random Fourier amplitudes and their decoder, weaker at high frequencies (Olah et al., 2017)."""
    height, width = towers.height, towers.width
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    frequency = (rows.square() + columns.square()).sqrt().clamp_min(1 / max(height, width))
    scale = ((1 / frequency) * (height * width) ** 0.5 / max(height, width)).to(targets.device)
    waves = GREY * torch.randn(len(targets), 3, height, width // 2 + 1, 2, generator=rng)

    def pixels(waves: Tensor) -> Float[Tensor, "n 3 height width"]:
        return torch.sigmoid(torch.fft.irfft2(torch.view_as_complex(waves) * scale, s=(height, width)))

    return waves, pixels


def _shifted(pixels: Tensor, shift: float, rng: torch.Generator) -> Tensor:
    """Zoom and shift each image by a random amount."""
    n = len(pixels)
    matrix = torch.zeros(n, 2, 3)
    zoom = 1 - shift * torch.rand(n, generator=rng)
    matrix[:, 0, 0] = matrix[:, 1, 1] = zoom
    matrix[:, :, 2] = (1 - zoom)[:, None] * (2 * torch.rand(n, 2, generator=rng) - 1)
    grid = F.affine_grid(matrix, list(pixels.shape), align_corners=False).to(pixels)
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def _roughness(pixels: Tensor) -> Float[Tensor, "n"]:
    down = (pixels[..., 1:, :] - pixels[..., :-1, :]).abs().mean((1, 2, 3))
    return down + (pixels[..., 1:] - pixels[..., :-1]).abs().mean((1, 2, 3))
