"""What a server takes at most: sizes, numbers and times. Nothing here imports torch or FastAPI."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from hierax.devices import available_cores

_WHOLE = ("max_batch", "queue_images", "queue_bytes", "max_body", "max_images", "max_pixels", "readers")


def _readers() -> int:
    return min(max(available_cores(), 2), 16)


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Args:
        max_batch: images per call of the engine.
        max_wait_ms: milliseconds that a call waits for images that are being decoded, while there are such.
        queue_images: images of all requests that were accepted and are not answered yet.
        queue_bytes: bytes of their bodies.
        max_body: bytes of one body.
        max_images: images of one request.
        max_pixels: pixels of one image, when decoded.
        deadline_s: seconds until a request is answered with an error; the header `X-Deadline-Ms` may ask for less.
        body_s: seconds in which the next part of a body must arrive.
        grace_s: seconds to finish accepted requests when the server stops.
        readers: threads that decode images.

    Raises:
        ValueError: a number is not above 0 (max_wait_ms and grace_s may be 0), or max_images is above queue_images.
    """

    max_batch: int = 32
    max_wait_ms: float = 2.0
    queue_images: int = 256
    queue_bytes: int = 256_000_000
    max_body: int = 64_000_000
    max_images: int = 64
    max_pixels: int = 178_956_970
    deadline_s: float = 30.0
    body_s: float = 10.0
    grace_s: float = 30.0
    readers: int = _readers()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _WHOLE:
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise ValueError(f"{field.name} is {value!r}; expected a whole number above 0")
                continue
            least = 0 if field.name in ("max_wait_ms", "grace_s") else 1e-3
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
                raise ValueError(f"{field.name} is {value!r}; expected a number of at least {least:g}")
        for small, large in (("max_images", "queue_images"), ("max_body", "queue_bytes")):
            if getattr(self, small) > getattr(self, large):
                raise ValueError(
                    f"{small} is {getattr(self, small):,}; expected at most {large}, which is {getattr(self, large):,}"
                )
