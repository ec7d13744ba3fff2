"""What every request passes first: key, deadline, a client that leaves, faults, and the headers of the response."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hierax.serve.admission import Reservation
from hierax.serve.bodies import uncancel
from hierax.serve.errors import Refusal, path_of, refusal_of, refuse, response_for

if TYPE_CHECKING:
    from hierax.serve.app import State

VISIT = "hierax.visit"
"""The key of the scope of a request that holds its `Visit`."""
_log = logging.getLogger("hierax.serve")
_OPEN = ("/healthz", "/readyz", "/")
_OPEN_FOLDERS = ("/assets/",)
"""Paths that need no key: whether the server is alive, and the files of the page, which asks for the key."""
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Headers of every response that does not have its own."""


@dataclass
class Visit:
    """What is known of one request while it is here.

    Attributes:
        deadline: time of the event loop.
        reservation: its images and bytes.
        task: the task that works on it.
        ended_by: "deadline" or "client", if that has ended it.
        status: the status of the response, once it has begun; else 0.
    """

    deadline: float
    reservation: Reservation
    task: asyncio.Task[Any]
    ended_by: str = ""
    status: int = 0
    watcher: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None

    def end(self, reason: str) -> None:
        """Cancels the work on the request, if its response has not begun."""
        if not self.status and not self.ended_by:
            self.ended_by = reason
            self.task.cancel()

    def begin(self, status: int) -> None:
        """The response begins: its images are done, and a client that leaves costs nothing any more."""
        self.status = status
        self.stop()
        self.reservation.release_images()

    def stop(self) -> None:
        """Watches neither the clock nor the client any more."""
        if self.watcher is not None:
            self.watcher.cancel()
        if self.timer is not None:
            self.timer.cancel()


class Keys:
    """The keys that are accepted, compared in constant time. Without keys, every request is accepted.

    Args:
        keys: a key, or several; None: no key is needed.

    Raises:
        ValueError: there is none in a list, or one is empty or has spaces at its ends, which no header can bring.
    """

    def __init__(self, keys: str | Iterable[str] | None = None) -> None:
        given = [keys] if isinstance(keys, str) else None if keys is None else list(keys)
        if given is not None and not given:
            raise ValueError("api_key is an empty list; expected a key, or None if none is needed")
        if any(not key or key != key.strip() for key in given or ()):
            raise ValueError("api_key is empty, or has spaces or the end of a line around it; expected a key")
        self._keys = tuple(key.encode() for key in given or ())

    def __bool__(self) -> bool:
        return bool(self._keys)

    def accept(self, authorization: str) -> bool:
        """Whether the value of the header Authorization is `Bearer KEY` with one of the keys."""
        if not self._keys:
            return True
        scheme, _, given = authorization.partition(" ")
        known = [hmac.compare_digest(given.strip().encode("latin-1", "replace"), key) for key in self._keys]
        return scheme.lower() == "bearer" and any(known)


def checked_origins(given: str | Iterable[str]) -> tuple[str, ...]:
    """The sites whose pages may send requests.

    Raises:
        ValueError: one is not `*` and has no scheme, or has a path, as no header Origin has.
    """
    origins = (given,) if isinstance(given, str) else tuple(given)
    for one in origins:
        if one != "*" and (not one.startswith(("http://", "https://")) or one.count("/") != 2):
            raise ValueError(f"allow_origins has {one!r}; expected an address without a path, as https://example.org")
    return origins


