"""Audio files in and out: any container soundfile knows, any rate and channels; failures in one sentence."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from data.audio_writing import Writer, save
from data.containers import cut_short, has_frame_count
from data.resampling import Frames, Resampler, resample, resampled_length
from engine.user_error import UserError

__all__ = [
    "AudioError",
    "AudioInfo",
    "Writer",
    "audio_files",
    "blocks",
    "excerpt",
    "info",
    "load",
    "resample",
    "resampled_length",
    "save",
]

EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
"""Formats read and written; what ``audio_files`` looks for, with the ``READ_ONLY`` ones."""
READ_ONLY = (".aif", ".aiff", ".aifc", ".au", ".caf", ".rf64", ".snd", ".sph", ".w64", ".wave")
READ_FRAMES = 65_536
UNKNOWN_LENGTH = 1 << 62
"""libsndfile gives a number beyond this for a FLAC stream that does not state its length."""
OGG_PAGE = 1 << 18
"""Samples, more than the 255 packets of a page can hold."""
MARGIN_SECONDS = 0.1
"""Longer than half of soxr's filter, so that an excerpt equals the same stretch of the whole file."""

PLAUSIBLE_RATES = range(1_000, 1_000_001)
"""Hz. A header outside is wrong, and resampling from its rate could fill the memory."""

Problem = Literal["missing", "unreadable", "truncated", "empty", "NaN", "too short", "wrong rate"]


class AudioError(UserError):
    """A file that cannot be used as audio, with the kind of problem for ``data.check`` to count."""

    def __init__(self, path: Path, problem: Problem, detail: str) -> None:
        super().__init__(path, problem, detail)  # all three, so that it can be pickled between processes
        self.path, self.problem, self.detail = path, problem, detail

    def __str__(self) -> str:
        return f"{self.path} {self.detail}"


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a file's header says (its samples are counted by decoding where the header is silent)."""

    sample_rate: int
    """Hz."""
    samples: int
    """Per channel."""
    channels: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.sample_rate


class _Sequential(soundfile.SoundFile):
    """A file read from front to back.

    soundfile seeks after every read of a seekable file; for MP3 that resets the decoder and leaves an audible
    break at each block.
    """

    def seekable(self) -> bool:
        return False


def info(path: str | Path) -> AudioInfo:
    """Read a file's rate, length and channels."""
    path = Path(path)
    with _opened(path) as file:
        samples = file.frames
        if samples > UNKNOWN_LENGTH:
            samples = sum(len(frames) for frames in _frames(file, path))
        return AudioInfo(sample_rate=file.samplerate, samples=samples, channels=file.channels)


def load(
    path: str | Path, sample_rate: int | None = None, *, mono: bool = True
) -> Float[Tensor, "1 channels samples"]:
    """Read a whole file, as the mean of its channels if ``mono``, resampled to ``sample_rate`` if given."""
    path = Path(path)
    with _opened(path) as file:
        resampler = Resampler(file.samplerate, sample_rate or file.samplerate, 1 if mono else file.channels)
        parts = [resampler.push(_mixed(frames) if mono else frames) for frames in _frames(file, path)]
        parts.append(resampler.flush())
    wave = np.concatenate(parts)
    if not len(wave):
        raise AudioError(path, "too short", f"is too short: no sample of it is left at {sample_rate} Hz")
    return torch.from_numpy(np.ascontiguousarray(wave.T))[None]


def blocks(
    path: str | Path, sample_rate: int | None, block_samples: int
) -> Iterator[Float[Tensor, "1 1 samples"]]:
    """Read a file of any length in mono blocks of ``block_samples``, the last maybe shorter, in flat memory.

    Concatenated they equal ``load(path, sample_rate)``. A file that cannot be opened is refused at once, not
    when the first block is asked for.
    """
    path = Path(path)
    if block_samples < 1:
        raise ValueError(f"block_samples={block_samples} must be at least 1")
    with _opened(path):
        pass
    return _blocks(path, sample_rate, block_samples)


def _blocks(path: Path, sample_rate: int | None, block_samples: int) -> Iterator[Tensor]:
    with _opened(path) as file:
        resampler = Resampler(file.samplerate, sample_rate or file.samplerate, 1)
        waiting: list[np.ndarray] = []
        n_waiting = 0
        for part in _then(map(resampler.push, map(_mixed, _frames(file, path))), resampler.flush):
            waiting.append(part[:, 0])
            n_waiting += len(part)
            if n_waiting < block_samples:
                continue
            joined = np.concatenate(waiting)
            whole = n_waiting // block_samples * block_samples
            for start in range(0, whole, block_samples):
                yield torch.from_numpy(joined[start : start + block_samples].copy())[None, None]
            waiting, n_waiting = [joined[whole:]], n_waiting - whole
        if n_waiting:
            yield torch.from_numpy(np.concatenate(waiting))[None, None]


