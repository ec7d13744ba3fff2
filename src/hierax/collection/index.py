"""Search in a collection: exact, shard by shard; or approximate with faiss, whose proposals are compared exactly."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hierax.collection.mapped import INDEX, Named, Shard, unit
from hierax.collection.store import Manifest, Rows, shards
from hierax.notices import notify

if TYPE_CHECKING:
    import torch

    from hierax.collection.approximate import Approximate, Report

DIGITS = 6
"""Decimals of a similarity: float32 holds no more, and equal images get equal scores."""
_TILE = 1 << 25  # bytes of vectors that are compared at a time
_QUERIES = 512  # compared with a tile at a time

Vectors: TypeAlias = "np.ndarray | torch.Tensor | Sequence[Sequence[float]]"
Folders: TypeAlias = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Hit:
    """A hit: a row, and its cosine similarity to the query, rounded to six decimals."""

    id: str
    path: str
    score: float


Found: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Query, row and score of all hits, sorted by query, then by score (best first), then by row."""


def nearest(
    queries: np.ndarray, tiles: Iterable[tuple[np.ndarray, np.ndarray]], k: int | None, *, least: float = -1.0
) -> Found:
    """The `k` rows most similar to each query (None: all), of a similarity of at least `least`.

    Scores are sums in float64 of vectors in float32, rounded; float32 products only rule out what is too far. So a
    score does not depend on how rows are cut into tiles, and equal scores are in the order of the rows.

    `queries` are float32 `[Q, D]` of length 1; `tiles` are numbers of rows, rising, with their vectors `[R, D]`.
    """
    exact = queries.astype(np.float64)
    slack = 10**-DIGITS + 1e-5 * max(1.0, (queries.shape[1] / 1024) ** 0.5)
    bar = np.full(len(queries), least)
    found, all_found = _nothing(), [_nothing()]
    for numbers, matrix in tiles:
        scores = queries @ matrix.T
        passing = scores >= (bar - slack).astype(np.float32)[:, None]
        if k is not None and k < len(numbers):
            crowded = np.flatnonzero(passing.sum(1) > 2 * k)
            if len(crowded):
                kth = np.partition(scores[crowded], len(numbers) - k, axis=1)[:, len(numbers) - k]
                passing[crowded] &= scores[crowded] >= (kth - slack)[:, None]
        new = _scored(exact, matrix, numbers, np.nonzero(passing), least)
        if k is None:
            all_found.append(new)
            continue
        found = _ordered([found, new], k)
        query = found[0]
        last = np.flatnonzero(np.arange(len(query)) - np.searchsorted(query, query) == k - 1)
        bar[query[last]] = found[2][last]
    return _ordered(all_found, None) if k is None else found


def _nothing() -> Found:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)


def _scored(
    exact: np.ndarray, matrix: np.ndarray, numbers: np.ndarray, pairs: tuple[np.ndarray, ...], least: float
) -> Found:
    query, place = pairs
    step = max(1, _TILE // (16 * exact.shape[1]))
    parts = [
        (exact[query[i : i + step]] * matrix[place[i : i + step]].astype(np.float64)).sum(1)
        for i in range(0, len(query), step)
    ]
    score = np.round(np.concatenate(parts), DIGITS).clip(-1, 1) if parts else np.zeros(0)
    keep = score >= least
    return query[keep], numbers[place[keep]], score[keep]


def _ordered(parts: Sequence[Found], k: int | None) -> Found:
    query, row, score = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((row, -score, query))
    if k is not None:
        ranked = query[order]
        order = order[np.arange(len(order)) - np.searchsorted(ranked, ranked) < k]
    return query[order], row[order], score[order]


def _folders(folder: Folders) -> list[Path]:
    """The folders of one or of several collections.

    Raises:
        TypeError: an item is not a path.
        ValueError: there is no folder, or a path is empty (it would mean the current folder).
    """
    one = isinstance(folder, (str, os.PathLike))
    if not one and (not isinstance(folder, Iterable) or isinstance(folder, bytes)):
        raise TypeError(f"folder is a {type(folder).__name__}; expected the path of a collection, or several")
    folders = [folder] if one else list(folder)
    if not folders:
        raise ValueError("folder is an empty list; expected at least one collection")
    for path in folders:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"folder holds a {type(path).__name__}; expected paths of collections")
        if not os.fspath(path):
            raise ValueError("folder is an empty path; expected the path of a collection")
    return [Path(path) for path in folders]


