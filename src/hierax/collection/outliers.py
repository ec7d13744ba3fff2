"""Finds unusual images in a collection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hierax.collection.index import DIGITS, Index, nearest

if TYPE_CHECKING:
    from hierax.collection.index import Folders

_BLOCK = 512


@dataclass(frozen=True)
class Outlier:
    """A row, and its distance from the nearest rows.

    Attributes:
        id, path: of the row.
        score: 0 is equal to its neighbors, 1 unlike them, up to 2.
        copies: number of other outliers that are near copies of it and left out.
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
    """The `count` rows that are farthest from their neighbors, farthest first; rows with equal scores are in the
    collection's order.

    The score of a row is 1 minus the mean of its cosine similarities to the `k` rows most similar to it, itself left
    out: the mean cosine distance to its k nearest neighbors. A strange image that is there `k + 1` times is no
    outlier by this; `duplicates` finds it. Of outliers that are near copies of each other the first stands for all.

    Args:
        folder: of a collection, or several (see `Index`).
        count: how many rows.
        k: neighbors of a row; all others where there are fewer.
        column: name of the vectors; the first if None.
        references: neighbors are sought among at most so many rows, taken at even distances from a larger collection;
            what is returned are distances to these. Time grows with rows times references.
        alike: least cosine similarity of near copies; None leaves all of them in.
        on_progress: is called with the number of rows done so far, and of all.

    Raises:
        CollectionError: see `Index`.
        ValueError: count, k or references is below 1, or alike is not in 0 to 1.
    """
    for name, value in (("count", count), ("k", k), ("references", references)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    if alike is not None and not 0 < alike <= 1:
        raise ValueError(f"alike is {alike}; expected a cosine similarity above 0, up to 1")
    index = folder if isinstance(folder, Index) else Index(folder, column=column)
    parts, done = [np.zeros(0)], 0
    for part in _scores(index, k, references):
        parts.append(part)
        done += len(part)
        if on_progress is not None:
            on_progress(done, len(index))
    scores = np.concatenate(parts)
    order = np.lexsort((np.arange(len(scores)), -scores))
    copies = np.zeros(count, np.int64)
    order = order[:count] if alike is None else _without_copies(index, order, count, alike, copies)
    named = zip(index.names(order), scores[order].tolist(), copies.tolist(), strict=False)
    return [Outlier(n.id, n.path, score, number) for n, score, number in named]


def _without_copies(index: Index, order: np.ndarray, count: int, alike: float, copies: np.ndarray) -> np.ndarray:
    """The first `count` rows in this order without near copies of those before; counts these."""
    chosen, vectors = np.zeros(0, np.int64), np.zeros((0, index.column.width), np.float32)
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        for row, vector in zip(block.tolist(), index.take(block), strict=True):
            like = np.flatnonzero(vectors @ vector >= alike)
            if len(like):
                copies[like[0]] += 1
            elif len(chosen) == count:
                return chosen
            else:
                chosen, vectors = np.append(chosen, row), np.concatenate([vectors, vector[None]])
    return chosen


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
