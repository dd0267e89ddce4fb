"""What one request may ask of the machine, whether a recording keeps to it, and how refusals are answered."""

import json
from dataclasses import dataclass
from pathlib import Path

from data.audio import AudioInfo
from data.audio.decoding import AudioError, opened
from engine.user_error import UserError


class TooMuchError(UserError):
    """More was sent than a request may hold."""


class BusyError(UserError):
    """So many wait already that another would wait for long."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that hold for the page and the HTTP interface alike."""

    max_mb: float = 200.0
    """Megabytes (10**6 bytes) of a whole request, all its recordings together."""
    max_seconds: float = 1800.0
    """Of each recording."""
    max_references: int = 16
    """Recordings of the voice in one request."""
    max_channels: int = 16
    max_rate: int = 384_000
    """Hz."""
    upload_seconds: float = 120.0
    """That an upload may take from its first byte to its last."""
    idle_seconds: float = 20.0
    """That an upload may pause, that a connection may take to ask, and an answer may lie unread."""
    queue: int = 32
    """Requests that may wait while others are worked on."""
    workers: int = 1
    """Requests worked on at once, each on one thread."""
    connections: int = 256
    """Open at once, the page's too."""

    def __post_init__(self) -> None:
        for name in ("max_mb", "max_seconds", "upload_seconds", "idle_seconds"):
            if not 0 < getattr(self, name) < 1e9:
                raise UserError(f"{_option(name)} {getattr(self, name)} must be above 0")
        for name, least in (("queue", 0), ("workers", 1), ("max_references", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{_option(name)} {getattr(self, name)} must be at least {least}")

    @property
    def max_bytes(self) -> int:
        return round(self.max_mb * 1e6)

    def measure(self, path: Path) -> AudioInfo:
        """Decode a recording to its end, in flat memory, refusing what is broken or beyond the limits.

        A small file can hold hours of silence: decoding stops where the limit is passed.
        """
        if path.exists() and path.stat().st_size > self.max_bytes:
            raise TooMuchError(
                f"{path} has more than the {self.max_mb:g} MB that are allowed; send a part of it"
            )
        too_long = f"{path} lasts longer than the {self.max_seconds:g} s that are allowed; send a part of it"
        with opened(path) as sound:
            rate, channels = sound.sample_rate, sound.channels
            if channels > self.max_channels:
                raise TooMuchError(f"{path} has {channels} channels, at most {self.max_channels} are allowed")
            if rate > self.max_rate:
                raise TooMuchError(f"{path} has {rate} Hz, at most {self.max_rate} are allowed: resample it")
            most = self.max_seconds * rate
            if most < (sound.samples or 0):
                raise TooMuchError(too_long)
            samples = 0
            for frames in sound.decode():
                samples += len(frames)
                if samples > most:
                    raise TooMuchError(too_long)
        return AudioInfo(sample_rate=rate, samples=samples, channels=channels)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


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
