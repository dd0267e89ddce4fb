"""Rows to learn from: those of a split, their speakers by number, groups; long manifests as tables.

A manifest too long for a list stays in a memory-mapped table, and its rows are made when asked for.
"""

import hashlib
from collections.abc import Iterator, Sequence
from csv import reader
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from data.manifest import ALIASES, DELIMITERS, METADATA, Row, row_of, rows_from
from engine.contents import Contents, files_digest
from engine.files import atomic, cache_folder
from engine.user_error import UserError

if TYPE_CHECKING:
    import pyarrow

LABELS_ADDRESS = 1_108
"""What determines which speakers a ``label_share`` tells: the same in every run, whatever its seed."""
LONG_BYTES = 16 << 20
"""Manifests of more bytes are kept as tables."""
BLOCK_BYTES = 16 << 20
"""Parsed at once."""
State = tuple[Path, int, int]
"""A manifest, its size, and when it was modified."""


class TableRows(Sequence[Row]):
    """Rows of a CSV or TSV manifest, some or all of them, in the file's order.

    The table is an Arrow file in the user's cache, written once for each state of the manifest.
    """

    def __init__(self, state: State, chosen: np.ndarray) -> None:
        self.state, self.manifest, self.table, self.chosen = state, state[0], _opened(state), chosen

    @classmethod
    def open(cls, manifest: Path) -> "TableRows":
        stat = manifest.stat()
        state = (manifest, stat.st_size, stat.st_mtime_ns)
        return cls(state, np.arange(len(_opened(state))))

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "TableRows": ...
    def __getitem__(self, index: int | slice) -> "Row | TableRows":
        if isinstance(index, slice):
            return self.of(self.chosen[index])
        place = int(self.chosen[index])
        record = {name: self.table.column(name)[place].as_py() for name in self.table.column_names}
        return row_of(self.manifest, place + 2, record)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def of(self, chosen: np.ndarray) -> "TableRows":
        """The rows of these places in the manifest."""
        return TableRows(self.state, chosen)

    def of_split(self, split: str) -> "TableRows":
        """The rows of a split; those that name none belong to train."""
        names, codes = self.codes("split")
        wanted = [code for code, name in enumerate(names) if name == split] + [-1] * (split == "train")
        return self.of(self.chosen[np.isin(codes, wanted)])

    def codes(self, column: str) -> tuple[list[str], np.ndarray]:
        """The different values of one of a row's columns, sorted, and each row's by number; −1: none."""
        names, codes = _codes(self.state, self._column(column))
        codes = codes[self.chosen]
        used = np.flatnonzero(np.bincount(codes + 1, minlength=len(names) + 1)[1:])
        if len(used) == len(names):
            return names, codes
        number = np.full(len(names) + 1, -1, np.int32)
        number[used] = np.arange(len(used))
        return [names[code] for code in used], number[codes]

    def contents(self, labels: Sequence[str] = ()) -> Contents:
        """What a run learns from: the manifest, as it is, stands for its files."""
        digest = files_digest([self.manifest], [f"{self.state[1]} {len(self)}"])
        return Contents(summary=f"{len(self)} recordings", digest=digest, fixed=tuple(labels))

    def durations(self) -> np.ndarray | None:
        """Seconds of each row; None where the manifest does not tell all."""
        import pyarrow.compute as pc

        name = self._column("duration")
        if name is None:
            return None
        try:
            seconds = pc.cast(self.table.column(name), "float64").to_numpy()[self.chosen]
        except ValueError as error:
            raise UserError(f"{self.manifest}: column {name} holds what is no number: {error}") from None
        return seconds if np.all(seconds > 0) and np.all(seconds < 1e6) else None

    def _column(self, column: str) -> str | None:
        return next((name for name in ALIASES[column] if name in self.table.column_names), None)


@lru_cache(4)
def _codes(state: State, name: str | None) -> tuple[list[str], np.ndarray]:
    """A column's values, sorted, and each row's by number; −1: none."""
    if name is None:
        return [], np.full(len(_opened(state)), -1, np.int32)
    encoded = _opened(state).column(name).combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    order = sorted((i for i, value in enumerate(values) if value), key=values.__getitem__)
    number = np.full(len(values) + 1, -1, np.int32)
    number[order] = np.arange(len(order))
    return [values[i] for i in order], number[encoded.indices.fill_null(len(values)).to_numpy()]


@lru_cache(4)
def _opened(state: State) -> "pyarrow.Table":
    """The table of a manifest in this state; the first time, the manifest is read whole."""
    import pyarrow as pa

    manifest, size, modified_ns = state
    key = f"{manifest.absolute()} {size} {modified_ns}"
    file = cache_folder() / "manifests" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
    if not file.exists():
        _convert(manifest, file)
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _convert(manifest: Path, file: Path) -> None:
    """Write the table of a manifest, block by block."""
    import pyarrow as pa
    from pyarrow import csv

    delimiter = DELIMITERS[manifest.suffix.lower()]
    with manifest.open(encoding="utf-8-sig", newline="") as opened:
        names = [name.strip() for name in next(reader(opened, delimiter=delimiter), [])]
    if not any(name in ALIASES["path"] for name in names):
        found = ", ".join(names)[:80]
        raise UserError(f"{manifest} has no 'path' column in its first line (found: {found})")
    options: dict[str, Any] = {
        "read_options": csv.ReadOptions(block_size=BLOCK_BYTES, skip_rows=1, column_names=names),
        "parse_options": csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        "convert_options": csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    }
    try:
        with (
            csv.open_csv(manifest, **options) as blocks,
            atomic(file) as draft,
            pa.ipc.new_file(draft, blocks.schema) as table,
        ):
            for block in blocks:
                table.write_batch(block)
    except pa.ArrowInvalid as error:
        raise UserError(f"{manifest} is not valid CSV: {' '.join(str(error).split())[:200]}") from None


def long_manifest(path: str) -> Path | None:
    """The manifest of a path, or of a folder, if it is too long for a list."""
    names = [Path(path), *(Path(path) / name for name in METADATA)]
    found = next((file for file in names if file.is_file()), None)
    is_table = found and found.suffix.lower() in DELIMITERS and found.stat().st_size > LONG_BYTES
    return found if is_table else None


def split_rows(path: str, split: str) -> Sequence[Row]:
    """The rows of one split of manifests or folders; rows that name no split are for training."""
    if not path:
        raise UserError("no data given; set --data.path to a manifest or a folder of recordings")
    if long := long_manifest(path):
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
    """Names, sorted, and each row's by number: of this share of the rows that have a speaker, else −1."""
    if isinstance(rows, TableRows):
        names, codes = rows.codes("speaker")
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


def known_speakers(rows: Sequence[Row], share: float) -> list[str | None]:
    """The speaker of each row, told of this share of the rows that have one."""
    names, codes = speaker_labels(rows, share)
    return [names[code] if code >= 0 else None for code in codes]


class Groups(Sequence[np.ndarray]):
    """Members by the number of their group, in the order in which groups first appear; −1: alone."""

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
        """The total of the members' values of each group."""
        return np.add.reduceat(values[self.members], self.starts[:-1]) if len(self) else np.zeros(0, np.int64)