class Guard:
    """The outermost middleware of the application."""

    def __init__(self, app: ASGIApp, *, state: State, keys: Keys, allow_origins: Sequence[str] = ()) -> None:
        self._app, self._state, self._keys, self._origins = app, state, keys, frozenset(allow_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        task = asyncio.current_task()
        assert task is not None
        await self._state.start()
        headers = Headers(scope=scope)
        loop = asyncio.get_running_loop()
        limit, refusal = self._state.limits.deadline_s, self._refusal(scope, headers)
        if asked := headers.get("x-deadline-ms"):
            if asked.isdecimal() and int(asked[:12]) > 0:
                limit = min(limit, int(asked[:12]) / 1000)
            else:
                refusal = refusal or refuse(
                    "bad_argument", f"X-Deadline-Ms is {asked[:100]!r}; expected a whole number above 0"
                )
        visit = Visit(loop.time() + limit, self._state.admission.reservation(), task)
        scope[VISIT] = visit
        visit.timer = loop.call_at(visit.deadline, visit.end, "deadline")
        talk = _Talk(visit, receive, send)
        try:
            if refusal is not None:
                raise refusal
            if scope["method"] == "POST":  # a full queue costs as little as it can
                self._state.check_room(headers)
            await self._app(scope, talk.receive, talk.send)
        except asyncio.CancelledError:
            if not visit.ended_by and self._state.status != "draining":
                raise
            uncancel(task)
            await self._say(scope, talk, _ended(visit, talk.read))
        except _ClientGoneError:
            pass
        except Exception as error:
            await self._say(scope, talk, refusal_of(error) if isinstance(error, Refusal) else self._fault(scope, error))
            if visit.status and not isinstance(error, Refusal) and not talk.finished:
                raise
        finally:
            visit.stop()
            visit.reservation.release()
            self._state.observe(scope, visit.status or 499, time.perf_counter() - started)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> Refusal | None:
        """Why a request may not pass."""
        path = path_of(scope)
        is_open = path in _OPEN or path.startswith(_OPEN_FOLDERS)
        if not is_open and not self._keys.accept(headers.get("authorization", "")):
            return refuse("unauthorized", "expected the header Authorization: Bearer KEY with a key of this server")
        foreign = headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if foreign and not self._keys and headers.get("origin") not in self._origins and "*" not in self._origins:
            return refuse("forbidden", "a page of another site sent this; --allow-origin permits it")
        return None

    def _fault(self, scope: Scope, error: Exception) -> Refusal:
        _log.error("%s %s: %s: %s", scope["method"], scope["path"], type(error).__name__, error, exc_info=error)
        return refuse("fault", "a fault of the server; its log says more")

    async def _say(self, scope: Scope, talk: _Talk, refusal: Refusal | None) -> None:
        """Sends an error, unless the response has begun or the client has left."""
        if refusal is not None and not talk.visit.status:
            with contextlib.suppress(_ClientGoneError):
                await response_for(path_of(scope), refusal)(scope, talk.receive, talk.send)


def _ended(visit: Visit, read: bool) -> Refusal | None:
    if visit.ended_by == "client":
        return None
    if not visit.ended_by:
        return refuse("draining", "the server has stopped before there was an answer", retry_after=1)
    if not read:
        return refuse("timeout", "the body did not arrive before the deadline")
    return refuse("deadline", "the deadline has passed before there was an answer")


class _ClientGoneError(Exception):
    """The client has left while the response was sent."""


class _Talk:
    """`receive` and `send` of one request, with an eye on them.

    Attributes:
        read: whether the whole body was read, or nobody wanted to read it.
        finished: whether the whole response was sent.
    """

    def __init__(self, visit: Visit, receive: Receive, send: Send) -> None:
        self.visit, self._receive, self._send = visit, receive, send
        self._asked = self._whole = self.finished = False

    @property
    def read(self) -> bool:
        """Whether no part of the body is awaited."""
        return self._whole or not self._asked

    async def receive(self) -> Message:
        """The next message of the client. After the end of the body, it returns when the client has left."""
        if self._whole and self.visit.watcher is not None:
            await asyncio.wait([self.visit.watcher])
            return {"type": "http.disconnect"}
        self._asked = True
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._whole = True
            if not self.visit.status:
                self.visit.watcher = asyncio.create_task(self._watch())
        return message

    async def _watch(self) -> None:
        """Ends the work when the client leaves."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.visit.end("client")

    async def send(self, message: Message) -> None:
        """Sends a message; the first one gets the headers of every response."""
        if message["type"] == "http.response.start":
            self.visit.begin(message["status"])
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.finished = True
        try:
            await self._send(message)
        except (RuntimeError, OSError) as error:
            if isinstance(error, OSError) or "closed" in str(error):  # uvloop raises a RuntimeError
                raise _ClientGoneError from None
            raise
