"""Which requests are accepted: the images and bytes of all requests that are not answered yet are limited."""

from __future__ import annotations

import math
from collections.abc import Callable

from hierax.console import quantity
from hierax.serve.errors import Refusal, refuse
from hierax.serve.limits import Limits

_MOST_SECONDS = 60
"""Maximum of Retry-After."""


class Admission:
    """Counts the images and bytes of the accepted requests.

    Args:
        limits: the limits of the server.
        seconds_for: how long so many images will take at the present pace.
        changed: called with the images and bytes when they have changed.

    Attributes:
        images, bytes: of all requests that are not answered yet.
        draining: whether no request is accepted any more.
    """

    def __init__(
        self,
        limits: Limits,
        seconds_for: Callable[[int], float] = lambda images: 0.0,
        changed: Callable[[int, int], None] = lambda images, size: None,
    ) -> None:
        self._limits, self._seconds_for, self._changed = limits, seconds_for, changed
        self.images = self.bytes = 0
        self.draining = False

    def add(self, images: int, size: int) -> None:
        """Counts more images and bytes, or fewer."""
        if images or size:
            self.images += images
            self.bytes += size
            self._changed(self.images, self.bytes)

    def check(self, size: int = 0) -> None:
        """Checks that there is room for one more request, before its body is read.

        Args:
            size: bytes of the body, as far as they are known.

        Raises:
            Refusal: the body is too large (413), the queue is full (429), or the server stops (503).
        """
        if self.draining:
            raise refuse("draining", "the server is stopping", retry_after=self.retry_after())
        if size > self._limits.max_body:
            raise too_large(self._limits)
        if self.images >= self._limits.queue_images or self.bytes + size > self._limits.queue_bytes:
            raise self.busy()
        # a slow machine would work on images whose deadline passes while they wait
        seconds = self._seconds_for(self.images) if self.images >= self._limits.max_batch else 0.0
        if seconds > self._limits.deadline_s / 2:
            what = f"the {quantity(self.images, 'image')} in the queue will take about {math.ceil(seconds)} s"
            raise refuse("busy", f"{what}; try again later", retry_after=self.retry_after())

    def busy(self) -> Refusal:
        """The refusal of a request for which there is no room."""
        full = f"the queue is full ({quantity(self.images, 'image')}); try again later"
        return refuse("busy", full, retry_after=self.retry_after())

    def retry_after(self) -> int:
        """Seconds until half of the queue is done, from 1 to 60."""
        return min(max(math.ceil(self._seconds_for(self.images) / 2), 1), _MOST_SECONDS)

    def reservation(self) -> Reservation:
        """An empty reservation for one request."""
        return Reservation(self, self._limits)


class Reservation:
    """The images and bytes of one request. It grows while the body arrives, so that a client that announces much and
    sends nothing takes no room.
    """

    def __init__(self, admission: Admission, limits: Limits) -> None:
        self._admission, self._limits = admission, limits
        self.images = self.bytes = 0

    def add_bytes(self, count: int) -> None:
        """Reserves `count` more bytes.

        Raises:
            Refusal: the body is too large (413), or the queue is full (429).
        """
        if self.bytes + count > self._limits.max_body:
            raise too_large(self._limits)
        if self._admission.bytes + count > self._limits.queue_bytes:
            raise self._admission.busy()
        self.bytes += count
        self._admission.add(0, count)

    def add_images(self, count: int) -> None:
        """Reserves `count` more images.

        Raises:
            Refusal: these are too many for one request (413), the queue is full (429), or the server stops (503).
        """
        if self.images + count > self._limits.max_images:
            raise refuse(
                "too_large", f"{self.images + count:,} images; expected at most {self._limits.max_images:,} per request"
            )
        self._admission.check()
        if self._admission.images + count > self._limits.queue_images:
            raise self._admission.busy()
        self.images += count
        self._admission.add(count, 0)

    def release_images(self) -> None:
        """Gives the images back, whose answers are ready."""
        self._admission.add(-self.images, 0)
        self.images = 0

    def release(self) -> None:
        """Gives everything back; calling it again does nothing."""
        self.release_images()
        self._admission.add(0, -self.bytes)
        self.bytes = 0


def too_large(limits: Limits) -> Refusal:
    """The refusal of a body that is too large."""
    return refuse("too_large", f"the body is too large; expected at most {limits.max_body:,} bytes")
