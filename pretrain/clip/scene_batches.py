"""From a collection of scenes to batches: its splits, the teacher's embeddings, and who reads which sound."""

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from jaxtyping import Float
from torch import Tensor

from data.audiovisual.finding import scenes_from
from data.audiovisual.scenes import Scene, wave_of
from engine.loop import LoopConfig
from engine.user_error import UserError
from pretrain.clip.audio_encoder import AudioEncoderConfig
from pretrain.clip.heard import Heard, HeardClips, HeardConfig


def split_scenes(config: HeardConfig) -> tuple[list[Scene], list[Scene]]:
    """Find the scenes to train on and those to validate on; scenes without a split are for training."""
    if not config.path:
        raise UserError(
            "no data given; set --data.path to a folder of videos or of sounds with pictures, to a manifest, "
            "or to a dataset's name"
        )
    scenes = scenes_from(config.path, config.layout)
    chosen = [scene for scene in scenes if (scene.split or "train") == config.split]
    if not chosen:
        known = ", ".join(sorted({scene.split or "train" for scene in scenes}))
        raise UserError(f"{config.path} has no scenes in split {config.split!r}; it has {known}")
    held_out = [scene for scene in scenes if scene.split == config.validation_split]
    if not held_out:
        held_out = [scene for scene in chosen if _draw(scene.name) < config.validation_share]
        if 1 < len(held_out) < len(chosen):
            apart = {scene.name for scene in held_out}
            chosen = [scene for scene in chosen if scene.name not in apart]
        else:
            held_out = []
            warnings.warn(
                f"{config.path} has no scenes in split {config.validation_split!r}: training goes unscored, "
                "and its learning rate does not fall",
                stacklevel=2,
            )
    return chosen, held_out[: config.validation_clips]


def heard_clips(
    scenes: Sequence[Scene],
    images: Float[Tensor, "scenes dim"],
    config: HeardConfig,
    encoder: AudioEncoderConfig,
    *,
    n_ranks: int = 1,
    accumulate: int = 1,
) -> HeardClips:
    """Return the training batches of scenes and their pictures' embeddings, by address."""
    return HeardClips(
        partial(_wave, list(scenes), encoder.sample_rate),
        images,
        config,
        sample_rate=encoder.sample_rate,
        least_samples=encoder.least_samples,
        n_ranks=n_ranks,
        accumulate=accumulate,
        names=[scene.name for scene in scenes],
    )


def validation_batches(
    scenes: Sequence[Scene],
    images: Float[Tensor, "scenes dim"],
    config: HeardConfig,
    encoder: AudioEncoderConfig,
) -> list[Heard]:
    """Return the scenes' first crops in memory, in batches as large as training's where there are as many."""
    if len(scenes) < 2:
        return []
    small = min(config.batch, len(scenes))
    return heard_clips(scenes, images, replace(config, batch=small), encoder).in_order(len(scenes))


def in_epochs(loop: LoopConfig, max_epochs: int, steps_per_epoch: int) -> LoopConfig:
    """Let a run end after ``max_epochs`` at the latest and be evaluated in each; with 0, leave it alone."""
    if not max_epochs:
        return loop
    steps = min(loop.steps, max_epochs * steps_per_epoch)
    return replace(loop, steps=steps, sample_every=min(loop.sample_every, steps_per_epoch))


def _draw(name: str) -> float:
    """Return a number in [0, 1) that only the name decides, so that a scene stays on its side."""
    return zlib.crc32(name.encode(errors="surrogateescape")) / 2**32


def _wave(scenes: list[Scene], sample_rate: int, index: int) -> Float[Tensor, "1 1 samples"]:
    return wave_of(scenes[index], sample_rate)
