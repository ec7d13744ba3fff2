"""Results that are written when they are read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Generic, TypeVar

from hierax.notices import notify

T = TypeVar("T")


class WrittenWhenRead(Iterator[T], Generic[T]):
    """The results of a function that writes files. If they are thrown away before the first one is read, so that no
    file is written, a notice says so.

    Args:
        results: the results.
        name: the name of the function.
    """

    def __init__(self, results: Iterator[T], name: str) -> None:
        self._results, self._name, self._is_read = results, name, False

    def __next__(self) -> T:
        self._is_read = True
        return next(self._results)

    def __del__(self) -> None:
        if not self._is_read and not sys.is_finalizing():
            notify(
                f"hierax.{self._name} wrote nothing, because its results were not read; "
                f"list(hierax.{self._name}(...)) writes all files"
            )
