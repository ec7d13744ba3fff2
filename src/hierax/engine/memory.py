"""Memory that was freed, back to the system; and memory that ran out, said as such whoever noticed it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch

from hierax.memory import is_out_of_memory


@contextlib.contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Raises `MemoryError` that says what was done, in place of whatever a library raises when memory runs out."""
    try:
        yield
    except torch.OutOfMemoryError:  # of a GPU, which callers know by this name
        raise
    except Exception as error:
        if not is_out_of_memory(error) or str(error).startswith("out of memory"):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise MemoryError(f"out of memory while {doing} ({lines[-1].strip()[:200]})") from error


def check_outputs(found: Sequence[Sequence[int]], stated: Sequence[Sequence[int | None]], *, by: str) -> None:
    """Raises `MemoryError` unless the shapes of a call's outputs are those that the compiled program states.

    Short of memory, OpenVINO gives tensors of no rows instead of an error.

    Args:
        stated: a shape per output; None is an axis of any length.
    """
    right = len(found) == len(stated) and all(
        len(shape) == len(wanted) and all(w is None or n == w for n, w in zip(shape, wanted, strict=True))
        for shape, wanted in zip(found, stated, strict=False)
    )
    if not right:
        ours, theirs = (", ".join(str([*shape]) for shape in shapes) or "nothing" for shapes in (found, stated))
        raise MemoryError(f"out of memory: {by} returned {ours}; expected {theirs}")


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
