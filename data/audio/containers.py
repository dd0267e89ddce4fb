"""Parsing of audio containers: finds concatenated recordings, wrong lengths in headers, and truncated files.

libsndfile reads only the first recording of a file, up to the length in its header. That length may be wrong:
pipes write 0 or a value that means "to the end", sizes above 4 GiB wrap around, concatenated files continue
after the first one's end, and truncated files (an aborted download, a full disk) are shorter.
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

# Sizes written by programs that cannot seek (pipes), which mean "until the end of the file".
STREAMING_SIZES = (range(1), range(0x7FFF0000, 0x80010000), range(0xFFFF0000, 0x100000000))
# Lines such as "data : 320000 (should be 319679)" in libsndfile's header log.
LOGGED_SIZE = re.compile(r"^\s*(?:SSND|Data Size|data)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
RIFF = (b"RIFF", b"RIFX", b"RF64", b"BW64")
UNCOMPRESSED = (1, 3, 6, 7, 0xFFFE)
"""WAV codecs that can be read from any position: PCM, float, A-law, µ-law."""
FLAC_STARTS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
SCANNED = 1 << 22
"""Bytes per read of a search."""
SEARCHED = 1 << 27
"""Bytes of a WAV without a stated length that are searched for the header of a second recording."""
FLAC_BLOCK = 1 << 16
"""Maximum number of samples in a FLAC block."""
MAX_TRAILING = 1 << 13
"""Maximum number of bytes after an MP3's stated end that count as part of it, unless they state a length."""


@dataclass
class Layout:
    """The recordings in a file, in order, with remarks on irregularities."""

    pieces: list[Piece]
    remarks: list[str] = field(default_factory=list)
    short: str | None = None
    """The end of an error sentence if the file is shorter than its header states."""


def layout(path: Path) -> Layout:
    """Parse a file's container; regular files and unknown containers are a single piece."""
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
    """Return how a file of another container is truncated, from libsndfile's header log, or None."""
    logged = LOGGED_SIZE.search(log)
    if not logged or any(int(logged[1]) in sizes for sizes in STREAMING_SIZES):
        return None
    return _missing(path.stat().st_size + int(logged[1]) - int(logged[2]), path.stat().st_size)


def _missing(promised: int, size: int) -> str | None:
    missing = f"{promised - size} of the {promised} bytes that its header states are missing"
    return missing if promised > size else None


def _joined(pieces: list[Piece], remarks: list[str] | None = None, short: str | None = None) -> Layout:
    joined = [f"consists of {len(pieces)} concatenated recordings: all are read"] if len(pieces) > 1 else []
    return Layout(pieces, [*joined, *(remarks or [])], short)


def _found(file: Any, marks: tuple[bytes, ...], start: int, stop: int | None = None) -> Iterator[int]:
    """Yield the positions of any of the marks from ``start`` on; the search ends soon after ``stop``."""
    longest, at, block = max(map(len, marks)), start, b""
    pattern = re.compile(b"|".join(map(re.escape, marks)))
    while at == start or (len(block) > SCANNED and (stop is None or at < stop)):
        file.seek(at)
        block = file.read(SCANNED + longest - 1)
        yield from (at + found.start() for found in pattern.finditer(block) if found.start() < SCANNED)
        at += SCANNED


