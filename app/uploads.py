"""Reading a form of files and fields as it arrives: every file goes to a private folder piece by piece."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BufferedWriter
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from torch import Tensor

from app.conversions import Conversions
from app.limits import BusyError, FormError, TypeRefusedError
from engine.user_error import UserError
from w2w.gallery.named import find

MOST_PARTS = 64
FIELD_BYTES = 1 << 16
"""Of a field that is no file."""


@dataclass(kw_only=True)
class Form:
    """What a request brought."""

    files: dict[str, list[Path]] = field(default_factory=dict)
    """By field; never under the names that a client gave them."""
    fields: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Delete the files."""
        for paths in self.files.values():
            for path in paths:
                path.unlink(missing_ok=True)


async def received(request: Request, folder: Path, files: frozenset[str], fields: frozenset[str]) -> Form:
    """Read a multipart form whose fields are ``files`` and ``fields``, into ``folder``."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        sent = kind.decode("latin-1") or "nothing"
        raise TypeRefusedError(f"the request must be of type multipart/form-data, not {sent} (curl: -F)")
    if not options.get(b"boundary"):
        raise FormError("the request's content type names no boundary: let the client library set it")
    reader = _Reader(folder, files, fields)
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks)
        async for piece in request.stream():
            parser.write(piece)
        parser.finalize()
    except FormParserError:
        raise FormError("the request's body is no well-formed multipart form") from None
    finally:
        reader.close()
    if not reader.ended:
        raise FormError("the request's body breaks off before its end")
    return reader.form


class _Reader:
    """Takes a form's parts from the parser as they come."""

    def __init__(self, folder: Path, files: frozenset[str], fields: frozenset[str]) -> None:
        self.folder, self.files, self.fields = folder, files, fields
        self.form, self.ended = Form(), False
        self.n_parts = 0
        self.key, self.value = b"", b""
        self.headers: dict[bytes, bytes] = {}
        self.name = ""
        self.file: BufferedWriter | None = None
        self.field_value = bytearray()
        self.callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_key,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def close(self) -> None:
        """Let go of a file that has not come whole."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _begin(self) -> None:
        self.n_parts += 1
        if self.n_parts > MOST_PARTS:
            raise FormError(f"the form has more than {MOST_PARTS} fields")
        self.headers, self.key, self.value, self.name = {}, b"", b"", ""
        self.field_value.clear()

    def _header_key(self, data: bytes, start: int, end: int) -> None:
        self.key += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def _header_end(self) -> None:
        self.headers[self.key.lower()] = self.value
        self.key, self.value = b"", b""

    def _headers_finished(self) -> None:
        disposition = self.headers.get(b"content-disposition", b"").decode("latin-1")
        _, options = parse_options_header(disposition)
        self.name = options.get(b"name", b"").decode("utf-8", "replace")
        if self.name in self.files:
            paths = self.form.files.setdefault(self.name, [])
            paths.append(self.folder / (f"{self.name} {len(paths) + 1}" if paths else self.name))
            self.file = paths[-1].open("wb")
        elif self.name not in self.fields:
            known = ", ".join(sorted(self.files | self.fields))
            raise FormError(f"the form has a field {self.name[:40]!r}, which is none of: {known}")
        elif self.name in self.form.fields:
            raise FormError(f"the form has more than one field {self.name}")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self.file is not None:
            try:
                self.file.write(memoryview(data)[start:end])
            except OSError:
                raise BusyError("the server has no room for the upload at present: try again later") from None
            return
        self.field_value += data[start:end]
        if len(self.field_value) > FIELD_BYTES:
            raise FormError(f"the field {self.name} has more than {FIELD_BYTES} bytes")

    def _end(self) -> None:
        if self.file is None:
            self.form.fields[self.name] = self.field_value.decode("utf-8", "replace").strip()
        self.close()

    def _finish(self) -> None:
        self.ended = True


Voice = Float[Tensor, "1 dim"]
RATES = range(8_000, 192_001)
"""Hz, that may be asked for."""


def one_source(form: Form) -> Path:
    """The recording to convert."""
    found = form.files.get("source", [])
    if len(found) != 1:
        raise FormError(f"a request needs one file source, {len(found)} were sent (curl: -F source=@me.wav)")
    return found[0]


def references(form: Form) -> tuple[list[Path], list[float] | None]:
    """The recordings of the voice, and their weights if it is to be a blend."""
    paths = form.files.get("reference", [])
    if not paths:
        raise FormError("a request needs at least one file reference (curl: -F reference=@her.wav)")
    if "weights" not in form.fields:
        return paths, None
    try:
        weights = [float(word) for word in form.fields["weights"].split(",")]
    except ValueError:
        raise UserError(f"weights {form.fields['weights'][:40]!r} must be numbers such as 0.7,0.3") from None
    return paths, weights


def number(form: Form, name: str, default: float) -> float:
    """A field that holds a number."""
    try:
        return float(form.fields.get(name, default))
    except ValueError:
        raise UserError(f"{name} {form.fields[name][:40]!r} must be a number, such as -2") from None


def rate(form: Form) -> int | None:
    """Hz of the result; 0 for the source's, None for the converter's."""
    word = form.fields.get("rate")
    if word in (None, "source"):
        return None if word is None else 0
    if not word.isascii() or not word.isdecimal() or len(word) > 6 or int(word) not in RATES:
        raise UserError(
            f"rate {word[:40]!r} must be 'source' or whole Hz from {RATES[0]} to {RATES[-1]}, such as 16000"
        )
    return int(word)


def wanted_voice(form: Form, conversions: Conversions) -> Callable[[], Voice]:
    """What gives the voice when its turn comes: a name's, an earlier answer's, or that of the references."""
    if "voice" not in form.fields:
        paths, weights = references(form)
        return lambda: conversions.voice(paths, weights)
    if form.files.get("reference") or "weights" in form.fields:
        raise UserError("give either a voice or references (with their weights), not both")
    told = form.fields["voice"]
    if not told.startswith(("{", "[")):
        name = find(told[:60]).name
        return lambda: conversions.converter.voice(name)
    try:
        read = json.loads(told)
        numbers = torch.tensor(read["voice"], dtype=torch.float32)
        model = str(read["model"])
    except (ValueError, TypeError, KeyError, RuntimeError, RecursionError, OverflowError):
        raise UserError("the voice is not what /api/voice answers: send that JSON as it is") from None
    if model != conversions.key:
        raise UserError("the voice was taken by another converter: take it anew by /api/voice")
    if numbers.shape != (conversions.converter.network.voice_dim,) or not numbers.isfinite().all():
        raise UserError("the voice does not hold as many finite numbers as this converter's have")
    return lambda: numbers[None]
