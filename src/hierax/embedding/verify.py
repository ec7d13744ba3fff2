"""Whether two pictures are one by their pixels: small versions are laid on each other and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from hierax.embedding.pages import pictures

if TYPE_CHECKING:
    from hierax.embedding.index import Index

SAME = 0.985
"""Share of the variance that two pictures must have in common to be one."""
SIDE = 32  # pixels of the small versions
_STEPS = 6  # of the search for the place; twelve find no more
_BLOCK = 512  # pairs compared at a time
_REACH = 0.12  # of the side that a picture may lack at each edge
_PLAIN = 9.0  # grey levels of deviation that count at the least: in a plain picture all variance is noise


def verified(
    index: Index, left: np.ndarray, right: np.ndarray, *, on_progress: Callable[[int, int], object] | None = None,
    on_unreadable: Callable[[str], object] | None = None,
) -> np.ndarray:  # fmt: skip
    """Which pairs of rows are one picture, as booleans; none is of which a picture cannot be read any more, with whose
    path `on_unreadable` is called.

    Each picture is read once. Their small versions lie in a temporary file, 3 kB each.
    """
    rows, place = np.unique(np.concatenate([left, right]), return_inverse=True)
    found = np.zeros(len(left), bool)
    if not len(rows):
        return found
    with tempfile.TemporaryFile() as file:
        small = np.memmap(file, np.uint8, "w+", shape=(len(rows), SIDE, SIDE, 3))
        readable = np.zeros(len(rows), bool)
        paths = [named.path for named in index.names(rows)]
        for number, image in enumerate(pictures(index.folders, paths, side=8 * SIDE)):
            if image is not None:
                small[number], readable[number] = smaller(image), True
            elif on_unreadable is not None:
                on_unreadable(paths[number])
            if on_progress is not None:
                on_progress(number + 1, len(rows))
        first, second = place[: len(left)], place[len(left) :]
        for start in range(0, len(left), _BLOCK):
            some = slice(start, start + _BLOCK)
            known = readable[first[some]] & readable[second[some]]
            found[some] = known & (common(small[first[some]], small[second[some]]) >= SAME)
    return found


def smaller(image: Image.Image) -> np.ndarray:
    """A picture in RGB as uint8 `[SIDE, SIDE, 3]`, blurred: fine textures would differ after the slightest shift."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(1)))


def common(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Shares `[P]` of the variance that pictures, uint8 `[P, S, S, 3]`, have in common where they lie best; at most 1.

    The second is moved and stretched along both axes until it differs least from the first (Gauss-Newton, from lying
    at the same place), so that one may be a crop of the other.
    """
    here, there = one.astype(np.float32), other.astype(np.float32)
    side = here.shape[1]
    grid = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    gain = np.tile(np.array([1, 0, 1, 0], np.float32), (len(here), 1))  # y: scale and shift; x: scale and shift
    best = np.full(len(here), -np.inf, np.float32)
    for _ in range(_STEPS):
        y = gain[:, 0, None] * grid + gain[:, 1, None]
        x = gain[:, 2, None] * grid + gain[:, 3, None]
        moved, inside = _sampled(there, y, x)
        rest = np.where(inside[..., None], here - moved, 0)
        best = np.maximum(best, _share(here, moved, inside))
        down, across = np.gradient(moved, axis=1) * side, np.gradient(moved, axis=2) * side
        slopes = [down * grid[None, :, None, None], down, across * grid[None, None, :, None], across]
        jacobian = np.stack([np.where(inside[..., None], s, 0).reshape(len(here), -1) for s in slopes], axis=1)
        square = jacobian @ jacobian.transpose(0, 2, 1)
        square += np.eye(4, dtype=np.float32) * (1e-3 * np.trace(square, axis1=1, axis2=2)[:, None, None] / 4 + 1)
        step = np.linalg.solve(square, (jacobian @ rest.reshape(len(here), -1, 1)))[..., 0]
        gain = np.clip(gain + np.clip(step, -0.03, 0.03), [1 - 2 * _REACH, -_REACH] * 2, [1 + 2 * _REACH, _REACH] * 2)
    return best


def _sampled(pictures: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values at these rows and columns of each picture (between pixels: linear), and which of them lie inside."""
    side = pictures.shape[1]
    (top, down, rows), (left, across, columns) = (_between(at, side) for at in (y, x))
    number = np.arange(len(pictures))[:, None]
    upper = pictures[number, top]
    upper += (pictures[number, top + 1] - upper) * down[:, :, None, None]
    west = np.take_along_axis(upper, left[:, None, :, None], 2)
    west += (np.take_along_axis(upper, left[:, None, :, None] + 1, 2) - west) * across[:, None, :, None]
    return west, rows[:, :, None] & columns[:, None, :]


def _between(at: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For places from -0.5 to 0.5: the pixel before, how far it is to the next, and whether it is inside."""
    position = (at + 0.5) * side - 0.5
    before = np.clip(np.floor(position).astype(np.int64), 0, side - 2)
    return before, np.clip(position - before, 0, 1), (position > -0.5) & (position < side - 0.5)


def _share(here: np.ndarray, moved: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """What is left of the variance of both, where they overlap, as a share; 1 is no difference."""
    weight = inside[..., None].astype(np.float32)
    count = weight.sum((1, 2, 3))[:, None, None, None]
    spread = [
        (((part - (part * weight).sum((1, 2), keepdims=True) / count) ** 2) * weight).sum((1, 2, 3))
        for part in (here, moved)
    ]
    differ = (((here - moved) ** 2) * weight).sum((1, 2, 3))
    return 1 - differ / np.maximum((spread[0] + spread[1]) / 2, count[:, 0, 0, 0] * 3 * _PLAIN**2)
