"""Sequential decoding of audio files, with one-sentence errors for those that cannot be decoded."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from data.audio.checking import HIGHEST_RATE, LOWEST_RATE
from data.audio.containers import layout, logged_shortfall
from data.audio.resampling import Frames
from data.audio.stretches import Piece, stretch
from engine.files import native
from engine.user_error import FileError, reason, remedy

EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
"""Extensions of formats that are read and written; ``audio_files`` also finds the ``READ_ONLY`` ones."""
READ_ONLY = (
    *(".aif", ".aiff", ".aifc", ".au", ".caf", ".rf64", ".snd", ".sph", ".w64", ".wave", ".bwf"),
    *(".m4a", ".m4b", ".aac", ".mp4", ".webm", ".weba", ".wma", ".mka", ".mp2", ".ac3", ".amr", ".3gp"),
    *(".ape", ".wv", ".tta", ".mpc", ".dsf", ".spx", ".mpga", ".m4r", ".3g2", ".dts", ".eac3", ".voc"),
    *(".mkv", ".mov", ".m4v", ".avi", ".flv", ".ogv", ".ogx", ".rm", ".ra"),
)
READ_FRAMES = 65_536
UNKNOWN_LENGTH = 1 << 62
"""libsndfile returns a larger number of samples for a FLAC stream that does not state its length."""
OGG_PAGE = 1 << 18
"""Upper bound of the samples in the up to 255 packets of an Ogg page."""
PLAUSIBLE_RATES = range(LOWEST_RATE, HIGHEST_RATE + 1)
"""Accepted sample rates in Hz."""

Problem = Literal["missing", "unreadable", "truncated", "empty", "NaN", "too short", "wrong rate"]


class AudioError(FileError[Problem]):
    """A file that cannot be used as audio, with the kind of problem, which ``data.check`` counts."""


class _Sequential(soundfile.SoundFile):
    """A file that is read without seeking.

    soundfile seeks after every read of a seekable file, which resets the MP3 decoder: each block would begin
    with an audible discontinuity.
    """

    def seekable(self) -> bool:
        return False


class _SndfileSound:
    def __init__(self, path: Path, piece: Piece) -> None:
        whole = piece.start == 0 and not piece.head and piece.stop == path.stat().st_size
        self._bytes, self._exact = None if whole else stretch(path, piece), piece.states_length
        self.file = _Sequential(self._bytes or native(path))
        if self.file.format == "RAW":  # libsndfile chose it by the extension, without a header
            self.close()
            raise ValueError("it has no header")
        self.sample_rate, self.channels = self.file.samplerate, self.file.channels
        self.samples = self.file.frames if self.file.frames < UNKNOWN_LENGTH else None

    def decode(self, start: int = 0, until: int | None = None) -> Iterator[Frames]:
        end = min(n for n in (self.samples, until, UNKNOWN_LENGTH) if n is not None)
        self._go_to(start)
        place = start
        while place < end:
            frames = self.file.read(min(READ_FRAMES, end - place), dtype="float32", always_2d=True)
            if not len(frames):
                break
            place += len(frames)
            yield frames
        if self.samples is None and (until is None or place < until):
            self.samples = place
        elif place < end and self._exact:
            raise ValueError(f"its header states {end / self.sample_rate:.2f} s")

    def _go_to(self, start: int) -> None:
        """Seek to a position that the format supports reliably, and decode from there up to ``start``."""
        seek = start
        if self.file.format == "MP3":  # frames depend on earlier ones
            seek = 0
        elif self.file.format == "OGG":  # seeking into the last page is inexact
            seek = min(start, max(0, self.file.frames - OGG_PAGE))
        if seek or self.file.tell():
            self.file.seek(seek)
        for at in range(seek, start, READ_FRAMES):
            self.file.read(min(READ_FRAMES, start - at), dtype="float32", always_2d=True)

    def close(self) -> None:
        self.file.close()
        if self._bytes:
            self._bytes.close()


_Part = Any
"""A decoder of one recording in a file: a ``_SndfileSound`` or an ``FFmpegSound``."""


class Sound:
    """An audio file opened for decoding, with one or several concatenated recordings."""

    def __init__(self, path: Path, parts: list[_Part], remarks: list[str]) -> None:
        self.path, self.parts = path, parts
        self.remarks = tuple(remarks)
        """Irregularities of the file that do not prevent reading it."""
        self.sample_rate, self.channels = parts[0].sample_rate, parts[0].channels

    def __enter__(self) -> "Sound":
        return self

    def __exit__(self, *error: object) -> None:
        for part in self.parts:
            part.close()

    @property
    def samples(self) -> int | None:
        """Total number of samples per channel; None if only decoding can determine it."""
        counts = [part.samples for part in self.parts]
        return None if None in counts else sum(count for count in counts if count is not None)

    def decode(self, start: int = 0, until: int | None = None) -> Iterator[Frames]:
        """Decode from ``start`` to ``until`` in blocks; raise for NaN, infinity and a premature end."""
        place = offset = 0
        for part in self.parts:
            if until is not None and offset >= until:
                break
            if part.samples is None or offset + part.samples > start:
                place = max(offset, start)
                ends = (max(0, start - offset), None if until is None else until - offset)
                try:
                    for frames in part.decode(*ends):
                        self._check_finite(frames, place)
                        place += len(frames)
                        yield frames
                except AudioError:
                    raise
                except (RuntimeError, ValueError, OSError) as error:  # libsndfile's, and PyAV's
                    if not place and not isinstance(part, _SndfileSound):
                        raise _unreadable(self.path, reason(error)) from None
                    at = f"decoding stops after {place / self.sample_rate:.2f} s ({reason(error)})"
                    raise AudioError(self.path, "truncated", f"is truncated or damaged: {at}") from None
            offset += part.samples or 0
        if self.samples == 0 or (place == 0 and start == 0 and until != 0):
            raise AudioError(self.path, "empty", "holds no samples")

    def _check_finite(self, frames: Frames, place: int) -> None:
        if not np.isfinite(frames).all():
            at = (place + int(np.argmin(np.isfinite(frames).all(1)))) / self.sample_rate
            detail = f"holds samples that are not finite numbers (NaN or infinity), the first at {at:.3f} s"
            raise AudioError(self.path, "NaN", detail)


def opened(path: Path) -> Sound:
    """Open a file for decoding; raises ``AudioError`` if that is impossible."""
    try:
        path.stat()
    except FileNotFoundError:
        link = f"is a link to {os.readlink(path)}, which does not exist" if path.is_symlink() else None
        raise AudioError(path, "missing", link or "does not exist") from None
    except OSError as error:
        raise AudioError(path, "unreadable", f"cannot be opened: {remedy(error)}") from None
    if path.is_dir():
        readable = os.access(path, os.R_OK | os.X_OK)
        kind = "an audio file" if readable else "readable: its permissions forbid it"
        raise AudioError(path, "unreadable", f"is a folder, not {kind}")
    if not path.is_file():
        raise AudioError(path, "unreadable", "is not an ordinary file")
    if not os.access(path, os.R_OK):
        raise AudioError(path, "unreadable", "cannot be read: its permissions forbid it")
    if path.stat().st_size == 0:
        raise AudioError(path, "empty", "is empty (0 bytes)")
    found = layout(path)
    if found.short:
        raise AudioError(path, "truncated", f"is truncated: {found.short}; download or copy it again")
    if not found.pieces:
        raise AudioError(path, "empty", "holds no samples")
    parts: list[_Part] = []
    try:
        for piece in found.pieces:
            parts.append(_part(path, piece))
        sound = Sound(path, parts, found.remarks)
        _check(sound)
    except BaseException:
        for part in parts:
            part.close()
        raise
    return sound


def _part(path: Path, piece: Piece) -> _Part:
    failure = ""
    for decoder in (_by_sndfile, _by_ffmpeg) if piece.states_length else (_by_ffmpeg, _by_sndfile):
        try:
            return decoder(path, piece)
        except AudioError:
            raise
        except ImportError:
            failure = "it needs PyAV: pip install av"
        except (RuntimeError, TypeError, ValueError, OSError) as error:
            failure = reason(error)
    raise _unreadable(path, failure)


def _unreadable(path: Path, failure: str) -> AudioError:
    from data.audio.sniffing import explanation

    return AudioError(path, "unreadable", explanation(path, failure))


def _by_sndfile(path: Path, piece: Piece) -> _Part:
    part = _SndfileSound(path, piece)
    is_wav = part.file.format in ("WAV", "WAVEX", "RF64")
    short = None if is_wav else logged_shortfall(path, part.file.extra_info)
    if short:
        part.close()
        raise AudioError(path, "truncated", f"is truncated: {short}; download or copy it again")
    return part


def _by_ffmpeg(path: Path, piece: Piece) -> _Part:
    from data.audio.ffmpeg import FFmpegSound  # PyAV is slow to import, and optional

    file = stretch(path, piece)
    try:
        return FFmpegSound(file)
    except BaseException:
        file.close()
        raise


def _check(sound: Sound) -> None:
    path, rate = sound.path, sound.sample_rate
    if rate not in PLAUSIBLE_RATES:
        detail = f"has a sample rate of {rate} Hz in its header, which is not plausible"
        raise AudioError(path, "wrong rate", detail)
    if any((part.sample_rate, part.channels) != (rate, sound.channels) for part in sound.parts):
        detail = "consists of concatenated recordings with different rates or channels: split it first"
        raise AudioError(path, "wrong rate", detail)
    if sound.samples == 0:
        raise AudioError(path, "empty", "holds no samples")
    if sound.samples == 1:
        raise AudioError(path, "too short", "holds only a single sample")
