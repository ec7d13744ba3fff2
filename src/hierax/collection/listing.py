"""Reads, checks and writes the listings of a collection."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hierax.atomic import atomic_write
from hierax.collection.checked import parquet, wrong
from hierax.collection.source import KINDS, Source
from hierax.collection.store import LISTINGS, MARK, arrow
from hierax.data.strings import Strings

_ROWS = 1 << 16  # number of rows of a listing that are Python objects at the same time
_TIME = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def read_listing(path: Path, *, only: Iterable[bytes] | None = None) -> Iterator[Source]:
    """Yields the sources of a listing on disk.

    Args:
        path: the file.
        only: the paths of the sources to yield, as bytes; None: all. A few of a million are found fast.

    Raises:
        CollectionError: the listing is damaged; the message names the column.
    """
    wanted, pa = listing_schema(), arrow()
    from pyarrow import compute

    names = None if only is None else pa.array(sorted(only), pa.binary())
    with parquet(path, wanted, wanted.names, advice="") as file:
        for batch in file.iter_batches(_ROWS, columns=wanted.names, use_threads=False):
            batch.validate(full=True)
            for name in wanted.names:
                if batch.column(name).null_count:
                    raise ValueError(f"column {name} has nulls; expected a value in every row")
            if names is not None:
                batch = batch.filter(compute.is_in(batch.column("path"), value_set=names))  # pyright: ignore[reportAttributeAccessIssue]
            for row in batch.to_pylist():
                source = Source(**{**row, "path": os.fsdecode(row["path"])})
                if source.kind not in KINDS:
                    raise ValueError(wrong("kind", source.kind, f"one of {', '.join(KINDS)}"))
                if source.window >= 0 and not _TIME.fullmatch(source.path.rpartition(MARK)[2]):
                    raise ValueError(wrong("path", source.path, f"{MARK} and seconds at the end of a segment"))
                yield source


def listing_schema() -> Any:
    """The columns of a listing, as a `pyarrow.Schema`."""
    pa = arrow()
    return pa.schema(
        [
            ("path", pa.binary()),
            ("kind", pa.string()),
            ("container", pa.string()),
            ("offset", pa.int64()),
            ("size", pa.int64()),
            ("window", pa.int32()),
        ]
    )


class Listing:
    """Sources in order. They are stored as columns, because as Python objects they would need too much memory."""

    def __init__(self, sources: Iterable[Source]) -> None:
        containers: dict[str, int] = {}
        kinds, places, offsets, sizes, windows = [], [], [], [], []

        def paths() -> Iterator[str]:
            for source in sources:
                kinds.append(KINDS.index(source.kind))
                places.append(containers.setdefault(source.container, len(containers)))
                offsets.append(source.offset)
                sizes.append(source.size)
                windows.append(source.window)
                yield source.path

        self.paths = Strings(paths())
        self.containers = tuple(containers)
        self._kind, self._place = np.array(kinds, np.uint8), np.array(places, np.int32)
        self._offset, self._size = np.array(offsets, np.int64), np.array(sizes, np.int64)
        self._window = np.array(windows, np.int32)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Source:
        return Source(
            self.paths[index],
            KINDS[self._kind[index]],
            self.containers[self._place[index]],
            int(self._offset[index]),
            int(self._size[index]),
            int(self._window[index]),
        )

    def __iter__(self) -> Iterator[Source]:
        return (self[i] for i in range(len(self)))

    def write(self, path: Path) -> None:
        """Writes the listing, unless the file exists: if several processes list the sources, the first
        listing is used.
        """
        pa = arrow()
        schema = listing_schema()
        with atomic_write(path, keep=True) as part, pa.parquet.ParquetWriter(part, schema) as writer:
            for start in range(0, len(self), _ROWS):
                rows = [self[i] for i in range(start, min(start + _ROWS, len(self)))]
                columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
                columns["path"] = [os.fsencode(path) for path in columns["path"]]  # names may not be valid text
                writer.write_table(pa.table(columns, schema=schema))

    @classmethod
    def read(cls, path: Path) -> Listing:
        """Reads a listing.

        Raises:
            CollectionError: the listing is damaged.
        """
        from hierax.collection.listing import read_listing

        return cls(read_listing(path))


def listing_path(folder: Path, number: int) -> Path:
    """The path of listing `number` of a collection: 0 is the first, and each update adds one."""
    return folder / LISTINGS / f"{number:04}.parquet"


def listings(folder: Path) -> list[Path]:
    """The listings of a collection, in order."""
    return sorted((folder / LISTINGS).glob("[0-9]*.parquet"))
