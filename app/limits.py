"""Limits of requests and recordings, and the HTTP errors when they are exceeded."""

import json
from dataclasses import dataclass
from pathlib import Path

from data.audio import AudioInfo
from data.audio.decoding import AudioError, opened
from engine.user_error import UserError


class TooMuchError(UserError):
    """The request or a recording is larger than allowed."""

    status = 413


class BusyError(UserError):
    """The queue is full."""

    status = 503


class FormError(UserError):
    """The form of a request is malformed or incomplete."""

    status = 400


class TypeRefusedError(UserError):
    """The content type of a request or file is not supported."""

    status = 415


class SlowError(UserError):
    """The upload took too long."""

    status = 408


class ForeignError(UserError):
    """The request comes from another web site, or under a host name that is not accepted."""

    status = 403


def status_of(mistake: UserError) -> int:
    if isinstance(mistake, AudioError) and mistake.problem in ("unreadable", "empty"):
        return 415
    return getattr(mistake, "status", 422)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of both the page and the HTTP interface."""

    max_mb: float = 200.0
    """Maximum size of a whole request with all its recordings, in megabytes (10**6 bytes)."""
    max_seconds: float = 1800.0
    """Maximum duration of each recording in seconds."""
    max_references: int = 16
    """Maximum number of references in one request."""
    max_channels: int = 16
    max_rate: int = 384_000
    """Maximum sample rate in Hz."""
    upload_seconds: float = 120.0
    """Maximum duration of an upload in seconds."""
    idle_seconds: float = 20.0
    """Time-out in seconds for a pause in an upload, connections without a request and unread responses."""
    queue: int = 32
    """Maximum number of waiting requests."""
    workers: int = 1
    """Requests processed in parallel, one thread each."""
    connections: int = 256
    """Maximum number of open connections, including the page's."""

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
        """Decode a recording in constant memory; raise ``UserError`` if it is broken or exceeds a limit.

        A small file can contain hours of silence, so decoding stops at the limit.
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


def error_body(sentence: str, request_id: str) -> bytes:
    return json.dumps({"error": sentence, "request": request_id}, ensure_ascii=False).encode()
