"""Selection of manifest rows for training: splits, speaker labels and groups."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.manifest import DELIMITERS, METADATA, Row, rows_from
from engine.user_error import UserError

LABELS_ADDRESS = 1_108
"""Random seed of the labels that ``label_share`` selects, independent of the run's seed."""
LONG_BYTES = 16 << 20
"""Size above which a manifest is read as a table."""
GROUP = "parallel"
"""The manifest's column with the group of time-aligned recordings."""
SHARDS = "shards.json"
"""Name of the index in a folder of shards."""


def names_shards(path: str) -> bool:
    """Return whether a path is a URL or a folder of shards."""
    return "://" in path or (bool(path) and (Path(path) / SHARDS).is_file())


def long_manifest(path: str) -> Path | None:
    """Return the manifest at a path or in a folder if it is too long to be read as a list."""
    names = [Path(path), *(Path(path) / name for name in METADATA)]
    found = next((file for file in names if file.is_file()), None)
    is_table = found and found.suffix.lower() in DELIMITERS and found.stat().st_size > LONG_BYTES
    return found if is_table else None


def split_rows(path: str, split: str) -> Sequence[Row]:
    """Read the rows of one split of manifests or folders; rows without a split belong to train."""
    if not path:
        raise UserError("no data given; set --data.path to a manifest or a folder of recordings")
    if long := long_manifest(path):
        from data.tables import TableRows

        rows = TableRows.open(long)
        chosen = rows.of_split(split) if split else rows
        if not len(chosen):
            known = ", ".join(rows.codes("split")[0]) or "train"
            raise UserError(f"{path} has no recordings in split {split!r}; it has {known}")
        return chosen
    places = [path] if Path(path).exists() else [place.strip() for place in path.split(",") if place.strip()]
    rows = [row for place in places for row in rows_from(place)]
    chosen = [row for row in rows if not split or (row.split or "train") == split]
    if not chosen:
        known = ", ".join(sorted({row.split or "train" for row in rows}))
        raise UserError(f"{path} has no recordings in split {split!r}; it has {known}")
    return chosen


def speaker_labels(rows: Sequence[Row], share: float) -> tuple[list[str], np.ndarray]:
    """Return the sorted speaker names and each row's index into them, −1 for unlabelled rows.

    Only the fraction ``share`` of the labelled rows keeps its label.
    """
    if (table := getattr(rows, "codes", None)) is not None:
        names, codes = table("speaker")
    else:
        names = sorted({row.speaker for row in rows if row.speaker is not None})
        number = {name: index for index, name in enumerate(names)}
        codes = np.array([-1 if row.speaker is None else number[row.speaker] for row in rows], np.int64)
    if share == 1.0:
        return names, codes
    labelled = np.flatnonzero(codes >= 0)
    order = np.random.default_rng(LABELS_ADDRESS).permutation(len(labelled))
    codes[labelled[order[round(share * len(labelled)) :]]] = -1
    used = np.unique(codes[codes >= 0])
    renumbered = np.full(len(names) + 1, -1)
    renumbered[used] = np.arange(len(used))
    return [names[code] for code in used], renumbered[codes]


class Groups(Sequence[np.ndarray]):
    """Members grouped by number in order of first appearance; each member with number −1 is its own group."""

    def __init__(self, members: np.ndarray, numbers: np.ndarray) -> None:
        alone, n_named = numbers < 0, int(numbers.max(initial=-1)) + 1
        group = numbers.astype(np.int32)
        group[alone] = n_named + np.arange(alone.sum())
        first = np.full(n_named + int(alone.sum()), len(group), np.int32)
        first[group[::-1]] = np.arange(len(group) - 1, -1, -1)
        order = np.argsort(first)[: int((first < len(group)).sum())]
        appearance = np.zeros(len(first), np.int32)
        appearance[order] = np.arange(len(order))
        group = appearance[group]
        self.members = members[np.argsort(group, kind="stable")]
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(order)))])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.members[self.starts[index] : self.starts[index + 1]]

    def sums(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values[self.members], self.starts[:-1]) if len(self) else np.zeros(0, np.int64)
