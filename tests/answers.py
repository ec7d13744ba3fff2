"""A server with a real model for the tests of its answers, and images to send."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
from PIL import Image
from starlette.testclient import TestClient

from hierax.serve import create_app

EXACT: dict[str, Any] = {"precision": "fp32", "backend": "torch", "threads": 1}


def picture(width: int = 90, height: int = 70, *, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A smooth picture, so that formats that lose something lose little."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image | None = None, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    (picture() if image is None else image).save(buffer, kind, **options)
    return buffer.getvalue()


@contextmanager
def served(*arguments: Any, **options: Any) -> Iterator[TestClient]:
    """A client of an application that is ready."""
    with TestClient(create_app(*arguments, **{**EXACT, **options})) as client:
        found = client.get("/readyz")
        for _ in range(3000):
            if found.status_code == 200:
                break
            time.sleep(0.01)
            found = client.get("/readyz")
        assert found.status_code == 200, found.text
        yield client


def send(client: TestClient, path: str, *files: bytes, **fields: Any) -> Any:
    """The response to images that are sent as a form. Names are 0.png, 1.png, …"""
    return client.post(path, files=[("image", (f"{n}.png", content)) for n, content in enumerate(files)], data=fields)


def error_of(response: Any) -> dict[str, Any]:
    assert response.json().keys() == {"error"}, response.text
    return response.json()["error"]
