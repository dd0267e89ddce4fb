"""Batches for three heads: crops of sound, pictures of the same scenes, and the words that describe them."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from data.audiovisual.scenes import PictureError, Scene, each_picture
from data.audiovisual.video import VideoError
from data.batches import Address, Batches
from engine.user_error import UserError
from pretrain.clip.heard import TRIES, Heard, HeardClips
from pretrain.clip.towers import Towers

Pictures = UInt8[Tensor, "n 3 height width"]


class Triple(NamedTuple):
    """Sounds, pictures at the image tower's size, and tokens of the text tower, row by row."""

    heard: Heard
    """The sounds; its ``image`` is empty, since no teacher looks at the pictures."""
    picture: UInt8[Tensor, "batch 3 height width"]
    tokens: Int[Tensor, "batch context"]


class Triples(Dataset[Triple]):
    """Batches by address: one frame and one caption of each clip are drawn anew every time."""

    def __init__(self, scenes: Sequence[Scene], heard: HeardClips, towers: Towers) -> None:
        if len(scenes) != len(heard.images):
            raise ValueError(f"{len(scenes)} scenes and {len(heard.images)} sounds do not belong together")
        self.scenes, self.heard, self.towers = scenes, heard, towers
        self.tokens = [towers.tokenizer(words_of(scene)) for scene in scenes]
        self._pictures: dict[int, Tensor] = {}
        self._room = int(heard.config.cache_gib * 2**30)

    def __getitem__(self, address: Address) -> Triple:
        heard = self.heard[address]
        rng = np.random.default_rng([*address, 1])
        waves, indices, pictures, tokens = [], [], [], []
        for wave, index in zip(heard.wave, heard.index.tolist()):
            wave, picture, index = self._seen(wave, index, rng)
            waves.append(wave)
            indices.append(index)
            pictures.append(picture)
            tokens.append(self.tokens[index][int(rng.integers(len(self.tokens[index])))])
        shown = Heard(torch.stack(waves), self.heard.images[indices], torch.tensor(indices))
        return Triple(shown, torch.stack(pictures), torch.stack(tokens))

    def first(self, n_clips: int) -> list[Triple]:
        """Return the first clips, each with its first frame and caption, in batches: a validation."""
        made = []
        for heard in self.heard.in_order(n_clips):
            indices = heard.index.tolist()
            pictures = torch.stack([self.pictures(index)[0] for index in indices])
            made.append(Triple(heard, pictures, torch.stack([self.tokens[index][0] for index in indices])))
        return made

    def _seen(self, wave: Tensor, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, int]:
        """Return a clip with one of its frames, or another clip where its pictures cannot be read."""
        for attempt in range(TRIES):
            try:
                pictures = self.pictures(index)
                return wave, pictures[int(rng.integers(len(pictures)))], index
            except (PictureError, VideoError):
                if attempt == TRIES - 1:
                    raise
                index = int(rng.integers(len(self.scenes)))
                wave = torch.from_numpy(self.heard.crop(index, rng))[None]
        raise AssertionError

    def pictures(self, index: int) -> Pictures:
        """Return a scene's pictures or frames as the image tower wants them."""
        if index in self._pictures:
            return self._pictures[index]
        frames = each_picture(self.scenes[index], self.heard.config.frame_rate)
        pictures = torch.cat([self.towers.prepare(frame[None]) for frame in frames])
        if pictures.numel() <= self._room:
            self._room -= pictures.numel()
            self._pictures[index] = pictures
        return pictures

    def batches(self, seed: int, *, workers: int = 0, rank: int = 0) -> Batches["Triples"]:
        """Return the batches of one process, the same whatever the number of workers."""
        return Batches(self, seed=seed, workers=workers, rank=rank, accumulate=self.heard.accumulate)


def words_of(scene: Scene) -> list[str]:
    """Return a scene's captions, or else its label; none if it has neither."""
    return scene.captions or ([scene.label] if scene.label else [])


def described(scenes: Sequence[Scene], where: str) -> list[Scene]:
    """Return the scenes that words describe."""
    kept = [scene for scene in scenes if words_of(scene)]
    if scenes and not kept:
        raise UserError(f"the scenes of {where} have no captions or labels, which the text head learns from")
    if len(kept) < len(scenes):
        warnings.warn(
            f"{len(scenes) - len(kept)} of {len(scenes)} scenes of {where} have no caption or label "
            "and are left out",
            stacklevel=2,
        )
    return kept
