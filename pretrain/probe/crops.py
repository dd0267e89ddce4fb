"""Random, changed crops of a few clips in memory, which encoders trained on a corpus' folds learn from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.augment import Augment, AugmentConfig
from data.manifest import Row
from data.recordings import Recordings

TRIES = 3
"""Places drawn for a crop, of which the loudest is taken: many clips end in digital silence."""
CHANGES = AugmentConfig(eq=0.5, reverberation=0.2, noise=0.3, gain=0.0, snr_db=(15.0, 40.0))
"""What is done to waves while training."""


class Crops:
    """Batches of crops by (seed, step)."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        sample_rate: int,
        crop_s: float,
        changes: AugmentConfig = CHANGES,
        progress: bool = False,
    ) -> None:
        rows = [Row(path=path) for path in paths]
        self.recordings = Recordings(rows, sample_rate=sample_rate, silence_db=-200.0, progress=progress)
        self.crop_samples, self.changed = round(crop_s * sample_rate), Augment(changes, sample_rate)

    def draw(
        self, indices: Int[np.ndarray, "batch"], address: Sequence[int]
    ) -> Float[Tensor, "batch 1 samples"]:
        """A changed crop of each clip; the same address gives the same crops."""
        rng = np.random.default_rng(list(address))
        wave = torch.from_numpy(np.stack([self._loudest(int(i), rng) for i in indices]))[:, None]
        changes = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return self.changed(wave, changes)

    def whole(self, index: int, longest: int) -> Float[Tensor, "1 1 samples"]:
        """The first ``longest`` samples of a clip, as they are."""
        n_samples = min(int(self.recordings.lengths[index]), longest)
        return torch.from_numpy(self.recordings.read(index, 0, n_samples))[None, None]

    def _loudest(self, index: int, rng: np.random.Generator) -> Float[np.ndarray, "samples"]:
        room = max(int(self.recordings.lengths[index]) - self.crop_samples, 0)
        starts = rng.integers(room + 1, size=TRIES if room else 1)
        crops = [self.recordings.read(index, int(start), self.crop_samples) for start in starts]
        return max(crops, key=lambda crop: float(np.square(crop).sum()))
