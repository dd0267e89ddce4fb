"""Labelled recordings and their splits, from a manifest, ESC-50, UrbanSound8K or Speech Commands."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from data.audio import audio_files
from data.manifest import Row, rows_from
from engine.user_error import UserError

COLUMNS = ("label", "labels", "category", "class")
"""Default columns of the label, in order of precedence."""
SPLITS = ("train", "validation", "test")
LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
"""Speech Commands' official lists; all other recordings are for training."""
ESC_NAME = re.compile(r"(\d)-(\d+)-[A-Z](-\d+)?")
"""Name of an ESC clip: fold-recording-take[-class]."""


class Clip(NamedTuple):
    """One recording and its labels."""

    path: Path
    labels: tuple[str, ...]
    """At least one label; several in multi-label corpora."""
    split: str | None = None
    fold: int | None = None
    """Official cross-validation fold."""
    recording: str = ""
    """Identifier of the original recording; clips from one recording are not independent."""
    caption: str | None = None

    @property
    def group(self) -> str:
        """Unit of resampling in the bootstrap."""
        return self.recording or str(self.path)


def clips_from(path: str | Path, column: str = "") -> list[Clip]:
    """Return the labelled clips of a manifest, of a folder with one, or of a known corpus' folder."""
    path = Path(path)
    if (path / "meta" / "esc50.csv").is_file():
        return _esc50(path)
    if (path / "metadata" / "UrbanSound8K.csv").is_file():
        return _urbansound(path)
    if any((path / name).is_file() for name in LISTS):
        return _speech_commands(path)
    rows = rows_from(path)
    column = column or next((name for name in COLUMNS if name in rows[0].extra), COLUMNS[0])
    return [_clip(path, row, column) for row in rows]


def label_names(clips: Sequence[Clip]) -> list[str]:
    return sorted({label for clip in clips for label in clip.labels})


def is_multi_label(clips: Sequence[Clip]) -> bool:
    return any(len(clip.labels) != 1 for clip in clips)


def targets_of(clips: Sequence[Clip], names: Sequence[str]) -> Float[Tensor, "clips n_classes"]:
    """Return a matrix with 1 where a clip has a label, else 0."""
    targets = torch.zeros(len(clips), len(names))
    for row, clip in enumerate(clips):
        targets[row, [names.index(label) for label in clip.labels]] = 1.0
    return targets


def splits_of(clips: Sequence[Clip], path: str | Path) -> tuple[list[Clip], ...]:
    """Return the training, validation and test clips.

    Without a split, they follow from the folds: the last is the test, the last but one the validation.
    """
    if not all(clip.split for clip in clips):
        last = rotations(clips, path)[-1]
        return last.train, last.validation, last.test
    parts = tuple([c for c in clips if c.split == split] for split in SPLITS)
    for split, part in zip(SPLITS, parts):
        if not part:
            found = ", ".join(sorted({clip.split or "none" for clip in clips}))
            problem = f"{path} has no clips of split {split!r} (found: {found})"
            raise UserError(f"{problem}: fill its 'split' column")
    return parts


class Rotation(NamedTuple):
    """The training, validation and test clips of one test fold."""

    fold: int
    train: list[Clip]
    validation: list[Clip]
    test: list[Clip]


def rotations(clips: Sequence[Clip], path: str | Path, only: Sequence[int] = ()) -> list[Rotation]:
    """Return a rotation for each official fold as the test, with the fold before it as the validation.

    ``only`` restricts the test folds.
    """
    folds = sorted({clip.fold for clip in clips if clip.fold is not None})
    if len(folds) < 3 or any(clip.fold is None for clip in clips):
        raise UserError(
            f"{path} has neither a 'split' column (train, validation, test) nor a 'fold' column with at "
            "least three folds"
        )
    if unknown := [fold for fold in only if fold not in folds]:
        raise UserError(f"{path} has no fold {unknown[0]} (it has {', '.join(map(str, folds))})")
    rotations = []
    for place, fold in enumerate(folds):
        if not only or fold in only:
            parts = ([], [], [])
            for clip in clips:
                parts[2 if clip.fold == fold else 1 if clip.fold == folds[place - 1] else 0].append(clip)
            rotations.append(Rotation(fold, *parts))
    return rotations


def _clip(manifest: Path, row: Row, column: str) -> Clip:
    cell = row.extra.get(column, getattr(row, column, None) or "")
    labels = tuple(dict.fromkeys(part.strip() for part in cell.split(";") if part.strip()))
    if not labels:
        name = row.path.name
        raise UserError(f"{manifest}: {name} has no label in the column {column!r} (name it by --label)")
    named = ESC_NAME.fullmatch(row.path.stem)
    fold = row.extra.get("fold") or (named and named[1])
    try:
        number = None if fold is None else int(fold)
    except ValueError:
        raise UserError(f"{manifest}: the fold {fold!r} of {row.path.name} is not a number") from None
    recording = row.extra.get("recording") or (f"{named[1]}-{named[2]}" if named else str(row.path))
    return Clip(row.path, labels, row.split, number, recording, row.extra.get("caption") or row.text)


def _esc50(folder: Path) -> list[Clip]:
    clips = []
    for row in _table(folder / "meta" / "esc50.csv"):
        path, recording = folder / "audio" / row["filename"], f"{row['fold']}-{row['src_file']}"
        clips.append(Clip(path, (row["category"],), fold=int(row["fold"]), recording=recording))
    return clips


def _urbansound(folder: Path) -> list[Clip]:
    clips = []
    for row in _table(folder / "metadata" / "UrbanSound8K.csv"):
        path = folder / "audio" / f"fold{row['fold']}" / row["slice_file_name"]
        clips.append(Clip(path, (row["class"],), fold=int(row["fold"]), recording=row["fsID"]))
    return clips


def _speech_commands(folder: Path) -> list[Clip]:
    """Return the clips of a folder with a subfolder per word; ``recording`` is the speaker."""
    split_of = {}
    for name, split in LISTS.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name}: take the whole corpus, with its official lists")
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            split_of[line.strip()] = split
    clips = []
    for file in audio_files(folder):
        word = file.parent.name
        if file.parent.parent == folder and not word.startswith("_"):
            split = split_of.get(f"{word}/{file.name}", "train")
            clips.append(Clip(file, (word,), split, recording=file.name.split("_nohash_")[0]))
    return clips


def _table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))
