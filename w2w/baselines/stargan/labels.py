"""Label groups from manifest columns, any of which may be missing for a clip, and labelled batches.

A clip's labels are indices, ``batch groups``, −1 if a group is unknown. The generator's input has them as
one-hot vectors and presence bits; the discriminator's targets are in {0, 1}, and −1 if unknown.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from data.batches import Address, Batches, DataConfig, SpeechCrops
from data.manifest import ALIASES, Row
from data.rows import speaker_labels, split_rows
from engine.loop import LoopConfig
from engine.user_error import UserError, nearest
from w2w.baselines.stargan.spectrogram import SpectrogramConfig, at_full_scale

Indices = Int[Tensor, "batch groups"]


@dataclass(frozen=True, kw_only=True)
class LabelGroup:
    """A group of exclusive labels: the distinct names in one column of the manifest."""

    column: str = "speaker"
    """Manifest column: speaker, gender, or any other, such as accent or corpus; empty: no such group."""
    size: int = 0
    """Number of labels; 0: as many as the data has names."""
    names: tuple[str, ...] = ()
    """Names in the order of the labels; filled in from the data, and stored with the model."""

    def __post_init__(self) -> None:
        if self.size < 0:
            raise UserError(f"size={self.size} of the label group {self.column} must be 0 or more")
        if self.size and len(self.names) > self.size:
            raise UserError(f"{len(self.names)} names of {self.column} exceed its label group of {self.size}")


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Three label groups; the default sizes are the experiment's."""

    first: LabelGroup = field(default_factory=lambda: LabelGroup(column="speaker", size=1421))
    """First label group, for example speakers."""
    second: LabelGroup = field(default_factory=lambda: LabelGroup(column="accent", size=53))
    """Second label group, for example accents or corpora."""
    third: LabelGroup = field(default_factory=lambda: LabelGroup(column="gender", size=2))
    """Third label group, for example genders."""

    @property
    def groups(self) -> tuple[LabelGroup, ...]:
        return tuple(group for group in (self.first, self.second, self.third) if group.column)

    @property
    def sizes(self) -> list[int]:
        return [group.size for group in self.groups]

    @property
    def n_out(self) -> int:
        """Number of the discriminator's classes: all labels of all groups, 1476 by default."""
        return sum(self.sizes)

    @property
    def n_in(self) -> int:
        """Width of the generator's label input: all labels and a presence bit per group, 1479 by default."""
        return self.n_out + len(self.groups)


def input_label(indices: Indices, config: LabelsConfig) -> Float[Tensor, "batch n_in"]:
    """The generator's input: one-hot labels of known groups, zeros for unknown ones, then presence bits."""
    hots = [_one_hot(of, size) for of, size in zip(indices.unbind(1), config.sizes, strict=True)]
    return torch.cat([*hots, (indices >= 0).float()], dim=1)


def output_label(indices: Indices, config: LabelsConfig) -> Float[Tensor, "batch n_out"]:
    """The discriminator's target: one-hot labels of known groups, −1 for all labels of unknown ones."""
    columns = zip(indices.unbind(1), config.sizes, strict=True)
    return torch.cat([_one_hot(of, size).where(of[:, None] >= 0, -1.0) for of, size in columns], dim=1)


def _one_hot(index: Tensor, size: int) -> Tensor:
    """One-hot rows; zeros where the index is −1."""
    if not size:
        return index.new_zeros(len(index), 0, dtype=torch.float32)
    return F.one_hot(index.clamp_min(0), size).float() * (index >= 0)[:, None]


def value_of(row: Row, column: str) -> str | None:
    """A manifest row's value in a column, given by our name or an alias; None if empty."""
    for ours in ("speaker", "gender"):
        if column in ALIASES[ours]:
            return getattr(row, ours)
    return row.extra.get(column) or None


def with_names(config: LabelsConfig, rows: Sequence[Row]) -> LabelsConfig:
    """Fill in missing names and sizes from the data; given names stay."""
    filled = {}
    for place in ("first", "second", "third"):
        group: LabelGroup = getattr(config, place)
        if group.column and not group.names:
            all_names = sorted({value for row in rows if (value := value_of(row, group.column)) is not None})
            group = replace(group, names=tuple(all_names[: group.size or None]))
        filled[place] = replace(group, size=group.size or len(group.names))
    return LabelsConfig(**filled)


def labels_of(rows: Iterable[Row], config: LabelsConfig) -> Int[Tensor, "rows groups"]:
    """The labels of every row; rows with an unknown name, or without any label, are refused."""
    places = [{name: index for index, name in enumerate(group.names)} for group in config.groups]
    labels = []
    for row in rows:
        values = [value_of(row, group.column) for group in config.groups]
        if not any(value is not None for value in values):
            columns = ", ".join(group.column for group in config.groups)
            raise UserError(f"{row.path} has no label at all in {columns}: give it one, or remove the row")
        for group, place, value in zip(config.groups, places, values, strict=True):
            if value is not None and value not in place:
                raise UserError(
                    f"{row.path}: {group.column} {value!r} is not in its label group, which has {group.size} "
                    f"labels and {len(group.names)} names: make the group larger (size 0: as large as the "
                    "data needs), or remove the row"
                )
        labels.append([-1 if value is None else place[value] for place, value in zip(places, values)])
    return torch.tensor(labels)


Companions = tuple[tuple[int, ...], ...]
"""For each name of the first group, its labels in all groups; −1 if unknown."""


def companions(rows: Iterable[Row], labels: LabelsConfig) -> Companions:
    """For each name of the first group, the most frequent label of its clips in each other group.

    The generator has seen a speaker only together with the other labels of its clips.
    """
    known = labels_of(rows, labels).tolist()
    others = [-1] * (len(labels.groups) - 1)  # for names without clips
    return tuple(
        tuple(_commonest(column) for column in zip(*clips))
        for index in range(len(labels.groups[0].names) if labels.groups else 0)
        for clips in [[clip for clip in known if clip[0] == index] or [[index, *others]]]
    )


def _commonest(column: Iterable[int]) -> int:
    counts = Counter(index for index in column if index >= 0)
    return counts.most_common(1)[0][0] if counts else -1


def named_voice(name: str, labels: LabelsConfig, known: Companions = ()) -> Float[Tensor, "1 n_in"]:
    """The voice of a name in any group; one of the first group includes its labels in the other groups."""
    for place, group in enumerate(labels.groups):
        if name in group.names:
            index = group.names.index(name)
            alone = [index if other is group else -1 for other in labels.groups]
            return input_label(torch.tensor([known[index] if place == 0 and known else alone]), labels)
    names = [name for group in labels.groups for name in group.names]
    raise UserError(
        f"this converter has no voice {name!r}{nearest(name, names)}: it was trained on {len(names)} "
        f"labels, such as {', '.join(names[:5])}; use the voice of a clip (--reference)"
    )


def predicted_voice(
    logits: Float[Tensor, "batch n_out"], labels: LabelsConfig
) -> Float[Tensor, "batch n_in"]:
    """The voices predicted by the discriminator's class head: the most likely name of each group."""
    columns = []
    for group, column in zip(labels.groups, logits.split(labels.sizes, dim=1), strict=True):
        # Labels without a name have no training clips and are excluded, unless no label has a name.
        column = column[:, : len(group.names) or None]
        absent = column.new_full((len(column),), -1, dtype=torch.long)
        columns.append(column.argmax(1) if column.shape[1] else absent)
    return input_label(torch.stack(columns, dim=1), labels)


class LabelledBatch(NamedTuple):
    wave: Float[Tensor, "batch 1 samples"]
    """Clips scaled to a peak of 1."""
    labels: Int[Tensor, "batch groups"]
    """Label indices; −1 if unknown."""


class LabelledCrops(Dataset[LabelledBatch]):
    """Batches by address. Crops below ``silence_db`` are redrawn, and short recordings repeated."""

    def __init__(
        self,
        config: DataConfig,
        spectrogram: SpectrogramConfig,
        labels: LabelsConfig,
        *,
        n_parts: int = 1,
        progress: bool = True,
    ) -> None:
        """Draw ``n_parts`` times ``config.batch`` clips per step: one part for each update of a step."""
        # The reference crop is not used; one sample is its minimal length.
        cut = replace(
            config,
            sample_rate=spectrogram.sample_rate,
            crop_samples=spectrogram.crop_samples,
            reference_samples=1,
            batch=config.batch * n_parts,
        )
        self.crops = SpeechCrops(cut, progress=progress)
        self.labels = labels_of(rows_with_known_speakers(config), labels)

    def __getitem__(self, address: Address) -> LabelledBatch:
        batch = self.crops[address]
        return LabelledBatch(at_full_scale(batch.wave), self.labels[batch.utterance])


def known_speakers(rows: Sequence[Row], share: float) -> list[str | None]:
    """The speaker of each row for a fraction ``share`` of the labelled rows; None for the others."""
    names, codes = speaker_labels(rows, share)
    return [names[code] if code >= 0 else None for code in codes]


def rows_with_known_speakers(config: DataConfig) -> list[Row]:
    """The rows of the split, with the speaker labels that ``label_share`` leaves."""
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
    crops = LabelledCrops(config, spectrogram, labels, n_parts=n_parts, progress=rank == 0)
    return Batches(crops, seed=loop.seed, workers=loop.workers, rank=rank, accumulate=loop.accumulate)
