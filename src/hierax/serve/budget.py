"""Bounds the memory of the images that are worked on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_BUDGET = 512_000_000
"""Bytes of pixels and results that requests hold at the same time."""


class Budget:
    """Bounds the bytes of pixels and results of all requests. Who finds no room waits in order.

    Args:
        total: bytes. A larger image has them for itself.
    """

    def __init__(self, total: int = _BUDGET) -> None:
        self.total, self.taken = total, 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        """Holds room for `count` bytes."""
        count = min(count, self.total)
        async with self._turn:
            while self.taken + count > self.total:
                self._freed.clear()
                await self._freed.wait()
            self.taken += count
        try:
            yield
        finally:
            self.taken -= count
            self._freed.set()
