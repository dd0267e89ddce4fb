"""What an audio file consists of: recordings joined in it, and what their headers promise against its bytes.

libsndfile reads the first recording of a file, as long as its header says. Headers err: a pipe leaves 0 or a
number that means "to the end", 4 GiB wrap around, joined files go on after the first one's end, and files
that were cut short (a broken download, a full disk) hold less than they say.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

import soundfile

from data.audio.stretches import Piece, stretch

# Writers that could not go back (pipes) leave these sizes behind: "until the end of the file".
STREAMING_SIZES = (range(1), range(0x7FFF0000, 0x80010000), range(0xFFFF0000, 0x100000000))
# "data : 320000 (should be 319679)" and alike, in libsndfile's log of a header.
LOGGED_SIZE = re.compile(r"^\s*(?:SSND|Data Size|data)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
RIFF = (b"RIFF", b"RIFX", b"RF64", b"BW64")
UNCOMPRESSED = (1, 3, 6, 7, 0xFFFE)
"""Codecs of WAV of which a stretch of any length can be read: PCM, floats, A-law, µ-law."""
FLAC_STARTS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
SCANNED = 1 << 22
"""Bytes looked through at once."""
SEARCHED = 1 << 27
"""Bytes of a WAV without a length that are searched for the header of another joined to it."""
FLAC_BLOCK = 1 << 16
"""Samples, the most that a block holds."""
LOOSE = 1 << 13
"""Bytes after an MP3's stated end that may be a miscount, unless they state a length of their own."""


@dataclass
class Layout:
    """The recordings in a file, in order, and what is odd about it."""

    pieces: list[Piece]
    remarks: list[str] = field(default_factory=list)
    short: str | None = None
    """How the file falls short of what its header promises."""


def layout(path: Path) -> Layout:
    """Look through a file's container; one that is unknown here, or as it should be, is a single piece."""
    stat = path.stat()
    return _layout(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=65_536)
def _layout(path: Path, size: int, modified: int) -> Layout:
    with path.open("rb", buffering=0) as file:
        head = file.read(24)
        at = _after_id3(file, 0) if head[:3] == b"ID3" else 0
        file.seek(at)
        first = file.read(4)
        if head[:4] in RIFF and head[8:12] == b"WAVE":
            return _wav(file, size)
        if first == b"fLaC":
            starts = [0, *_found(file, FLAC_STARTS, _flac_end(path, size, at))]
            return _joined([Piece(*ends) for ends in zip(starts, [*starts[1:], size])])
        if first == b"OggS":
            return _ogg(file, size)
        if len(first) > 1 and first[0] == 0xFF and first[1] & 0xE6 in (0xE2, 0xE4):  # layer 3 or 2
            return _mp3(file, size)
    promised = int.from_bytes(head[16:], "little") if head[:4] == b"riff" else 0  # Sony's Wave64
    return Layout([Piece(0, size)], short=_missing(promised, size))


def logged_shortfall(path: Path, log: str) -> str | None:
    """How a file of another container falls short, by libsndfile's log of its header."""
    logged = LOGGED_SIZE.search(log)
    if not logged or any(int(logged[1]) in sizes for sizes in STREAMING_SIZES):
        return None
    return _missing(path.stat().st_size + int(logged[1]) - int(logged[2]), path.stat().st_size)


def _missing(promised: int, size: int) -> str | None:
    missing = f"{promised - size} of the {promised} bytes its header promises are missing"
    return missing if promised > size else None


def _joined(pieces: list[Piece], remarks: list[str] | None = None, short: str | None = None) -> Layout:
    joined = [f"consists of {len(pieces)} recordings joined: all are read"] if len(pieces) > 1 else []
    return Layout(pieces, [*joined, *(remarks or [])], short)


def _found(file: Any, marks: tuple[bytes, ...], start: int, stop: int | None = None) -> Iterator[int]:
    """Where any of some marks stand, from ``start`` on, in order; the search ends soon after ``stop``."""
    longest, at, block = max(map(len, marks)), start, b""
    pattern = re.compile(b"|".join(map(re.escape, marks)))
    while at == start or (len(block) > SCANNED and (stop is None or at < stop)):
        file.seek(at)
        block = file.read(SCANNED + longest - 1)
        yield from (at + found.start() for found in pattern.finditer(block) if found.start() < SCANNED)
        at += SCANNED


