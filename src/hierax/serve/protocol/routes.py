"""The routes of the Open Inference Protocol v2, below `/v2`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from hierax.serve.bodies import Body, read_body
from hierax.serve.protocol.counted import Counted
from hierax.serve.protocol.examples import EMPTY, ERRORS, INFER
from hierax.serve.protocol.infer import infer
from hierax.serve.protocol.requests import HEADER_LENGTH
from hierax.serve.protocol.served import VERSION, Served, server_metadata

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"], responses=ERRORS)
"""All routes of the protocol."""

_HEADER = "Inference-Header-Content-Length"
# Of several decorators, the last one is the first route that is tried: a longer path stands below a shorter one.
_NAME = "/models/{name:path}"
_VERSION = _NAME + "/versions/{version}"


@dataclass(frozen=True)
class Here:
    """What this module keeps of an application: its model, and the counts."""

    served: Served
    counted: Counted


def _here(request: Request) -> Here:
    """The model and counts of the application.

    Raises:
        Refusal: the model is not open (503).
    """
    state = request.app.state
    state.hierax.check_ready()
    found = getattr(state, "protocol", None)
    if found is None:
        found = state.protocol = Here(Served.of(state.hierax.service), Counted())
    return found


def _served(request: Request) -> Served:
    return _here(request).served


@router.get("", summary="Name, version and extensions of the server")
async def server() -> dict[str, Any]:
    """What the server is."""
    return server_metadata()


@router.get("/health/live", summary="Whether the server is alive", responses=EMPTY, response_class=Response)
async def live() -> Response:
    """Always 200."""
    return Response()


@router.get("/health/ready", summary="Whether the server takes requests", responses=EMPTY, response_class=Response)
async def ready(request: Request) -> Response:
    """200, or 503 while the model loads and while the server stops."""
    request.app.state.hierax.check_taking()
    return Response()


@router.get("/models", summary="Names of the models")
async def models(request: Request) -> dict[str, list[str]]:
    """The names by which models are asked for."""
    return {"models": [_served(request).name]}


@router.post("/repository/index", summary="The models, with their state")
async def index(request: Request) -> list[dict[str, str]]:
    """Read-only: models cannot be loaded or unloaded."""
    return [{"name": _served(request).name, "version": VERSION, "state": "READY", "reason": ""}]


@router.get(_NAME + "/ready", summary="Whether a model takes requests", responses=EMPTY, response_class=Response)
@router.get(
    _VERSION + "/ready", summary="Whether a version of a model takes requests", responses=EMPTY, response_class=Response
)
async def model_ready(request: Request, name: str, version: str | None = None) -> Response:
    """200; 404 for another model, 503 while the server starts or stops."""
    request.app.state.hierax.check_taking()
    _served(request).check(name, version)
    return Response()


@router.get(_NAME + "/stats", summary="Requests and images of a model")
@router.get(_VERSION + "/stats", summary="Requests and images of a version of a model")
@router.get("/models/stats", summary="Requests and images of all models")
async def statistics(request: Request, name: str | None = None, version: str | None = None) -> dict[str, Any]:
    """Counts and nanoseconds since this process started. `/metrics` has those of all routes."""
    here = _here(request)
    if name is not None:
        here.served.check(name, version)
    return {"model_stats": [{"name": here.served.name, "version": VERSION, **here.counted.to_dict()}]}


@router.post(_NAME + "/infer", summary="Outputs of the model for images or pixels", openapi_extra=INFER)
@router.post(_VERSION + "/infer", summary="Outputs of a version of the model")
async def inference(
    request: Request, name: str, body: Annotated[Body, Depends(read_body)], version: str | None = None
) -> Response:
    """One input: `image` (BYTES, `[N]` or `[N, 1]`; in JSON base64) or `pixel_values` (FP32, `[N, C, H, W]`)."""
    here, started = _here(request), time.perf_counter_ns()
    here.served.check(name, version)
    headers = request.headers
    images = 0
    try:
        content, head, images = await infer(
            request.app.state.hierax, here.served, body, headers.get("content-encoding"), headers.get(HEADER_LENGTH)
        )
    finally:
        here.counted.add(images, time.perf_counter_ns() - started)
    if head is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={_HEADER: str(head)})


@router.get(_NAME, summary="Inputs and outputs of the model")
@router.get(_VERSION, summary="Inputs and outputs of a version of the model")
async def model_metadata(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """Names, types and shapes; -1 for a number that the request decides."""
    served = _served(request)
    served.check(name, version)
    return served.metadata()
