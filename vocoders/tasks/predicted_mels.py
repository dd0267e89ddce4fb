"""Batches for fine-tuning a vocoder on another network's mels: crops of recordings and predicted mels."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from data.batches import Address, DataConfig
from data.frontends import MelConfig
from data.recordings import Recordings
from data.rows import split_rows
from engine.user_error import UserError


class MelBatch(NamedTuple):
    """Crops of recordings and of the mels predicted for them."""

    wave: Float[Tensor, "batch 1 samples"]
    mel: Float[Tensor, "batch n_mels frames"]


class PredictedMels(Dataset[MelBatch]):
    """Batches by address; crops start at frame boundaries, so that predicted mels can be cropped alike."""

    def __init__(self, config: DataConfig, mel: MelConfig, folder: Path, *, progress: bool = True) -> None:
        self.config, self.hop = config, mel.hop
        rows = split_rows(config.path, config.split)
        self.mels = {i: file for i, row in enumerate(rows) if (file := predicted(folder, Path(row.path)))}
        if not self.mels:
            raise UserError(
                f"predicted_mels={folder} has no mel for any of the {len(rows)} recordings: it must hold "
                f"NAME.npy or SPEAKER/NAME.npy for each, as in {Path(rows[0].path).with_suffix('.npy').name}"
            )
        paired = [rows[i] for i in self.mels]
        self.files = list(self.mels.values())
        self.recordings = Recordings(
            paired, sample_rate=config.sample_rate, cache_gib=config.cache_gib, progress=progress
        )
        self.usable = self.recordings.usable
        self._totals = np.cumsum(self.recordings.lengths[self.usable])
        for index in self.usable:
            self._check(int(index), mel)

    def _check(self, index: int, mel: MelConfig) -> None:
        path, length = self.files[index], int(self.recordings.lengths[index])
        try:
            shape = np.load(path, mmap_mode="r").shape
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the mel {path}: {error}") from None
        if len(shape) != 2 or shape[0] != mel.n_mels:
            raise UserError(f"{path} has shape {shape}: it must be ({mel.n_mels}, frames)")
        if abs(shape[1] - length / mel.hop) > 2:
            raise UserError(
                f"{path} has {shape[1]} frames and its recording {length / mel.hop:.0f}: give predictions "
                "that keep the recording's time (teacher-forced ones)"
            )

    def __getitem__(self, address: Address) -> MelBatch:
        rng = np.random.default_rng(list(address))
        pairs = [self._crop(rng) for _ in range(self.config.batch)]
        waves, mels = zip(*pairs)
        return MelBatch(torch.from_numpy(np.stack(waves))[:, None], torch.from_numpy(np.stack(mels)))

    def _crop(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        index = int(self.usable[np.searchsorted(self._totals, rng.integers(self._totals[-1]), side="right")])
        mel, length, frames = np.load(self.files[index], mmap_mode="r"), self.config.crop_samples, 0
        frames = length // self.hop
        whole = min(mel.shape[1], int(self.recordings.lengths[index]) // self.hop)
        start = int(rng.integers(max(whole - frames, 0) + 1))
        cut = np.asarray(mel[:, start : min(start + frames, whole)], np.float32)
        n_samples = cut.shape[1] * self.hop
        wave = self.recordings.read(index, start * self.hop, n_samples)
        # A recording shorter than the crop is padded with silence, and its mel with its lowest value.
        cut = np.pad(cut, ((0, 0), (0, frames - cut.shape[1])), constant_values=float(cut.min()))
        return np.pad(wave, (0, length - n_samples)), cut


def predicted(folder: Path, recording: Path) -> Path | None:
    """The mel file of a recording, in ``folder`` or in a sub-folder named like the recording's folder."""
    for candidate in (folder / recording.parent.name / recording.stem, folder / recording.stem):
        path = candidate.with_name(f"{candidate.name}.npy")
        if path.is_file():
            return path
    return None
