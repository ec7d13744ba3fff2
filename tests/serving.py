"""A server for tests: an application around a service that needs no model, and clients of it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

pytest.importorskip("fastapi")
from fastapi import APIRouter, Depends, FastAPI, Request, Response

from hierax.serve.app import State, application
from hierax.serve.bodies import Call, read_call
from hierax.serve.limits import Limits
from hierax.serve.run import Settings

router = APIRouter()


@router.post("/v1/lengths")
async def lengths(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """The length of every file, computed by the batcher; the field `key` is the key."""
    state: State = request.app.state.hierax
    items = [await state.in_thread(len, upload.content) for upload in call.uploads]
    key = call.fields.get("key", "")
    found = [await state.batcher.submit(key, item, deadline=call.deadline) for item in items]
    names = [upload.name for upload in call.uploads]
    return await state.answer({"names": names, "lengths": found, "fields": call.fields})


@router.get("/v1/process")
async def process() -> dict[str, int]:
    """The process that answers."""
    return {"pid": os.getpid()}


@router.get("/v1/broken")
async def broken() -> Response:
    """A fault."""
    raise RuntimeError("a secret detail")


class FakeService:
    """Returns items as they are. `gate` holds calls back while it is closed."""

    def __init__(self, *, seconds: float = 0.0, opening: Callable[[], object] = lambda: None) -> None:
        self.seconds, self._opening = seconds, opening
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[tuple[Any, list[Any]]] = []
        self.closed = False

    def open(self) -> None:
        self._opening()

    def run(self, work: Any, items: Sequence[Any]) -> Sequence[Any]:
        self.calls.append((work, list(items)))
        self.gate.wait(20)
        time.sleep(self.seconds)
        return list(items)

    def most(self, work: Any) -> int:
        return 64

    def describe(self) -> dict[str, Any]:
        model = {"source": "fake", "license": "Apache-2.0", "precision": "bf16", "device": "cpu", "backend": "openvino"}
        return {"model": model}

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class FakeSettings(Settings):
    """Settings of a server around `FakeService`.

    Attributes:
        seconds: of one call of the service.
        problem: the text of the error with which the model cannot be opened; "" if it can.
        loading: seconds in which the model is opened, in a thread for which Python waits at its end.
    """

    seconds: float = 0.0
    problem: str = ""
    loading: float = 0.0

    def app(self) -> Any:
        return fake_app(FakeService(seconds=self.seconds, opening=self._open), limits=self.limits)

    def _open(self) -> None:
        if self.problem:
            raise ValueError(self.problem)
        if self.loading:
            print("it is being opened", file=sys.stderr, flush=True)
            ThreadPoolExecutor(1).submit(time.sleep, self.loading).result()


def fake_app(service: FakeService | None = None, *, limits: Limits | None = None, **options: Any) -> FastAPI:
    """An application with the routes of this module."""
    return application(service or FakeService(), limits=limits, routers=[router], **options)
