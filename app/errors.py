"""Mistakes of a client and how they are answered: a status, one sentence, no trace of the machine inside."""

import json

from app.limits import BusyError, TooMuchError
from data.audio.decoding import AudioError
from engine.user_error import UserError


class FormError(UserError):
    """A request that is not put together as it should be."""


class TypeRefusedError(UserError):
    """A request, or a file in it, of a kind that is not taken."""


class SlowError(UserError):
    """An upload that took longer than is waited for."""


class ForeignError(UserError):
    """A request that another site made in a visitor's browser, or that came under a foreign name."""


def status_of(mistake: UserError) -> int:
    """The HTTP status that tells the kind of a mistake."""
    match mistake:
        case FormError():
            return 400
        case ForeignError():
            return 403
        case SlowError():
            return 408
        case TooMuchError():
            return 413
        case TypeRefusedError():
            return 415
        case AudioError(problem="unreadable" | "empty"):
            return 415
        case BusyError():
            return 503
        case _:
            return 422


def error_body(sentence: str, request_id: str) -> bytes:
    """The body of every answer that is no result."""
    return json.dumps({"error": sentence, "request": request_id}, ensure_ascii=False).encode()
