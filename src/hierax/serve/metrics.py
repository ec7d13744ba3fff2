"""Measurements for Prometheus, at `/metrics`. Several processes count together (`PROMETHEUS_MULTIPROC_DIR`)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from re import Pattern
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.routing import compile_path
from starlette.types import Scope

from hierax.serve.errors import path_of

if TYPE_CHECKING:
    from hierax.serve.app import State

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the folder in which processes count together."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Measurements for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "The text format of Prometheus"}},
)
async def metrics(request: Request) -> Response:
    """Requests by route and code, seconds, the queue, batches, images, and seconds of the engine."""
    state: State = request.app.state.hierax
    return Response(await state.in_reader(state.metrics.text), media_type=CONTENT_TYPE_LATEST)


class Metrics:
    """What is counted."""

    def __init__(self) -> None:
        self._paths: list[tuple[Pattern[str], str]] = []
        self._registry = CollectorRegistry()
        place = self._registry
        self.requests = Counter("hierax_requests", "Requests by route and status", ["route", "code"], registry=place)
        self.seconds = Histogram(
            "hierax_request_seconds",
            "Seconds until a request was answered",
            ["route"],
            buckets=_SECONDS,
            registry=place,
        )
        mode = "livesum"
        self.queue_images = Gauge(
            "hierax_queue_images", "Images that were accepted and not answered", multiprocess_mode=mode, registry=place
        )
        self.queue_bytes = Gauge(
            "hierax_queue_bytes", "Bytes of bodies that were accepted", multiprocess_mode=mode, registry=place
        )
        self.batches = Histogram(
            "hierax_batch_images", "Images per call of an engine", buckets=_BATCHES, registry=place
        )
        self.images = Counter("hierax_images", "Images that engines computed", registry=place)
        self.engine = Counter("hierax_engine_seconds", "Seconds that engines computed", registry=place)
        if FOLDER not in os.environ:
            ProcessCollector(registry=place)
            PlatformCollector(registry=place)

    def request(self, scope: Scope, status: int, seconds: float) -> None:
        """Counts a request that is done; 499 is the status of a client that has left."""
        route = self._route(scope)
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def know(self, paths: Iterable[str]) -> None:
        """Learns the paths of the routes in their order, for requests that are refused before they come to theirs."""
        self._paths = [(compile_path(path)[0], path) for path in dict.fromkeys(paths)]

    def _route(self, scope: Scope) -> str:
        """The path of the route of a request, without values; "other" if there is none."""
        if found := getattr(scope.get("route"), "path", None):
            return found
        path = path_of(scope)
        return next((known for pattern, known in self._paths if pattern.match(path)), "other")

    def batch(self, count: int, seconds: float) -> None:
        """Counts a call of an engine."""
        self.batches.observe(count)
        self.images.inc(count)
        self.engine.inc(seconds)

    def queue(self, images: int, size: int) -> None:
        """Notes how much is accepted."""
        self.queue_images.set(images)
        self.queue_bytes.set(size)

    def text(self) -> bytes:
        """All measurements in the text format of Prometheus, those of all processes together."""
        if FOLDER not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)
