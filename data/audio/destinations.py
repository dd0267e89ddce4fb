"""Output paths for the results of a command on files and folders, chosen so that no file is overwritten."""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from data.audio.decoding import EXTENSIONS, READ_ONLY
from data.audio.reading import audio_files
from data.audio.writing import FORMATS
from engine.outcome import end, leaving_out, note
from engine.user_error import UserError


def plan(
    words: Sequence[str],
    out: Path,
    left_out: list[str],
    list_files: Callable[[Path], list[Path]] = audio_files,
    *,
    overwrite: bool = False,
    beside: Sequence[str] = (),
) -> list[tuple[Path, Path]]:
    """Pair the source files, given as files and folders, with the files to write, without opening any.

    A result folder mirrors the source folders. ``left_out`` receives messages about arguments without sources
    and, unless ``overwrite``, about results that exist already, also about those with an accompanying file of
    an extension in ``beside``. ``list_files`` lists the sources in a folder and raises if there are none.
    """
    names_a_file = out.suffix.lower() in EXTENSIONS + READ_ONLY and not out.is_dir()
    faults: list[str] = []
    sources = _found(words, None if names_a_file else out, list_files, faults)
    if names_a_file:
        if faults:
            raise UserError(faults[0])
        if len(sources) > 1:
            raise UserError(f"--out {out} names one file for {len(sources)} sources: name a folder")
        if out.suffix.lower() not in FORMATS:
            raise UserError(f"--out {out} cannot be written: end its name in one of {', '.join(FORMATS)}")
        protect([out], sources)
        return [(source, out) for source in sources]
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder, or a file that ends in .wav")
    left_out += faults
    pairs = [(source, out / f"{name}.wav") for source, name in zip(sources, distinct_names(sources.items()))]
    protect([result for _, result in pairs], sources)
    if not overwrite:
        fresh = []
        for source, result in pairs:
            there = [p for p in (result, *map(result.with_suffix, beside)) if p.exists()]
            if there:
                left_out.append(f"{source}: {there[0]} is there already; --overwrite replaces it")
            else:
                fresh.append((source, result))
        pairs = fresh
    for source, result in pairs:
        if result != out / f"{_below(source, sources[source])}.wav":
            note(f"{source} becomes {result}, as another source has its name")
    if not pairs:
        end(0, left_out)
    return pairs


def _found(
    words: Sequence[str], out: Path | None, list_files: Callable[[Path], list[Path]], faults: list[str]
) -> dict[Path, Path]:
    """Map every source to the folder in which it was found, without duplicates and earlier results."""
    for word in words:
        if out is not None and os.path.isdir(word) and os.path.realpath(word) == os.path.realpath(out):
            raise UserError(f"--out {out} is the folder of the sources: name another, such as {out}/results")
    found: dict[str, tuple[Path, Path]] = {}
    for word in words:
        with leaving_out(faults):
            path = Path(word)
            if path.is_dir():
                files = [file for file in list_files(path) if out is None or not _inside(file, out)]
                if not files:
                    raise UserError(f"{path} holds no files to read but those under --out {out}")
            elif path.exists():
                files = [path]
            else:
                raise UserError(f"there is no source {path}")
            folder = path if path.is_dir() else path.parent
            for file in files:
                first, _ = found.setdefault(os.path.realpath(file), (file, folder))
                if os.path.abspath(first) != os.path.abspath(file):
                    note(f"{file} leads to {first}, which is used once")
    return dict(found.values())


def _inside(file: Path, folder: Path) -> bool:
    return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))


def _below(file: Path, folder: Path) -> Path:
    """Return a file's path relative to the folder in which it was found, without its extension."""
    return file.relative_to(folder).parent / file.stem


def distinct_names(found: Collection[tuple[Path, Path]]) -> list[str]:
    """Name files by their relative paths; where these clash, add folder, extension or a number."""
    groups: dict[str, list[tuple[Path, Path]]] = {}
    for file, folder in found:
        groups.setdefault(str(_below(file, folder)).casefold(), []).append((file, folder))
    names, taken = {}, set()
    for group in sorted(groups.values(), key=len):  # unique names first, so that they remain unchanged
        for (file, _), name in zip(group, _disambiguated(group)):
            number, fresh = 1, name
            while fresh.casefold() in taken:  # some file systems ignore case
                number, fresh = number + 1, f"{name}_{number + 1}"
            taken.add(fresh.casefold())
            names[file] = fresh
    return [names[file] for file, _ in found]


def _disambiguated(group: Sequence[tuple[Path, Path]]) -> list[str]:
    names = [str(_below(file, folder)) for file, folder in group]
    kinds = [file.suffix[1:] for file, _ in group]
    folders = [Path(os.path.realpath(folder)).name or "root" for _, folder in group]
    forms = [
        names,
        [f"{folder}/{name}" for folder, name in zip(folders, names)],
        [f"{name}_{kind}" for name, kind in zip(names, kinds)],
        [f"{folder}/{name}_{kind}" for folder, name, kind in zip(folders, names, kinds)],
    ]
    return next((form for form in forms if len({name.casefold() for name in form}) == len(group)), forms[-1])


def protect(outs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise if an output would overwrite an input."""
    there = [out for out in outs if out.exists()]
    # Dangling links are ignored: there is no file to lose.
    read = {_identity(path): path for path in inputs if os.path.exists(path)} if there else {}
    for out in there:
        if source := read.get(_identity(out)):
            raise UserError(f"{out} would be written over {source}, which is read: choose another --out")


def _identity(path: Path) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino
