"""Connections that are not waited for without end: until they ask, or until they read what they asked for."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.errors import error_body


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
