"""Manifests: one row per recording, in CSV, TSV or JSON lines; only the path is required."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.audio import EXTENSIONS, READ_ONLY, audio_files
from data.audio.reading import files_under, named_as_audio
from engine.contents import Contents, files_digest
from engine.files import atomic, read_text
from engine.outcome import note
from engine.user_error import UserError

ALIASES = {
    "path": ("path", "file_name", "file", "filename", "audio_filepath", "audio_path", "audio", "wav"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk_id"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text"),
    "split": ("split", "subset"),
    "duration": ("duration", "duration_s", "seconds"),
    "gender": ("gender", "sex"),
}
"""Accepted column names, ours first."""
METADATA = tuple(f"{name}.{kind}" for name in ("metadata", "manifest") for kind in ("csv", "jsonl", "tsv"))
"""Names of a folder's manifest, in order of preference."""
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recording with its metadata."""

    path: Path
    """Path of the file; relative only if the manifest's path was."""
    speaker: str | None = None
    text: str | None = None
    split: str | None = None
    """Split, such as train, validation or test."""
    duration: float | None = None
    """Duration in seconds."""
    gender: str | None = None
    """``F`` or ``M``."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further columns of the manifest, unchanged."""


def read_manifest(path: str | Path) -> list[Row]:
    """Read a manifest, relative paths from its folder, without accessing the files that it lists."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no manifest {path}")
    if path.is_dir():
        raise UserError(f"{path} is a folder where a manifest file is expected")
    kind = path.suffix.lower()
    if kind not in DELIMITERS and kind not in JSON_LINES:
        known = ", ".join((*DELIMITERS, *JSON_LINES))
        raise UserError(f"{path} is not a manifest: its name must end in one of {known}")
    text = read_text(path)
    records = _csv_records(path, text, DELIMITERS[kind]) if kind in DELIMITERS else _json_records(path, text)
    rows = [row_of(path, line, record) for line, record in records]
    if not rows:
        raise UserError(f"{path} lists no recordings")
    return rows


def write_manifest(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows atomically as CSV, TSV or JSON lines by extension, with paths relative to the manifest."""
    path, rows = Path(path), list(rows)
    check_writable(path)
    kind = path.suffix.lower()
    records = [record_of(row, path.parent) for row in rows]
    for record in records:
        # Names that are not UTF-8 hold lone surrogates.
        if any("\ud800" <= character <= "\udfff" for cell in record.values() for character in str(cell)):
            name = ascii(record["path"])
            raise UserError(f"{path} cannot list {name}, whose name is not UTF-8: rename it, or move it away")
    used = dict.fromkeys(name for record in records for name in record)
    columns = [name for name in ALIASES if name in used or name == "path"]
    columns += [name for name in used if name not in ALIASES]
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if kind in JSON_LINES:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        else:
            writer = csv.DictWriter(file, columns, delimiter=DELIMITERS[kind], lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)


def check_writable(path: Path) -> None:
    """Raise if ``write_manifest`` does not support the extension, or the path is a folder."""
    if path.suffix.lower() not in (*DELIMITERS, *JSON_LINES):
        raise UserError(f"{path} cannot be written: name it .csv, .tsv or .jsonl")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file to write")


def rows_from(path: str | Path) -> list[Row]:
    """Read the rows of a manifest, of a folder with a manifest, or of a folder of recordings.

    Without a manifest, sub-folders are speakers if there are at least two and all files are in sub-folders.
    """
    path = Path(path)
    if path.is_file():
        return read_manifest(path)
    if not path.exists():
        raise UserError(f"there is no manifest or folder {path}")
    if (path / "shards.json").is_file():
        raise UserError(f"{path} holds shards, which cannot be read here: give their manifest")
    for name in METADATA:
        if (path / name).is_file():
            rows = read_manifest(path / name)
            _note_unlisted(path, name, rows)
            return rows
    files = audio_files(path)
    inside = [file if named_as_audio(file) else file / "recordings" for file in files]  # unreadable folders
    parts = [file.relative_to(path).parts for file in inside]
    by_speaker = all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) > 1
    return [Row(path=file, speaker=p[0] if by_speaker else None) for file, p in zip(files, parts)]


