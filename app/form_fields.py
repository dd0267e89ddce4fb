"""What a form asks for: its files, a voice, and numbers that are numbers."""

import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from app.conversions import Conversions
from app.errors import FormError
from app.uploads import Form
from engine.user_error import UserError

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


def ready_voice(form: Form, conversions: Conversions) -> Voice | None:
    """The voice that an earlier answer brought, if the form holds one."""
    if "voice" not in form.fields:
        return None
    if form.files.get("reference") or "weights" in form.fields:
        raise UserError("give either a voice or references (with their weights), not both")
    try:
        read = json.loads(form.fields["voice"])
        numbers = torch.tensor(read["voice"], dtype=torch.float32)
        model = str(read["model"])
    except (ValueError, TypeError, KeyError, RuntimeError, RecursionError, OverflowError):
        raise UserError("the voice is not what /api/voice answers: send that JSON as it is") from None
    if model != conversions.key:
        raise UserError("the voice was taken by another converter: take it anew by /api/voice")
    if numbers.shape != (conversions.converter.network.voice_dim,) or not numbers.isfinite().all():
        raise UserError("the voice does not hold as many finite numbers as this converter's have")
    return numbers[None]
