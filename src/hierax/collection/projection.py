"""Projects a collection to two dimensions: similar images are close together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hierax.arguments import check_count
from hierax.collection.index import Index, opened_index
from hierax.extras import missing_package
from hierax.principal import principal_scores
from hierax.reprs.text import short_repr

if TYPE_CHECKING:
    from hierax.collection.index import Folders

Method = Literal["auto", "tsne", "pca"]
COMPONENTS = 50
"""Number of principal components that are the input of t-SNE."""


_EQUAL = 1e-6  # vectors of length 1 that differ less are equal except for rounding


@short_repr()
@dataclass(frozen=True)
class Point:
    """A row and its position: x and y are from 0 to 1."""

    id: str
    path: str
    x: float
    y: float


@short_repr()
@dataclass(frozen=True)
class Layout:
    """The positions of rows.

    Attributes:
        points: the points, in the order of the collection.
        rows: number of rows in the collection; the points may be a sample of them.
        method: the method that was used, "tsne" or "pca".
    """

    points: tuple[Point, ...]
    rows: int
    method: str


def layout(
    folder: Folders | Index, *, points: int = 5000, column: str | None = None, method: Method = "auto"
) -> Layout:
    """Computes positions for at most `points` rows, which are evenly spaced in a larger collection.

    The vectors (of length 1) are reduced to their first 50 principal components. If scikit-learn is installed, t-SNE
    reduces these to two dimensions (perplexity 30, initialized with the first two components, a fixed seed). Points
    that are close together are then similar; distances between far points and the sizes of clusters have no meaning.
    "pca" uses the first two components: the distances are true, but many differences are not visible.

    Args:
        folder: the folder of one or several collections, or a `hierax.Index` that is open.
        points: maximum number of points; t-SNE takes about a minute for 5000.
        column: name of the column of vectors; None: the first.
        method: "auto" means "tsne" if scikit-learn is installed, otherwise "pca". If there are fewer than five rows, or
            all rows are equal, "pca" is always used.

    Raises:
        CollectionError: see `Index`.
        ValueError: points is below 1, or the method is unknown.
        ImportError: "tsne" needs scikit-learn.
    """
    check_count("points", points)
    if method not in ("auto", "tsne", "pca"):
        raise ValueError(f"method is {method!r}; expected 'auto', 'tsne' or 'pca'")
    tsne = None if method == "pca" else _tsne()
    if method == "tsne" and tsne is None:
        raise missing_package("t-SNE", "sklearn")
    index = opened_index(folder, column)
    rows = np.unique(np.linspace(0, len(index) - 1, min(points, len(index))).astype(np.int64))
    vectors = index.take(rows)
    vectors = np.where(np.isfinite(vectors), vectors, 0)  # a mapped file may be damaged
    components = principal_scores(vectors, count=COMPONENTS)
    spread = float(components[:, 0].std()) if len(rows) else 0.0
    if tsne is None or len(rows) < 5 or spread < _EQUAL:  # too few rows for neighbors, or all rows are equal
        places, used = components[:, :2], "pca"
    else:
        perplexity = min(30.0, (len(rows) - 1) / 4)
        begin = components[:, :2] / spread * 1e-4  # scikit-learn would divide by 0 if rows are equal
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
