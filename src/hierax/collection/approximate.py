"""Approximate search with faiss: faiss proposes rows, which are then compared exactly.

Vectors are in lists around centers (k-means), with eight bits for a number. A query searches the nearest lists. The
file in `FOLDER/index/` is mapped for searching. Building takes about one byte of memory per number: 0.8 GB for
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
from hierax.collection.checked import DAMAGED, open_checked, read_arrays
from hierax.collection.mapped import INDEX
from hierax.collection.store import Column
from hierax.extras import load
from hierax.folders import make_room

if TYPE_CHECKING:
    from hierax.collection.index import Index

APPROXIMATE_FROM = 200_000
"""From this number of rows on, an approximate index is used by default if it was built."""
LEAST = 1000
"""Below this number of rows, no approximate index is built."""
WANTED = 0.99
"""Recall@10 on the sample at which the number of searched lists is high enough."""
_SAMPLE = 256
_PER_CENTRE = 64  # rows that k-means sees per center
_CANDIDATES = 10  # for every requested hit; with eight bits some are in the wrong order


@dataclass(frozen=True)
class Report:
    """The result of building an approximate index.

    Attributes:
        rows: in the index, `added` of them now.
        lists: number of lists of rows; a query searches `probes` of them.
        recall: share of the 10 nearest rows by exact search that this one finds too, over `sample` rows as queries
            (each without itself).
    """

    rows: int
    added: int
    lists: int
    probes: int
    recall: float
    sample: int

    def __str__(self) -> str:
        return (
            f"{self.rows} rows ({self.added} new) in {self.lists} lists, {self.probes} looked into: "
            f"recall@10 {self.recall:.3f} against exact search, over {self.sample} queries"
        )


def library() -> Any:
    """The package faiss.

    Raises:
        ImportError: faiss is missing; names the extra.
    """
    return load("approximate search", "faiss")


class Approximate:
    """An index of faiss, and the keys of its rows in the order in which they were added."""

    def __init__(self, lists: Any, keys: np.ndarray, report: Report, trained: int) -> None:
        self._lists, self._keys, self.report, self.trained = lists, keys, report, trained
        self._seen: np.ndarray | None = None  # keys of a collection, for which the next two hold
        self._rows = self._missing = np.zeros(0, np.int64)

    @classmethod
    def read(cls, folder: Path, column: Column) -> Approximate | None:
        """The approximate index of a collection; None if there is none, or if it is damaged.

        Raises:
            ImportError: there is one, and faiss is missing.
        """
        file, notes = _index_files(folder, column)
        if not (file.exists() and notes.exists()):
            return None
        faiss = library()
        try:
            kept = read_arrays(notes, _NOTES)
            keys, trained = kept["keys"], int(kept["trained"])
            report = Report(*(type_(kept[name]) for name, type_ in _FIELDS.items()))
            if _digest(file, len(keys), column.width) != kept["digest"].tobytes():
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
        """Booleans: which of these keys the index does not have."""
        return positions(keys, self._keys) < 0

    def candidates(self, queries: np.ndarray, k: int, keys: np.ndarray) -> np.ndarray:
        """Numbers of the rows to compare with these queries, ascending: the proposals of faiss, and rows that it does
        not have.

        Args:
            queries: float32 `[Q, D]` of length 1.
            k: number of hits.
            keys: of the collection's rows now; deleted rows are dropped.
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
    """The position of each of `wanted` in `keys`; -1 if it is not there."""
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
    """Of what faiss makes sense of: all but the rows themselves, a byte per number and eight for the label. faiss
    trusts it, so that a damaged one would end the process; rows can be any numbers.
    """
    with open_checked(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        digest.update(stream.read(max(0, size - rows * (width + 8))))
    return digest.digest()


def _index_files(folder: Path, column: Column) -> tuple[Path, Path]:
    return folder / INDEX / f"{column.name}.faiss", folder / INDEX / f"{column.name}.faiss.npz"


def build(index: Index) -> Report:
    """Builds the approximate index of a collection, or adds its new rows; measures its recall and writes it. It is
    built again when the collection is four times as large as it was, or a quarter of its rows is gone.

    Raises:
        ValueError: several collections, or too few rows.
        ImportError: faiss is missing.
        OSError: the folder cannot be written to.
    """
    faiss = library()
    if len(index.folders) > 1:
        raise ValueError("several collections have no approximate index; build one for each")
    if len(index) < LEAST:
        raise ValueError(f"{index.folders[0]} has {len(index)} rows; approximate search is for {LEAST} and more")
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
    """Empty lists, with centers from evenly spaced rows of the collection."""
    width, count = index.column.width, len(index)
    centres = max(8, min(65_536, round(count**0.5)))
    quantizer = faiss.IndexFlatIP(width)
    lists = faiss.IndexIVFScalarQuantizer(
        quantizer, width, centres, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    lists.cp.seed, lists.cp.max_points_per_centroid, lists.cp.min_points_per_centroid = 0, _PER_CENTRE, 1
    rows = np.unique(np.linspace(0, count - 1, min(count, centres * _PER_CENTRE)).astype(np.int64))
    lists.train(index.take(rows))
    quantizer.this.disown()  # the lists own it now
    lists.own_fields = True
    return lists


def _tune(lists: Any, keys: np.ndarray, index: Index, *, first: int) -> tuple[int, float, int]:
    """The number of lists to search, the recall that it gives, and the number of queries of the measurement. Proposed
    rows are compared exactly, so each nearest row that faiss proposes is found.
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
    with contextlib.closing(io.BytesIO()) as kept, atomic_write(notes) as part:
        digest = np.frombuffer(_digest(file, len(keys), lists.d), np.uint8)
        values = {name: np.array(getattr(report, name), _NOTES[name][0]) for name in _FIELDS}
        np.savez(kept, allow_pickle=False, keys=keys, trained=np.array(trained, np.int64), digest=digest, **values)
        part.write_bytes(kept.getvalue())
