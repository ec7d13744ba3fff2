"""The application: `create_app` puts the parts together; `State` holds what its routes share."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.types import Scope

from hierax.checkpoint.bundled import FEMTO, FEMTO_MAE
from hierax.serve import errors, metrics
from hierax.serve.admission import Admission
from hierax.serve.batcher import Batcher, give_way
from hierax.serve.errors import refuse
from hierax.serve.guard import VISIT, Guard, Keys, Visit, checked_origins
from hierax.serve.limits import Limits
from hierax.serve.metrics import Metrics

if TYPE_CHECKING:
    from hierax.engine import Engine

_P = ParamSpec("_P")
_R = TypeVar("_R")
_log = logging.getLogger("hierax.serve")
_SLICE = 500
"""Entries of a list that are written as JSON at once; the event loop works between two slices."""
_SMALL = 2000
"""Numbers and texts in an answer that is written in the event loop."""
_LEAST_GRACE = 0.1
"""Seconds that a call of an engine has at the end; with 0, a server that works on nothing would seem to be stuck."""
_LENGTH = "Inference-Header-Content-Length"
"""The header of the Open Inference Protocol that scripts of permitted sites send and read."""


class State:
    """What the routes of one application share: `request.app.state.hierax`.

    Attributes:
        service: the engines.
        batcher: runs images of several requests together: `await state.batcher.submit(work, item, deadline=…)`.
        limits, admission: what the server takes at most, and what of it is taken.
        metrics: what is counted.
        status: "new", "loading", "ready", "draining" or "failed".
        error: why the model could not be opened.
        tells_errors: whether such an error is logged; False if the one who runs the application tells it.
        is_stuck: whether a call of an engine did not end within `grace_s` after the end.
        drained: since when no request is accepted, by the monotonic clock; 0 if they are.
        left_loading: whether the end came while the model was being opened, in a thread that is still at work.
    """

    def __init__(self, service: Any, limits: Limits) -> None:
        self.service, self.limits = service, limits
        self.metrics = Metrics()
        self.batcher: Batcher[Any, Any, Any] = Batcher(
            service.run,
            max_batch=lambda work: min(service.most(work), limits.max_batch),
            max_wait=limits.max_wait_ms / 1000,
            observe=self.metrics.batch,
        )
        self.admission = Admission(limits, self.batcher.seconds_for, changed=self.metrics.queue)
        self.status = "new"
        self.error: Exception | None = None
        self.tells_errors = True
        self.is_stuck = self.left_loading = False
        self.drained = 0.0
        self.opened: asyncio.Task[None] | None = None
        self._readers = ThreadPoolExecutor(limits.readers, thread_name_prefix="hierax-reader", initializer=give_way)

    async def start(self) -> None:
        """Opens the service in a thread, once; requests are refused until it is ready."""
        if self.opened is None:
            self.status = "loading"
            self.opened = asyncio.create_task(self._open())

    async def _open(self) -> None:
        try:
            await _in_new_thread(self.service.open)
            if self.status == "loading":
                self.status = "ready"
        except Exception as error:
            self.fail(error)
            if self.tells_errors:
                _log.error("the model cannot be opened: %s", error)

    def fail(self, error: Exception) -> None:
        """The model could not be opened: all requests are refused."""
        self.status, self.error = "failed", error

    def drain(self) -> None:
        """Accepts no more requests; those that were accepted are finished."""
        self.left_loading = self.left_loading or self.status == "loading"
        self.status, self.admission.draining = "draining", True
        self.drained = self.drained or time.monotonic()

    async def close(self) -> None:
        """Finishes what was accepted, and frees the engines."""
        self.drain()
        if self.left_loading:
            return
        try:
            left = self.drained + self.limits.grace_s - time.monotonic()
            await asyncio.wait_for(self.batcher.close(), max(left, _LEAST_GRACE))
        except asyncio.TimeoutError:  # a call takes longer
            self.is_stuck = True
            return
        self._readers.shutdown(wait=False, cancel_futures=True)
        self.service.close()

    def check_ready(self) -> None:
        """Checks that the model is open.

        Raises:
            Refusal: it is not (503).
        """
        if self.status in ("new", "loading"):
            raise refuse("not_ready", "the model is being loaded", retry_after=1)
        if self.status == "failed":
            raise refuse("not_ready", "the model could not be loaded")

    def check_taking(self) -> None:
        """Checks that requests are taken.

        Raises:
            Refusal: the model is not open, or the server stops (503).
        """
        self.check_ready()
        if self.status == "draining":
            raise refuse("draining", "the server is stopping", retry_after=1)

    def check_room(self, headers: Mapping[str, str]) -> None:
        """Checks that a request with a body can be taken, before its body is read.

        Raises:
            Refusal: there is no room (429), the server starts or stops (503), or the body is too large (413).
        """
        self.check_ready()
        length = headers.get("content-length", "")
        self.admission.check(int(length) if length.isdecimal() and len(length) < 20 else 0)

    def visit(self, scope: Scope) -> Visit:
        """What is known of a request."""
        return scope[VISIT]

    async def in_reader(self, function: Callable[_P, _R], *arguments: _P.args, **named: _P.kwargs) -> _R:
        """Calls a function in one of the threads that decode images. No image follows from it; see `in_thread`."""
        call = functools.partial(function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    async def in_thread(self, function: Callable[_P, _R], *arguments: _P.args, **named: _P.kwargs) -> _R:
        """Calls a function that makes an item for the batcher, in one of the threads that decode images.

        If the caller is cancelled before, it is not called.
        """
        loop = asyncio.get_running_loop()
        self.batcher.arriving += 1
        try:
            return await self.in_reader(function, *arguments, **named)
        finally:
            loop.call_soon(self.batcher.arrived)  # after the caller has submitted what it got

    async def answer(self, content: Any, *, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
        """A response of JSON. Large contents are written in a thread."""
        if _is_small(content):
            body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
        else:
            body = await self.in_reader(to_json, content)
        return Response(body, status, headers, media_type="application/json")

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Counts a request that is done."""
        self.metrics.request(scope, status, seconds)


