"""Batches for StarGAN: loud crops at full scale, and what is known of each."""

from dataclasses import replace
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from data.batches import Address, Batches, DataConfig, SpeechCrops
from data.manifest import Row
from data.rows import known_speakers, split_rows
from engine.loop import LoopConfig
from engine.user_error import UserError
from w2w.baselines.stargan.labels import LabelsConfig, labels_of
from w2w.baselines.stargan.spectrogram import SpectrogramConfig, at_full_scale


class LabelledBatch(NamedTuple):
    """Crops and their labels."""

    wave: Float[Tensor, "batch 1 samples"]
    """Peaks of 1."""
    labels: Int[Tensor, "batch groups"]
    """−1 where a group is not known of a clip."""


class LabelledCrops(Dataset[LabelledBatch]):
    """Batches by address. A crop below ``silence_db`` is drawn again, a short recording repeated."""

    def __init__(
        self,
        config: DataConfig,
        spectrogram: SpectrogramConfig,
        labels: LabelsConfig,
        *,
        n_parts: int = 1,
        progress: bool = True,
    ) -> None:
        """``n_parts`` times ``config.batch`` clips are drawn at once: a part for each update of a step."""
        # The other crop of the same voice is not used; one sample of it is the least that can be asked for.
        cut = replace(
            config,
            sample_rate=spectrogram.sample_rate,
            crop_samples=spectrogram.crop_samples,
            reference_samples=1,
            batch=config.batch * n_parts,
        )
        self.crops = SpeechCrops(cut, progress=progress)
        self.labels = labels_of(told_rows(config), labels)
        """Every row's."""

    def __getitem__(self, address: Address) -> LabelledBatch:
        batch = self.crops[address]
        return LabelledBatch(at_full_scale(batch.wave), self.labels[batch.utterance])


def told_rows(config: DataConfig) -> list[Row]:
    """The rows of the split, with the speakers that the run is told of."""
    rows = split_rows(config.path, config.split)
    known = known_speakers(rows, config.label_share)
    return [replace(row, speaker=speaker) for row, speaker in zip(rows, known, strict=True)]


def labelled_batches(
    config: DataConfig,
    loop: LoopConfig,
    spectrogram: SpectrogramConfig,
    labels: LabelsConfig,
    *,
    n_parts: int,
    rank: int = 0,
) -> Batches[LabelledCrops]:
    """Read the corpus and return the batches of one process."""
    if config.batch < 2:
        raise UserError(f"data.batch={config.batch} must be at least 2: target labels are other clips'")
    crops = LabelledCrops(config, spectrogram, labels, n_parts=n_parts, progress=rank == 0)
    return Batches(crops, seed=loop.seed, workers=loop.workers, rank=rank, accumulate=loop.accumulate)
