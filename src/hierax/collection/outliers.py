"""Finds unusual images in a collection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hierax.arguments import check_count
from hierax.collection.index import DIGITS, Index, nearest, opened_index
from hierax.reprs.text import short_repr

if TYPE_CHECKING:
    from hierax.collection.index import Folders

_BLOCK = 512


@short_repr()
@dataclass(frozen=True)
class Outlier:
    """A row, and its distance from the nearest rows.

    Attributes:
        id, path: the id and path of the row.
        score: mean cosine distance to the nearest rows, from 0 (equal) to 2.
        copies: number of other outliers that are near copies of this row; they are not listed.
    """

    id: str
    path: str
    score: float
    copies: int = 0


def outliers(
    folder: Folders | Index,
    count: int = 100,
    *,
    k: int = 10,
    column: str | None = None,
    references: int = 50_000,
    alike: float | None = 0.95,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[Outlier]:
    """Finds the `count` rows that are farthest from their nearest neighbors.

    The score of a row is its mean cosine distance (1 - similarity) to its `k` nearest neighbors, without the row
    itself. An unusual image that the collection contains `k + 1` times is not an outlier; `duplicates` finds it. If
    several outliers are near copies of each other, only the first is returned.

    Args:
        folder: the folder of one or several collections, or a `hierax.Index` that is open.
        count: maximum number of rows to return.
        k: number of neighbors of a row; all other rows if there are fewer. A lone row is no outlier.
        column: name of the column of vectors; None: the first.
        references: maximum number of rows among which neighbors are searched. They are evenly spaced in a larger
            collection, and the scores are distances to these rows. The time is proportional to rows times references.
        alike: minimum cosine similarity of near copies; None: copies are not removed.
        on_progress: called with the number of rows that are done so far, and the number of all rows.

    Returns:
        The rows, farthest first. Rows with equal scores are in the order of the collection.

    Raises:
        CollectionError: see `Index`.
        ValueError: count, k or references is below 1, or alike is not above 0 and at most 1.
    """
    for name, value in (("count", count), ("k", k), ("references", references)):
        check_count(name, value)
    if alike is not None and not 0 < alike <= 1:
        raise ValueError(f"alike is {alike}; expected a cosine similarity above 0, up to 1")
    index = opened_index(folder, column)
    if len(index) < 2:
        return []
    parts, done = [np.zeros(0)], 0
    for part in _scores(index, k, references):
        parts.append(part)
        done += len(part)
        if on_progress is not None:
            on_progress(done, len(index))
    scores = np.concatenate(parts)
    order = np.lexsort((np.arange(len(scores)), -scores))
    count = min(count, len(scores))
    copies = np.zeros(count, np.int64)
    order = order[:count] if alike is None else _without_copies(index, order, count, alike, copies)
    named = zip(index.names(order), scores[order].tolist(), copies.tolist(), strict=False)
    return [Outlier(n.id, n.path, score, number) for n, score, number in named]


def _without_copies(index: Index, order: np.ndarray, count: int, alike: float, copies: np.ndarray) -> np.ndarray:
    """The first `count` rows in this order, without near copies of earlier rows. Counts the copies in `copies`."""
    rows, vectors, found = np.zeros(count, np.int64), np.zeros((count, index.column.width), np.float32), 0
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        for row, vector in zip(block.tolist(), index.take(block), strict=True):
            like = np.flatnonzero(vectors[:found] @ vector >= alike)
            if len(like):
                copies[like[0]] += 1
            elif found == count:
                return rows
            else:
                rows[found], vectors[found] = row, vector
                found += 1
    return rows[:found]


def _scores(index: Index, k: int, references: int) -> Iterator[np.ndarray]:
    sample = None
    if len(index) > references:
        rows = np.unique(np.linspace(0, len(index) - 1, references).astype(np.int64))
        sample = [(numbers, np.array(matrix)) for numbers, matrix in index.tiles(rows)]
    for start in range(0, len(index), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(index)))
        query, row, score = nearest(index.take(rows), sample or index.tiles(), k + 1)
        apart = row != rows[query]
        query, score = query[apart], score[apart]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        query, score = query[rank < k], score[rank < k]
        found = np.bincount(query, minlength=len(rows))
        total = np.bincount(query, weights=score, minlength=len(rows))
        yield np.round(1 - total / np.maximum(found, 1), DIGITS)
