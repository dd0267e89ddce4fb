"""Decoding audio files front to back, and saying in one sentence what is wrong with those that cannot be."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from data.audio.containers import cut_short, has_frame_count
from data.audio.resampling import Frames
from engine.user_error import UserError

EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
"""Formats read and written; what ``audio_files`` looks for, with the ``READ_ONLY`` ones."""
READ_ONLY = (".aif", ".aiff", ".aifc", ".au", ".caf", ".rf64", ".snd", ".sph", ".w64", ".wave")
READ_FRAMES = 65_536
UNKNOWN_LENGTH = 1 << 62
"""libsndfile gives a number beyond this for a FLAC stream that does not state its length."""
OGG_PAGE = 1 << 18
"""Samples, more than the 255 packets of a page can hold."""
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


class _Sequential(soundfile.SoundFile):
    """A file read from front to back.

    soundfile seeks after every read of a seekable file; for MP3 that resets the decoder and leaves an audible
    break at each block.
    """

    def seekable(self) -> bool:
        return False


def opened(path: Path) -> soundfile.SoundFile:
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


def decode(
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
