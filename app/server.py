"""The ASGI application: HTTP interface and page, behind a middleware that enforces limits."""

import asyncio
import logging
import os
import uuid
import warnings
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api import Interface
from app.conversions import Conversions
from app.limits import BusyError, ForeignError, Limits, SlowError, TooMuchError, error_body, status_of
from engine.user_error import UserError


def application(
    conversions: Conversions,
    folder: Path,
    *,
    names: frozenset[str] | None = None,
    root_path: str = "",
    page: bool = True,
    card: Path | None = None,
) -> ASGIApp:
    """Build the application.

    ``names`` are the accepted host names (None: any); ``card`` is the model card's file, unless the converter
    is the released one.
    """
    interface = Interface(conversions, folder)
    app: Any = FastAPI(
        title="Voice conversion", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json"
    )
    app.include_router(interface.router)

    @app.exception_handler(UserError)
    async def mistaken(request: Request, mistake: UserError) -> Response:
        headers = {"Retry-After": str(interface.retry_after)} if isinstance(mistake, BusyError) else {}
        return _answer(request, status_of(mistake), str(mistake), headers)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, refusal: HTTPException) -> Response:
        return _answer(request, refusal.status_code, f"{refusal.detail}: see /api/docs", refusal.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, failure: Exception) -> Response:
        number = request.scope["state"]["request_id"]
        if not isinstance(failure, UserError):  # the middleware raises and answers these itself
            logging.getLogger("uvicorn.error").error("request %s failed", number)
        return _answer(request, 500, "internal server error; see the server's log under the request's number")

    if page:
        app = with_page(app, conversions, root_path, card)
    return GuardMiddleware(app, conversions.limits, names, same_site=not root_path)


def with_page(
    app: FastAPI, conversions: Conversions, root_path: str = "", card: Path | None = None
) -> FastAPI:
    """Mount the page at ``/``; its uploads are stored in the results' folder."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads these when imported
    os.environ["GRADIO_TEMP_DIR"] = str(conversions.folder / "page")
    import gradio

    from app.page import build_page, mounted

    async def built() -> FastAPI:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="SSR mode")  # irrelevant: SSR is off
            return gradio.mount_gradio_app(
                app,
                build_page(conversions, card),
                path="/",
                root_path=root_path or None,
                max_file_size=conversions.limits.max_bytes,
                **mounted(),
            )

    # Without a running event loop, gradio would create one per page and never close it.
    return asyncio.run(built())


def _answer(request: Request, status: int, sentence: str, headers: Any = None) -> Response:
    number = request.scope["state"]["request_id"]
    return Response(error_body(sentence, number), status, dict(headers or {}), "application/json")


def with_idle_timeout(idle_seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol with an idle time-out, as idle connections count towards the maximum."""

    class IdleTimeoutProtocol(H11Protocol):
        _request_timer: asyncio.TimerHandle | None = None
        _write_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._set_timer()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._set_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._request_timer = _stop(self._request_timer)
            self._write_timer = _stop(self._write_timer)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write_timer = self.loop.call_later(idle_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._write_timer = _stop(self._write_timer)

        def _set_timer(self) -> None:
            """Start the time-out for a request's head unless running; stop it once the head is complete."""
            if self.conn.their_state is not h11.IDLE:
                self._request_timer = _stop(self._request_timer)
            elif self._request_timer is None:
                self._request_timer = self.loop.call_later(idle_seconds, self._time_out)

        def _time_out(self) -> None:
            self._request_timer = None
            if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
                return
            body = error_body(f"no request received within {idle_seconds:g} s", "none")
            head = "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
            self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            self.transport.close()

    return IdleTimeoutProtocol


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


LINGER_S = 5.0
"""Seconds for which the rest of a refused upload is read and discarded: a client that is disconnected while
sending would miss the response."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class GuardMiddleware:
    """Refuses uploads that are too large or slow while they are read, and cross-site requests.

    ``names`` are the accepted host names (None: any), which prevent DNS rebinding: another site could resolve
    its name to this machine. ``same_site`` requires that a browser's POST comes from our own page.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, names: frozenset[str] | None = None, same_site: bool = True
    ) -> None:
        self.app, self.limits, self.names, self.same_site = app, limits, names, same_site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Request(scope, receive, send, self.limits)
        try:
            self._check(scope)
            await self.app(scope, request.receive, request.send)
        except UserError as mistake:
            request.mistake = request.mistake or mistake
        except asyncio.CancelledError:
            request.mistake = BusyError("the server is stopping")
        except Exception:
            if request.mistake is None:
                raise
        if request.mistake is not None and not request.answered:
            await request.refuse(request.mistake)

    def _check(self, scope: Scope) -> None:
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        host = headers.get("host", "")
        if self.names is not None and urlsplit(f"//{host}").hostname not in self.names:
            raise ForeignError(
                f"this server does not accept the host name {host!r}: use 127.0.0.1 or localhost,"
                " or start it with --host"
            )
        origin = headers.get("origin")
        changes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if self.same_site and changes and origin is not None and urlsplit(origin).netloc != host:
            raise ForeignError(f"{origin} may not use this server: only its own page and programs may")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.limits.max_bytes:
            raise _too_large(self.limits)


class _Request:
    """One request: counts and times its upload, and drops a response after a refusal."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.scope, self._receive, self._send, self.limits = scope, receive, send, limits
        self.id = uuid.uuid4().hex[:12]
        scope.setdefault("state", {})["request_id"] = self.id
        self.mistake: UserError | None = None
        self.answered = False
        self.complete = False
        """Whether the whole upload has been received."""
        self.n_bytes = 0
        self.deadline = asyncio.get_running_loop().time() + limits.upload_seconds

    async def receive(self) -> Message:
        """Receive the next part of the upload; raise ``UserError`` beyond a limit."""
        if self.complete:
            return await self._receive()
        left = self.deadline - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), min(left, self.limits.idle_seconds))
        except TimeoutError:
            self.mistake = SlowError(
                f"the upload was too slow: it may take {self.limits.upload_seconds:g} s in all and pause for"
                f" {self.limits.idle_seconds:g} s"
            )
            raise self.mistake from None
        self.n_bytes += len(message.get("body", b""))
        self.complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
        if self.n_bytes > self.limits.max_bytes:
            self.mistake = _too_large(self.limits)
            raise self.mistake
        return message

    async def send(self, message: Message) -> None:
        """Send a response with the request's number; drop it if the request was refused."""
        if self.mistake is not None and not self.answered:
            return
        if message["type"] == "http.response.start":
            self.answered = True
            number = (b"x-request-id", self.id.encode())
            message = {**message, "headers": [*message.get("headers", []), number]}
        await self._send(message)

    async def refuse(self, mistake: UserError) -> None:
        """Send an error response, and keep reading the upload for up to ``LINGER_S``."""
        self.answered = True
        body = error_body(str(mistake), self.id)
        headers: list[tuple[bytes, Any]] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", self.id.encode()),
            (b"cache-control", b"no-store"),
        ]
        if isinstance(mistake, BusyError):
            headers.append((b"retry-after", b"10"))
        if not self.complete:
            headers.append((b"connection", b"close"))
        start = {"type": "http.response.start", "status": HTTPStatus(status_of(mistake)), "headers": headers}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        if isinstance(mistake, TooMuchError) and not self.complete:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._drop_rest(), LINGER_S)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drop_rest(self) -> None:
        while (await self._receive()).get("more_body", False):
            pass


def _too_large(limits: Limits) -> TooMuchError:
    return TooMuchError(
        f"the upload is larger than the {limits.max_mb:g} MB that a request may hold: send a part of it,"
        " or a compressed file"
    )
