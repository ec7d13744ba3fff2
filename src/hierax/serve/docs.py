"""The page of the API, `/docs`: its script and style come with the package fastapi-offline."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse

from hierax import extras
from hierax.serve.errors import refuse

_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs() -> Response:
    """The page. Its addresses are relative: it may stand below a path of another server."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="hierax: API",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
    )
    scripts = _SCRIPT.findall(bytes(page.body).decode())
    digests = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' {digests}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return page


@router.get("/docs/{name}")
async def file(name: str) -> Response:
    """A script or style of the page."""
    kind = _FILES.get(name)
    if kind is None:
        raise refuse("not_found", f"there is no /docs/{name[:100]} here")
    package = extras.load("the page of the API", "fastapi_offline")
    folder = Path(package.__file__ or "").parent / "static"
    return FileResponse(folder / name, media_type=kind, headers={"Cache-Control": "max-age=86400"})
