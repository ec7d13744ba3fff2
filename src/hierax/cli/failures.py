"""What an error stands for, whatever library raised it."""

from __future__ import annotations

import errno

_WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "bad_alloc",
    "not enough memory",
    "failed to allocate memory",
    "can't alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or a GPU; libraries have many errors for it, most of them RuntimeErrors."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, SystemError)) and any(words in text for words in _WORDS)
