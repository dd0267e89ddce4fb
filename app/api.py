"""The HTTP interface: converts uploaded recordings; documented at `/api/docs`."""

import asyncio
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.conversions import Conversions
from app.limits import BusyError
from app.uploads import number, one_source, rate, received, references, wanted_voice
from data.audio import info
from engine.user_error import UserError
from w2w.gallery.named import gallery

FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
WORDS: dict[str, dict[str, Any]] = {
    "weights": {"type": "string", "description": "blend weights, one per reference, such as 0.7,0.3"},
    "voice": {
        "type": "string",
        "description": "a name from /api/voices or a response of /api/voice; replaces the references",
    },
    "pitch": {"type": "number", "description": "pitch shift in semitones, from -36 to 36"},
    "rate": {"type": "string", "description": "sample rate in Hz, or 'source'; default: the converter's"},
    "format": {"type": "string", "enum": ["wav", "flac"]},
}


def _form(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


OPENAPI = {
    "convert": _form({"source": FILES["items"], "reference": FILES, **WORDS}, ["source"]),
    "voice": _form({"reference": FILES, "weights": WORDS["weights"]}, ["reference"]),
}
ANSWERS = (
    ("200", "the recording, or JSON"),
    ("400", "the form is malformed, lacks a file or has an unknown field"),
    ("403", "the request comes from another web site, or the host name is not accepted"),
    ("408", "the upload was too slow"),
    ("413", "a recording or the whole request exceeds a limit"),
    ("415", "the request is not a multipart form, or a file is not audio"),
    ("422", "a recording is truncated, silent, too short or has NaN; a number is out of range"),
    ("503", "too many requests wait; retry after the seconds in the header Retry-After"),
)


FORMATS = {"wav": "audio/wav", "flac": "audio/flac"}
CLIENT_GONE = 499
"""Status, only for the log, if the client disconnects before the response."""
POLL_SECONDS = 0.2
"""Interval of checks that the client is still connected."""


class Delivery(FileResponse):
    """Response with a result file; afterwards, even if interrupted, the file's folder is deleted."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            discard(Path(self.path).parent)


@dataclass(kw_only=True)
class Timing:
    """Waiting and processing time of a job in seconds."""

    waited: float = 0.0
    took: float = 0.0


class Interface:
    """The routes under ``/api`` for one ``Conversions``, with private folders for requests in ``folder``."""

    def __init__(self, conversions: Conversions, folder: Path) -> None:
        self.conversions, self.limits, self.folder = conversions, conversions.limits, folder
        self.admitted = 0
        """Requests that are uploading, waiting or being processed."""
        self.seconds_each = 1.0
        """Moving average of the processing time of requests."""
        self.key = conversions.key
        self.router = APIRouter(prefix="/api")
        post, get = self.router.post, self.router.get
        post("/convert", response_class=FileResponse, openapi_extra=OPENAPI["convert"])(self.convert)
        post("/voice", openapi_extra=OPENAPI["voice"])(self.voice)
        get("/voices")(self.voices)
        get("/health")(self.health)
        get("/limits")(self.bounds)
        get("/docs", response_class=HTMLResponse, include_in_schema=False)(self.docs)

    async def convert(self, request: Request) -> Response:
        """Convert the source to the voice of the references."""
        with self._admitted():
            folder = self._new_folder()
            try:
                form = await received(
                    request,
                    folder,
                    frozenset({"source", "reference"}),
                    frozenset({"voice", "weights", "pitch", "rate", "format"}),
                )
                source, semitones, hertz = one_source(form), number(form, "pitch", 0.0), rate(form)
                kind = form.fields.get("format", "wav").lower()
                if kind not in FORMATS:
                    raise UserError(f"format {kind!r} must be one of: {', '.join(FORMATS)}")
                voice = wanted_voice(form, self.conversions)
                result, gone = folder / f"converted.{kind}", threading.Event()

                def check(seconds: float) -> None:
                    if gone.is_set():
                        raise ClientDisconnect

                def speak() -> None:
                    self.conversions.convert(
                        source, voice(), semitones=semitones, rate=hertz, out=result, done=check
                    )
                    form.close()

                timing = await self._run(request, speak, folder, gone)
            except ClientDisconnect:
                discard(folder)
                return Response(status_code=CLIENT_GONE)
            except BaseException:
                discard(folder)
                raise
        headers = {
            "X-Audio-Seconds": f"{info(result).duration:.4f}",
            "X-Waited-Seconds": f"{timing.waited:.3f}",
            "X-Worked-Seconds": f"{timing.took:.3f}",
            "X-Watermark": "yes" if self.conversions.marked else "no",
            "Cache-Control": "no-store",
        }
        return Delivery(result, media_type=FORMATS[kind], filename=result.name, headers=headers)

    async def voice(self, request: Request) -> Response:
        """Compute a reusable voice from the references."""
        with self._admitted():
            folder, found = self._new_folder(), []
            try:
                form = await received(request, folder, frozenset({"reference"}), frozenset({"weights"}))

                def embed() -> None:
                    found.append(self.conversions.voice(*references(form)))

                await self._run(request, embed, folder, threading.Event())
            except ClientDisconnect:
                return Response(status_code=CLIENT_GONE)
            finally:
                discard(folder)
        return JSONResponse({"voice": found[0][0].tolist(), "model": self.key})

    async def voices(self) -> list[dict[str, str]]:
        """List the voices of the gallery."""
        known = gallery().values()
        return [{"name": voice.name, "about": voice.about, "from": voice.made} for voice in known]

    async def health(self) -> dict[str, str | int]:
        """Server status and load."""
        jobs = self.conversions.jobs
        return {"status": "ok", "working": jobs.working, "waiting": jobs.waiting, "places": jobs.capacity}

    async def bounds(self) -> dict[str, int | float | str | list[str]]:
        """Limits and formats of requests."""
        about = asdict(self.limits)
        return about | {
            "formats": list(FORMATS),
            "sample_rate": self.conversions.converter.sample_rate,
            "model": self.key,
            "watermark": self.conversions.marked,
        }

    async def docs(self) -> str:
        """Documentation of the interface in HTML."""
        template = Path(__file__).with_name("api_docs.html.jinja").read_text(encoding="utf-8")
        page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(template)
        rate = self.conversions.converter.sample_rate
        return page.render(limits=self.limits, sample_rate=rate, fields=WORDS, answers=ANSWERS)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Reserve a place in the queue before reading the upload; raise ``BusyError`` if it is full."""
        if self.admitted >= self.limits.workers + self.limits.queue:
            raise BusyError(f"{self.admitted} requests are in progress; try again in {self.retry_after} s")
        self.admitted += 1
        try:
            yield
        finally:
            self.admitted -= 1

    @property
    def retry_after(self) -> int:
        """Estimated seconds until a place is free."""
        n_before = 1 + self.conversions.jobs.waiting
        return max(1, math.ceil(n_before * self.seconds_each / self.limits.workers))

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="request-", dir=self.folder))

    async def _run(
        self, request: Request, job: Callable[[], None], folder: Path, gone: threading.Event
    ) -> Timing:
        """Queue a job and wait for it; if the client disconnects, the job is cancelled."""
        joined, timing = time.monotonic(), Timing()

        def timed() -> None:
            timing.waited = time.monotonic() - joined
            try:
                job()
            finally:
                timing.took = time.monotonic() - joined - timing.waited

        future = self.conversions.jobs.submit(timed)
        try:
            await _wait(request, future)
        except BaseException:
            gone.set()
            future.cancel()
            future.add_done_callback(lambda _: discard(folder))  # only after the job's last write
            raise
        self.seconds_each += 0.2 * (timing.took - self.seconds_each)
        return timing


def discard(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


async def _wait(request: Request, future: Future[None]) -> None:
    wrapped = asyncio.wrap_future(future)
    try:
        while not wrapped.done():
            await asyncio.wait([wrapped], timeout=POLL_SECONDS)
            if not wrapped.done() and await request.is_disconnected():
                raise ClientDisconnect
        wrapped.result()
    finally:
        wrapped.cancel()
