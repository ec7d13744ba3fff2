"""The listings of a collection, read and checked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from hierax.embedding.checked import parquet, wrong
from hierax.embedding.sources import KINDS, MARK, Source, listed

_ROWS = 1 << 16
_TIME = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def read_listing(path: Path) -> Iterator[Source]:
    """The sources of a listing that was written.

    Raises:
        CollectionError: it is damaged; names the column.
    """
    wanted = listed()
    with parquet(path, wanted, wanted.names, advice="") as file:
        for batch in file.iter_batches(_ROWS, columns=wanted.names, use_threads=False):
            batch.validate(full=True)
            for name in wanted.names:
                if batch.column(name).null_count:
                    raise ValueError(f"column {name} has nulls; expected a value in every row")
            for row in batch.to_pylist():
                source = Source(**{**row, "path": os.fsdecode(row["path"])})
                if source.kind not in KINDS:
                    raise ValueError(wrong("kind", source.kind, f"one of {', '.join(KINDS)}"))
                if source.window >= 0 and not _TIME.fullmatch(source.path.rpartition(MARK)[2]):
                    raise ValueError(wrong("path", source.path, f"{MARK} and seconds at the end of a window"))
                yield source
