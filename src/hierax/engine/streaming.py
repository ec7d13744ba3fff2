"""Runs an engine on many inputs: decodes ahead in threads, runs batches, returns outputs one by one and in order."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from hierax.devices import available_cores
from hierax.model.outputs import Output
from hierax.reprs.text import short_repr

if TYPE_CHECKING:
    from hierax.engine.engine import Engine

Item = TypeVar("Item")
_MOST_WORKERS = 8  # decoding threads, if no other number is requested
_AHEAD = 2  # batches that are decoded or are being decoded while one runs


@short_repr()
@dataclass(frozen=True)
class StreamResult(Generic[Item]):
    """The result of an engine for one item.

    Attributes:
        item: the item, unchanged.
        output: the typed output of this item alone, `[rows, …]`, one row for an image; None if there is an `error`.
        error: the error of reading or running it, or None.
    """

    item: Item
    output: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Read(Generic[Item]):
    """An item with its pixels `[rows, C, *size]`, or with the error of reading it."""

    item: Item
    pixels: Tensor | None = None
    error: Exception | None = None


def check_items(items: object) -> None:
    """Raises `TypeError` for a single image instead of several, whose letters would be taken for items."""
    if isinstance(items, (str, bytes, os.PathLike)):
        raise TypeError(f"items is a {type(items).__name__}; expected several images, such as a list of paths")


def stream_results(
    engine: Engine,
    items: Iterable[Item],
    read: Callable[[Item], Tensor],
    *,
    batch_size: int,
    workers: int | None,
) -> Iterator[StreamResult[Item]]:
    """See `Engine.stream`."""
    group: list[_Read[Item]] = []
    for found in _decode_ahead(items, read, ahead=_AHEAD * batch_size, workers=workers or _default_workers()):
        shape = next((one.pixels.shape[1:] for one in group if one.pixels is not None), None)
        if found.pixels is not None and shape not in (None, found.pixels.shape[1:]):
            yield from _run(engine, group, batch_size)
            group = []
        group.append(found)
        if sum(1 if one.pixels is None else len(one.pixels) for one in group) >= batch_size:
            yield from _run(engine, group, batch_size)
            group = []
    yield from _run(engine, group, batch_size)


def _default_workers() -> int:
    return min(available_cores(), _MOST_WORKERS)


def _decode_ahead(
    items: Iterable[Item], read: Callable[[Item], Tensor], *, ahead: int, workers: int
) -> Iterator[_Read[Item]]:
    """The items with their pixels, in order; decoding is at most `ahead` items ahead of the caller."""

    def attempt(item: Item) -> _Read[Item]:
        try:
            pixels = read(item)
            if not isinstance(pixels, Tensor) or not len(pixels):
                raise TypeError(f"read gave {type(pixels).__name__}; expected a tensor [rows, C, *size]")
            return _Read(item, pixels)
        except Exception as error:  # any error, because an unreadable item must not affect the others
            return _Read(item, error=error)

    source, begun = iter(items), deque[Future[_Read[Item]]]()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="hierax-decode")
    try:
        begun.extend(pool.submit(attempt, item) for item in islice(source, ahead))
        while begun:
            found = begun.popleft().result()
            begun.extend(pool.submit(attempt, item) for item in islice(source, 1))
            yield found
    finally:  # also if the caller stops in the middle
        pool.shutdown(wait=False, cancel_futures=True)


def _run(engine: Engine, group: list[_Read[Item]], batch_size: int) -> Iterator[StreamResult[Item]]:
    """The results of a group in order; readable items have their rows of the engine's outputs."""
    ready = [one.pixels for one in group if one.pixels is not None]
    outputs: list[Output] = []
    if ready:
        try:
            outputs = [engine(pixel_values=part) for part in torch.cat(ready).split(batch_size)]
        except ValueError as error:  # the model or the export does not accept this size: every item gets this error
            group = [dataclasses.replace(one, pixels=None, error=one.error or error) for one in group]
    whole, start = _concatenate(outputs), 0
    for one in group:
        if one.pixels is None:
            yield StreamResult(one.item, error=one.error)
            continue
        end = start + len(one.pixels)
        yield StreamResult(one.item, output=_each(whole, lambda t, rows=slice(start, end): t[rows]))
        start = end


def _concatenate(outputs: list[Output]) -> Any:
    """The outputs of several calls, concatenated."""
    if len(outputs) < 2:
        return outputs[0] if outputs else None
    fields: dict[str, Any] = {}
    for name, value in outputs[0].items():
        parts = [output[name] for output in outputs]
        several = isinstance(value, tuple)
        fields[name] = tuple(map(torch.cat, zip(*parts, strict=True))) if several else torch.cat(parts)
    return dataclasses.replace(outputs[0], **fields)  # type: ignore[type-var]


def _each(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The output, with a function applied to each of its tensors."""
    fields = {n: tuple(map(change, v)) if isinstance(v, tuple) else change(v) for n, v in output.items()}
    return dataclasses.replace(output, **fields)
