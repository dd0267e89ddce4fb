"""A part of a file, optionally with another header, as a file object."""

from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import NamedTuple


class Piece(NamedTuple):
    """The byte range of one recording in a file."""

    start: int
    stop: int
    head: bytes = b""
    """A header that replaces a wrong one."""
    states_length: bool = True
    """Whether libsndfile can determine its length."""


class Stretch(RawIOBase):
    """A read-only file object over one piece of a file."""

    def __init__(self, path: Path, piece: Piece) -> None:
        self._file, self._piece, self._at = path.open("rb", buffering=0), piece, 0
        self._size = len(piece.head) + piece.stop - piece.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer) -> int:
        wanted, n_head = min(len(buffer), self._size - self._at), len(self._piece.head)
        if wanted <= 0:  # decoders of damaged files may seek beyond the end
            return 0
        if self._at < n_head:
            part = self._piece.head[self._at : self._at + wanted]
        else:
            self._file.seek(self._piece.start + self._at - n_head)
            part = self._file.read(wanted)
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


def stretch(path: Path, piece: Piece) -> BufferedReader:
    return BufferedReader(Stretch(path, piece), 1 << 16)
