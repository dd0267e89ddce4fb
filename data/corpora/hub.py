"""Conversion of Hugging Face datasets with an audio column to files and manifest rows."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data.audio import save
from data.manifest import ALIASES, Row, gender_of
from engine.files import atomic
from engine.hub import HUB, hint, repository
from engine.user_error import UserError

AUDIO_COLUMNS = ("audio", "speech", "file", "path", "audio_path", "file_name", "wav")
"""Column names in order of preference, used if no column has the type ``Audio``."""


def hf_dataset(
    source: Any,
    out: str | Path,
    *,
    split: str | None = None,
    name: str | None = None,
    streaming: bool = False,
    limit: int | None = None,
) -> list[Row]:
    """Read rows of a dataset object, a folder of ``save_to_disk``, a folder of files, or ``hub:owner/name``.

    Audio embedded in the dataset is written under ``out`` without decoding; local files are referenced.
    ``name`` is the hub's configuration, ``limit`` the maximum number of rows per split. Columns named as in a
    manifest (or by its aliases) are used as these, other texts and numbers become extra columns. Check the
    licence on the dataset's card.
    """
    out, rows = Path(out), []
    for part, dataset in splits_of(source, split, name, streaming):
        rows += _rows(dataset, out, part, limit)
    if not rows:
        title = source if isinstance(source, str | Path) else "the dataset"
        raise UserError(f"{title} holds no recordings")
    return rows


def splits_of(
    source: Any, split: str | None, name: str | None, streaming: bool
) -> Iterator[tuple[str | None, Any]]:
    """Yield each split of a source with its name, without decoding."""
    if isinstance(source, str | Path):
        source = _opened(str(source), name, streaming)
    if isinstance(source, Mapping):
        if split is not None and split not in source:
            raise UserError(f"the dataset has no split {split!r}; it has {', '.join(source)}")
        chosen = source if split is None else {split: source[split]}
        yield from ((_our_split(part), dataset) for part, dataset in chosen.items())
    else:
        named = getattr(source, "split", None)
        yield _our_split(split or (str(named) if named else None)), source


def _opened(source: str, name: str | None, streaming: bool) -> Any:
    import datasets

    place, published = Path(source), repository(source)
    if published is None and not place.exists():
        way = hint(source) or f": write {HUB}name for one on the hub"
        raise UserError(f"there is no dataset {source}{way}")
    try:
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            return datasets.load_from_disk(source)
        return datasets.load_dataset(published or source, name, streaming=streaming)
    except Exception as error:  # the hub, its cache and dataset scripts raise many types
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"the dataset {source} cannot be opened: {reason}") from None


def _rows(dataset: Any, out: Path, part: str | None, limit: int | None) -> Iterable[Row]:
    import datasets

    features = dict(dataset.features or {})
    dataset, audio = undecoded(dataset), column_of(features, datasets.Audio, AUDIO_COLUMNS)
    if features and audio is None:
        raise UserError(f"the dataset has no audio column among {', '.join(features)}")
    folder = out / (part or "all")
    total = None if not hasattr(dataset, "__len__") else min(len(dataset), limit or len(dataset))
    bar = tqdm(dataset, total=total, desc=f"recordings of {part or 'all'}", disable=None)
    for index, record in enumerate(bar):
        if limit is not None and index >= limit:
            break
        column = audio or next((name for name in AUDIO_COLUMNS if name in record), None)
        if column is None:
            raise UserError(f"the dataset has no audio column among {', '.join(record)}")
        path = sound_file(record[column], folder / f"{index:08d}")
        if path is not None:
            yield _row(path, record, column, features, part)


def undecoded(dataset: Any) -> Any:
    """Disable decoding of audio and pictures of a dataset; decoding audio would need torchcodec."""
    import datasets

    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Audio):
            dataset = dataset.cast_column(column, datasets.Audio(decode=False))
        elif isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            dataset = dataset.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return dataset


def column_of(features: Mapping[str, Any], kind: type, names: tuple[str, ...]) -> str | None:
    """Return the first column of type ``kind``, else of lists of it, else with one of the names."""
    direct = [name for name, of in features.items() if isinstance(of, kind)]
    lists = [name for name, of in features.items() if isinstance(getattr(of, "feature", None), kind)]
    return next(iter([*direct, *lists, *(name for name in names if name in features)]), None)


def keep(content: bytes, path: Path) -> Path:
    """Write a file unless it exists with this content."""
    if not path.exists() or path.read_bytes() != content:
        with atomic(path) as temporary:
            temporary.write_bytes(content)
    return path


def sound_file(audio: Any, stem: Path) -> Path | None:
    """Return the path of a record's audio, after writing it if it is embedded; None if there is none."""
    if isinstance(audio, str | Path):
        audio = {"path": str(audio)}
    if not isinstance(audio, Mapping):
        return None
    content, place = audio.get("bytes"), audio.get("path")
    if content is not None:
        return keep(content, stem.with_suffix(_extension(content, place)))
    if audio.get("array") is not None:
        wave = torch.from_numpy(np.atleast_2d(np.asarray(audio["array"], np.float32)))[None]
        save(stem.with_suffix(".flac"), wave, int(audio["sampling_rate"]))
        return stem.with_suffix(".flac")
    if place is not None and "://" in str(place):
        where = f"{place}, which is not on this machine"
        raise UserError(f"the dataset refers to {where}: download the dataset first")
    return None if place is None else Path(place).absolute()


def _extension(content: bytes, place: str | None) -> str:
    """Return a file's extension by its first bytes, else by its original name."""
    if content[:4] == b"OggS":
        return ".opus" if b"OpusHead" in content[:64] else ".ogg"
    for start, extension in ((b"RIFF", ".wav"), (b"RF64", ".wav"), (b"fLaC", ".flac"), (b"ID3", ".mp3")):
        if content.startswith(start):
            return extension
    if content[:1] == b"\xff" and len(content) > 1 and content[1] & 0xE0 == 0xE0:
        return ".mp3"
    return Path(place or "").suffix.lower() or ".wav"


def _row(
    path: Path, record: Mapping[str, Any], audio: str, features: Mapping[str, Any], part: str | None
) -> Row:
    cells = {name: cell_text(value, features.get(name)) for name, value in record.items() if name != audio}
    cells = {name: word for name, word in cells.items() if word}
    taken = {ours: next((n for n in names if n in cells), None) for ours, names in ALIASES.items()}
    known = {ours: cells.pop(column) for ours, column in taken.items() if column and ours != "path"}
    cells.pop(taken["path"] or "", None)
    try:
        duration = float(known["duration"]) if "duration" in known else None
    except ValueError:
        duration = None
    about: dict[str, Any] = {**known, "split": part or known.get("split"), "duration": duration}
    about["gender"] = gender_of(known.get("gender"))
    return Row(path=path, extra=cells, **about)


def cell_text(value: Any, feature: Any) -> str | None:
    """Convert a cell to text, with names for class indices; None unless it is a text or number."""
    if isinstance(value, int) and hasattr(feature, "int2str"):
        return feature.int2str(value) if value >= 0 else None
    if isinstance(value, str | int | float):
        return str(value)
    return None


def _our_split(name: str | None) -> str | None:
    """Map the hub's names, such as ``train.clean.100`` or ``dev``, to ``train``, ``validation``, ``test``."""
    for start, ours in (("train", "train"), ("dev", "validation"), ("valid", "validation"), ("test", "test")):
        if name is not None and name.startswith(start):
            return ours
    return name
