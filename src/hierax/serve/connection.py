"""Connections of uvicorn with limits that it lacks: a request must arrive in time, and its header is limited."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from hierax.extras import is_installed

_SECONDS = 10.0
"""Seconds in which the whole header of a request must arrive."""
_REST_SECONDS = 30.0
"""Seconds in which the rest of a body must arrive, which nobody reads, since the request was refused."""
_HEADER = 65_536
"""Bytes of a header."""


class _Timed:
    """What the two protocols of uvicorn get. Its methods come before theirs."""

    transport: asyncio.Transport
    cycle: Any
    loop: asyncio.AbstractEventLoop

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._ended = False  # whether a request ended in the data that arrived last

    def phase(self) -> str:
        """What arrives next: "head", "body", or "" between the end of a request and its answer."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A connection opens; its first header is awaited."""
        cast("Any", super()).connection_made(transport)
        self._start(_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection ends."""
        self._stop()
        cast("Any", super()).connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Data arrives."""
        self._ended = False
        cast("Any", super()).data_received(data)
        if self.phase() != "head" or self._ended:  # of a header behind the end of a request, the rest is counted
            self._header_bytes = 0
        else:
            self._header_bytes += len(data)
        if self._header_bytes > _HEADER:
            self._refuse(b"431 Request Header Fields Too Large")
        self._look()

    def on_response_complete(self) -> None:
        """A response was sent."""
        cast("Any", super()).on_response_complete()
        self._look()

    def _look(self) -> None:
        """Starts or stops the clock: it runs while a header arrives, or the rest of a body that nobody reads."""
        phase = self.phase()
        if self.cycle is not None and not self.cycle.response_complete:  # the application has its own clock
            self._stop()
        elif phase == "body":
            self._start(_REST_SECONDS)
        elif phase == "head" and self._header_bytes:
            self._start(_SECONDS)
        else:
            self._stop()

    def _start(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self._refuse, b"408 Request Timeout")

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: bytes) -> None:
        self._stop()
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()


def protocol() -> type[Any]:
    """The class of connections: on httptools if it is installed, else on h11."""
    return _on_httptools() if is_installed("httptools") else _on_h11()


def _on_h11() -> type[Any]:
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class TimedH11(_Timed, H11Protocol):
        """A connection on h11."""

        def phase(self) -> str:
            """What arrives next."""
            return {h11.IDLE: "head", h11.SEND_BODY: "body"}.get(self.conn.their_state, "")

        def on_response_complete(self) -> None:
            """A response was sent; a header that arrived with its request is not counted."""
            self._ended = True
            super().on_response_complete()

    return TimedH11


def _on_httptools() -> type[Any]:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class TimedHttpTools(_Timed, HttpToolsProtocol):
        """A connection on httptools."""

        _phase = "head"

        def phase(self) -> str:
            """What arrives next."""
            return self._phase

        def on_headers_complete(self) -> None:
            """A header is complete."""
            self._phase = "body"
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            """A request is complete."""
            self._phase, self._ended = "head", True
            super().on_message_complete()

    return TimedHttpTools
