"""An inference of the Open Inference Protocol v2: from a request to tensors, in batches with all other requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hierax.serve.bodies import Body, Upload
from hierax.serve.protocol.answers import Answer, encode
from hierax.serve.protocol.requests import MOST_VALUES, Given, InferRequest, Wanted, decompressed, read_request
from hierax.serve.protocol.served import IMAGE, Served
from hierax.serve.protocol.tensors import bad
from hierax.serve.routes.answers import all_of, check_answer
from hierax.serve.service import Work
from hierax.serve.tensors import open_outputs

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from hierax.serve.app import State

TASK = "tensors"
"""The service's name for the raw outputs of the engine."""


async def infer(
    state: State, served: Served, body: Body, encoding: str | None, length: str | None
) -> tuple[bytes, int | None, int]:
    """The body of the answer to a request, how many of its bytes are JSON (None: all), and the number of images.

    Args:
        encoding, length: of the headers Content-Encoding and Inference-Header-Content-Length.

    Raises:
        Refusal: the request is wrong, or there is no room or time for it.
        ImageError: an image cannot be read. The protocol knows no answer for a part of the images.
    """
    content = await state.in_thread(decompressed, body.content, encoding, state.limits.max_body)
    body.reservation.add_bytes(max(len(content) - len(body.content), 0))
    request = await state.in_thread(read_request, content, length)
    given, wanted = served.given(request), served.wanted(request)
    size = served.size(request, given)
    body.reservation.add_images(given.shape[0])
    deadline = min(body.deadline, asyncio.get_running_loop().time() + _timeout(request))
    names = tuple(sorted({output.name for output in wanted}))
    sides = given.shape[2:] if given.name != IMAGE else (size, size) if size else served.view
    weight = served.bytes_of(names, sides)
    check_answer(weight, given.shape[0])
    _check_json(served, wanted, sides, given.shape[0])
    await asyncio.to_thread(open_outputs, state.service, names)

    async def one(number: int) -> dict[str, np.ndarray]:
        async with state.service.budget.hold(weight):
            pixels = await state.in_thread(_pixels, state, given, number, size)
            work = Work(TASK, tuple(pixels.shape[1:]), names)
            return await state.batcher.submit(work, pixels, deadline=deadline)

    results = await all_of([one(number) for number in range(given.shape[0])])
    answer, head = await state.in_thread(_encode, served, request, wanted, results)
    return answer, head, len(results)


def _timeout(request: InferRequest) -> float:
    """The parameter `timeout`, which is in microseconds, in seconds."""
    timeout = request.parameters.get("timeout", 0)
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise bad(f"timeout is {str(timeout)[:40]}; expected a whole number of microseconds", "timeout")
    return min(timeout, 10**12) / 1e6 if timeout else 1e9


def _check_json(served: Served, wanted: Sequence[Wanted], sides: Sequence[int], count: int) -> None:
    """Checks that the answer has not too many values in JSON.

    Raises:
        Refusal: it has; as bytes they can be had.
    """
    names = [one.name for one in wanted if not one.binary and not one.classes]
    values = count * (served.bytes_of(names, sides) - served.bytes_of((), sides)) // 4
    if names and values > MOST_VALUES:
        raise bad(f"{', '.join(names)} have {values:,} values; at most {MOST_VALUES:,} in JSON: ask for binary_data")


def _pixels(state: State, given: Given, number: int, size: int | None) -> Tensor:
    import torch

    if given.name == IMAGE:
        name = IMAGE if given.shape[0] == 1 else f"{IMAGE} {number}"
        return state.service.pixels(Upload(name, given.texts[number]), task=TASK, size=size)
    assert given.numbers is not None
    return torch.from_numpy(given.numbers[number : number + 1])


def _encode(
    served: Served, request: InferRequest, wanted: Sequence[Wanted], results: Sequence[dict[str, np.ndarray]]
) -> tuple[bytes, int | None]:
    answers = [_answer(served, one, [result[one.name] for result in results]) for one in wanted]
    return encode(served.name, answers, request_id=request.id)


def _answer(served: Served, wanted: Wanted, rows: Sequence[np.ndarray]) -> Answer:
    import numpy as np

    numbers = np.stack(rows).astype(np.float32, copy=False)
    if not wanted.binary and not np.isfinite(numbers).all():
        raise bad(f"{wanted.name} is not finite for these pixels, and JSON has no such numbers", wanted.name)
    if not wanted.classes:
        return Answer(wanted.name, numbers.shape, wanted.binary, numbers)
    count = min(wanted.classes, numbers.shape[1])
    best = np.argsort(-numbers, axis=1, kind="stable")[:, :count]
    texts = [
        f"{row[i]:f}:{i}:{served.labels[i]}".encode() for row, order in zip(numbers, best, strict=True) for i in order
    ]
    return Answer(wanted.name, (len(numbers), count), wanted.binary, texts=tuple(texts))