def _flac_end(path: Path, size: int, start: int) -> int:
    """A place near the end of the first FLAC stream of a file, found without reading all of it."""
    if size > SCANNED:
        with (
            suppress(RuntimeError),
            stretch(path, Piece(0, size)) as file,
            soundfile.SoundFile(file) as sound,
        ):
            sound.seek(max(0, sound.frames - FLAC_BLOCK))
            sound.read(FLAC_BLOCK)
            return max(start + 1, file.tell() - SCANNED // 2)  # libFLAC reads ahead
    return start + 1


def rf64(path: Path) -> BufferedReader:
    """Open a WAV as one whose header counts in 64 bits."""
    with path.open("rb") as file:
        return stretch(path, _wav(file, path.stat().st_size, odd=True).pieces[0])


def _wav(file: Any, size: int, odd: bool = False) -> Layout:
    """The sound in the chunks of a RIFF file, or of several joined, with other headers where they are odd."""
    at, order, wide, fmt = 0, "<", None, b""
    sounds: list[tuple[int, int, bytes]] = []
    remarks, short = [], None
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        start = at + 8
        if name in RIFF:
            odd |= at > 0 or name == b"BW64"
            order, wide, fmt, at = ">" if name == b"RIFX" else "<", None, b"", start + 4
            continue
        if name == b"ds64":
            wide = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"fmt ":
            fmt = file.read(min(length, 64))
            sounds = [(a, b, known or fmt) for a, b, known in sounds]
        elif name == b"data":
            odd |= not fmt or bool(sounds)
            align = max(1, struct.unpack(f"{order}H", fmt[12:14])[0]) if len(fmt) >= 14 else 1
            promised = length if wide is None or length != 0xFFFFFFFF else wide
            stop = start + promised // align * align
            if any(promised in sizes for sizes in STREAMING_SIZES) or promised >= 1 << 62:
                if stop == start and _is_chunk(file, start, size):
                    stop = start  # empty indeed
                else:
                    stop = next(_embedded(file, start), size)
                    odd |= length != 0xFFFFFFFF or stop != size or size > 0xFFFFFFFF
            elif size - stop >= 1 << 32:  # counted in 32 bits
                stop += (size - stop) >> 32 << 32
                odd = True
                remarks.append("is longer than its header can say: it is read to its end")
            sounds.append((start, min(stop, size), fmt))
            short = short or _missing(stop, size)
            length = stop - start
        elif not name.isascii() or not name.decode().isprintable():
            remarks.append(f"holds {size - at} bytes after its sound that no header accounts for")
            break
        at = start + length + length % 2
    codecs = {int.from_bytes(fmt[:2], "little") for _, _, fmt in sounds}
    if not odd or order == ">" or not codecs <= set(UNCOMPRESSED):
        return Layout([Piece(0, size)], remarks, short)
    return _joined([Piece(a, b, _rf64(fmt, b - a)) for a, b, fmt in sounds if b > a], remarks, short)


def _is_chunk(file: Any, at: int, size: int) -> bool:
    """Whether what stands at a place can be a chunk of RIFF that lies within the file, or its end."""
    file.seek(at)
    header = file.read(8)
    inside = len(header) == 8 and at + 8 + int.from_bytes(header[4:], "little") <= size
    return at == size or (inside and header[:4].isalnum() and header[:4].isascii())


def _embedded(file: Any, start: int) -> Iterator[int]:
    """Where further RIFF files begin in what should be samples."""
    for found in _found(file, (b"WAVEfmt ",), start, start + SEARCHED):
        file.seek(found - 8)
        if found - 8 >= start and file.read(4) in RIFF:
            yield found - 8


def _rf64(fmt: bytes, length: int) -> bytes:
    """A header for PCM of any length, of which libsndfile reads all."""
    body = b"fmt " + struct.pack("<I", len(fmt)) + fmt
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, 4 + 36 + len(body) + 8 + length, length, 0, 0)
    unknown = b"\xff\xff\xff\xff"
    return b"RF64" + unknown + b"WAVE" + sizes + body + b"data" + unknown


def _after_id3(file: Any, at: int) -> int:
    """Where the sound begins after an ID3v2 tag at ``at``, if there is one."""
    file.seek(at)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return at
    # Four 7-bit bytes, and 10 more for a footer.
    length = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
    return at + 10 + length + (10 if head[5] & 0x10 else 0)


def _mp3(file: Any, size: int) -> Layout:
    """MP3 streams that follow each other; each may tell its length in a first, silent frame."""
    pieces: list[Piece] = []
    at, short = 0, None
    while at < size:
        start = _after_id3(file, at)
        file.seek(start)
        frame = file.read(200)
        states_length, end = _stated_frames(frame)
        if pieces and (frame[:1] != b"\xff" or (size - at < LOOSE and not states_length)):
            break
        end = start + end if end else size
        short = short or _missing(end, size)
        pieces.append(Piece(at, min(end, size), states_length=states_length))
        at = end
    pieces[-1] = pieces[-1]._replace(stop=size)
    return _joined(pieces, short=short)


def _stated_frames(frame: bytes) -> tuple[bool, int | None]:
    """Whether an MP3's first frame tells the length of the stream (Xing, Info, VBRI), and its bytes."""
    for tag in (b"Xing", b"Info"):
        place = frame.find(tag)
        if 0 <= place <= len(frame) - 16:
            flags = struct.unpack(">I", frame[place + 4 : place + 8])[0]
            # A byte count, after the frame count if there is one.
            count = frame[place + (12 if flags & 1 else 8) :][:4]
            return bool(flags & 1), struct.unpack(">I", count)[0] if flags & 2 else None
    return b"VBRI" in frame, None


def _ogg(file: Any, size: int) -> Layout:
    """Ogg streams that follow each other: a page that begins a stream after one that does not."""
    starts, at, begins, ends, whole, remarks = [0], 0, True, False, True, []
    while at + 27 <= size:
        file.seek(at)
        page = file.read(27 + 255)
        if page[:4] != b"OggS":
            lost, at = at, next(_found(file, (b"OggS",), at), size)
            remarks.append(f"holds {at - lost} bytes that belong to no page")
            continue
        if page[5] & 2 and not begins:
            starts.append(at)
            whole &= ends
        begins, ends = bool(page[5] & 2), bool(page[5] & 4)
        at += 27 + page[26] + sum(page[27 : 27 + page[26]])
    short = "its last page is broken off" if at != size else None
    if not (whole and ends):
        remarks.append("lacks the page that ends the stream: all that is there is read")
    pieces = [Piece(*edges, states_length=whole and ends) for edges in zip(starts, [*starts[1:], size])]
    return _joined(pieces, remarks, short)
