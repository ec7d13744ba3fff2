"""Searches a collection: exactly, shard by shard, or approximately with faiss, which proposes rows to
compare exactly.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hierax.arguments import check_count
from hierax.collection.mapped import INDEX, RowInfo, Shard, unit
from hierax.collection.store import Manifest, Rows, shards
from hierax.notices import notify
from hierax.reprs.text import never_raises, short_repr

if TYPE_CHECKING:
    import torch

    from hierax.collection.approximate import Approximate, Report

DIGITS = 6
"""Number of decimals of a similarity. float32 is not more precise, and equal images get equal scores."""
_TILE = 1 << 25  # bytes of vectors that are compared at the same time
_QUERIES = 512  # number of queries that are compared with a tile at the same time

Vectors: TypeAlias = "np.ndarray | torch.Tensor | Sequence[Sequence[float]]"
Folders: TypeAlias = str | Path | Sequence[str | Path]


@short_repr()
@dataclass(frozen=True)
class Hit:
    """A hit: a row, and its cosine similarity to the query, rounded to six decimals."""

    id: str
    path: str
    score: float


HitArrays: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Query, row and score of all hits, sorted by query, then by score (best first), then by row."""


def nearest(
    queries: np.ndarray, tiles: Iterable[tuple[np.ndarray, np.ndarray]], k: int | None, *, least: float = -1.0
) -> HitArrays:
    """Finds the `k` rows that are most similar to each query (None: all rows), with a similarity of at least `least`.

    Scores are products of float32 vectors that are summed in float64 and rounded. Products in float32 only exclude rows
    that are too far away. So a score does not depend on the division into tiles, and rows with equal scores keep their
    order.

    Args:
        queries: float32 `[Q, D]` of length 1.
        tiles: numbers of rows in ascending order, with their vectors `[R, D]`.
        k: number of rows per query.
        least: minimum cosine similarity.
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
        new = _score_pairs(exact, matrix, numbers, np.nonzero(passing), least)
        if k is None:
            all_found.append(new)
            continue
        found = _sort_hits([found, new], k)
        query = found[0]
        last = np.flatnonzero(np.arange(len(query)) - np.searchsorted(query, query) == k - 1)
        bar[query[last]] = found[2][last]
    return _sort_hits(all_found, None) if k is None else found


def _nothing() -> HitArrays:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)


def _score_pairs(
    exact: np.ndarray, matrix: np.ndarray, numbers: np.ndarray, pairs: tuple[np.ndarray, ...], least: float
) -> HitArrays:
    query, place = pairs
    step = max(1, _TILE // (16 * exact.shape[1]))
    parts = [
        (exact[query[i : i + step]] * matrix[place[i : i + step]].astype(np.float64)).sum(1)
        for i in range(0, len(query), step)
    ]
    score = np.round(np.concatenate(parts), DIGITS).clip(-1, 1) if parts else np.zeros(0)
    keep = score >= least
    return query[keep], numbers[place[keep]], score[keep]


def _sort_hits(parts: Sequence[HitArrays], k: int | None) -> HitArrays:
    query, row, score = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((row, -score, query))
    if k is not None:
        ranked = query[order]
        order = order[np.arange(len(order)) - np.searchsorted(ranked, ranked) < k]
    return query[order], row[order], score[order]


def _folders(folder: Folders) -> list[Path]:
    """The folders of one or several collections, as a list of paths.

    Raises:
        TypeError: an item is not a path.
        ValueError: the list is empty, or a path is empty (it would mean the current folder).
    """
    one = isinstance(folder, (str, os.PathLike))
    if not one and (not isinstance(folder, Iterable) or isinstance(folder, bytes)):
        raise TypeError(f"folder is a {type(folder).__name__}; expected the path of a collection, or several")
    folders = [folder] if one else list(folder)
    if not folders:
        raise ValueError("folder is an empty list; expected at least one collection")
    for path in folders:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"folder contains a {type(path).__name__}; expected paths of collections")
        if not os.fspath(path):
            raise ValueError("folder is an empty path; expected the path of a collection")
    return [Path(path) for path in folders]


def opened_index(folder: Folders | Index, column: str | None) -> Index:
    """The index of a folder; an index that is open already is returned.

    Raises:
        CollectionError: see `Index`.
        ValueError: the open index is of another column.
    """
    if not isinstance(folder, Index):
        return Index(folder, column=column)
    if column not in (None, folder.column.name):
        raise ValueError(
            f"column is {column!r}, but the index is of the column {folder.column.name!r}; expected the same"
        )
    return folder


class Index:
    """An open collection, or several collections that were made with the same settings.

    It searches the shards that the folder had when it was opened. `refresh` loads new and changed shards. The vectors
    of a shard are stored in `index/` of the folder as memory-mapped files (four bytes per number).

    Args:
        folder: the folder of a collection, or several folders; their rows follow each other in this order.
        column: name of the column of vectors; None: the first.

    Raises:
        CollectionError: the folder is not a collection, or a shard is damaged, or there is no such column, or the
            collections were made by different models.
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
                "all zero; the model is damaged, or its features overflow in half precision"
            )

    def left_out(self) -> list[str]:
        """The paths of valid rows that cannot be searched, because their vectors contain NaN, infinity, or
        only zeros.
        """
        return [path for shard in self.shards for path in shard.names_left_out()]

    def __len__(self) -> int:
        return int(self._first[-1])

    @never_raises
    def __repr__(self) -> str:
        folders = ", ".join(map(str, self.folders))
        return f"Index({folders}: {len(self)} rows, {self.column.name} {list(self.column.shape)})"

    def __iter__(self) -> Iterator[Rows]:
        """Yields the valid rows, shard by shard, with vectors of length 1."""
        for shard in self.shards:
            yield Rows(*shard.columns(), vectors=shard.vectors())

    @cached_property
    def keys(self) -> np.ndarray:
        """uint64 `[rows]`, one key per row. The key changes only if the id, the image or the vector of the
        row changes.
        """
        return np.concatenate([np.zeros(0, np.uint64), *(shard.keys for shard in self.shards)])

    @cached_property
    def approximate(self) -> Approximate | None:
        """The approximate index that `build(approximate=True)` made; None if there is none.

        Raises:
            ImportError: there is an index, and faiss is missing.
        """
        from hierax.collection.approximate import Approximate

        return Approximate.read(self.folders[0], self.column) if len(self.folders) == 1 else None

    def lists(self, approximate: bool | None) -> Approximate | None:
        """The approximate index to use, according to `approximate` (see `search`); None for exact search.

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
            raise ValueError(f"no approximate index in {self.folders[0]}; Index.build(approximate=True) builds one")
        return built

    def tiles(self, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the numbers and vectors (float32 `[R, D]`, length 1) of all rows, or of `rows` (in
        ascending order).
        """
        step = max(1, _TILE // (4 * self.column.width))
        for shard, first in zip(self.shards, self._first, strict=False):
            wanted = None if rows is None else rows[slice(*np.searchsorted(rows, (first, first + shard.rows)))] - first
            count = shard.rows if wanted is None else len(wanted)
            vectors = shard.vectors() if count else None
            for start in range(0, count, step):
                assert vectors is not None
                places = np.arange(start, min(start + step, count)) if wanted is None else wanted[start : start + step]
                whole = len(places) == places[-1] + 1 - places[0]  # consecutive rows need no copy
                yield places + first, vectors[places[0] : places[-1] + 1] if whole else vectors[places]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of rows with these numbers, in any order: float32 `[len(rows), D]` of length 1."""
        distinct, place = np.unique(rows, return_inverse=True)
        parts = [np.zeros((0, self.column.width), np.float32), *(matrix for _, matrix in self.tiles(distinct))]
        return np.concatenate(parts)[place]

    def names(self, rows: np.ndarray) -> list[RowInfo]:
        """The names of the rows with these numbers, in any order."""
        named: dict[int, RowInfo] = {}
        distinct = np.unique(rows)
        for shard, first in zip(self.shards, self._first, strict=False):
            wanted = distinct[slice(*np.searchsorted(distinct, (first, first + shard.rows)))]
            if len(wanted):
                named |= zip(wanted.tolist(), shard.names(wanted - first), strict=True)
        return [named[int(row)] for row in rows]

    def find(self, names: Iterable[str]) -> dict[str, int]:
        """The numbers of rows, by their id or path. Names that are not in the collection are left out."""
        wanted, found = set(names), {}
        for shard, first in zip(self.shards, self._first, strict=False):
            for column in shard.columns()[:2]:
                if not wanted.isdisjoint(column):
                    for place, name in enumerate(column):
                        if name in wanted:
                            found.setdefault(name, int(first) + place)
        return found

    def vectors_of(self, ids: Sequence[str]) -> np.ndarray:
        """The vectors of rows with these ids or paths: float32 `[len(ids), D]`, of length 1.

        Raises:
            ValueError: an id or path is not in the collection; the message names it.
        """
        ids = [ids] if isinstance(ids, str) else ids
        found = self.find(ids)
        for name in ids:
            if name not in found:
                raise ValueError(f"{name!r} is not the id or path of a row of {self.folders[0]}")
        return self.take(np.array([found[name] for name in ids], np.int64))

    def search(
        self, vectors: Vectors, k: int = 10, *, threshold: float | None = None, approximate: bool | None = None
    ) -> list[list[Hit]]:
        """Finds the `k` most similar rows for every query.

        Exact search compares every row. It needs a few tens of megabytes of memory for any size of the collection.

        Args:
            vectors: `[Q, D]`, of any length except 0.
            k: number of hits per query; fewer if fewer rows reach the threshold.
            threshold: minimum cosine similarity, -1 to 1.
            approximate: use the index of `build(approximate=True)`; rows that were added later are searched exactly.
                None: do so if there is such an index and the collection has at least
                `hierax.collection.approximate.APPROXIMATE_FROM` rows.

        Returns:
            The hits of every query, best first. Rows with equal scores are in the order of the collection.

        Raises:
            ValueError: shape, k or threshold is wrong; or there is no approximate index.
            ImportError: faiss is missing.
        """
        found = self.neighbors(unit(self._check_vectors(vectors, k, threshold)), k, threshold, approximate)
        names = dict(zip(np.unique(found[1]).tolist(), self.names(np.unique(found[1])), strict=True))
        hits: list[list[Hit]] = [[] for _ in range(len(vectors))]
        for query, row, score in zip(*(part.tolist() for part in found), strict=True):
            hits[query].append(Hit(names[row].id, names[row].path, score))
        return hits

    def neighbors(
        self, queries: np.ndarray, k: int, threshold: float | None = None, approximate: bool | None = None
    ) -> HitArrays:
        """Like `search`, but returns row numbers, for float32 queries `[Q, D]` of length 1."""
        built = self.lists(approximate)
        parts = [_nothing()]
        for start in range(0, len(queries), _QUERIES):
            batch = queries[start : start + _QUERIES]
            rows = None if built is None else built.candidates(batch, k, self.keys)
            query, row, score = nearest(batch, self.tiles(rows), k, least=-1.0 if threshold is None else threshold)
            parts.append((query + start, row, score))
        return _sort_hits(parts, None)

    neighbours = neighbors
    """The former spelling of `neighbors`."""

    def _check_vectors(self, vectors: Vectors, k: int, threshold: float | None) -> np.ndarray:
        array: Any = vectors
        array = np.asarray(array.detach().cpu() if type(array).__module__ == "torch" else array, np.float64)
        if array.ndim != 2 or array.shape[1] != self.column.width:
            raise ValueError(f"vectors has shape {list(array.shape)}; expected [Q, {self.column.width}]")
        if not np.isfinite(array).all():
            raise ValueError("vectors contains NaN or infinity; expected finite numbers")
        check_count("k", k)
        if threshold is not None and not -1 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; expected a cosine similarity, -1 to 1")
        return array

    def build(self, *, approximate: bool = False) -> Report | None:
        """Loads new shards. With `approximate`, builds or extends the index for approximate search.

        Returns:
            None, or with `approximate` a `hierax.collection.approximate.Report` with the recall that was measured.

        Raises:
            ValueError: there are several collections, or too few rows for such an index.
            ImportError: faiss is missing; the message names the extra.
            OSError: the folder cannot be written to.
        """
        self.refresh()
        if not approximate:
            return None
        from hierax.collection.approximate import build

        report = build(self)
        self.__dict__.pop("approximate", None)
        return report
