"""Runs the items of many requests together: items of one key in one call, in one thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hierax.serve.errors import refuse

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")
_LATELY, _KEYS = 64, 64  # items and keys of which the seconds are kept
_NICER = 5
"""Steps of niceness between the event loop and threads that compute."""


@dataclass(eq=False)
class _Entry(Generic[T]):
    """An item that waits or runs. `item` is dropped when nobody waits for its result any more."""

    item: T | None
    answer: asyncio.Future[Any]
    since: float
    timer: asyncio.TimerHandle | None = None


class Batcher(Generic[K, T, R]):
    """Collects items and runs those of one key together. Its methods are called in one event loop.

    While a call runs, items wait; the next call takes a key in turn, and of its items, the first ones. A call has a
    power of two of items, since that is what engines compile. If nothing runs, an item does not wait, unless others
    are announced (`arriving`): then it waits for them at most `max_wait` seconds.

    Args:
        run: computes the results of items of one key, in their order. It is called in one thread. A result may be an
            exception, which `submit` raises. If it raises an exception for several items, they are run one by one.
        max_batch: items per call; or a function of the key that returns it.
        max_wait: seconds.
        observe: called after each call with the number of items and the seconds it took.

    Attributes:
        arriving: number of items that will be submitted soon, as far as is known.
    """

    def __init__(
        self,
        run: Callable[[K, Sequence[T]], Sequence[R | Exception]],
        *,
        max_batch: int | Callable[[K], int],
        max_wait: float,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._run, self._max_wait, self._observe = run, max_wait, observe
        self._max_batch = max_batch if callable(max_batch) else lambda _: max_batch
        self._waiting: OrderedDict[K, deque[_Entry[T]]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hierax-engine", initializer=give_way)
        self._running: asyncio.Task[None] | None = None
        self._woken: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event | None = None
        self._closed = False
        self._count = 0
        # the thread replaces both as a whole, because the event loop reads them
        self._lately: list[float] = []  # seconds of each of the last items
        self._paces: dict[K, float] = {}  # seconds of an item of a key, lately
        self.arriving = 0

    @property
    def waiting(self) -> int:
        """The number of items that wait."""
        return self._count

    def seconds_for(self, items: int) -> float:
        """Seconds that so many items will take, those that wait among them; 0 before the first call.

        An item that waits takes what items of its key took lately. Of the others nothing is known yet: each takes the
        median of the last items, so that one slow item does not count for all.
        """
        lately, paces = sorted(self._lately), self._paces
        usual = lately[len(lately) // 2] if lately else 0.0
        waiting = sum(len(entries) * paces.get(key, usual) for key, entries in self._waiting.items())
        return waiting + max(items - self._count, 0) * usual

    async def submit(self, key: K, item: T, *, deadline: float | None = None) -> R:
        """The result of an item. If the caller is cancelled, an item that waits is not run.

        Args:
            deadline: a time of the event loop.

        Raises:
            Refusal: the deadline passed (504), or the batcher is closed (503).
            Exception: what `run` returned or raised for this item.
        """
        if self._closed:
            raise refuse("draining", "the server is stopping", retry_after=1)
        loop = asyncio.get_running_loop()
        entry = _Entry(item, loop.create_future(), loop.time())
        if deadline is not None:
            entry.timer = loop.call_at(deadline, _expire, entry)
        self._waiting.setdefault(key, deque()).append(entry)
        self._count += 1
        self._look()
        try:
            return await entry.answer
        finally:
            entry.item = None
            if entry.answer.done() and not entry.answer.cancelled():
                entry.answer.exception()  # it may have come too late to be seen
            if entry.timer is not None:
                entry.timer.cancel()

    def arrived(self, count: int = 1) -> None:
        """Takes back what was announced: `count` items were submitted, or will not be."""
        self.arriving = max(self.arriving - count, 0)
        if self._count and not self.arriving:
            self._look()

    def _look(self) -> None:
        """Starts the next call, if none runs and it is time."""
        if self._running is not None or not self._count:
            return
        loop = asyncio.get_running_loop()
        left = self._seconds_to_wait(loop.time())
        if left > 0:
            if self._woken is None:
                self._woken = loop.call_later(left, self._wake)
            return
        self._running = loop.create_task(self._work())

    def _wake(self) -> None:
        self._woken = None
        self._look()

    def _seconds_to_wait(self, now: float) -> float:
        """Seconds until a call should start: 0 unless others are announced and no batch is full."""
        if not self.arriving or not self._max_wait or self._closed:
            return 0.0
        if any(len(entries) >= self._max_batch(key) for key, entries in self._waiting.items()):
            return 0.0
        first = min(entries[0].since for entries in self._waiting.values())
        return first + self._max_wait - now

    async def _work(self) -> None:
        """Runs calls until no item waits."""
        loop = asyncio.get_running_loop()
        if self._woken is not None:
            self._woken.cancel()
            self._woken = None
        try:
            while (batch := self._take()) is not None:
                key, entries = batch
                try:
                    results = await loop.run_in_executor(self._thread, self._results, key, [e.item for e in entries])
                except Exception as error:  # no thread can start
                    results = [error] * len(entries)
                for entry, result in zip(entries, results, strict=True):
                    if entry.answer.done():  # cancelled, or past its deadline
                        continue
                    if isinstance(result, BaseException):
                        entry.answer.set_exception(result)
                    else:
                        entry.answer.set_result(result)
                if self._count and self._seconds_to_wait(loop.time()) > 0:
                    break
        finally:
            self._running = None
            if self._empty is not None and not self._count:
                self._empty.set()
        self._look()

    def _take(self) -> tuple[K, list[_Entry[T]]] | None:
        """The items of the next call; the key of a call goes to the end of the line."""
        while self._waiting:
            key, entries = next(iter(self._waiting.items()))
            live = deque(entry for entry in entries if not entry.answer.done())
            self._count -= len(entries) - len(live)
            if not live:
                del self._waiting[key]
                continue
            count = min(len(live), max(self._max_batch(key), 1))
            count = 1 << (count.bit_length() - 1)
            taken = [live.popleft() for _ in range(count)]
            self._count -= count
            if live:
                self._waiting[key] = live
                self._waiting.move_to_end(key)
            else:
                del self._waiting[key]
            return key, taken
        return None

    def _results(self, key: K, items: list[Any]) -> Sequence[R | BaseException]:
        """The result of each item, or its error. This is called in the thread."""
        started = time.perf_counter()
        try:
            found = list(self._run(key, items))
            if len(found) != len(items):
                raise RuntimeError(f"{len(found)} results for {len(items)} items")
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [self._results(key, [item])[0] for item in items]
        seconds = time.perf_counter() - started
        each = seconds / len(items)
        self._lately = [*self._lately, *[each] * len(items)][-_LATELY:]
        others = [entry for entry in self._paces.items() if entry[0] != key]
        self._paces = dict([*others, (key, 0.8 * self._paces.get(key, each) + 0.2 * each)][-_KEYS:])
        if self._observe is not None:
            self._observe(len(items), seconds)
        return found

    async def close(self) -> None:
        """Takes no more items, and waits until those that were accepted are done."""
        self._closed = True
        self._look()
        while self._running is not None or self._count:
            self._empty = asyncio.Event()
            if self._running is None and self._count:
                self._look()
            await self._empty.wait()
        self._thread.shutdown(wait=False)


def give_way() -> None:
    """Lowers the priority of a thread that computes, and of the threads it starts: the event loop comes first, so that
    a server with much work still refuses at once.
    """
    if sys.platform == "linux":  # elsewhere, the priority of one thread cannot be changed
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICER)


def _expire(entry: _Entry[Any]) -> None:
    if not entry.answer.done():
        entry.answer.set_exception(refuse("deadline", "the deadline has passed before there was an answer"))