def excerpt(
    path: str | Path, start: int, samples: int, sample_rate: int | None = None
) -> Float[Tensor, "1 1 samples"]:
    """Read ``samples`` mono samples from ``start`` on, both at ``sample_rate``, without decoding the rest.

    Equals that stretch of ``load(path, sample_rate)``; shorter where the file ends.
    """
    path = Path(path)
    with _opened(path) as file:
        own_rate = file.samplerate
        rate = sample_rate or own_rate
        # Begin where a sample of one rate falls on one of the other: then the phase is that of the whole.
        common = gcd(own_rate, rate)
        own_step, step = own_rate // common, rate // common
        margin = 0 if own_rate == rate else int(MARGIN_SECONDS * own_rate) + 1
        first = max(0, start * own_step // step - margin) // own_step
        until = -(-(start + samples) * own_step // step) + margin
        resampler = Resampler(own_rate, rate, 1)
        parts = [resampler.push(_mixed(f)) for f in _frames(file, path, first * own_step, until)]
        parts.append(resampler.flush())
    offset = start - first * step
    return torch.from_numpy(np.concatenate(parts)[offset : offset + samples, 0].copy())[None, None]


def audio_files(folder: str | Path) -> list[Path]:
    """All audio files under a folder by extension, sorted; hidden files are passed over, links followed."""
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"there is no folder {folder}")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file where a folder is expected")
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(place, name)
            for name in files
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS + READ_ONLY)
        ]
    if not found:
        raise UserError(f"{folder} holds no audio files ({', '.join(e[1:] for e in EXTENSIONS)})")
    return sorted(found)


def _opened(path: Path) -> soundfile.SoundFile:
    """Open a file for reading, or say in one sentence why not."""
    if not path.exists():
        raise AudioError(path, "missing", "does not exist")
    if path.is_dir():
        raise AudioError(path, "unreadable", "is a folder, not an audio file")
    if not path.is_file():
        raise AudioError(path, "unreadable", "is not an ordinary file")
    if not os.access(path, os.R_OK):
        raise AudioError(path, "unreadable", "may not be read: its permissions forbid it")
    if path.stat().st_size == 0:
        raise AudioError(path, "empty", "is empty (0 bytes)")
    try:
        file = _Sequential(str(path))
        if file.format == "RAW":  # no header: libsndfile believed the extension
            raise ValueError(path)
    except (RuntimeError, TypeError, ValueError, OSError):
        known = ", ".join(extension[1:] for extension in EXTENSIONS)
        detail = f"is not audio this program can read ({known}); convert it first or leave it out"
        raise AudioError(path, "unreadable", detail) from None
    try:
        if file.samplerate not in PLAUSIBLE_RATES:
            detail = f"says in its header that its rate is {file.samplerate} Hz, which no recording has"
            raise AudioError(path, "wrong rate", detail)
        short = cut_short(path, file.format, file.extra_info)
        if short:
            raise AudioError(path, "truncated", f"is truncated: {short}")
        if file.frames < 1:
            raise AudioError(path, "empty", "holds no samples")
        if file.frames == 1:
            raise AudioError(path, "too short", "holds a single sample, which is no sound")
    except BaseException:
        file.close()
        raise
    return file


def _frames(
    file: soundfile.SoundFile, path: Path, start: int = 0, until: int | None = None
) -> Iterator[Frames]:
    """Decode from ``start`` to ``until`` in pieces, refusing what is not a finite number and an early end."""
    total = file.frames
    end = total if until is None else min(until, total)
    place = start
    while place < end:
        try:
            if place == start:
                _go_to(file, start)
            frames = file.read(min(READ_FRAMES, end - place), dtype="float32", always_2d=True)
        except RuntimeError:
            raise _broken_off(file, path, place) from None
        if not len(frames):
            break
        if not np.isfinite(frames).all():
            at = (place + int(np.argmin(np.isfinite(frames).all(1)))) / file.samplerate
            detail = f"holds samples that are not finite numbers (NaN or infinity), the first at {at:.3f} s"
            raise AudioError(path, "NaN", detail)
        place += len(frames)
        yield frames
    if place < end and total < UNKNOWN_LENGTH and (file.format != "MP3" or has_frame_count(path)):
        raise _broken_off(file, path, place)
    if place == 0 and start == 0:
        raise AudioError(path, "empty", "holds no samples")


def _go_to(file: soundfile.SoundFile, start: int) -> None:
    """Stand before sample ``start``, by decoding from where the container's seeking can be trusted."""
    match file.format:
        case "MP3":  # frames lean on earlier ones
            seek = 0
        case "OGG":  # seeks into the last page go astray
            seek = min(start, max(0, file.frames - OGG_PAGE))
        case _:
            seek = start
    if seek:
        file.seek(seek)
    for at in range(seek, start, READ_FRAMES):
        file.read(min(READ_FRAMES, start - at), dtype="float32", always_2d=True)


def _broken_off(file: soundfile.SoundFile, path: Path, place: int) -> AudioError:
    whole = "" if file.frames > UNKNOWN_LENGTH else f" of {file.frames / file.samplerate:.2f} s"
    detail = f"is truncated or damaged: decoding stops after {place / file.samplerate:.2f}{whole or ' s'}"
    return AudioError(path, "truncated", detail)


def _mixed(frames: Frames) -> Float[np.ndarray, "samples 1"]:
    return frames.mean(axis=1, keepdims=True) if frames.shape[1] > 1 else frames


def _then(parts: Iterator[Frames], last) -> Iterator[Frames]:
    yield from parts
    yield last()
