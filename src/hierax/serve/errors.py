"""The errors of the server, and their form: `{"error": {"code", "message", "field"}}`, on every route.

The routes of the Open Inference Protocol (`/v2`) have the form of that protocol: `{"error": "message"}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Scope

from hierax.console import one_line
from hierax.processing.errors import ImageError, NotAnImageError, RefusedError, TooLargeError

STATUS: Mapping[str, int] = {
    "bad_argument": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method": 405,
    "timeout": 408,
    "too_large": 413,
    "unsupported_media": 415,
    "unreadable_image": 422,
    "busy": 429,
    "fault": 500,
    "draining": 503,
    "not_ready": 503,
    "deadline": 504,
}
"""The HTTP status of each code."""
_CODES = {400: "bad_argument", **{status: code for code, status in STATUS.items() if status not in (503,)}}
_SHOWN = 100
"""Characters of a wrong value that an error quotes."""


class Refusal(Exception):
    """A request that is not answered as asked.

    Args:
        status: the HTTP status.
        code: one of `STATUS`.
        message: what is wrong and what is expected.
        field: the argument that is wrong, if it is one.
        retry_after: seconds after which the client should try again.
    """

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.field, self.retry_after = field, retry_after

    def headers(self) -> dict[str, str]:
        """The headers of the response that belong to the error."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        if self.status in (408, 413):  # the rest of the body is not read
            found["Connection"] = "close"
        return found


def refuse(code: str, message: str, *, field: str | None = None, retry_after: int | None = None) -> Refusal:
    """The refusal with the usual status of `code`."""
    return Refusal(STATUS[code], code, message, field, retry_after)


class ErrorFields(BaseModel):
    """What an error says."""

    code: str
    message: str
    field: str | None = None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorFields


RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "An argument is wrong"},
    401: {"model": ErrorBody, "description": "The key is missing or wrong"},
    403: {"model": ErrorBody, "description": "A request of another site's page"},
    404: {"model": ErrorBody, "description": "There is no such thing here"},
    405: {"model": ErrorBody, "description": "The method is not one of this route"},
    408: {"model": ErrorBody, "description": "The body did not arrive in time"},
    413: {"model": ErrorBody, "description": "The request, or an image when decoded, is too large"},
    415: {"model": ErrorBody, "description": "A file is not an image, or the body is of a type that is not read"},
    422: {"model": ErrorBody, "description": "An image is damaged"},
    429: {"model": ErrorBody, "description": "The queue is full: try again after Retry-After seconds"},
    500: {"model": ErrorBody, "description": "A fault of the server"},
    503: {"model": ErrorBody, "description": "The server is starting or stopping"},
    504: {"model": ErrorBody, "description": "The deadline has passed"},
}
"""The responses that the OpenAPI document states for every route."""


def path_of(scope: Scope) -> str:
    """The path of a request in this application, which may be mounted below a path of another one."""
    path, below = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(below) :] or "/" if below and path.startswith(f"{below}/") else path


def body_of(path: str, refusal: Refusal) -> bytes:
    """The body of an error in the form of the route at `path`."""
    if path == "/v2" or path.startswith("/v2/"):
        return json.dumps({"error": refusal.message}).encode()
    fields = {"code": refusal.code, "message": refusal.message, "field": refusal.field}
    return json.dumps({"error": fields}).encode()


def response_for(path: str, refusal: Refusal, headers: Mapping[str, str] | None = None) -> Response:
    """The response of an error; `headers` are added to its own."""
    found = {**(headers or {}), **refusal.headers()}
    return Response(body_of(path, refusal), refusal.status, found, media_type="application/json")


def refusal_of(error: Exception) -> Refusal | None:
    """What the client is told of an error; None for a fault of the server."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ImageError):
        return refuse(_code_of(error), one_line(error))
    if isinstance(error, ValueError):
        return refuse("bad_argument", one_line(error))
    return None


def _code_of(error: ImageError) -> str:
    if isinstance(error, TooLargeError):
        return "too_large"
    return "unsupported_media" if isinstance(error, (NotAnImageError, RefusedError)) else "unreadable_image"


def install(app: FastAPI) -> None:
    """Gives every error of an application the form of this module."""

    async def refused(request: Request, error: Exception) -> Response:
        refusal = refusal_of(error)
        assert refusal is not None
        return response_for(path_of(request.scope), refusal)

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(ValueError, refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _invalid(request: Request, error: Exception) -> Response:
    """An argument that FastAPI refuses."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()[0]
    field = ".".join(str(part) for part in found["loc"][1:]) or None
    value = repr(found.get("input"))
    shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
    problem = str(found["msg"])
    problem = problem[:1].lower() + problem[1:]
    missing = found["type"] == "missing"
    message = f"{field or 'the body'} is missing" if missing else f"{field or 'the body'} is {shown}; {problem}"
    return response_for(path_of(request.scope), refuse("bad_argument", message, field=field))


async def _http(request: Request, error: Exception) -> Response:
    """An error of routing (404, 405), or of reading the body."""
    assert isinstance(error, HTTPException)
    path = path_of(request.scope)
    code = _CODES.get(error.status_code, "fault" if error.status_code >= 500 else "bad_argument")
    message = {
        "not_found": f"there is no {path[:_SHOWN]} here; GET /docs lists the routes",
        "method": f"{path[:_SHOWN]} does not take {request.method}",
    }.get(code, str(error.detail))
    refusal = refuse(code, message)
    refusal.status = error.status_code
    return response_for(path, refusal, error.headers)
