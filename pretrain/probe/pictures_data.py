"""What is to be drawn from sound: pairs of the world or of scenes on disk, as encoder and CLIP have them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from data.audio.resampling import resample
from data.audiovisual.finding import scenes_from
from data.audiovisual.scenes import Scene, each_picture, wave_of
from data.synthetic.world import SAMPLE_RATE, World
from engine.user_error import UserError
from pretrain.clip.towers import Towers
from pretrain.probe.embedders import Embedder

RIDGE = 1e-2
"""Shrinkage of the bridge, relative to the embeddings' mean variance."""


class Pairs(NamedTuple):
    """Sounds and the pictures that go with them."""

    names: list[str]
    waves: list[Tensor]
    """Each (1, 1, samples) at ``rate``."""
    rate: int
    pictures: UInt8[Tensor, "n 3 height width"]
    """As the towers see them."""
    images: Float[Tensor, "n dim"]
    """CLIP's embeddings of the pictures."""
    values: Int[np.ndarray, "n 5"] | None = None
    """The world's attributes."""


def world_pairs(world: World, towers: Towers, n: int | None = None) -> Pairs:
    """Scenes of the world, evenly chosen if not all are wanted; sounds of the first draw, as pictures are."""
    indices = np.arange(world.n_combinations)
    if n is not None and n < len(indices):
        indices = indices[np.linspace(0, len(indices) - 1, n).round().astype(int)]
    pictures = towers.prepare(world.pictures(indices))
    return Pairs(
        world.captions(indices, plain=True),
        [wave[None] for wave in world.waves(indices)],
        SAMPLE_RATE,
        pictures,
        towers.images(pictures).cpu(),
        world.values(indices),
    )


def scene_pairs(
    path: str | Path, split: str | None, towers: Towers, rate: int, n: int | None = None
) -> Pairs:
    """Scenes on disk with their first picture, or a video's middle frame."""
    scenes = scenes_from(path, split=split)[:n]
    pictures = torch.cat(
        [towers.prepare(_first(scene)[None]) for scene in tqdm(scenes, delay=2.0, disable=None)]
    )
    waves = [wave_of(scene, rate) for scene in scenes]
    names = [scene.caption or scene.label or scene.name for scene in scenes]
    return Pairs(names, waves, rate, pictures, towers.images(pictures).cpu())


def _first(scene: Scene) -> UInt8[Tensor, "3 height width"]:
    # A frame rate next to nothing asks for one frame, that of the middle or the last.
    return next(each_picture(scene, 1e-3))


def heard_by(
    embedder: Embedder, pairs: Pairs, *, batch: int = 32, longest_s: float = 10.0
) -> Float[Tensor, "n dim"]:
    """Unit-length embeddings of the sounds' first seconds."""
    vectors: list[Tensor] = []
    waves = [resample(w, pairs.rate, embedder.sample_rate) for w in pairs.waves]
    waves = [wave[..., : round(longest_s * embedder.sample_rate)] for wave in waves]
    start = 0
    while start < len(waves):
        stop = start + 1
        while stop < min(len(waves), start + batch) and waves[stop].shape == waves[start].shape:
            stop += 1
        vectors.append(embedder.embed(torch.cat(waves[start:stop])))
        start = stop
    return F.normalize(torch.cat(vectors), dim=-1)


class Bridge(NamedTuple):
    """From sounds' embeddings to pictures': a linear map learned on training pairs.

    Sounds and pictures of the same thing lie near each other, but in two clouds, and a generator has seen
    only one of them.
    """

    weight: Float[Tensor, "dim dim"]
    audio_mean: Float[Tensor, "dim"]
    image_mean: Float[Tensor, "dim"]

    def __call__(self, audio: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        return F.normalize((audio - self.audio_mean) @ self.weight + self.image_mean, dim=-1)


def fit_bridge(audio: Float[Tensor, "n dim"], images: Float[Tensor, "n image_dim"]) -> Bridge:
    """Ridge regression."""
    if audio.shape != images.shape:
        raise UserError(
            f"the encoder gives {audio.shape[1]} numbers and the towers {images.shape[1]}: give the towers"
            " that it was distilled from (--towers)"
        )
    a, b = audio.double(), images.double()
    audio_mean, image_mean = a.mean(0), b.mean(0)
    a, b = a - audio_mean, b - image_mean
    gram = a.T @ a
    shrink = RIDGE * gram.diagonal().mean().clamp_min(1e-12)
    weight = torch.linalg.solve(gram + shrink * torch.eye(len(gram), dtype=gram.dtype), a.T @ b)
    return Bridge(weight.float(), audio_mean.float(), image_mean.float())
