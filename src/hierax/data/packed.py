"""Many strings in two buffers: a million paths as Python objects would be copied into every worker process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np


class Strings:
    """A list of strings as one run of bytes and where each ends.

    Python counts references inside its objects, so that reading a forked list writes to its pages and copies them;
    these buffers stay shared. A million paths take their own length and 8 bytes each, instead of 130 more.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [os.fsencode(string) for string in strings]  # file names need not be valid text
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

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))
