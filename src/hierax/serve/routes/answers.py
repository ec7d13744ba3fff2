"""What the routes for images share: each image is read, computed and answered by itself, in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from fastapi import Request, Response

from hierax.processing.errors import ImageError
from hierax.serve.bodies import Call, Upload
from hierax.serve.errors import Refusal, refusal_of, refuse
from hierax.serve.routes.arguments import Argument, parse

if TYPE_CHECKING:
    from hierax.serve.app import State
    from hierax.serve.service import Service

_T = TypeVar("_T")
MOST_ANSWER = 128_000_000
"""Bytes of values of one answer."""
_NAME = 255
"""Characters of the name of an image."""
Item = dict[str, Any]


class Images:
    """A request for one or several images.

    Args:
        request, call: the request, and what it asks.
        task: the name of the task.
        arguments: the arguments of the route.

    Attributes:
        given: the values of the arguments.

    Raises:
        Refusal: this server does not have the task (404), or an argument is wrong (400).
    """

    def __init__(self, request: Request, call: Call, task: str, arguments: Sequence[Argument]) -> None:
        self.started = time.perf_counter()
        self.state: State = request.app.state.hierax
        self.service: Service = self.state.service
        self.service.need(task)
        self.call, self.task = replace(call, uploads=tuple(map(_shorter, call.uploads))), task
        self.given = parse(arguments, call.fields, request.query_params)
        form = self.given.get("format", "json")
        if form != "json" and task != "embed":
            self.require_one(f"format is {form}")

    def require_one(self, why: str) -> None:
        """Raises a refusal if the request has several images."""
        count = len(self.call.uploads)
        if count != 1:
            raise refuse("bad_argument", f"there are {count} images and {why}; expected one image", field="image")

    async def prepare(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Opens what the task needs, in a thread, before images are read."""
        return await asyncio.to_thread(function, *arguments)

    async def open(self, role: str) -> None:
        """Opens the model of a role, if it is not, in a thread that reads no images."""
        if not self.service.models.is_open(role):
            await asyncio.to_thread(self.service.models.get, role)

    async def each(
        self, compute: Callable[[Upload], Coroutine[Any, Any, _T]], *, weight: int = 0
    ) -> list[_T | Refusal]:
        """What `compute` returns for each image, in order; or the error of the image.

        Args:
            compute: reads one image, and has it computed.
            weight: bytes that an image and its result take.

        Raises:
            Refusal: all images have errors (the first one), or it is an error of the whole request.
        """

        async def one(upload: Upload) -> _T | Refusal:
            try:
                async with self.service.budget.hold(weight):
                    return await compute(upload)
            except ImageError as error:
                error.source = upload.name
                refusal = refusal_of(error)
                assert refusal is not None
                return refusal

        found = await all_of([one(upload) for upload in self.call.uploads])
        if found and all(isinstance(each, Refusal) for each in found):
            raise next(each for each in found if isinstance(each, Refusal))
        return found

    async def compute(self, read: Callable[[Upload], Any], work: Callable[[Any], Any], upload: Upload) -> Any:
        """The result of an image: it is read in a thread, and computed together with others."""
        item = await self.state.in_thread(read, upload)
        return await self.state.batcher.submit(work(item), item, deadline=self.call.deadline)

    async def finish(self, found: Sequence[Any], kinds: Mapping[str, str]) -> Response:
        """The answer in the format of the request: JSON, or the bytes of the only image, of the media type that `kinds`
        names for the format.
        """
        form = self.given["format"]
        return await self.respond(found) if form == "json" else self.binary(only(found), kinds[form])

    async def respond(self, found: Sequence[Item | Refusal], source: str | None = None) -> Response:
        """The JSON of the answers, with the errors of single images in their places."""
        results = [
            {"name": upload.name, "error": {"code": item.code, "message": item.message}}
            if isinstance(item, Refusal)
            else {"name": upload.name, **item}
            for upload, item in zip(self.call.uploads, found, strict=True)
        ]
        answer = {"model": source or self.source, "results": results, "milliseconds": self.elapsed}
        return await self.state.answer(answer)

    @property
    def elapsed(self) -> float:
        """Milliseconds since the request began."""
        return round((time.perf_counter() - self.started) * 1000, 3)

    @property
    def source(self) -> str:
        """The name of the model of the task."""
        return self.service.source(self.task)

    def binary(self, content: bytes, kind: str, **headers: str) -> Response:
        """A response of bytes."""
        named = {f"X-{name.title()}": value for name, value in headers.items()}
        return Response(content, headers={"X-Model": quote(self.source, safe="/:.@+ "), **named}, media_type=kind)


def _shorter(upload: Upload) -> Upload:
    """An upload whose name is at most as long as names of files are."""
    return upload if len(upload.name) <= _NAME else replace(upload, name=f"{upload.name[:_NAME]}…")


def only(found: Sequence[_T | Refusal]) -> _T:
    """The result of the only image; an error is raised."""
    (first,) = found
    if isinstance(first, Refusal):
        raise first
    return first


async def all_of(work: Sequence[Awaitable[_T]]) -> list[_T]:
    """All results in order. If one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def check_answer(bytes_per_image: int, images: int) -> None:
    """Raises a refusal if an answer would have too many values."""
    if bytes_per_image * images > MOST_ANSWER:
        raise refuse(
            "too_large",
            f"the answer would have {bytes_per_image * images:,} bytes of values; expected at most {MOST_ANSWER:,}: "
            "ask for fewer images, a smaller size or a later stage",
        )


def npy(array: Any) -> bytes:
    """An array as the bytes of a `.npy` file."""
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
