"""Requests of careless and hostile clients to the app's server, with the correct answer to each."""

import io
import re
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import httpx
import numpy as np
import soundfile

from benchmarks.app_process import Serving

BOUNDARY = "a-line-between-parts"
NAN = np.insert(np.zeros(16_000), 5_000, np.nan)
SECONDS = 60.0
"""Timeout of answers, s."""


def tone(seconds: float, *, rate: int = 16_000, channels: int = 1, form: str = "WAV") -> bytes:
    """An audio file of a tone with vibrato."""
    time_axis = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(140 * (1 + 0.04 * np.sin(2 * np.pi * 4 * time_axis))) / rate
    wave = sum(0.1 / k * np.sin(k * phase) for k in range(1, 9))
    return packed(np.repeat(np.asarray(wave)[:, None], channels, axis=1), rate, form)


def packed(wave: np.ndarray, rate: int = 16_000, form: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def form(*fields: tuple[str, str | None, bytes]) -> bytes:
    """A multipart body of (name, file name or None, content); file names are not escaped."""
    parts = []
    for name, file_name, content in fields:
        named = f'; filename="{file_name}"' if file_name is not None else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
        parts.append(head.encode("utf-8", "surrogateescape") + content + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def head(length: int | None) -> bytes:
    """The head of a conversion request with a form, chunked if its length is None."""
    size = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
    lines = ["POST /api/convert HTTP/1.1", "Host: 127.0.0.1", kind, size]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def connected(server: Serving) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=SECONDS)


def answer(connection: socket.socket) -> int | None:
    """The status of the answer; None if the connection ends without one."""
    got = b""
    with suppress(OSError):
        while b"\r\n" not in got and (piece := connection.recv(4096)):
            got += piece
    found = re.match(rb"HTTP/1\.1 (\d{3})", got)
    return int(found[1]) if found else None


def posted(server: Serving, body: bytes) -> int | None:
    with connected(server) as connection:
        connection.sendall(head(len(body)) + body)
        return answer(connection)


def speech(source: bytes, reference: bytes | None = None, name: str = "me.wav") -> bytes:
    return form(("source", name, source), ("reference", name, tone(1.0) if reference is None else reference))


def oversize_declared(server: Serving) -> int | None:
    """Declare a length beyond the limit, and send no body."""
    with connected(server) as connection:
        connection.sendall(head(1 << 40))
        return answer(connection)


def oversize_streamed(server: Serving) -> int | None:
    """Stream an endless chunked body, and read only when sending fails."""
    start = form(("source", "me.wav", b""))[: -len(BOUNDARY) - 8]
    block = b"%x\r\n" % (1 << 16) + bytes(1 << 16) + b"\r\n"
    with connected(server) as connection:
        with suppress(OSError):
            connection.sendall(head(None) + f"{len(start):x}\r\n".encode() + start + b"\r\n")
            connection.settimeout(2.0)
            for _ in range(4_096):
                connection.sendall(block)
        connection.settimeout(SECONDS)
        return answer(connection)


def trickle(server: Serving) -> int | None:
    """Send the body byte by byte, slowly, without end."""
    with connected(server) as connection:
        connection.sendall(head(100_000) + speech(tone(0.2))[:2_000])
        until = time.monotonic() + SECONDS
        with suppress(OSError):
            while time.monotonic() < until and not select.select([connection], [], [], 0.2)[0]:
                connection.sendall(b"-")
        return answer(connection)


def stalled_headers(server: Serving) -> int | None:
    """Send half a head, then nothing more."""
    with connected(server) as connection:
        connection.sendall(b"POST /api/convert HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow")
        return answer(connection)


def aborted(server: Serving) -> int | None:
    """Disconnect in the middle of an upload."""
    body = speech(tone(2.0))
    with connected(server) as connection:
        connection.sendall(head(len(body)) + half(body))
        time.sleep(0.2)
    return None


def left_while_working(server: Serving) -> int | None:
    """Send a complete request, and disconnect without waiting for the answer."""
    body = speech(tone(5.0))
    with connected(server) as connection:
        connection.sendall(head(len(body)) + body)
    return None


def unread(server: Serving) -> int | None:
    """Do not read a large answer; None if the server cuts it off, as it should."""
    body = speech(tone(9.0, form="FLAC"))[: -len(BOUNDARY) - 6] + form(("rate", None, b"192000"))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(SECONDS)
        connection.connect((server.host, server.port))
        connection.sendall(head(len(body)) + body)
        connection.recv(16)
        time.sleep(1.5 * httpx.get(f"{server.url}/api/limits").json()["idle_seconds"])
        got = 0
        with suppress(OSError):
            while piece := connection.recv(1 << 16):
                got += len(piece)
    return 200 if got > 9 * 192_000 * 2 else None


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def path_tricks(server: Serving) -> int | None:
    """Send valid recordings with file names that point outside the upload folder."""
    statuses = {
        posted(server, speech(tone(0.3), name=name))
        for name in ("../../../escaped.wav", "/etc/escaped", "..\\escaped", "a\0b", "~/x", "x" * 2_000, ".")
    }
    return statuses.pop() if len(statuses) == 1 else None


ABUSES: dict[str, tuple[Callable[[Serving], int | None], int | None]] = {
    "oversize, declared": (oversize_declared, 413),
    "oversize, streamed": (oversize_streamed, 413),
    "trickle": (trickle, 408),
    "stalled headers": (stalled_headers, 408),
    "aborted": (aborted, None),
    "left while working": (left_while_working, None),
    "unread": (unread, None),
    "broken form": (lambda server: posted(server, speech(tone(0.5))[: -len(BOUNDARY) - 20]), 400),
    "many fields": (lambda server: posted(server, form(*[("reference", "a.wav", b"")] * 3_000)), 400),
    "text as audio": (lambda server: posted(server, speech(b"these are words, not sounds\n" * 50)), 415),
    "truncated": (lambda server: posted(server, speech(tone(2.0)[:20_000])), 422),
    "truncated FLAC": (lambda server: posted(server, speech(half(tone(2.0, form="FLAC")))), 422),
    "an hour of silence in a small file": (
        lambda server: posted(server, speech(packed(np.zeros(8_000 * 3_600, np.float32), 8_000, "FLAC"))),
        413,
    ),
    # A block of so many would fill the memory.
    "a thousand channels": (
        lambda server: posted(server, speech(packed(np.zeros((200, 1_000), np.float32)))),
        413,
    ),
    "not a number": (lambda server: posted(server, speech(packed(NAN, subtype="FLOAT"))), 422),
    "path tricks": (path_tricks, 200),
}
"""Ways to misuse the server, and the correct status for each; None if no answer is expected."""
