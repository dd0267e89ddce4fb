"""Explanation why a file cannot be read as audio, from its first bytes."""

import struct
from pathlib import Path

from data.audio.containers import RIFF

CODECS = {
    0x02: "ADPCM",
    0x11: "IMA ADPCM",
    0x50: "MPEG",
    0x55: "MP3",
    0x161: "WMA",
    0x2000: "AC-3",
    0xFF: "AAC",
}
SOUNDS = {
    b"\x00\x00\x00\x0cjP": "a JPEG 2000 picture",
    b"\x30\x26\xb2\x75": "WMA or WMV",
    b"\x1a\x45\xdf\xa3": "WebM or Matroska",
    b"#!AMR": "AMR",
    b"ID3": "MP3",
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"FORM": "AIFF",
    b"caff": "CAF",
}
OTHERS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run `git lfs pull`",
    b"MThd": "MIDI, which contains notes but no audio: render it first",
    b"PK\x03\x04": "a ZIP archive: unpack it first",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"%PDF": "a PDF: leave it out",
    b"\x89PNG": "a picture: leave it out",
    b"\xff\xd8\xff": "a picture: leave it out",
    b"\x00\x05\x16\x07": "metadata of macOS about a file, not the file itself: leave it out",
}


def explanation(path: Path, failure: str) -> str:
    """Return why a file cannot be read, and the way out; ``failure`` is the last decoder's error message."""
    with path.open("rb") as file:
        head = file.read(4096)
    convert = f"try `ffmpeg -i {path.name} {path.stem}_mended.wav`, or leave it out"
    for mark, sentence in OTHERS.items():
        if head.startswith(mark):
            return f"is not audio but {sentence}"
    if head[:4] in RIFF and head[8:12] == b"WAVE":
        return f"is a WAV, but {_wav_fault(head) or failure}: {convert}"
    kinds = [kind for mark, kind in SOUNDS.items() if head.startswith(mark)]
    if kind := "M4A or MP4" if head[4:8] == b"ftyp" else "".join(kinds[:1]):
        return f"looks like {kind} but cannot be decoded ({failure}): {convert}"
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        return "is not audio but a web page, probably from a failed download: download it again"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "is not audio but text: leave it out"
    return f"is not audio of a known format ({failure}): {convert}"


def _wav_fault(head: bytes) -> str | None:
    """Return what is wrong with the header of a WAV, or None."""
    at = head.find(b"fmt ", 12)
    if at < 0 or len(head) < at + 24:
        return "it has no 'fmt ' chunk, which describes its samples"
    codec, channels, rate = struct.unpack("<HHI", head[at + 8 : at + 16])
    if not rate:
        return "its header states a sample rate of 0 Hz"
    if not channels:
        return "its header states 0 channels"
    if codec not in (1, 3, 6, 7, 0xFFFE):
        return f"its samples are coded as {CODECS.get(codec, 'codec')} (0x{codec:X}), which is not supported"
    return None if b"data" in head else "it has no 'data' chunk with samples"
