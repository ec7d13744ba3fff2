"""Finds duplicates in a collection: equal files by their hash, near duplicates by their similarity."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from hierax.atomic import atomic_write
from hierax.collection.approximate import positions
from hierax.collection.blank import blank_rows
from hierax.collection.checked import DAMAGED, read_arrays
from hierax.collection.index import DIGITS, HitArrays, Index, nearest, opened_index
from hierax.collection.mapped import INDEX, unit
from hierax.collection.store import MARK, has_windows
from hierax.collection.verify import verify_pairs
from hierax.folders import make_room
from hierax.processing import DEFAULT_MAX_PIXELS
from hierax.reprs.text import short_repr

if TYPE_CHECKING:
    from hierax.collection.approximate import Approximate
    from hierax.collection.index import Folders

Linkage = Literal["chain", "first"]
Transform = Callable[[np.ndarray], np.ndarray]

_BLOCK = 1024  # number of rows that are compared with all others at the same time
_NEIGHBORS = 5  # number of neighbors to request; faiss proposes fifty rows for it
_WIDEST = 8192  # maximum number of values in a vector for whitening


@short_repr()
@dataclass(frozen=True)
class Member:
    """A row of a group.

    Attributes:
        id, path: the id and path of the row.
        score: cosine similarity to the first row of the group (after whitening, if requested).
        exact: whether its file has the same hash as the first row; for segments of videos, the start must be the same
            too.
        blank: whether the image has only one color, such as an empty page.
    """

    id: str
    path: str
    score: float
    exact: bool
    blank: bool = False


@short_repr()
@dataclass(frozen=True)
class Group:
    """A group of duplicate images, of similar segments of videos, or of blank images, in the order of the
    collection.
    """

    members: tuple[Member, ...]

    @property
    def blank(self) -> bool:
        """Whether all its images are blank. Images of one color look alike, but are usually not copies."""
        return all(member.blank for member in self.members)


class Whitening:
    """Whitens vectors: they are centered, projected on their principal components, and divided by the standard
    deviation of each component. Everything is computed from the collection itself.

    The features of all images have much in common, which hides their differences. After whitening, all directions have
    equal weight. Directions with less than `floor` times the variance of the first are rounding noise, and are dropped.
    """

    def __init__(self, index: Index, *, components: int | None = None, floor: float = 1e-6) -> None:
        width = index.column.width
        if width > _WIDEST:
            raise ValueError(f"column {index.column.name} has {width} numbers per row; whitening takes up to {_WIDEST}")
        total, products, count = np.zeros(width), np.zeros((width, width)), max(1, len(index))
        for _, matrix in index.tiles():
            wide = matrix.astype(np.float64)
            total += wide.sum(0)
            products += wide.T @ wide
        mean = total / count
        values, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
        values, vectors = values[::-1], vectors[:, ::-1]
        least = max(floor * values[0], 1e-14)  # if all rows are equal, there is no direction, and all become zeros
        count = max(1, min(int((values > least).sum()), components or width))
        scale = np.where(values > least, 1 / np.sqrt(np.maximum(values, least)), 0)
        self.mean = mean.astype(np.float32)
        self.matrix = (vectors * scale)[:, :count].astype(np.float32)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Whitened vectors, float32 `[R, components]` of length 1, for vectors `[R, D]` of length 1."""
        return unit((vectors - self.mean) @ self.matrix)


