"""The files of the page: `/` and `/assets/…`. They are public, since the page must open to ask for a key."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

from hierax.serve.errors import refuse

POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
"""Nothing is loaded from another server, and no script that is not a file of the package runs."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
router = APIRouter(include_in_schema=False)


class _File(NamedTuple):
    content: bytes
    type: str
    tag: str


@cache
def _listed() -> dict[str, Path]:
    """Every file of the page by its path below `/assets/`. What is not listed is not served."""
    assets = Path(__file__).parents[1] / "assets"
    found = {path.name: path for path in (assets / "serve").iterdir()}
    found |= {f"photos/{path.name}": path for path in (assets / "photos").iterdir()}
    found["photos/cat.jpg"] = assets / "cat.jpg"
    return {name: path for name, path in found.items() if path.suffix in _TYPES}


@cache
def _file(name: str) -> _File:
    path = _listed()[name]
    content = path.read_bytes()
    return _File(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:24]}"')


def _answer(name: str, request: Request) -> Response:
    file = _file(name)
    headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.type, headers=headers)


@router.api_route("/", methods=["GET", "HEAD"])
def page(request: Request) -> Response:
    """The page."""
    return _answer("index.html", request)


@router.api_route("/assets/{name:path}", methods=["GET", "HEAD"])
def asset(name: str, request: Request) -> Response:
    """A file of the page, or a bundled photo. Raises `Refusal` 404 for every other name."""
    if name not in _listed():
        raise refuse("not_found", f"{request.url.path} is not a file of the page")
    return _answer(name, request)