async def _in_new_thread(function: Callable[[], object]) -> None:
    """Calls a function in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def call() -> None:
        error = None
        try:
            function()
        except Exception as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, error)

    threading.Thread(target=call, daemon=True, name="hierax-open").start()
    await done


def _is_small(content: Any) -> bool:
    left = _SMALL
    stack = [content]
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            left -= 1 + len(part) // 100
        elif isinstance(part, Mapping):
            left -= len(part)
            if left >= 0:
                stack.extend(part.values())
        elif isinstance(part, (list, tuple)):
            left -= len(part)
            if left >= 0:
                stack.extend(part)
        if left < 0:
            return False
    return True


def to_json(content: Any) -> bytes:
    """JSON of a large answer, in pieces: one call of `json.dumps` would stop all other threads until it is done."""
    return "".join(_pieces(content)).encode()


def _pieces(content: Any) -> Iterable[str]:
    if isinstance(content, Mapping):
        yield "{"
        for number, (name, value) in enumerate(content.items()):
            yield ("," if number else "") + json.dumps(str(name)) + ":"
            yield from _pieces(value)
        yield "}"
    elif isinstance(content, (list, tuple)) and content:
        yield "["
        flat = not isinstance(content[0], (Mapping, list, tuple))
        for start in range(0, len(content), _SLICE if flat else 1):
            yield "," if start else ""
            if flat:
                text = json.dumps(content[start : start + _SLICE], separators=(",", ":"), allow_nan=False)
                yield text[1:-1]
            else:
                yield from _pieces(content[start])
        yield "]"
    else:
        yield json.dumps(content, allow_nan=False)


def create_app(
    model: str | os.PathLike[str] = FEMTO,
    *,
    engine: Engine | None = None,
    mae: str | os.PathLike[str] | None = None,
    segmentation: str | os.PathLike[str] | None = None,
    collection: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    api_key: str | Sequence[str] | None = None,
    allow_origins: Sequence[str] = (),
    precision: str = "auto",
    device: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
) -> FastAPI:
    """The application that `hierax serve` runs. It can be mounted in another one.

    The model is opened when the application starts (or gets its first request), in a thread: `/readyz` says when it is.

    Args:
        model: Hub id, folder, file or export of the main model.
        engine: an open engine instead of `model`; it is used for its task.
        mae: a masked autoencoder for `/v1/reconstruct`; default: hierax/femto.mae beside hierax/femto, else none.
        segmentation: a segmentation model for `/v1/segment`.
        collection: a folder that `hierax embed` wrote, for `/v1/search`.
        limits: sizes, numbers and times; default: `Limits()`.
        api_key: the key, or keys, of which each request must bring one; None: no key is needed.
        allow_origins: other sites whose pages may send requests, such as "https://example.org".
        precision, device, backend, threads: as for `hierax.Engine`.

    Raises:
        ValueError: an argument is wrong.
        ImportError: a package of the extra `serve` is missing.
    """
    from hierax.serve.service import Service

    limits = limits or Limits()
    if mae is None and model == FEMTO and engine is None:
        mae = FEMTO_MAE
    service = Service(
        model,
        engine=engine,
        mae=mae,
        segmentation=segmentation,
        collection=collection,
        precision=precision,
        device=device,
        backend=backend,
        threads=threads,
        max_pixels=limits.max_pixels,
    )
    return application(service, limits=limits, api_key=api_key, allow_origins=allow_origins)


def application(
    service: Any,
    *,
    limits: Limits | None = None,
    api_key: str | Sequence[str] | None = None,
    allow_origins: Sequence[str] = (),
    routers: Sequence[APIRouter] | None = None,
) -> FastAPI:
    """The application around a service. `routers` replaces those of the package, for tests."""
    keys, origins = Keys(api_key), checked_origins(allow_origins)
    state = State(service, limits or Limits())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await state.start()
        try:
            yield
        finally:
            await state.close()

    app = FastAPI(
        title="hierax",
        summary="Hiera vision transformers over HTTP",
        version=_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=errors.RESPONSES,
    )
    app.state.hierax = state
    errors.install(app)
    included = [_health, metrics.router, *(_routers() if routers is None else routers)]
    for router in included:
        app.include_router(router)
    state.metrics.know(getattr(route, "path", "") for router in included for route in router.routes)
    app.add_middleware(Guard, state=state, keys=keys, allow_origins=origins)
    if origins:
        from starlette.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Deadline-Ms", _LENGTH],
            expose_headers=["Retry-After", "X-Model", _LENGTH],
        )
    return app


def _routers() -> Sequence[APIRouter]:
    """The routes of the package."""
    from hierax.serve import docs, page, protocol, routes

    return [*routes.routers(), protocol.router, docs.router, page.router]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hierax")
    except PackageNotFoundError:
        return "0"


_health = APIRouter(tags=["health"])


@_health.get("/healthz", summary="Whether the server is alive", responses={200: {"description": "It is alive"}})
async def healthz() -> dict[str, str]:
    """Answers as long as the process works, also while the model is being loaded."""
    return {"status": "alive"}


@_health.get("/readyz", summary="Whether requests are answered", responses={200: {"description": "They are"}})
async def readyz(request: Request) -> dict[str, str]:
    """Answers with 503 while the model is being loaded, and when the server stops."""
    request.app.state.hierax.check_taking()
    return {"status": "ready"}