def contents_of_rows(
    rows: Sequence[Row], labels: Iterable[str | None] = (), *, texts: bool = False
) -> Contents | None:
    """Fingerprint the files and speakers of rows, with ``texts`` also their texts; None without rows.

    ``labels`` are the speakers whose indices the model learns.
    """
    if not len(rows):
        return None
    described = [f"{row.path.name} {row.speaker}" + texts * f" {row.text} {row.extra}" for row in rows]
    speakers = {row.speaker for row in rows if row.speaker is not None}
    return Contents(
        summary=f"{len(rows)} recordings" + (f" of {len(speakers)} speakers" if speakers else ""),
        digest=files_digest([row.path for row in rows], described),
        fixed=tuple(sorted({label for label in labels if label is not None})),
    )


def _note_unlisted(folder: Path, name: str, rows: Sequence[Row]) -> None:
    listed = {os.path.abspath(row.path) for row in rows}
    found = files_under(folder, EXTENSIONS + READ_ONLY)
    others = [file for file in found if os.path.abspath(file) not in listed]
    if others:
        described = f"{len(others)} recordings in its folder, such as {others[0]}"
        note(f"{folder / name} does not list {described}: they are left out")


def gender_of(word: str | None) -> str | None:
    """Convert the words for gender in corpora to ``F`` or ``M``, anything else to None."""
    initial = (word or "").strip().lower()
    if initial == "f" or initial.startswith(("female", "woman")):
        return "F"
    return "M" if initial == "m" or initial.startswith(("male", "man")) else None


def _csv_records(path: Path, text: str, delimiter: str) -> Iterable[tuple[int, dict]]:
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        names = column_names(path, reader)
        for cells in filter(any, reader):
            if len(cells) != len(names):
                counts = f"{len(cells)} cells under {len(names)} columns"
                raise UserError(
                    f"{path}, line {reader.line_num}: {counts}; quote cells that hold {delimiter!r}"
                )
            yield reader.line_num, dict(zip(names, cells))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None


def column_names(path: Path, lines: Iterator[list[str]]) -> list[str]:
    """Read the column names of a table from its first line; raise unless a column has the paths."""
    names = [name.strip() for name in next(lines, [])]
    if not any(name in ALIASES["path"] for name in names):
        found = ", ".join(names)[:80] or "nothing"
        raise UserError(f"{path} has no 'path' column in its first line (found: {found})")
    return names


def _json_records(path: Path, text: str) -> Iterable[tuple[int, dict]]:
    # Not splitlines(): texts may contain other line separators.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {line}: not valid JSON ({error.msg})") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {line}: each line must be a JSON object with a 'path'")
        yield line, record


def row_of(manifest: Path, line: int, record: dict) -> Row:
    """Convert a record with the manifest's column names to a row."""
    record = {name: value for name, value in record.items() if value is not None and value != ""}
    columns = {ours: next((n for n in names if n in record), None) for ours, names in ALIASES.items()}
    taken = {ours: record.pop(name) for ours, name in columns.items() if name is not None}
    if not isinstance(taken.get("path"), str) or "\0" in taken["path"]:
        raise UserError(f"{manifest}, line {line}: the path is missing")
    duration = taken.get("duration")
    if duration is not None:
        try:
            duration = float(duration)
        except (TypeError, ValueError):
            duration = math.nan
        if not 0 <= duration < math.inf:
            given = repr(taken["duration"])
            raise UserError(f"{manifest}, line {line}: duration {given} is not a number of seconds")
    return Row(
        path=manifest.parent / taken["path"],
        speaker=_text(taken.get("speaker")),
        text=_text(taken.get("text")),
        split=_text(taken.get("split")),
        duration=duration,
        gender=gender_of(_text(taken.get("gender"))),
        extra={name: _text(value) or "" for name, value in record.items()},
    )


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def record_of(row: Row, folder: Path) -> dict[str, str | float]:
    try:
        place = Path(os.path.relpath(row.path, folder)).as_posix()
    except ValueError:  # another drive
        place = str(row.path)
    duration = None if row.duration is None else round(row.duration, 4)
    known = {**vars(replace(row, duration=duration, extra={})), "path": place, **row.extra}
    return {name: value for name, value in known.items() if value not in (None, "", {})}
