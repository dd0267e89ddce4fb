"""Long manifests as memory-mapped tables, whose rows are created on access."""

import hashlib
from collections.abc import Iterator, Sequence
from csv import reader
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from data.manifest import ALIASES, DELIMITERS, Row, column_names, row_of
from engine.contents import Contents, files_digest
from engine.files import atomic, cache_folder
from engine.user_error import UserError

BLOCK_BYTES = 16 << 20
"""Size of the blocks in which a manifest is parsed."""
State = tuple[Path, int, int]
"""A manifest with its size and modification time in ns."""


class TableRows(Sequence[Row]):
    """All rows of a CSV or TSV manifest or a subset of them, in the file's order.

    The table is an Arrow file in the user's cache, written once per state of the manifest.
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
            return TableRows(self.state, self.chosen[index])
        place = int(self.chosen[index])
        record = {name: self.table.column(name)[place].as_py() for name in self.table.column_names}
        return row_of(self.manifest, place + 2, record)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def of_split(self, split: str) -> "TableRows":
        """Return the rows of a split; rows without a split belong to train."""
        names, codes = self.codes("split")
        wanted = [code for code, name in enumerate(names) if name == split] + [-1] * (split == "train")
        return TableRows(self.state, self.chosen[np.isin(codes, wanted)])

    def codes(self, column: str) -> tuple[list[str], np.ndarray]:
        """Return the sorted distinct values of a column, and each row's index into them; −1 if empty."""
        names, codes = _codes(self.state, self._column(column))
        codes = codes[self.chosen]
        used = np.flatnonzero(np.bincount(codes + 1, minlength=len(names) + 1)[1:])
        if len(used) == len(names):
            return names, codes
        number = np.full(len(names) + 1, -1, np.int32)
        number[used] = np.arange(len(used))
        return [names[code] for code in used], number[codes]

    def contents(self, labels: Sequence[str] = ()) -> Contents:
        """Fingerprint the manifest itself, without the files that it lists."""
        digest = files_digest([self.manifest], [f"{self.state[1]} {len(self)}"])
        return Contents(summary=f"{len(self)} recordings", digest=digest, fixed=tuple(labels))

    def durations(self) -> np.ndarray | None:
        """Return the duration of each row in seconds; None unless the manifest has all of them."""
        name = self._column("duration")
        if name is None:
            return None
        try:
            seconds = pc.cast(self.table.column(name), "float64").to_numpy()[self.chosen]
        except ValueError as error:
            problem = f"column {name} holds values that are no numbers: {error}"
            raise UserError(f"{self.manifest}: {problem}") from None
        return seconds if np.all(seconds > 0) and np.all(seconds < 1e6) else None

    def _column(self, column: str) -> str | None:
        return next((name for name in ALIASES[column] if name in self.table.column_names), None)


@lru_cache(4)
def _codes(state: State, name: str | None) -> tuple[list[str], np.ndarray]:
    """Return the sorted distinct values of a column, and each row's index into them; −1 if empty."""
    if name is None:
        return [], np.full(len(_opened(state)), -1, np.int32)
    encoded = _opened(state).column(name).combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    order = sorted((i for i, value in enumerate(values) if value), key=values.__getitem__)
    number = np.full(len(values) + 1, -1, np.int32)
    number[order] = np.arange(len(order))
    return [values[i] for i in order], number[encoded.indices.fill_null(len(values)).to_numpy()]


@lru_cache(4)
def _opened(state: State) -> pa.Table:
    """Open the cached table of a manifest in this state, after converting it the first time."""
    manifest, size, modified_ns = state
    key = f"{manifest.absolute()} {size} {modified_ns}"
    file = cache_folder() / "manifests" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
    if not file.exists():
        _convert(manifest, file)
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _convert(manifest: Path, file: Path) -> None:
    """Convert a manifest to an Arrow file, block by block."""
    delimiter = DELIMITERS[manifest.suffix.lower()]
    with manifest.open(encoding="utf-8-sig", newline="") as opened:
        names = column_names(manifest, reader(opened, delimiter=delimiter))
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
