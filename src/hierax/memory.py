"""Recognizes errors of exhausted memory, and reads the memory limit of the process. It imports no other package."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

ENOUGH = 4_000_000_000
"""Bytes of address space that a command with a small model needs. PyTorch and a runtime alone need 1 to 3 GB."""
FOR_OPENVINO = 2_000_000_000
"""With less address space (in bytes), "auto" does not choose OpenVINO: it needs twice as much as PyTorch, and may end
the process.
"""
LEAST = 800_000_000
"""With less address space (in bytes), no command runs: PyTorch cannot be imported, and its libraries may end the
process.
"""
_SIGNS = (  # texts of the C++ library, oneDNN, OpenVINO, ONNX Runtime, PyTorch and the system
    "bad_alloc", "bad allocation", "can't alloc", "cannot allocate memory", "failed to allocate", "out of memory",
    "not enough memory", "unable to mmap", "could not create a memory", "memory exhausted", "std::length_error",
    "can't start new thread", "failed to map segment", "failed to launch worker thread",
    "resource temporarily unavailable", "returned null without setting an exception", "failed to serialize proto",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error or its cause says that there is not enough memory (or that no thread can start, which needs
    memory).

    C++ libraries raise a `RuntimeError` with their own text.
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
    """The bytes of address space that this process may use (`ulimit -v`); None if there is no limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def is_limited_to_less_than(size: int) -> bool:
    """Whether this process may use less than `size` bytes of address space."""
    limit = address_limit()
    return limit is not None and limit < size


def spare_address_space() -> None:
    """Reduces the address space that threads need, or their number. Call it before NumPy and PyTorch are imported.

    Otherwise, the C library reserves 64 MB for each thread, and OpenMP ends the process if it cannot start a thread.
    """
    if is_limited_to_less_than(FOR_OPENVINO):
        for library in ("OMP", "OPENBLAS"):
            os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    with contextlib.suppress(AttributeError):  # only the GNU C library has it
        _c_library().mallopt(-8, 1)  # M_ARENA_MAX


def _c_library() -> Any:
    """The C library of this process; None where Python cannot call it."""
    with contextlib.suppress(ImportError, OSError, TypeError):
        import ctypes

        return ctypes.CDLL(None)
    return None


_TRIM, _PAD, _MMAP = -1, -2, -3  # names of mallopt in glibc: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
_KEPT = {_MMAP: 1 << 30, _TRIM: (1 << 31) - 1, _PAD: 1 << 26}
_USUAL = {_MMAP: 1 << 25, _TRIM: 1 << 26, _PAD: 1 << 17}
"""What glibc arrives at by itself after it has freed large blocks."""


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keeps memory that is freed for the next allocation, instead of giving it back to the system.

    Each step of a training run on a CPU allocates the same hundreds of megabytes. If the C library gives them back, the
    system has to fill them with zeros again, page by page: a tenth of the step. At the end, free memory is given back.
    Where the C library is not glibc, nothing is changed.
    """
    library = _c_library()
    set_option, give_back = (getattr(library, name, None) for name in ("mallopt", "malloc_trim"))
    if set_option is None or give_back is None:
        yield
        return
    for name, value in _KEPT.items():
        set_option(name, value)
    try:
        yield
    finally:
        for name, value in _USUAL.items():
            set_option(name, value)
        give_back(0)