def duplicates(
    folder: Folders | Index,
    *,
    threshold: float = 0.95,
    column: str | None = None,
    whiten: bool = False,
    components: int | None = None,
    linkage: Linkage = "chain",
    approximate: bool | None = None,
    verify: bool = False,
    fetch: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    on_progress: Callable[[int, int], object] | None = None,
    on_unreadable: Callable[[str], object] | None = None,
) -> list[Group]:
    """Finds groups of rows that show the same image.

    Rows with equal files (by hash) count as one row; segments of videos must also start at the same time. Two rows are
    a pair if their cosine similarity is at least `threshold`.

    With `linkage="chain"`, a group contains all rows that are connected by pairs. If a is similar to b, and b is
    similar to c, the group contains all three, although a and c may be less similar than the threshold. Long chains,
    such as the frames of a film, become one group. With `linkage="first"`, the first row forms a group with all its
    pairs; then the first of the remaining rows does the same, and so on. Every row is then similar to the first row of
    its group, but some pairs are separated.

    Rows are compared block by block. Only pairs above the threshold are stored (24 bytes each), in memory and in
    `index/` of the folder. Another run compares only new rows with all rows, and drops pairs with rows that are gone.
    The result is the same as a run from scratch. After whitening, a run always starts from scratch if a row was added
    or removed, because this changes all vectors.

    Args:
        folder: the folder of one or several collections, or a `hierax.Index` that is open.
        threshold: minimum cosine similarity of a pair.
        column: name of the column of vectors; None: the first.
        whiten: compare after `Whitening`, for features in which all images are similar. Similarities are then lower.
        components: number of directions that whitening keeps; None: all except noise.
        linkage: see above.
        approximate: compare each row only with the fifty rows that the index of `Index.build(approximate=True)`
            proposes. None: do so if there is such an index and the collection has at least
            `hierax.collection.approximate.APPROXIMATE_FROM` rows. Not possible with `whiten`.
        verify: keep only pairs that are also the same image by their pixels (`hierax.collection.verify`). Every image
            of a pair is read again; one may be cropped by a tenth at each edge. The threshold can then be lower. Copies
            that were made brighter or mirrored are not found.
        fetch: with `verify`, also read images from URLs and from tables of the Hub; otherwise they count as unreadable.
        max_pixels: with `verify`, larger images count as unreadable; None: no limit.
        on_progress: called with the number of rows that were compared so far, and of all; with `verify`, then also with
            the number of images that were read so far, and of all.
        on_unreadable: called with the path of every image that `verify` can no longer read, or that has changed since
            it was embedded. Its pairs are dropped, except for equal files.

    Returns:
        The groups, the largest first; groups of equal size are in the order of their first rows. Groups of blank images
        (`Group.blank`) come last. Files that may be blank, judged by their size, are read again to check it.

    Raises:
        CollectionError: see `Index`.
        ValueError: threshold or linkage is wrong; or `components` is given without `whiten`; or `approximate` is given
            with `whiten`; or there is no approximate index.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; expected a cosine similarity above 0, up to 1")
    if linkage not in ("chain", "first"):
        raise ValueError(f"linkage is {linkage!r}; expected 'chain' or 'first'")
    if components is not None and not whiten:
        raise ValueError(f"components is {components}, but whiten is False; expected whiten=True")
    if whiten and approximate:
        raise ValueError("approximate=True and whiten=True exclude each other; whitened vectors are compared exactly")
    index = opened_index(folder, column)
    built = None if whiten else index.lists(approximate)
    transform: Transform = Whitening(index, components=components) if whiten else _same
    hashes = _hashes(index)
    _, firsts, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    stands_for = firsts[inverse]  # the first row with the same file, for every row
    rows = np.unique(stands_for)
    kind = f"white{components or ''}" if whiten else "faiss" if built else "exact"
    compare = _Compare(index, transform, built, on_progress)
    left, right = _Pairs(index, kind).find(rows, threshold, compare, afresh=whiten)
    if verify:
        same = verify_pairs(
            index, left, right, on_progress=on_progress, on_unreadable=on_unreadable, fetch=fetch, max_pixels=max_pixels
        )
        left, right = left[same], right[same]
    roots = (_chain_groups if linkage == "chain" else _by_first)(left, right, len(index))[stands_for]
    groups = _groups(index, roots, hashes, transform)
    return _with_blanks(index, groups, fetch=fetch, max_pixels=max_pixels)


def _with_blanks(index: Index, groups: list[Group], *, fetch: bool, max_pixels: int | None) -> list[Group]:
    """Marks the blank members of the groups, and sorts groups of blank images last."""
    ids = [member.id for group in groups for member in group.members]
    named = index.names(np.array(list(index.find(ids).values()), np.int64)) if ids else []
    blank = blank_rows(index.folders, named, fetch=fetch, max_pixels=max_pixels)
    marked = [Group(tuple(replace(m, blank=m.id in blank) for m in group.members)) for group in groups]
    return sorted(marked, key=lambda group: group.blank)


def _same(vectors: np.ndarray) -> np.ndarray:
    return vectors


def _hashes(index: Index) -> np.ndarray:
    """uint64 `[rows]`: rows with equal files have equal numbers; for segments, the start must be equal too. A row
    without a hash has a unique number.
    """
    found, row, windows = np.array(index.keys), 0, has_windows(index.manifest)
    for shard in index.shards:
        _, paths, hashes = shard.columns()
        for path, text in zip(paths, hashes, strict=True):
            if text:
                time = path.rpartition(MARK)[2] if windows else ""
                found[row] = int.from_bytes(hashlib.blake2b(f"{text}{time}".encode(), digest_size=8).digest(), "little")
            row += 1
    return found


_CACHED: dict[str, tuple[type, int]] = {
    "known": (np.uint64, 1),
    "left": (np.uint64, 1),
    "right": (np.uint64, 1),
    "score": (np.float64, 1),
    "threshold": (np.float64, 0),
}


class _Pairs:
    """A cache of the pairs that were found in a collection, in a file of `index/`. Rows are identified by
    their keys.
    """

    def __init__(self, index: Index, kind: str) -> None:
        self._index = index
        self._file = index.folders[0] / INDEX / f"pairs.{index.column.name}.{kind}.npz"
        self._known, self._left, self._right = (np.zeros(0, np.uint64) for _ in range(3))
        self._score, self._threshold = np.zeros(0), 0.0
        if len(index.folders) > 1:
            return
        with contextlib.suppress(*DAMAGED):
            values = read_arrays(self._file, _CACHED)
            arrays = [values[name] for name in ("known", "left", "right", "score")]
            threshold = float(values["threshold"])
            if len({len(part) for part in arrays[1:]}) == 1 and 0 < threshold <= 1:
                self._known, self._left, self._right, self._score = arrays
                self._threshold = threshold

    def find(
        self, rows: np.ndarray, threshold: float, compare: _Compare, *, afresh: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of these rows with at least this similarity, as two arrays of row numbers. New rows are compared,
        and their pairs are stored. With `afresh`, all rows are compared again if the rows have changed.
        """
        keys = self._index.keys[rows]
        known = positions(keys, self._known) >= 0
        same = bool(known.all()) and len(self._known) == len(keys)
        if self._threshold > threshold or not known.any() or (afresh and not same):
            known[:], same, self._threshold = False, False, threshold
        ends = [positions(side, keys) for side in (self._left, self._right)]
        stay = (ends[0] >= 0) & (ends[1] >= 0) & known.any()
        old = rows[ends[0][stay]], rows[ends[1][stay]], self._score[stay]
        new = compare(rows, known, self._threshold)
        left, right = np.concatenate([old[0], new[0]]), np.concatenate([old[1], new[1]])
        score = np.concatenate([old[2], new[2]])
        if not same:
            self._keep(keys, self._index.keys[left], self._index.keys[right], score)
        enough = score >= threshold
        return left[enough], right[enough]

    def _keep(self, known: np.ndarray, left: np.ndarray, right: np.ndarray, score: np.ndarray) -> None:
        if len(self._index.folders) > 1:
            return
        with contextlib.suppress(OSError), contextlib.closing(io.BytesIO()) as content:
            np.savez(content, known=known, left=left, right=right, score=score, threshold=np.float64(self._threshold))
            make_room(self._file.parent, folder=True)
            make_room(self._file)
            self._file.parent.mkdir(exist_ok=True)
            with atomic_write(self._file) as part:
                part.write_bytes(content.getvalue())


