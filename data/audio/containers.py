"""Which audio files are whole: what a container's header promises against the bytes that are there.

libsndfile opens a file that was cut short (a broken download, a full disk) and quietly reads what is left.
The header still tells how much there should be.
"""

import re
import struct
from pathlib import Path

# Writers that could not go back (pipes) leave these sizes behind: "until the end of the file".
STREAMING_SIZES = (range(0x7FFF0000, 0x80000000), range(0xFFFF0000, 0x100000000))
# "data : 320000 (should be 319679)" and alike, in libsndfile's log of a header.
LOGGED_SIZE = re.compile(r"^\s*(?:SSND|Data Size|data)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)


def cut_short(path: Path, container: str, log: str) -> str | None:
    """Say how a file falls short of its header, or None; ``log`` is libsndfile's log of the header.

    FLAC is not looked at here: only decoding tells.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        match container:
            case "WAV" | "WAVEX" | "RF64":
                promised = _wav_end(file)
            case "W64":
                promised = int.from_bytes(file.read(24)[16:], "little")
            case "MP3":
                promised = _mp3_end(file)
            case "OGG":
                return _ogg_end(file, size)
            case _:
                logged = LOGGED_SIZE.search(log)
                promised = size + int(logged[1]) - int(logged[2]) if logged else None
                if logged and any(int(logged[1]) in sizes for sizes in STREAMING_SIZES):
                    promised = None
    if promised is not None and promised > size:
        return f"{promised - size} of the {promised} bytes its header promises are missing"
    return None


def has_frame_count(path: Path) -> bool:
    """Whether an MP3 says its own length (a Xing, Info or VBRI tag) rather than leaving it to be guessed."""
    with path.open("rb") as file:
        start = _mp3_start(file)
        head = file.read(200)
    return start is not None and any(tag in head for tag in (b"Xing", b"Info", b"VBRI"))


def _wav_end(file) -> int | None:
    """Where the data of a RIFF or RF64 file should end, in bytes; None where the header does not say."""
    head, data_size_64, align = file.read(12), None, 1
    order = ">" if head[:4] == b"RIFX" else "<"
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack(f"{order}4sI", header)
        start = file.tell()
        if name == b"ds64":
            data_size_64 = struct.unpack("<Q", file.read(24)[8:16])[0]
        elif name == b"fmt ":
            align = max(1, struct.unpack(f"{order}H", file.read(16)[12:14])[0])
        elif name == b"data":
            if head[:4] == b"RF64" and data_size_64 is not None:
                return start + data_size_64
            if any(size in sizes for sizes in STREAMING_SIZES):
                return None
            return start + size // align * align
        file.seek(start + size + size % 2)
    return None


def _mp3_start(file) -> int | None:
    """Move to the first MPEG frame, past an ID3v2 tag, and return its place."""
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        # Four 7-bit bytes, and 10 more for a footer.
        length = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
        start = 10 + length + (10 if head[5] & 0x10 else 0)
    file.seek(start)
    return start if file.read(1) and file.seek(start) == start else None


def _mp3_end(file) -> int | None:
    """Where the stream should end by the byte count of its Xing or Info tag, if it has one."""
    start = _mp3_start(file)
    if start is None:
        return None
    frame = file.read(200)
    for tag in (b"Xing", b"Info"):
        place = frame.find(tag)
        if place < 0 or len(frame) < place + 16:
            continue
        flags = struct.unpack(">I", frame[place + 4 : place + 8])[0]
        if flags & 2:  # a byte count follows, after the frame count if there is one
            at = place + (12 if flags & 1 else 8)
            return start + struct.unpack(">I", frame[at : at + 4])[0]
    return None


def _ogg_end(file, size: int) -> str | None:
    """An Ogg stream is whole when its last page is complete and marked as the last."""
    file.seek(max(0, size - 2 * 65_307))  # a page is at most 65 307 bytes
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return "its last page is broken off"
    n_segments = tail[page + 26]
    table = tail[page + 27 : page + 27 + n_segments]
    if len(table) < n_segments or len(tail) < page + 27 + n_segments + sum(table):
        return "its last page is broken off"
    return None if tail[page + 5] & 4 else "the page that ends the stream is missing"
