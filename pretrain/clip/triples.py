"""Batches for AudioCLIP: audio crops with images and captions of the same scenes."""

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
from data.batches import Address
from engine.user_error import UserError
from pretrain.clip.audio_images import TRIES, AudioImageBatch, AudioImageClips
from pretrain.clip.towers import Pictures, Towers


class Triple(NamedTuple):
    """A batch of sounds, images at the image tower's size, and text tokens."""

    sounds: AudioImageBatch
    """Audio crops; ``image`` is a placeholder, since there is no teacher."""
    picture: UInt8[Tensor, "batch 3 height width"]
    tokens: Int[Tensor, "batch context"]


class Triples(Dataset[Triple]):
    """Batches by address, with a random frame and caption of each clip."""

    def __init__(self, sounds: AudioImageClips, towers: Towers) -> None:
        self.scenes, self.sounds, self.towers = sounds.scenes, sounds, towers
        self.tokens = [towers.tokenizer(descriptions_of(scene)) for scene in self.scenes]
        self._pictures: dict[int, Tensor] = {}
        self._room = int(sounds.config.cache_gib * 2**30)

    def __getitem__(self, address: Address) -> Triple:
        sounds = self.sounds[address]
        rng = np.random.default_rng([*address, 1])
        waves, indices, pictures, tokens = [], [], [], []
        for wave, index in zip(sounds.wave, sounds.index.tolist()):
            wave, picture, index = self._with_picture(wave, index, rng)
            waves.append(wave)
            indices.append(index)
            pictures.append(picture)
            tokens.append(self.tokens[index][int(rng.integers(len(self.tokens[index])))])
        images = self.sounds.images[indices]
        sounds = AudioImageBatch(torch.stack(waves), images, torch.tensor(indices))
        return Triple(sounds, torch.stack(pictures), torch.stack(tokens))

    def first(self, n_clips: int) -> list[Triple]:
        """Return validation batches of the first clips, each with its first frame and caption."""
        batches = []
        for sounds in self.sounds.in_order(n_clips):
            indices = sounds.index.tolist()
            pictures = torch.stack([self.pictures(index)[0] for index in indices])
            tokens = torch.stack([self.tokens[index][0] for index in indices])
            batches.append(Triple(sounds, pictures, tokens))
        return batches

    def _with_picture(self, wave: Tensor, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, int]:
        """Return a clip with one of its frames, or another clip if its images cannot be read."""
        for _ in range(TRIES - 1):
            try:
                pictures = self.pictures(index)
                break
            except (PictureError, VideoError):
                index = int(rng.integers(len(self.scenes)))
                wave = torch.from_numpy(self.sounds.crop(index, rng))[None]
        else:
            pictures = self.pictures(index)
        return wave, pictures[int(rng.integers(len(pictures)))], index

    def pictures(self, index: int) -> Pictures:
        """Return a scene's images or video frames, prepared for the image tower."""
        if index in self._pictures:
            return self._pictures[index]
        frames = each_picture(self.scenes[index], self.sounds.config.frame_rate)
        pictures = torch.cat([self.towers.prepare(frame[None]) for frame in frames])
        if pictures.numel() <= self._room:
            self._room -= pictures.numel()
            self._pictures[index] = pictures
        return pictures


def descriptions_of(scene: Scene) -> list[str]:
    return scene.captions or ([scene.label] if scene.label else [])


def with_descriptions(scenes: Sequence[Scene], where: str) -> list[Scene]:
    usable = [scene for scene in scenes if descriptions_of(scene)]
    if scenes and not usable:
        raise UserError(f"the scenes of {where} have no captions or labels, which the text head needs")
    if len(usable) < len(scenes):
        warnings.warn(
            f"{len(scenes) - len(usable)} of {len(scenes)} scenes of {where} have no caption or label "
            "and are skipped",
            stacklevel=2,
        )
    return usable
