"""Pictures by a published diffusion decoder of CLIP embeddings: unCLIP pipelines of diffusers, such as Karlo.

The encoder must have been distilled into the CLIP that the pipeline was trained with (Karlo: ViT-L/14 of
OpenAI, 768 numbers). Weights are read from a folder here, never fetched.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from engine.user_error import UserError

PIPELINES = {
    "UnCLIPImageVariationPipeline": ("image_embeddings", "decoder_num_inference_steps", {}),
    "StableUnCLIPImg2ImgPipeline": ("image_embeds", "num_inference_steps", {"prompt": ""}),
}
"""Pipelines that draw from an image embedding: what they call it, their steps, and what else they want."""
N_NOISE = 8
"""Pictures of noise that tell how long the pipeline's own embeddings are."""


def open_unclip(folder: Path | str, device: str = "cpu") -> Any:
    """Open a pipeline from its folder (the one with model_index.json)."""
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{folder} is no pipeline of diffusers: model_index.json is missing")
    try:
        name = json.loads(index.read_text()).get("_class_name")
    except (OSError, ValueError):
        raise UserError(f"{index} cannot be read as JSON") from None
    if name not in PIPELINES:
        known = " or ".join(PIPELINES)
        raise UserError(f"{folder} holds a {name}, which does not draw from embeddings: give a {known}")
    try:
        import diffusers  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("drawing by diffusion needs diffusers: pip install diffusers") from None
    try:
        pipeline = getattr(diffusers, name).from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # missing parts, other versions, damaged files
        reason = " ".join(str(error).split())[:160].rstrip(".")
        raise UserError(f"the pipeline in {folder} cannot be opened: {reason}") from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


@torch.no_grad()
def own_length(pipeline: Any) -> float:
    """Return the length of the pipeline's own image embeddings, which is not 1, as ours is."""
    encoder, rng = pipeline.image_encoder, torch.Generator().manual_seed(0)
    size = encoder.config.image_size
    own = next(encoder.parameters())
    noise = torch.randn(N_NOISE, 3, size, size, generator=rng).to(own)
    return encoder(noise).image_embeds.norm(dim=-1).mean().item()


def diffuse(
    pipeline: Any,
    embeddings: Float[Tensor, "n dim"],
    *,
    steps: int = 25,
    seed: int = 0,
    length: Callable[[Any], float] = own_length,
    progress: bool = True,
) -> UInt8[Tensor, "n 3 height width"]:
    """Return a picture for each embedding, made one at a time."""
    argument, n_steps, others = PIPELINES[type(pipeline).__name__]
    wanted = int(pipeline.image_encoder.config.projection_dim)
    if embeddings.shape[1] != wanted:
        raise UserError(
            f"the pipeline draws from {wanted} numbers and the encoder gives {embeddings.shape[1]}: distil it"
            " from the CLIP that the pipeline was trained with"
        )
    scaled = F.normalize(embeddings, dim=-1) * length(pipeline)
    own = next(pipeline.image_encoder.parameters())
    drawn = []
    for number, embedding in enumerate(tqdm(scaled, desc="diffusing", delay=2.0, disable=not progress)):
        generator = torch.Generator().manual_seed(seed + number)
        given = {argument: embedding[None].to(own), n_steps: steps, **others}
        picture = np.asarray(pipeline(**given, generator=generator, output_type="np").images)[0]
        drawn.append(torch.from_numpy(picture.transpose(2, 0, 1) * 255).round().clamp(0, 255).to(torch.uint8))
    return torch.stack(drawn)
