"""A limited number of compiled shapes: decides which shapes are compiled and which run in eager mode."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from hierax.engine.memory import release

_log = logging.getLogger("hierax.engine")
_COUNTED = 4096  # shapes whose requests are counted
_MAX_BATCH = 64  # images of the largest compiled batch


@dataclass(frozen=True)
class Shape:
    """The shape that a runner is made for.

    Attributes:
        size: pixels per axis.
        batch: images per call, or None for any number.
        kept: number of visible mask units, for an MAE model.
    """

    size: tuple[int, ...]
    batch: int | None = None
    kept: int | None = None

    def __str__(self) -> str:
        parts = ["x".join(map(str, self.size)) + " pixels"]
        parts += [f"batch {self.batch}"] if self.batch else []
        parts += [f"{self.kept} visible mask units"] if self.kept else []
        return ", ".join(parts)


class Runner(Protocol):
    """Runs a program on inputs of one shape."""

    def __call__(self, pixels: Tensor, kept: Tensor | None) -> list[Tensor]:
        """The program's tensors, in float32, for `pixels` `[batch, C, *size]`. The caller owns their memory."""
        ...

    def close(self) -> None:
        """Frees memory; the runner is not called again."""
        ...


class Backend(Protocol):
    """A maker of runners for one program.

    Attributes:
        batched: whether each runner is for one number of images only.
    """

    batched: bool

    def runner(self, shape: Shape) -> Runner:
        """A runner for a shape; making it may take long."""
        ...

    def close(self) -> None:
        """Frees memory; no runner is made afterwards."""
        ...


class RunnerPool:
    """At most `limit` compiled runners, so that inputs of many different shapes neither fill the memory nor are
    compiled each time.

    A shape is compiled at its `patience`-th request; until then `eager` runs it. If `limit` runners exist, a new shape
    replaces the least recently used one only after `insistence` requests since its last use. Without `eager`, every
    shape is compiled at once. Not thread-safe: the engine holds its lock.
    """

    def __init__(
        self,
        compiled: Callable[[Shape], Runner],
        eager: Callable[[Shape], Runner] | None,
        *,
        limit: int,
        patience: int = 3,
        insistence: int = 8,
    ) -> None:
        self._compile, self._eager = compiled, eager
        self.limit, self.patience, self.insistence = limit, patience, insistence
        self._runners: OrderedDict[Shape, Runner] = OrderedDict()
        self._used: dict[Shape, int] = {}
        self._asked: dict[Shape, deque[int]] = {}  # the most recent requests of shapes that are not compiled
        self._requests = 0

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The compiled shapes, the least recently used first."""
        return tuple(self._runners)

    def get(self, shape: Shape, *, at_once: bool = False) -> Runner:
        """The runner for `shape`; `at_once` compiles it without waiting for more requests."""
        self._requests += 1
        runner = self._runners.get(shape)
        if runner is None:
            if self._eager is not None and not at_once and not self._worthwhile(shape):
                return self._eager(shape)
            full = len(self._runners) >= self.limit
            if full:
                self._drop(next(iter(self._runners)))
            _log.info("compiling for %s", shape)
            runner = self._runners[shape] = self._compile(shape)
            self._asked.pop(shape, None)
            if full:
                release()
        self._runners.move_to_end(shape)
        self._used[shape] = self._requests
        return runner

    def _worthwhile(self, shape: Shape) -> bool:
        if len(self._asked) >= _COUNTED:
            self._asked.clear()
        asked = self._asked.setdefault(shape, deque(maxlen=max(self.patience, self.insistence)))
        asked.append(self._requests)
        if len(self._runners) < self.limit:
            return len(asked) >= self.patience
        last = self._used[next(iter(self._runners))]
        return sum(request > last for request in asked) >= self.insistence

    def _drop(self, shape: Shape) -> None:
        self._runners.pop(shape).close()
        del self._used[shape]

    def close(self) -> None:
        """Drops all runners."""
        for shape in tuple(self._runners):
            self._drop(shape)


def buckets(batch: int, *, most: int = _MAX_BATCH) -> list[tuple[int, int, int]]:
    """Start, count and compiled batch of the parts of a batch; parts are powers of two, the last one is padded.

    No part is larger than `most` rounded down to a power of two (at least one).
    """
    parts, start = [], 0
    largest = min(1 << (max(most, 1).bit_length() - 1), _MAX_BATCH)
    while start < batch:
        count = min(batch - start, largest)
        parts.append((start, count, 1 << (count - 1).bit_length()))
        start += count
    return parts
