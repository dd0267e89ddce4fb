"""Batches of audio crops, each with the frozen teacher's embedding of the scene's images."""

import sys
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from data.audio import AudioError
from data.audiovisual.finding import scenes_from
from data.audiovisual.scenes import Scene, wave_of
from data.audiovisual.video import VideoError
from data.batches import Address
from engine.config import free
from engine.contents import Contents, folder_contents
from engine.loop import LoopConfig
from engine.user_error import UserError, within
from pretrain.clip.audio_encoder import AudioEncoderConfig

TRIES = 6
"""Maximum number of consecutive unreadable clips before training stops."""


class AudioImageBatch(NamedTuple):
    """A batch of sounds with the teacher's image embeddings."""

    wave: Float[Tensor, "batch 1 samples"]
    image: Float[Tensor, "batch dim"]
    """The teacher's embedding of the image, or the mean of its embeddings of the video frames."""
    index: Int[Tensor, "batch"]
    """Index of the clip."""


@dataclass(frozen=True, kw_only=True)
class AudioImageConfig:
    """Audio-visual scenes, audio crops and the validation set."""

    path: str = free("")
    """A folder of videos or of pairs of sounds and images, or a manifest; see data/audiovisual/scenes.py."""
    layout: Literal["auto", "videos", "vggsound", "pairs", "hub"] = "auto"
    """Layout of the folder: videos, vggsound, pairs, hub, or auto to detect it."""
    crop_seconds: float = 10.0
    """Length of a random crop; shorter clips are repeated to fill it."""
    frame_rate: float = 1.0
    """Video frames per second that the teacher embeds."""
    batch: int = 128
    """Clips per micro-batch and process, all different."""
    split: str = "train"
    """Split used for training."""
    validation_split: str = "validation"
    """Split used for validation; the crops are the beginnings of the clips."""
    validation_share: float = 0.01
    """Fraction of the training clips held out for validation if that split is empty (as in VGGSound); fewer
    than two clips: no validation."""
    validation_clips: int = 1000
    """Maximum number of validation clips."""
    cache_gib: float = 1.0
    """Memory for decoded sounds in each loading process; 0: no cache."""

    def __post_init__(self) -> None:
        within("(0, inf)", self, "crop_seconds", prefix="data.")
        within("[0, 1)", self, "validation_share", prefix="data.")
        if self.batch < 2:
            raise UserError(f"data.batch={self.batch} must be at least 2: the negatives are the other clips")

    def contents(self) -> dict[str, Contents | None]:
        contents = folder_contents(self.path, "a collection")
        return {"path": contents and replace(contents, fixed=())}


