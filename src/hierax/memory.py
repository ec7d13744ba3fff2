"""Recognizes errors of exhausted memory, and reads the process's memory limit; imports no other package."""

from __future__ import annotations

import errno
import sys

ENOUGH = 4_000_000_000
"""Bytes of address space that a command with a small model needs; PyTorch and a runtime alone map 1 to 3 GB."""
_SIGNS = (  # how the C++ library, oneDNN, OpenVINO, ONNX Runtime, PyTorch and the system say it
    "bad_alloc", "bad allocation", "can't alloc", "cannot allocate memory", "failed to allocate", "out of memory",
    "not enough memory", "unable to mmap", "could not create a memory", "memory exhausted", "std::length_error",
    "can't start new thread", "failed to map segment", "failed to launch worker thread",
    "resource temporarily unavailable", "returned null without setting an exception",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or its cause, says that memory ran out (or threads, which need memory, too).

    C++ libraries raise a `RuntimeError` with a text of their own for it.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, MemoryError) or (isinstance(found, OSError) and found.errno == errno.ENOMEM):
            return True
        if not isinstance(found, (ValueError, KeyError, BlockingIOError)) and any(
            sign in str(found).lower() for sign in _SIGNS
        ):
            return True
        found = found.__cause__ or found.__context__
    return False


def address_limit() -> int | None:
    """Bytes of address space that this process may map (`ulimit -v`); None without such a limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit
