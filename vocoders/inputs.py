"""Which recordings and mels a command resynthesises, where each result goes, and whether all can be done."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.audio import audio_files, blocks, info, resampled_length
from data.audio_writing import FORMATS
from data.decoding import EXTENSIONS, READ_ONLY
from data.frontends import MelConfig
from engine.user_error import UserError
from vocoders import mel_files

READ_SAMPLES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Job:
    """One recording or mel to make a wave of."""

    source: Path
    out: Path
    samples: int
    """Of the result."""
    frames: int
    """Of the mel, which for a recording may be a few more than its samples fill."""

    @property
    def is_mel(self) -> bool:
        """Is the source a mel?"""
        return is_mel(self.source)


def is_mel(path: Path) -> bool:
    """Does a file's name say that it holds a mel?"""
    return path.suffix.lower() in mel_files.EXTENSIONS


def plan(words: Sequence[str], out: Path) -> list[tuple[Path, Path]]:
    """Pair the files that words stand for with the files to write; nothing is opened yet."""
    names_a_file = out.suffix.lower() in EXTENSIONS + READ_ONLY and not out.is_dir()
    sources = _found(words, out)
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
    taken: dict[str, Path] = {}
    pairs = []
    for source in sources:
        name, number = source.stem, 1
        while name.casefold() in taken:  # some file systems ignore case
            number += 1
            near = source.absolute().parent.name
            name = f"{near}_{source.stem}" if number == 2 else f"{near}_{source.stem}_{number}"
        taken[name.casefold()] = source
        pairs.append((source, out / f"{name}.wav"))
    return pairs


def _found(words: Sequence[str], out: Path) -> list[Path]:
    """Every source once, in the order given; earlier results inside a source folder are no sources."""
    found: dict[Path, Path] = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            if out.resolve() == path.resolve():
                raise UserError(f"--out {out} is the folder of the sources: name another, {out}/made say")
            files = [file for file in _inside(path) if not file.resolve().is_relative_to(out.resolve())]
            if not files:
                raise UserError(f"{path} holds neither recordings nor mels (.npy, .npz)")
        elif path.exists():
            files = [path]
        else:
            raise UserError(f"there is no source {path}")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _inside(folder: Path) -> list[Path]:
    mels = [
        path
        for path in folder.rglob("*")
        if is_mel(path) and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    try:
        return sorted([*mels, *audio_files(folder)])
    except UserError:
        if not mels:
            raise
        return sorted(mels)


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


def examine(pairs: Iterable[tuple[Path, Path]], mel: MelConfig) -> list[Job]:
    """Read every source to its end: what cannot be made is known before anything is written."""
    jobs = []
    for source, out in pairs:
        if is_mel(source):
            frames = mel_files.read_mel(source, mel).shape[-1]
            samples = frames * mel.hop
        else:
            own = info(source).sample_rate
            heard = sum(block.shape[-1] for block in blocks(source, None, READ_SAMPLES))
            samples = resampled_length(heard, own, mel.sample_rate)
            if samples == 0:
                raise UserError(f"{source} is too short: no sample of it is left at {mel.sample_rate} Hz")
            frames = -(-samples // mel.hop)
        jobs.append(Job(source=source, out=out, samples=samples, frames=frames))
    return jobs
