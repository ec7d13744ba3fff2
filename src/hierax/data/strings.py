"""Stores many strings in two buffers, because worker processes would copy a million paths as Python objects."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np

from hierax.reprs.text import never_raises


class Strings:
    """A list of strings, stored as one block of bytes and the end of each string.

    Python counts references inside its objects, so reading a list in a forked process writes to memory pages and copies
    them. These buffers stay shared. Each string needs its length plus 8 bytes, not plus about 130 bytes.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [os.fsencode(string) for string in strings]  # file names may not be valid text
        self._ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} is out of range: there are {len(self)}")
        index %= len(self)
        first = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._bytes[first : int(self._ends[index])])

    @never_raises
    def __repr__(self) -> str:
        return f"<{len(self):,} strings>"

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))