def _flac_end(path: Path, size: int, start: int) -> int:
    """Return a position near the end of a file's first FLAC stream, found without reading all of it."""
    if size > SCANNED:
        whole = Piece(0, size)
        with suppress(RuntimeError), stretch(path, whole) as file, soundfile.SoundFile(file) as sound:
            sound.seek(max(0, sound.frames - FLAC_BLOCK))
            sound.read(FLAC_BLOCK)
            return max(start + 1, file.tell() - SCANNED // 2)  # libFLAC reads ahead
    return start + 1


def rf64(path: Path) -> BufferedReader:
    """Open a WAV with its header replaced by one with 64-bit sizes (RF64)."""
    with path.open("rb") as file:
        return stretch(path, _wav(file, path.stat().st_size, odd=True).pieces[0])


def _wav(file: Any, size: int, odd: bool = False) -> Layout:
    """Parse a RIFF file, or several concatenated ones; pieces of irregular files get a new header."""
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
                    stop = start  # really empty
                else:
                    stop = next(_embedded(file, start), size)
                    odd |= length != 0xFFFFFFFF or stop != size or size > 0xFFFFFFFF
            elif size - stop >= 1 << 32:  # counted in 32 bits
                stop += (size - stop) >> 32 << 32
                odd = True
                remarks.append("is longer than its header can state: it is read to its end")
            sounds.append((start, min(stop, size), fmt))
            short = short or _missing(stop, size)
            length = stop - start
        elif not name.isascii() or not name.decode().isprintable():
            remarks.append(f"holds {size - at} bytes after its audio that belong to no chunk")
            break
        at = start + length + length % 2
    codecs = {int.from_bytes(fmt[:2], "little") for _, _, fmt in sounds}
    if not odd or order == ">" or not codecs <= set(UNCOMPRESSED):
        return Layout([Piece(0, size)], remarks, short)
    return _joined([Piece(a, b, _rf64(fmt, b - a)) for a, b, fmt in sounds if b > a], remarks, short)


def _is_chunk(file: Any, at: int, size: int) -> bool:
    """Return whether a RIFF chunk within the file can begin at this position, or the file ends there."""
    file.seek(at)
    header = file.read(8)
    inside = len(header) == 8 and at + 8 + int.from_bytes(header[4:], "little") <= size
    return at == size or (inside and header[:4].isalnum() and header[:4].isascii())


def _embedded(file: Any, start: int) -> Iterator[int]:
    """Yield the positions of further RIFF headers inside the samples."""
    for found in _found(file, (b"WAVEfmt ",), start, start + SEARCHED):
        file.seek(found - 8)
        if found - 8 >= start and file.read(4) in RIFF:
            yield found - 8


def _rf64(fmt: bytes, length: int) -> bytes:
    """Make a WAV header with 64-bit sizes, with which libsndfile reads audio of any length."""
    body = b"fmt " + struct.pack("<I", len(fmt)) + fmt
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, 4 + 36 + len(body) + 8 + length, length, 0, 0)
    unknown = b"\xff\xff\xff\xff"
    return b"RF64" + unknown + b"WAVE" + sizes + body + b"data" + unknown


def _after_id3(file: Any, at: int) -> int:
    """Return the position after an ID3v2 tag at ``at``, or ``at`` if there is none."""
    file.seek(at)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return at
    # Four bytes of 7 bits each, plus 10 bytes if there is a footer.
    length = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
    return at + 10 + length + (10 if head[5] & 0x10 else 0)


def _mp3(file: Any, size: int) -> Layout:
    """Parse concatenated MP3 streams, each of which may state its length in a first, silent frame."""
    pieces: list[Piece] = []
    at, short = 0, None
    while at < size:
        start = _after_id3(file, at)
        file.seek(start)
        frame = file.read(200)
        states_length, end = _stated_frames(frame)
        if pieces and (frame[:1] != b"\xff" or (size - at < MAX_TRAILING and not states_length)):
            break
        end = start + end if end else size
        short = short or _missing(end, size)
        pieces.append(Piece(at, min(end, size), states_length=states_length))
        at = end
    pieces[-1] = pieces[-1]._replace(stop=size)
    return _joined(pieces, short=short)


def _stated_frames(frame: bytes) -> tuple[bool, int | None]:
    """Return whether an MP3's first frame (Xing, Info, VBRI) states the stream's length, and its bytes."""
    for tag in (b"Xing", b"Info"):
        place = frame.find(tag)
        if 0 <= place <= len(frame) - 16:
            flags = struct.unpack(">I", frame[place + 4 : place + 8])[0]
            # The byte count follows the frame count if there is one.
            count = frame[place + (12 if flags & 1 else 8) :][:4]
            return bool(flags & 1), struct.unpack(">I", count)[0] if flags & 2 else None
    return b"VBRI" in frame, None


def _ogg(file: Any, size: int) -> Layout:
    """Parse concatenated Ogg streams, each of which starts with one or more pages with the BOS flag."""
    starts, at, begins, ends, whole, remarks = [0], 0, True, False, True, []
    while at + 27 <= size:
        file.seek(at)
        page = file.read(27 + 255)
        if page[:4] != b"OggS":
            lost, at = at, next(_found(file, (b"OggS",), at), size)
            remarks.append(f"holds {at - lost} bytes that belong to no Ogg page")
            continue
        if page[5] & 2 and not begins:
            starts.append(at)
            whole &= ends
        begins, ends = bool(page[5] & 2), bool(page[5] & 4)
        at += 27 + page[26] + sum(page[27 : 27 + page[26]])
    short = "its last page is incomplete" if at != size else None
    if not (whole and ends):
        remarks.append("lacks the page that ends the stream: it is read to its end")
    pieces = [Piece(*edges, states_length=whole and ends) for edges in zip(starts, [*starts[1:], size])]
    return _joined(pieces, remarks, short)
