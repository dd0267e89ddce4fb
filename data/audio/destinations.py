"""Where each result of a command on files and folders goes, so that nothing is lost or written over."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data.audio.decoding import EXTENSIONS, READ_ONLY
from data.audio.reading import audio_files
from data.audio.writing import FORMATS
from engine.user_error import UserError


def plan(
    words: Sequence[str], out: Path, list_files: Callable[[Path], list[Path]] = audio_files
) -> list[tuple[Path, Path]]:
    """Pair the sources that files and folders stand for with the files to write; nothing is opened yet.

    ``list_files`` names the sources in a folder, and refuses one without any.
    """
    names_a_file = out.suffix.lower() in EXTENSIONS + READ_ONLY and not out.is_dir()
    sources = _found(words, None if names_a_file else out, list_files)
    if names_a_file:
        if len(sources) > 1:
            raise UserError(
                f"--out {out} names one file, but there are {len(sources)} sources: name a folder"
            )
        if out.suffix.lower() not in FORMATS:
            raise UserError(f"--out {out} cannot be written: end its name in one of {', '.join(FORMATS)}")
        return [(sources[0], out)]
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder, or a file that ends in .wav")
    pairs = [(source, out / f"{name}.wav") for source, name in zip(sources, distinct_names(sources))]
    for source, result in pairs:
        if result.stem != source.stem:
            print(f"note: {source} becomes {result}, as another source has its name", file=sys.stderr)
    return pairs


def _found(words: Sequence[str], out: Path | None, list_files: Callable[[Path], list[Path]]) -> list[Path]:
    """Every source once, in the order given; earlier results inside a source folder are no sources."""
    found: dict[Path, Path] = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            if out is not None and out.resolve() == path.resolve():
                raise UserError(f"--out {out} is the folder of the sources: name another, {out}/results say")
            files = [file for file in list_files(path) if out is None or not _inside(file, out)]
            if not files:
                raise UserError(f"{path} holds no files to read but those under --out {out}")
        elif path.exists():
            files = [path]
        else:
            raise UserError(f"there is no source {path}")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _inside(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())


def distinct_names(files: Sequence[Path]) -> list[str]:
    """Name files by their stems; those that clash also by folder, by extension, at last by number."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(file.stem.casefold(), []).append(file)  # some file systems ignore case
    names, taken = {}, set()
    for group in sorted(groups.values(), key=len):  # unclashing names stay as they are
        for file, name in zip(group, _told_apart(group)):
            number, fresh = 1, name
            while fresh.casefold() in taken:
                number, fresh = number + 1, f"{name}_{number + 1}"
            taken.add(fresh.casefold())
            names[file] = fresh
    return [names[file] for file in files]


def _told_apart(group: Sequence[Path]) -> list[str]:
    stems, kinds = [file.stem for file in group], [file.suffix[1:] for file in group]
    folders = [file.absolute().parent.name for file in group]
    forms = [
        stems,
        [f"{folder}_{stem}" for folder, stem in zip(folders, stems)],
        [f"{stem}_{kind}" for stem, kind in zip(stems, kinds)],
        [f"{folder}_{stem}_{kind}" for folder, stem, kind in zip(folders, stems, kinds)],
    ]
    return next((form for form in forms if len({name.casefold() for name in form}) == len(group)), forms[-1])


def protect(outs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse to write over what is read."""
    read = {_identity(path): path for path in inputs}
    for out in outs:
        if out.exists() and _identity(out) in read:
            raise UserError(
                f"{out} would be written over {read[_identity(out)]}, which is read: choose another --out"
            )


def _identity(path: Path) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino
