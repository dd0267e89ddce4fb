"""The application: the HTTP interface, the page, and the guard before both."""

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
    """Put the server together.

    ``names`` are the host names it answers under (None: any); ``card`` is the model card's file, where the
    converter is not the released one.
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
        if not isinstance(failure, UserError):  # those come from the guard, which answers them itself
            logging.getLogger("uvicorn.error").error("request %s failed", number)
        return _answer(request, 500, "the server failed; its log tells more under the request's number")

    if page:
        app = with_page(app, conversions, root_path, card)
    return GuardMiddleware(app, conversions.limits, names, same_site=not root_path)


def with_page(
    app: FastAPI, conversions: Conversions, root_path: str = "", card: Path | None = None
) -> FastAPI:
    """Put the page at ``/``; whatever its visitors upload stays in the folder of the results."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # these are read when gradio is imported
    os.environ["GRADIO_TEMP_DIR"] = str(conversions.folder / "page")
    import gradio

    from app.page import build_page, mounted

    async def built() -> FastAPI:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="SSR mode")  # of a mode that nobody asked for
            return gradio.mount_gradio_app(
                app,
                build_page(conversions, card),
                path="/",
                root_path=root_path or None,
                max_file_size=conversions.limits.max_bytes,
                **mounted(),
            )

    # Where no event loop runs, gradio makes one for each page and never closes it.
    return asyncio.run(built())


def _answer(request: Request, status: int, sentence: str, headers: Any = None) -> Response:
    number = request.scope["state"]["request_id"]
    return Response(error_body(sentence, number), status, dict(headers or {}), "application/json")


def with_idle_timeout(idle_seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, with an end to waiting: idle connections would use up all there may be."""

    class IdleTimeoutProtocol(H11Protocol):
        _until_asked: asyncio.TimerHandle | None = None
        _until_read: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._until_asked = _stop(self._until_asked)
            self._until_read = _stop(self._until_read)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._until_read = self.loop.call_later(idle_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._until_read = _stop(self._until_read)

        def _wait(self) -> None:
            """Give a request that has begun, or has yet to, some seconds to be told; it is not begun anew."""
            if self.conn.their_state is not h11.IDLE:
                self._until_asked = _stop(self._until_asked)
            elif self._until_asked is None:
                self._until_asked = self.loop.call_later(idle_seconds, self._give_up)

        def _give_up(self) -> None:
            self._until_asked = None
            if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
                return
            body = error_body(f"no request came within {idle_seconds:g} s", "none")
            head = "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
            self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            self.transport.close()

    return IdleTimeoutProtocol


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


LINGER_S = 5.0
"""Seconds that the rest of a refused upload is read and dropped: a client that is cut off while it sends
would miss the answer."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class GuardMiddleware:
    """Refuses what is too large or too slow while it is read, and what other sites ask in a browser's name.

    ``names`` are the host names under which requests may come (None: any): without them a site could give its
    name this machine's address and then read the answers. ``same_site`` asks that a browser's POST comes from
    our own page.
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
            request.mistake = BusyError("the server is being stopped")
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
                f"this server does not answer under the name {host!r}: ask for 127.0.0.1 or localhost,"
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
    """One request on its way: counts and times what comes in, and keeps a refusal from being talked over."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.scope, self._receive, self._send, self.limits = scope, receive, send, limits
        self.id = uuid.uuid4().hex[:12]
        scope.setdefault("state", {})["request_id"] = self.id
        self.mistake: UserError | None = None
        self.answered = False
        self.whole = False
        """Whether the last byte has come."""
        self.n_bytes = 0
        self.until = asyncio.get_running_loop().time() + limits.upload_seconds

    async def receive(self) -> Message:
        """The next piece of the upload, or a refusal."""
        if self.whole:
            return await self._receive()
        left = self.until - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), min(left, self.limits.idle_seconds))
        except TimeoutError:
            self.mistake = SlowError(
                f"the upload was too slow: it may take {self.limits.upload_seconds:g} s in all and pause for"
                f" {self.limits.idle_seconds:g} s"
            )
            raise self.mistake from None
        self.n_bytes += len(message.get("body", b""))
        self.whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
        if self.n_bytes > self.limits.max_bytes:
            self.mistake = _too_large(self.limits)
            raise self.mistake
        return message

    async def send(self, message: Message) -> None:
        """Pass an answer on, with the request's number; what comes after a refusal is dropped."""
        if self.mistake is not None and not self.answered:
            return
        if message["type"] == "http.response.start":
            self.answered = True
            number = (b"x-request-id", self.id.encode())
            message = {**message, "headers": [*message.get("headers", []), number]}
        await self._send(message)

    async def refuse(self, mistake: UserError) -> None:
        """Answer with a mistake's sentence, and hear the client out for a while."""
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
        if not self.whole:
            headers.append((b"connection", b"close"))
        start = {"type": "http.response.start", "status": HTTPStatus(status_of(mistake)), "headers": headers}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        if isinstance(mistake, TooMuchError) and not self.whole:
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
