"""Lays a collection out in two dimensions: similar images are close together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hierax.collection.index import Index
from hierax.extras import missing_package
from hierax.principal import principal_scores

if TYPE_CHECKING:
    from hierax.collection.index import Folders

Method = Literal["auto", "tsne", "pca"]
COMPONENTS = 50
"""Principal components that t-SNE is given."""


_EQUAL = 1e-6  # vectors of length 1 that differ less are equal but for rounding


@dataclass(frozen=True)
class Point:
    """A row and its position: x and y from 0 to 1."""

    id: str
    path: str
    x: float
    y: float


@dataclass(frozen=True)
class Layout:
    """The positions of rows.

    Attributes:
        points: in the order of the collection.
        rows: in the collection, of which the points may be a sample.
        method: "tsne" or "pca".
    """

    points: tuple[Point, ...]
    rows: int
    method: str


def layout(
    folder: Folders | Index, *, points: int = 5000, column: str | None = None, method: Method = "auto"
) -> Layout:
    """Positions for at most `points` rows, evenly spaced in a larger collection.

    The vectors, at length 1, are reduced to their first 50 principal components, and these to two dimensions by t-SNE
    (perplexity 30, begun from the first two components, a fixed seed) where scikit-learn is installed. Near points are
    alike then; distances between far ones, and the sizes of clusters, mean nothing. "pca" is the first two components:
    true distances, much hidden.

    Args:
        folder: of a collection, or several (see `Index`).
        points: at most so many; t-SNE takes about a minute for 5000.
        column: name of the vectors; the first if None.
        method: "auto" is "tsne" where scikit-learn is there, else "pca". Fewer than five rows, and rows that are all
            equal, are always laid out by "pca".

    Raises:
        CollectionError: see `Index`.
        ValueError: points is below 1, or the method is unknown.
        ImportError: "tsne" needs scikit-learn.
    """
    if points < 1:
        raise ValueError(f"points is {points}; expected at least 1")
    if method not in ("auto", "tsne", "pca"):
        raise ValueError(f"method is {method!r}; expected 'auto', 'tsne' or 'pca'")
    tsne = None if method == "pca" else _tsne()
    if method == "tsne" and tsne is None:
        raise missing_package("t-SNE", "sklearn")
    index = folder if isinstance(folder, Index) else Index(folder, column=column)
    rows = np.unique(np.linspace(0, len(index) - 1, min(points, len(index))).astype(np.int64))
    vectors = index.take(rows)
    vectors = np.where(np.isfinite(vectors), vectors, 0)  # a mapped file that was tampered with
    components = principal_scores(vectors, count=COMPONENTS)
    spread = float(components[:, 0].std()) if len(rows) else 0.0
    if tsne is None or len(rows) < 5 or spread < _EQUAL:  # too few for neighbors, or nothing to tell rows apart by
        places, used = components[:, :2], "pca"
    else:
        perplexity = min(30.0, (len(rows) - 1) / 4)
        begin = components[:, :2] / spread * 1e-4  # scikit-learn's own divides by 0 where rows are equal, and crashes
        places = tsne(perplexity=perplexity, init=begin, random_state=0).fit_transform(components)
        used = "tsne"
    low, high = (places.min(0), places.max(0)) if len(places) else (np.zeros(2), np.ones(2))
    scaled = np.where(high - low < _EQUAL, 0.5, (places - low) / np.maximum(high - low, _EQUAL))
    named = zip(index.names(rows), scaled.tolist(), strict=True)
    return Layout(tuple(Point(n.id, n.path, round(x, 5), round(y, 5)) for n, (x, y) in named), len(index), used)


def has_tsne() -> bool:
    """Whether scikit-learn is installed."""
    return _tsne() is not None


def _tsne() -> Any:
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None
    return TSNE
