"""Labelled recordings and their folds: from a manifest, or ESC-50 and UrbanSound8K as they come."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.manifest import Row, rows_from
from engine.user_error import UserError

COLUMNS = ("label", "labels", "category", "class")
"""Where a label is looked for, in this order, when no column is named."""
ESC_NAME = re.compile(r"(\d)-(\d+)-[A-Z](-\d+)?")
"""fold-recording-take[-class], as every clip of ESC is called."""


class Clip(NamedTuple):
    """One recording, what is heard in it, and where it belongs."""

    path: Path
    labels: tuple[str, ...]
    """Without a manifest's word for it at least one; several where the corpus is multi-label."""
    split: str | None = None
    fold: int | None = None
    """Official fold of a corpus that is cross-validated."""
    recording: str = ""
    """What the clip was cut from: clips of one recording are no independent witnesses."""
    caption: str | None = None


def clips_from(path: str | Path, column: str = "") -> list[Clip]:
    """Read the labelled clips of a manifest, of a folder with one, or of ESC-50 or UrbanSound8K unpacked."""
    path = Path(path)
    if (path / "meta" / "esc50.csv").is_file():
        return _esc50(path)
    if (path / "metadata" / "UrbanSound8K.csv").is_file():
        return _urbansound(path)
    rows = rows_from(path)
    column = column or next((name for name in COLUMNS if name in rows[0].extra), COLUMNS[0])
    return [_clip(path, row, column) for row in rows]


def label_names(clips: Sequence[Clip]) -> list[str]:
    """All labels, sorted."""
    return sorted({label for clip in clips for label in clip.labels})


def is_multi_label(clips: Sequence[Clip]) -> bool:
    """Whether any clip bears several labels."""
    return any(len(clip.labels) != 1 for clip in clips)


def of_split(clips: Sequence[Clip], split: str, path: str | Path = "the data") -> list[Clip]:
    """The clips of one split; it is an error if there is none."""
    chosen = [clip for clip in clips if clip.split == split]
    if not chosen:
        found = ", ".join(sorted({clip.split or "none" for clip in clips}))
        raise UserError(f"{path} has no clips of split {split!r} (found: {found}): fill its 'split' column")
    return chosen


def with_splits(clips: Sequence[Clip], path: str | Path = "the data") -> list[Clip]:
    """Clips that all have a split: theirs, or by their folds (the last one is the test, the one before it
    the validation)."""
    if all(clip.split for clip in clips):
        return list(clips)
    folds = sorted({clip.fold for clip in clips if clip.fold is not None})
    if len(folds) < 3 or any(clip.fold is None for clip in clips):
        raise UserError(f"{path} has neither a 'split' column (train, validation, test) nor three folds")
    names = {folds[-1]: "test", folds[-2]: "validation"}
    return [clip._replace(split=names.get(clip.fold or 0, "train")) for clip in clips]


def folds_of(clips: Sequence[Clip], path: str | Path = "the data") -> list[int]:
    """The official folds; it is an error if there are fewer than three."""
    folds = sorted({clip.fold for clip in clips if clip.fold is not None})
    if len(folds) < 3 or any(clip.fold is None for clip in clips):
        raise UserError(
            f"{path} has no folds to cross-validate over: give a 'fold' column with at least three"
        )
    return folds


def _clip(manifest: Path, row: Row, column: str) -> Clip:
    cell = row.extra.get(column, getattr(row, column, None) or "")
    labels = tuple(dict.fromkeys(part.strip() for part in cell.split(";") if part.strip()))
    if not labels:
        raise UserError(
            f"{manifest}: {row.path.name} has no label in the column {column!r} (name it by --label)"
        )
    named = ESC_NAME.fullmatch(row.path.stem)
    fold = row.extra.get("fold") or (named and named[1])
    try:
        number = None if fold is None else int(fold)
    except ValueError:
        raise UserError(f"{manifest}: the fold {fold!r} of {row.path.name} is not a number") from None
    recording = row.extra.get("recording") or (f"{named[1]}-{named[2]}" if named else str(row.path))
    return Clip(row.path, labels, row.split, number, recording, row.extra.get("caption") or row.text)


def _esc50(folder: Path) -> list[Clip]:
    with (folder / "meta" / "esc50.csv").open(encoding="utf-8", newline="") as file:
        return [
            Clip(
                folder / "audio" / row["filename"],
                (row["category"],),
                None,
                int(row["fold"]),
                f"{row['fold']}-{row['src_file']}",
            )
            for row in csv.DictReader(file)
        ]


def _urbansound(folder: Path) -> list[Clip]:
    with (folder / "metadata" / "UrbanSound8K.csv").open(encoding="utf-8", newline="") as file:
        return [
            Clip(
                folder / "audio" / f"fold{row['fold']}" / row["slice_file_name"],
                (row["class"],),
                None,
                int(row["fold"]),
                row["fsID"],
            )
            for row in csv.DictReader(file)
        ]
