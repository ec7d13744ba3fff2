"""Approximate search with faiss. faiss proposes rows, and these are then compared exactly.

The vectors are in lists around centers (k-means), with eight bits per number. A query searches the nearest lists. The
file in `FOLDER/index/` is memory-mapped for searching. Building needs about one byte of memory per number: 0.8 GB for
1,000,000 x 768.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hierax.atomic import atomic_write
from hierax.collection.checked import DAMAGED, read_arrays
from hierax.collection.mapped import INDEX
from hierax.collection.store import Column
from hierax.extras import load
from hierax.folders import make_room
from hierax.processing.paths import opened_regular

if TYPE_CHECKING:
    from hierax.collection.index import Index

APPROXIMATE_FROM = 200_000
"""With at least this number of rows, the approximate index is used by default, if there is one."""
LEAST = 1000
"""Below this number of rows, no approximate index is built."""
WANTED = 0.99
"""The number of searched lists is increased until recall@10 on the sample reaches this value."""
_SAMPLE = 256
_PER_CENTER = 64  # number of rows per center that k-means uses
_CANDIDATES = 10  # proposed rows per requested hit; with eight bits, some are in the wrong order


@dataclass(frozen=True)
class Report:
    """The result of building an approximate index.

    Attributes:
        rows: number of rows in the index.
        added: number of these rows that were added now.
        lists: number of lists of rows.
        probes: number of lists that a query searches.
        recall: fraction of the 10 nearest rows (by exact search) that approximate search also finds. The queries are
            `sample` rows of the collection; a row is not its own neighbor.
        sample: number of queries of this measurement.
    """

    rows: int
    added: int
    lists: int
    probes: int
    recall: float
    sample: int

    def __str__(self) -> str:
        return (
            f"{self.rows} rows ({self.added} new) in {self.lists} lists, {self.probes} searched: "
            f"recall@10 {self.recall:.3f} against exact search, over {self.sample} queries"
        )


def library() -> Any:
    """The package faiss.

    Raises:
        ImportError: faiss is missing; the message names the extra.
    """
    return load("approximate search", "faiss")


class Approximate:
    """An index of faiss, and the keys of its rows in the order in which they were added."""

    def __init__(self, lists: Any, keys: np.ndarray, report: Report, trained: int) -> None:
        self._lists, self._keys, self.report, self.trained = lists, keys, report, trained
        self._seen: np.ndarray | None = None  # the keys to which the next two arrays belong
        self._rows = self._missing = np.zeros(0, np.int64)

    @classmethod
    def read(cls, folder: Path, column: Column) -> Approximate | None:
        """The approximate index of a collection; None if there is none, or if it is damaged.

        Raises:
            ImportError: there is an index, and faiss is missing.
        """
        file, notes = _index_files(folder, column)
        if not (file.exists() and notes.exists()):
            return None
        faiss = library()
        try:
            values = read_arrays(notes, _NOTES)
            keys, trained = values["keys"], int(values["trained"])
            report = Report(*(type_(values[name]) for name, type_ in _FIELDS.items()))
            if _digest(file, len(keys), column.width) != values["digest"].tobytes():
                return None
            lists = faiss.read_index(str(file), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except DAMAGED:
            return None
        fits = isinstance(lists, faiss.IndexIVF) and (lists.ntotal, lists.d) == (len(keys), column.width)
        if not fits or not 1 <= report.probes <= lists.nlist or trained < 1:
            return None
        lists.nprobe = report.probes
        return cls(lists, keys, report, trained)

    def lacks(self, keys: np.ndarray) -> np.ndarray:
        """Booleans, True for each of these keys that the index does not have."""
        return positions(keys, self._keys) < 0

    def candidates(self, queries: np.ndarray, k: int, keys: np.ndarray) -> np.ndarray:
        """Numbers of the rows to compare with these queries, in ascending order. They are the proposals of faiss, and
        the rows that are not in its index.

        Args:
            queries: float32 `[Q, D]` of length 1.
            k: number of hits.
            keys: the keys of the current rows of the collection; deleted rows are not proposed.
        """
        if self._seen is not keys:
            self._seen, self._missing = keys, np.flatnonzero(self.lacks(keys))
            self._rows = positions(self._keys, keys)
        labels = np.unique(_candidates(self._lists, queries, k))
        rows = self._rows[labels[(labels >= 0) & (labels < len(self._rows))]]
        return np.union1d(rows[rows >= 0], self._missing)


def _candidates(lists: Any, queries: np.ndarray, k: int) -> np.ndarray:
    """Labels `[Q, candidates]` of rows in the lists; -1 if there are no more."""
    return lists.search(np.ascontiguousarray(queries), min(max(50, _CANDIDATES * k), lists.ntotal))[1]


def positions(wanted: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The position in `keys` of each element of `wanted`; -1 if it is missing."""
    if not len(keys):
        return np.full(len(wanted), -1)
    order = np.argsort(keys, kind="stable")
    place = order[np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)]
    return np.where(keys[place] == wanted, place, -1)


_FIELDS: dict[str, type] = {"rows": int, "added": int, "lists": int, "probes": int, "recall": float, "sample": int}

