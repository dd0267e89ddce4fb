"""Request forms: files are saved to a private folder, fields are parsed and validated."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.conversions import Conversions
from app.limits import BusyError, FormError, TypeRefusedError
from engine.user_error import UserError
from w2w.converter import Voice
from w2w.gallery.named import find

MOST_PARTS = 64
FIELD_BYTES = 1 << 16
"""Maximum size of a field that is not a file."""


@dataclass(kw_only=True)
class Form:
    files: dict[str, list[Path]] = field(default_factory=dict)
    """Saved files by field; never named after the client's file names."""
    fields: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        for paths in self.files.values():
            for path in paths:
                path.unlink(missing_ok=True)


async def received(request: Request, folder: Path, files: frozenset[str], fields: frozenset[str]) -> Form:
    """Read a multipart form with the given file fields and text fields; files are saved to ``folder``."""
    content_type = request.headers.get("content-type", "nothing").partition(";")[0].strip().lower()
    if content_type != "multipart/form-data":
        raise TypeRefusedError(
            f"the request must be of type multipart/form-data, not {content_type} (curl: -F)"
        )
    limits = {"max_files": MOST_PARTS, "max_fields": MOST_PARTS, "max_part_size": FIELD_BYTES}
    form = Form()
    try:
        async with request.form(**limits) as parts:
            for name, value in parts.multi_items():
                if name in files and isinstance(value, UploadFile):
                    paths = form.files.setdefault(name, [])
                    paths.append(folder / f"{name} {len(paths) + 1}" if paths else folder / name)
                    with paths[-1].open("wb") as file:
                        shutil.copyfileobj(value.file, file)
                elif name in fields and isinstance(value, str):
                    form.fields[name] = value.strip()
                else:
                    raise FormError(_wrong_part(name, files, fields))
    except HTTPException as error:
        raise FormError(f"the request's body is not a valid multipart form: {error.detail}") from None
    except OSError:
        raise BusyError("the server cannot store the upload at present: try again later") from None
    return form


def _wrong_part(name: str, files: frozenset[str], fields: frozenset[str]) -> str:
    if name in files | fields:
        return f"the form's field {name} must be a {'file' if name in files else 'text, not a file'}"
    return f"the form has a field {name[:40]!r}, which is none of: {', '.join(sorted(files | fields))}"


RATES = range(8_000, 192_001)
"""Sample rates of results in Hz."""


def one_source(form: Form) -> Path:
    sources = form.files.get("source", [])
    if len(sources) != 1:
        raise FormError(
            f"a request needs one file source, {len(sources)} were sent (curl: -F source=@me.wav)"
        )
    return sources[0]


def references(form: Form) -> tuple[list[Path], list[float] | None]:
    """Return the reference recordings, and their weights if they are blended."""
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
    try:
        return float(form.fields.get(name, default))
    except ValueError:
        raise UserError(f"{name} {form.fields[name][:40]!r} must be a number, such as -2") from None


def rate(form: Form) -> int | None:
    """Sample rate of the result in Hz; 0: the source's, None: the converter's."""
    word = form.fields.get("rate")
    if word in (None, "source"):
        return None if word is None else 0
    if not word.isascii() or not word.isdecimal() or len(word) > 6 or int(word) not in RATES:
        raise UserError(
            f"rate {word[:40]!r} must be 'source' or whole Hz from {RATES[0]} to {RATES[-1]}, such as 16000"
        )
    return int(word)


def wanted_voice(form: Form, conversions: Conversions) -> Callable[[], Voice]:
    """Return a function that loads the voice: by name, from a response of /api/voice, or from references."""
    if "voice" not in form.fields:
        paths, weights = references(form)
        return lambda: conversions.voice(paths, weights)
    if form.files.get("reference") or "weights" in form.fields:
        raise UserError("give either a voice or references (with their weights), not both")
    text = form.fields["voice"]
    if not text.startswith(("{", "[")):
        name = find(text[:60]).name
        return lambda: conversions.converter.voice(name)
    try:
        fields = json.loads(text)
        numbers = torch.tensor(fields["voice"], dtype=torch.float32)
        model = str(fields["model"])
    except (ValueError, TypeError, KeyError, RuntimeError, RecursionError, OverflowError):
        raise UserError("the voice is not what /api/voice answers: send its JSON unchanged") from None
    if model != conversions.key:
        raise UserError("the voice was made by another converter: make it again with /api/voice")
    if numbers.shape != (conversions.converter.network.voice_dim,) or not numbers.isfinite().all():
        raise UserError("the voice does not have this converter's number of finite values")
    return lambda: numbers[None]
