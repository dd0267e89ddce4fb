"""Batches of crops of sound, each with the frozen teacher's embedding of what was seen meanwhile."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from data.audio import AudioError
from data.audiovisual.video import VideoError
from data.batches import Address, Batches
from engine.user_error import UserError

TRIES = 6
"""Clips in a row that may be unreadable before training stops."""


class Heard(NamedTuple):
    """Sounds and what the teacher made of their pictures, row by row."""

    wave: Float[Tensor, "batch 1 samples"]
    image: Float[Tensor, "batch dim"]
    """The teacher's embedding of the picture, or the mean of the clip's frames' embeddings."""
    index: Int[Tensor, "batch"]
    """Which clip."""


@dataclass(frozen=True, kw_only=True)
class HeardConfig:
    """Which sounds with pictures, and how they are cut."""

    path: str = ""
    """A folder of videos, of pairs of sounds and pictures, or a manifest; see data/audiovisual/scenes.py."""
    layout: Literal["auto", "videos", "vggsound", "pairs", "hub"] = "auto"
    """How the folder is read: videos, vggsound, pairs, hub, or auto to look."""
    crop_seconds: float = 10.0
    """Length of a crop, at a random place. A clip shorter than this is repeated to fill it."""
    frame_rate: float = 1.0
    """Frames of a video that the teacher looks at in a second."""
    batch: int = 128
    """Clips in a micro-batch of one process, each a different one."""
    split: str = "train"
    """Clips trained on."""
    validation_split: str = "validation"
    """Clips scored, from their beginning."""
    validation_share: float = 0.01
    """Where that split is empty (VGGSound has none), such a share of the training clips is kept apart for it,
    if that is two or more; else training goes unscored."""
    validation_clips: int = 1000
    """At most so many are scored."""
    cache_gib: float = 1.0
    """Memory for decoded sounds in each loading process; 0 reads them anew each time."""

    def __post_init__(self) -> None:
        if self.crop_seconds <= 0:
            raise UserError(f"data.crop_seconds={self.crop_seconds} must be above 0")
        if not 0 <= self.validation_share < 1:
            raise UserError(f"data.validation_share={self.validation_share} must lie in [0, 1)")
        if self.batch < 2:
            raise UserError(f"data.batch={self.batch} must be at least 2: other clips are the negatives")


class HeardClips(Dataset[Heard]):
    """Batches by address. All processes' clips of a step differ, and each is used once in an epoch.

    ``wave_of(index)`` reads a clip at the encoder's rate; ``images`` are the teacher's embeddings.
    """

    def __init__(
        self,
        wave_of: Callable[[int], Float[Tensor, "1 1 samples"]],
        images: Float[Tensor, "clips dim"],
        config: HeardConfig,
        *,
        sample_rate: int,
        least_samples: int = 1,
        n_ranks: int = 1,
        accumulate: int = 1,
        names: Sequence[str] = (),
    ) -> None:
        self.wave_of, self.images, self.config = wave_of, images, config
        self.crop_samples = round(config.crop_seconds * sample_rate)
        self.least_samples, self.n_ranks, self.accumulate = least_samples, n_ranks, accumulate
        self.names = names or [f"clip {index}" for index in range(len(images))]
        self._waves: dict[int, np.ndarray] = {}
        self._bad: set[int] = set()
        self._room = int(config.cache_gib * 2**30)
        self._order: tuple[tuple[int, int], np.ndarray] | None = None
        if self.crop_samples < least_samples:
            raise UserError(
                f"data.crop_seconds={config.crop_seconds} is shorter than the encoder's window: take crops "
                f"of at least {least_samples / sample_rate} s"
            )
        if len(images) < config.batch * n_ranks:
            raise UserError(
                f"{config.path or 'the data'} has {len(images)} clips, fewer than a batch of "
                f"{config.batch * n_ranks}: set --data.batch to {max(len(images) // n_ranks, 2)} or less"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every clip was used once, but for those that fill no whole batch."""
        return max(len(self.images) // (self.config.batch * self.n_ranks) // self.accumulate, 1)

    def __getitem__(self, address: Address) -> Heard:
        rng = np.random.default_rng(list(address))
        crops, indices = zip(*(self._draw(int(index), rng) for index in self._chosen(address)))
        return self._heard(list(crops), np.array(indices))

    def _draw(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """Return a clip's crop, or another clip's where this one can no longer be read."""
        for attempt in range(TRIES):
            try:
                return self.crop(index, rng), index
            except (AudioError, VideoError) as error:
                if attempt == TRIES - 1:
                    raise
                self._leave_out(index, error)
                index = int(rng.integers(len(self.images)))
        raise AssertionError

    def _heard(self, crops: list[np.ndarray], indices: np.ndarray) -> Heard:
        wave = torch.from_numpy(np.stack(crops))[:, None]
        return Heard(wave=wave, image=self.images[indices], index=torch.from_numpy(indices))

    def _chosen(self, address: Address) -> np.ndarray:
        """Return this process's share of the step's clips."""
        size = self.config.batch
        whole = len(self.images) // (size * self.n_ranks)
        epoch, place = divmod(address.step * self.accumulate + address.micro, whole)
        if self._order is None or self._order[0] != (address.seed, epoch):
            order = np.random.default_rng([address.seed, epoch]).permutation(len(self.images))
            self._order = (address.seed, epoch), order
        first = (place * self.n_ranks + address.rank) * size
        return self._order[1][first : first + size]

    def crop(self, index: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return a crop of a clip, at a random place, or from its beginning where there is no ``rng``."""
        wave = self._wave(index)
        if len(wave) < self.crop_samples:
            start = int(rng.integers(len(wave))) if rng else 0
            return np.resize(np.roll(wave, -start), self.crop_samples)
        start = int(rng.integers(len(wave) - self.crop_samples + 1)) if rng else 0
        return wave[start : start + self.crop_samples]

    def _wave(self, index: int) -> np.ndarray:
        if index in self._waves:
            return self._waves[index]
        wave = self.wave_of(index).numpy().reshape(-1)
        if len(wave) < self.least_samples:
            raise UserError(
                f"{self.names[index]} has {len(wave)} samples, fewer than the encoder's window of "
                f"{self.least_samples}: leave it out"
            )
        if wave.nbytes <= self._room:
            self._room -= wave.nbytes
            self._waves[index] = wave
        return wave

    def in_order(self, n_clips: int) -> list[Heard]:
        """Return the first clips, each from its beginning, in batches: what a validation is made of."""
        chosen = np.array([i for i in range(min(n_clips, len(self.images))) if self._readable(i)], dtype=int)
        size = self.config.batch
        parts = [chosen[first : first + size] for first in range(0, len(chosen), size)]
        return [self._heard([self.crop(int(index)) for index in part], part) for part in parts]

    def _readable(self, index: int) -> bool:
        try:
            return len(self.crop(index)) > 0
        except (AudioError, VideoError) as error:
            self._leave_out(index, error)
            return False

    def _leave_out(self, index: int, error: UserError) -> None:
        if index not in self._bad:
            print(f"left out: {error}", file=sys.stderr)
        self._bad.add(index)

    def batches(self, seed: int, *, workers: int = 0, rank: int = 0) -> Batches["HeardClips"]:
        """Return the batches of one process, the same whatever the number of workers."""
        return Batches(self, seed=seed, workers=workers, rank=rank, accumulate=self.accumulate)