@dataclass(frozen=True)
class _Compare:
    """Searches for pairs of rows."""

    index: Index
    transform: Transform
    built: Approximate | None
    on_progress: Callable[[int, int], object] | None

    def __call__(self, rows: np.ndarray, known: np.ndarray, least: float) -> HitArrays:
        """The pairs that contain at least one new row: the lower row number, the higher one, and the similarity."""
        fresh = rows[~known]
        parts: list[HitArrays] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
        for start in range(0, len(fresh), _BLOCK):
            block = fresh[start : start + _BLOCK]
            vectors = self.index.take(block)
            if self.built is None:
                others = rows[
                    known | (rows >= block[0])
                ]  # the new rows before this block were already compared with it
            else:
                others = np.intersect1d(rows, self.built.candidates(vectors, _NEIGHBORS, self.index.keys))
            tiles = ((numbers, self.transform(matrix)) for numbers, matrix in self.index.tiles(others))
            query, row, score = nearest(self.transform(vectors), tiles, None, least=least)
            apart = block[query] != row
            parts.append((np.minimum(block[query], row)[apart], np.maximum(block[query], row)[apart], score[apart]))
            if self.on_progress is not None:
                self.on_progress(start + len(block), len(fresh))
        left, right, score = (np.concatenate(part) for part in zip(*parts, strict=True))
        _, place = np.unique(left * len(self.index) + right, return_index=True)
        return left[place], right[place], score[place]


def _chain_groups(left: np.ndarray, right: np.ndarray, count: int) -> np.ndarray:
    """The first row of the group of every row, with linkage "chain"."""
    parents = list(range(count))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = row = parents[parents[row]]
        return row

    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        a, b = sorted((root(one), root(other)))
        parents[b] = a
    return np.array([root(row) for row in range(count)], np.int64)


def _by_first(left: np.ndarray, right: np.ndarray, count: int) -> np.ndarray:
    """The first row of the group of every row, with linkage "first"."""
    roots, taken = np.arange(count), np.zeros(count, bool)
    for place in np.lexsort((right, left)):  # sorted by the lower row: it is then known whether that row is taken
        first, other = left[place], right[place]
        if (not taken[first]) and not taken[other]:
            roots[other], taken[other] = first, True
    return roots


def _groups(index: Index, roots: np.ndarray, hashes: np.ndarray, transform: Transform) -> list[Group]:
    counts = np.bincount(roots, minlength=len(roots))
    members = np.flatnonzero(counts[roots] > 1)
    order = members[np.lexsort((members, roots[members], -counts[roots[members]]))]
    scores = np.concatenate([np.zeros(0), *_to_first(index, order, roots, transform)])
    groups: list[list[Member]] = []
    for row, named, score in zip(order.tolist(), index.names(order), scores.tolist(), strict=True):
        if roots[row] == row:
            groups.append([])
        groups[-1].append(Member(named.id, named.path, score, bool(hashes[row] == hashes[roots[row]])))
    return [Group(tuple(group)) for group in groups]


def _to_first(index: Index, order: np.ndarray, roots: np.ndarray, transform: Transform) -> Iterator[np.ndarray]:
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        pair = [transform(index.take(side)).astype(np.float64) for side in (rows, roots[rows])]
        yield np.round((pair[0] * pair[1]).sum(1), DIGITS).clip(-1, 1)
