"""Returns freed memory to the system, and reports a lack of memory as `MemoryError` for all libraries."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch

from hierax.memory import is_out_of_memory


@contextlib.contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """A context that replaces a library's error for a lack of memory by a `MemoryError`, which says what failed."""
    try:
        yield
    except torch.OutOfMemoryError:  # the error of a GPU, which callers expect in this class
        raise
    except Exception as error:
        if not is_out_of_memory(error) or str(error).startswith("out of memory"):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise MemoryError(f"out of memory while {doing} ({lines[-1].strip()[:200]})") from error


def check_outputs(found: Sequence[Sequence[int]], stated: Sequence[Sequence[int | None]], *, by: str) -> None:
    """Raises `MemoryError` unless the outputs of a call have the shapes that the compiled program states.

    Without enough memory, OpenVINO returns tensors without rows instead of an error.

    Args:
        stated: one shape per output; None is an axis of any length.
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
        return ctypes.CDLL(None).malloc_trim  # only the GNU C library has it
    except (OSError, TypeError, AttributeError):
        return None


def release() -> None:
    """Makes the C library return freed memory to the system; does nothing if it has no such function.

    The C library keeps all pages between blocks in use. With many large blocks of different sizes, these pages add up:
    an engine that was called at ten sizes grew by 6.7 % in 700 calls, and this function returned all of it.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