class Index:
    """A collection to search in, or several that were made with the same settings. It searches the shards that the
    folder had when it was opened; `refresh` loads new and changed shards. The vectors of new shards are mapped then
    (`index/` in the folder: four bytes per number), those of others stay.

    Args:
        folder: of a collection; of several, one after the other in the order of rows.
        column: name of the vectors; the first if None.

    Raises:
        CollectionError: the folder is not a collection; a shard is damaged; there is no such column; or the
            collections have different models.
        ImportError: pyarrow is missing.
    """

    def __init__(self, folder: Folders, *, column: str | None = None) -> None:
        self.folders = _folders(folder)
        self.manifest = Manifest.read(self.folders[0])
        for other in self.folders[1:]:
            advice = f"{other} cannot be searched with it"
            self.manifest.check_same(Manifest.read(other), folder=self.folders[0], advice=advice)
        self.column = self.manifest.column(column)
        self.shards: list[Shard] = []
        self.refresh()

    def refresh(self) -> None:
        """Loads new and changed shards of the folder."""
        found = [
            Shard(path, self.column, self.manifest, place=folder / INDEX)
            for folder in self.folders
            for path in shards(folder)
        ]
        self.shards, self._first = found, np.cumsum([0, *(shard.rows for shard in found)])
        for name in ("keys", "approximate"):
            self.__dict__.pop(name, None)
        count = sum(len(shard.left_out) for shard in found)
        if count:
            total, such = len(self) + count, next(name for shard in found for name in shard.names_left_out())
            where = ", ".join(map(str, self.folders))
            notify(
                f"{where}: {count:,} of {total:,} rows are left out, such as {such}: their features are not finite, or "
                "all zero; the model that made them is broken, or overflows in half precision"
            )

    def left_out(self) -> list[str]:
        """Paths of the valid rows that cannot be searched: their vectors hold NaN or infinity, or only zeros."""
        return [path for shard in self.shards for path in shard.names_left_out()]

    def __len__(self) -> int:
        return int(self._first[-1])

    def __repr__(self) -> str:
        folders = ", ".join(map(str, self.folders))
        return f"Index({folders}: {len(self)} rows, {self.column.name} {list(self.column.shape)})"

    def __iter__(self) -> Iterator[Rows]:
        """The valid rows, shard by shard, with vectors of length 1."""
        for shard in self.shards:
            yield Rows(*shard.columns(), vectors=shard.vectors())

    @cached_property
    def keys(self) -> np.ndarray:
        """uint64 `[rows]`, one key per row. The key stays the same while id, image and vector of the row do."""
        return np.concatenate([np.zeros(0, np.uint64), *(shard.keys for shard in self.shards)])

    @cached_property
    def approximate(self) -> Approximate | None:
        """The approximate index of this collection, which `build(approximate=True)` made; None if there is none.

        Raises:
            ImportError: there is one, and faiss is missing.
        """
        from hierax.collection.approximate import Approximate

        return Approximate.read(self.folders[0], self.column) if len(self.folders) == 1 else None

    def lists(self, approximate: bool | None) -> Approximate | None:
        """The approximate index to search with, as `approximate` says (see `search`); None for exact search.

        Raises:
            ValueError, ImportError: approximate search was requested and is not possible.
        """
        from hierax.collection.approximate import APPROXIMATE_FROM

        if approximate is False or (approximate is None and len(self) < APPROXIMATE_FROM):
            return None
        try:
            built = self.approximate
        except ImportError:
            if approximate:
                raise
            return None
        if approximate and built is None:
            raise ValueError(f"no approximate index in {self.folders[0]}; Index.build(approximate=True) makes one")
        return built

    def tiles(self, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields numbers and vectors (float32 `[R, D]`, length 1) of all rows, or of `rows` (ascending)."""
        step = max(1, _TILE // (4 * self.column.width))
        for shard, first in zip(self.shards, self._first, strict=False):
            wanted = None if rows is None else rows[slice(*np.searchsorted(rows, (first, first + shard.rows)))] - first
            count = shard.rows if wanted is None else len(wanted)
            vectors = shard.vectors() if count else None
            for start in range(0, count, step):
                assert vectors is not None
                places = np.arange(start, min(start + step, count)) if wanted is None else wanted[start : start + step]
                whole = len(places) == places[-1] + 1 - places[0]  # a run of rows needs no copy
                yield places + first, vectors[places[0] : places[-1] + 1] if whole else vectors[places]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """float32 `[len(rows), D]` of length 1, for rows by number in any order."""
        distinct, place = np.unique(rows, return_inverse=True)
        parts = [np.zeros((0, self.column.width), np.float32), *(matrix for _, matrix in self.tiles(distinct))]
        return np.concatenate(parts)[place]

    def names(self, rows: np.ndarray) -> list[Named]:
        """The names of rows, by number in any order."""
        named: dict[int, Named] = {}
        distinct = np.unique(rows)
        for shard, first in zip(self.shards, self._first, strict=False):
            wanted = distinct[slice(*np.searchsorted(distinct, (first, first + shard.rows)))]
            if len(wanted):
                named |= zip(wanted.tolist(), shard.names(wanted - first), strict=True)
        return [named[int(row)] for row in rows]

    def find(self, names: Iterable[str]) -> dict[str, int]:
        """Numbers of rows by id or path; other names are left out."""
        wanted, found = set(names), {}
        for shard, first in zip(self.shards, self._first, strict=False):
            for column in shard.columns()[:2]:
                if not wanted.isdisjoint(column):
                    for place, name in enumerate(column):
                        if name in wanted:
                            found.setdefault(name, int(first) + place)
        return found

    def vectors_of(self, ids: Sequence[str]) -> np.ndarray:
        """float32 `[len(ids), D]`, of length 1, for rows by id or path.

        Raises:
            ValueError: an id or path is not in the collection; names it.
        """
        found = self.find(ids)
        for name in ids:
            if name not in found:
                raise ValueError(f"{name!r} is not the id or path of a row of {self.folders[0]}")
        return self.take(np.array([found[name] for name in ids], np.int64))

    def search(
        self, vectors: Vectors, k: int = 10, *, threshold: float | None = None, approximate: bool | None = None
    ) -> list[list[Hit]]:
        """The `k` most similar rows for every query, best first; rows with equal scores are in the collection's order.

        Exact search compares every row, a few tens of megabytes at a time, whatever the size of the collection.

        Args:
            vectors: `[Q, D]`, of any length but 0.
            k: hits per query; fewer if the collection has fewer rows, or fewer rows reach the threshold.
            threshold: least cosine similarity, -1 to 1.
            approximate: search what `build(approximate=True)` made, and rows that came later exactly; None does so
                from `hierax.collection.approximate.APPROXIMATE_FROM` rows on, if it was built.

        Raises:
            ValueError: shape, k or threshold is wrong; or no approximate index was built.
            ImportError: faiss is missing.
        """
        found = self.neighbours(unit(self._checked(vectors, k, threshold)), k, threshold, approximate)
        names = dict(zip(np.unique(found[1]).tolist(), self.names(np.unique(found[1])), strict=True))
        hits: list[list[Hit]] = [[] for _ in range(len(vectors))]
        for query, row, score in zip(*(part.tolist() for part in found), strict=True):
            hits[query].append(Hit(names[row].id, names[row].path, score))
        return hits

    def neighbours(
        self, queries: np.ndarray, k: int, threshold: float | None = None, approximate: bool | None = None
    ) -> Found:
        """Like `search`, but returns row numbers, for float32 queries `[Q, D]` of length 1."""
        built = self.lists(approximate)
        parts = [_nothing()]
        for start in range(0, len(queries), _QUERIES):
            some = queries[start : start + _QUERIES]
            rows = None if built is None else built.candidates(some, k, self.keys)
            query, row, score = nearest(some, self.tiles(rows), k, least=-1.0 if threshold is None else threshold)
            parts.append((query + start, row, score))
        return _ordered(parts, None)

    def _checked(self, vectors: Vectors, k: int, threshold: float | None) -> np.ndarray:
        array: Any = vectors
        array = np.asarray(array.detach().cpu() if type(array).__module__ == "torch" else array, np.float64)
        if array.ndim != 2 or array.shape[1] != self.column.width:
            raise ValueError(f"vectors has shape {list(array.shape)}; expected [Q, {self.column.width}]")
        if not np.isfinite(array).all():
            raise ValueError("vectors holds NaN or infinity; expected numbers")
        if k < 1:
            raise ValueError(f"k is {k}; expected at least 1")
        if threshold is not None and not -1 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; expected a cosine similarity, -1 to 1")
        return array

    def build(self, *, approximate: bool = False) -> Report | None:
        """Loads new shards; with `approximate`, builds or extends the index for approximate search.

        Returns:
            None, or a `hierax.collection.approximate.Report` with the measured recall against exact search.

        Raises:
            ValueError: there are several collections, or too few rows for such an index.
            ImportError: faiss is missing; names the extra.
            OSError: the folder cannot be written to.
        """
        self.refresh()
        if not approximate:
            return None
        from hierax.collection.approximate import build

        report = build(self)
        self.__dict__.pop("approximate", None)
        return report