_NOTES: dict[str, tuple[Any, int]] = {
    "keys": (np.uint64, 1),
    "trained": (np.int64, 0),
    "digest": (np.uint8, 1),
    **{name: (np.float64 if kind is float else np.int64, 0) for name, kind in _FIELDS.items()},
}


def _digest(file: Path, rows: int, width: int) -> bytes:
    """The digest of the structure of a file of faiss: everything except the rows (a byte per number, and eight bytes
    for the label). faiss does not check the structure, and a damaged one would end the process. The rows may be any
    numbers.
    """
    with opened_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        digest.update(stream.read(max(0, size - rows * (width + 8))))
    return digest.digest()


def _index_files(folder: Path, column: Column) -> tuple[Path, Path]:
    return folder / INDEX / f"{column.name}.faiss", folder / INDEX / f"{column.name}.faiss.npz"


def build(index: Index) -> Report:
    """Builds the approximate index of a collection, or adds new rows to it. Then measures its recall, and writes it.

    It is built again from scratch if the collection has become four times as large, or a quarter of its rows is gone.

    Raises:
        ValueError: there are several collections, or too few rows.
        ImportError: faiss is missing.
        OSError: the folder cannot be written to.
    """
    faiss = library()
    if len(index.folders) > 1:
        raise ValueError("several collections cannot have one approximate index; build one for each collection")
    if len(index) < LEAST:
        raise ValueError(f"{index.folders[0]} has {len(index)} rows; approximate search needs at least {LEAST}")
    file, notes = _index_files(index.folders[0], index.column)
    old = Approximate.read(index.folders[0], index.column)
    if old is not None:
        gone = len(old._keys) - int((~old.lacks(index.keys)).sum())
        if gone > len(old._keys) // 4 or len(index) > 4 * old.trained:
            old = None
    if old is not None and not old.lacks(index.keys).any():
        return replace(old.report, added=0)
    if old is None:
        lists, keys, trained = _train(faiss, index), np.zeros(0, np.uint64), len(index)
        new = np.arange(len(index))
    else:
        lists, keys, trained = faiss.read_index(str(file)), old._keys, old.trained
        new = np.flatnonzero(old.lacks(index.keys))
    for _, matrix in index.tiles(new):
        lists.add(np.ascontiguousarray(matrix))
    keys = np.concatenate([keys, index.keys[new]])
    probes, recall, sample = _tune(lists, keys, index, first=old.report.probes if old else 4)
    report = Report(len(keys), len(new), lists.nlist, probes, recall, sample)
    _write(faiss, lists, keys, report, trained, file, notes)
    return report


def _train(faiss: Any, index: Index) -> Any:
    """Empty lists. Their centers are computed from evenly spaced rows of the collection."""
    width, count = index.column.width, len(index)
    centers = max(8, min(65_536, round(count**0.5)))
    quantizer = faiss.IndexFlatIP(width)
    lists = faiss.IndexIVFScalarQuantizer(
        quantizer, width, centers, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    lists.cp.seed, lists.cp.max_points_per_centroid, lists.cp.min_points_per_centroid = 0, _PER_CENTER, 1
    rows = np.unique(np.linspace(0, count - 1, min(count, centers * _PER_CENTER)).astype(np.int64))
    lists.train(index.take(rows))
    quantizer.this.disown()  # from now on, the lists own it
    lists.own_fields = True
    return lists


def _tune(lists: Any, keys: np.ndarray, index: Index, *, first: int) -> tuple[int, float, int]:
    """The number of lists to search, the recall that it gives, and the number of queries of the measurement.

    Proposed rows are compared exactly, so each nearest row that faiss proposes is found.
    """
    from hierax.collection.index import nearest

    rows = np.unique(np.linspace(0, len(index) - 1, _SAMPLE).astype(np.int64))
    queries = index.take(rows)
    query, row, _ = nearest(queries, index.tiles(), 11)  # ten, and the row itself
    truth = [row[(query == q) & (row != rows[q])][:10] for q in range(len(rows))]
    position = positions(keys, index.keys)
    probes, recall = max(1, first // 2), 0.0
    while recall < WANTED and probes < lists.nlist:
        lists.nprobe = probes = min(2 * probes, lists.nlist)
        proposed = _candidates(lists, queries, 10)
        found = sum(np.isin(t, position[labels[labels >= 0]]).sum() for t, labels in zip(truth, proposed, strict=True))
        recall = float(found) / sum(map(len, truth))
    return probes, recall, len(rows)


def _write(faiss: Any, lists: Any, keys: np.ndarray, report: Report, trained: int, file: Path, notes: Path) -> None:
    make_room(file.parent, folder=True)
    for path in (file, notes):
        make_room(path)
    file.parent.mkdir(exist_ok=True)
    with atomic_write(file) as part:
        faiss.write_index(lists, str(part))
    with contextlib.closing(io.BytesIO()) as buffer, atomic_write(notes) as part:
        digest = np.frombuffer(_digest(file, len(keys), lists.d), np.uint8)
        values = {name: np.array(getattr(report, name), _NOTES[name][0]) for name in _FIELDS}
        np.savez(buffer, allow_pickle=False, keys=keys, trained=np.array(trained, np.int64), digest=digest, **values)
        part.write_bytes(buffer.getvalue())