class AudioImageClips(Dataset[AudioImageBatch]):
    """Batches by address; each clip is used once per epoch, by one process.

    ``images`` are the teacher's embeddings of the scenes; ``encoder`` gives the sample rate and window.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        images: Float[Tensor, "scenes dim"],
        config: AudioImageConfig,
        encoder: AudioEncoderConfig,
        *,
        n_ranks: int = 1,
        accumulate: int = 1,
    ) -> None:
        self.scenes, self.images, self.config, self.encoder = scenes, images, config, encoder
        self.crop_samples = round(config.crop_seconds * encoder.sample_rate)
        self.n_ranks, self.accumulate = n_ranks, accumulate
        self._waves: dict[int, np.ndarray] = {}
        self._bad: set[int] = set()
        self._room = int(config.cache_gib * 2**30)
        self._order: tuple[tuple[int, int], np.ndarray] | None = None
        if self.crop_samples < encoder.n_fft:
            raise UserError(
                f"data.crop_seconds={config.crop_seconds} is shorter than the encoder's window: take crops "
                f"of at least {encoder.n_fft / encoder.sample_rate} s"
            )
        if len(images) < config.batch * n_ranks:
            raise UserError(
                f"{config.path or 'the data'} has {len(images)} clips, fewer than a batch of "
                f"{config.batch * n_ranks}: set --data.batch to {max(len(images) // n_ranks, 2)} or less"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch, without an incomplete last batch."""
        return max(len(self.images) // (self.config.batch * self.n_ranks) // self.accumulate, 1)

    def __getitem__(self, address: Address) -> AudioImageBatch:
        rng = np.random.default_rng(list(address))
        crops, indices = zip(*(self._draw(int(index), rng) for index in self._chosen(address)))
        return self._batch(list(crops), np.array(indices))

    def _draw(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """Return a crop of the clip, or of another one if it can no longer be read."""
        for _ in range(TRIES - 1):
            try:
                return self.crop(index, rng), index
            except (AudioError, VideoError) as error:
                self._leave_out(index, error)
                index = int(rng.integers(len(self.images)))
        return self.crop(index, rng), index

    def _batch(self, crops: list[np.ndarray], indices: np.ndarray) -> AudioImageBatch:
        wave = torch.from_numpy(np.stack(crops))[:, None]
        return AudioImageBatch(wave=wave, image=self.images[indices], index=torch.from_numpy(indices))

    def _chosen(self, address: Address) -> np.ndarray:
        """Return the indices of this process's clips of the step."""
        size = self.config.batch
        whole = len(self.images) // (size * self.n_ranks)
        epoch, place = divmod(address.step * self.accumulate + address.micro, whole)
        if self._order is None or self._order[0] != (address.seed, epoch):
            order = np.random.default_rng([address.seed, epoch]).permutation(len(self.images))
            self._order = (address.seed, epoch), order
        first = (place * self.n_ranks + address.rank) * size
        return self._order[1][first : first + size]

    def crop(self, index: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return a random crop of a clip, or its beginning without ``rng``."""
        wave = self._wave(index)
        if len(wave) < self.crop_samples:
            start = int(rng.integers(len(wave))) if rng else 0
            return np.resize(np.roll(wave, -start), self.crop_samples)
        start = int(rng.integers(len(wave) - self.crop_samples + 1)) if rng else 0
        return wave[start : start + self.crop_samples]

    def _wave(self, index: int) -> np.ndarray:
        if index in self._waves:
            return self._waves[index]
        scene, window = self.scenes[index], self.encoder.n_fft
        wave = wave_of(scene, self.encoder.sample_rate).numpy().reshape(-1)
        if len(wave) < window:
            raise UserError(
                f"{scene.name} has {len(wave)} samples, fewer than the encoder's window of {window}: leave "
                "it out"
            )
        if wave.nbytes <= self._room:
            self._room -= wave.nbytes
            self._waves[index] = wave
        return wave

    def in_order(self, n_clips: int) -> list[AudioImageBatch]:
        """Return batches of the beginnings of the first clips, for validation."""
        chosen = np.array([i for i in range(min(n_clips, len(self.images))) if self._readable(i)], dtype=int)
        size = self.config.batch
        parts = [chosen[first : first + size] for first in range(0, len(chosen), size)]
        return [self._batch([self.crop(int(index)) for index in part], part) for part in parts]

    def _readable(self, index: int) -> bool:
        try:
            return len(self.crop(index)) > 0
        except (AudioError, VideoError) as error:
            self._leave_out(index, error)
            return False

    def _leave_out(self, index: int, error: UserError) -> None:
        if index not in self._bad:
            print(f"skipped: {error}", file=sys.stderr)
        self._bad.add(index)


def split_scenes(config: AudioImageConfig) -> tuple[list[Scene], list[Scene]]:
    """Return the training and validation scenes; scenes without a split belong to training."""
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
            names = {scene.name for scene in held_out}
            chosen = [scene for scene in chosen if scene.name not in names]
        else:
            held_out = []
            warnings.warn(
                f"{config.path} has no scenes in split {config.validation_split!r}: there is no validation, "
                "and the learning rate is not reduced",
                stacklevel=2,
            )
    return chosen, held_out[: config.validation_clips]


def validation_batches(
    scenes: Sequence[Scene],
    images: Float[Tensor, "scenes dim"],
    config: AudioImageConfig,
    encoder: AudioEncoderConfig,
) -> list[AudioImageBatch]:
    """Return batches of the scenes' first crops, at most as large as in training."""
    if len(scenes) < 2:
        return []
    small = replace(config, batch=min(config.batch, len(scenes)))
    return AudioImageClips(scenes, images, small, encoder).in_order(len(scenes))


def in_epochs(loop: LoopConfig, max_epochs: int, steps_per_epoch: int) -> LoopConfig:
    """Limit a run to ``max_epochs`` with at least one evaluation per epoch; 0: no limit."""
    if not max_epochs:
        return loop
    steps = min(loop.steps, max_epochs * steps_per_epoch)
    return replace(loop, steps=steps, sample_every=min(loop.sample_every, steps_per_epoch))


def _draw(name: str) -> float:
    """Return a number in [0, 1) derived from the name only, so that a scene always has the same split."""
    return zlib.crc32(name.encode(errors="surrogateescape")) / 2**32
