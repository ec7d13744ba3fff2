"""Decides by pixels whether two images are the same: aligns and compares small versions of them.

Drawings on a transparent ground are compared over white and over black, animations and windows of videos by three of
their frames and by how many they have, nearly blank images also by where in them something is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from hierax.collection.originals import Original, is_light, originals
from hierax.processing import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from hierax.collection.index import Index

SAME = 0.985
"""Share of the variance that two images must have in common to count as one."""
SIDE = 32  # pixels of the small versions
_STEPS = 6  # of the search for the place; twelve find no more
_BLOCK = 512  # pairs compared at a time
_REACH = 0.12  # of the side that an image may lack at each edge
_PLAIN = 9.0  # least deviation in gray levels: in a plain image all variance is noise


_SHOTS = 4  # small versions of a row: its first frame over white and over black, one of its middle, one of its end
_CELL = 24  # gray levels between the lightest and the darkest pixel of a cell that is not empty
_DIFFERENT = 0.35  # share of what is in the cells of nearly blank images by which two of them may differ


@dataclass
class _Compared:
    """The data of rows that are compared.

    Attributes:
        small: uint8 `[rows, _SHOTS, SIDE, SIDE, 3]`.
        detail: uint8 `[rows, SIDE, SIDE]`, contrast in every cell.
        facts: int64 `[rows, 5]`: whether it was read, has transparency, is light, its frames, its duration.
    """

    small: np.ndarray
    detail: np.ndarray
    facts: np.ndarray

    def put(self, number: int, original: Original) -> None:
        first = smaller(original.image)
        self.small[number, :2] = first
        if original.shaded is not None:
            self.small[number, 1] = smaller(original.shaded)
        for place, image in enumerate(original.later[:2], start=2):
            self.small[number, place] = smaller(image)
        self.detail[number] = contrast(original.image)
        transparent = original.shaded is not None
        self.facts[number] = (1, transparent, is_light(original), original.frames, original.duration)

    def same(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Booleans: which of these pairs are the same image."""
        one, other = self.facts[left], self.facts[right]
        found = (one[:, 0] > 0) & (other[:, 0] > 0)
        frames, duration = (np.stack([one[:, column], other[:, column]]) for column in (3, 4))
        long = (duration.min(0) > 0) & (np.ptp(duration, 0) <= 0.02 * duration.max(0)) & (frames.min(0) > 1)
        found &= (frames[0] == frames[1]) | long
        white = one[:, 2] * other[:, 2] == 0  # light drawings are nearly invisible over white
        black = (one[:, 2] + other[:, 2] > 0) | (one[:, 1] * other[:, 1] > 0)
        for shot, needed in enumerate([white, black, frames.min(0) > 1, frames.min(0) > 1]):
            places = np.flatnonzero(found & needed)
            pair = self.small[left[places], shot], self.small[right[places], shot]
            found[places] = common(*pair) >= SAME if len(places) else False
        places = np.flatnonzero(found)
        found[places] &= same_detail(*(self._place(side[places]) for side in (left, right)))
        return found

    def _place(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.small[rows, 0], self.detail[rows]


def verify_pairs(
    index: Index,
    left: np.ndarray,
    right: np.ndarray,
    *,
    on_progress: Callable[[int, int], object] | None = None,
    on_unreadable: Callable[[str], object] | None = None,
    fetch: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> np.ndarray:
    """Which pairs of rows are one image, as booleans; none is of which an image cannot be read any more, or has
    changed, with whose path `on_unreadable` is called.

    Each image is read once. Their small versions lie in a temporary file, at most 13 kB each.
    """
    rows, place = np.unique(np.concatenate([left, right]), return_inverse=True)
    found = np.zeros(len(left), bool)
    if not len(rows):
        return found
    with tempfile.TemporaryFile() as file:
        shape = (len(rows), _SHOTS, SIDE, SIDE, 3)
        compared = _Compared(
            np.memmap(file, np.uint8, "w+", shape=shape),
            np.zeros((len(rows), SIDE, SIDE), np.uint8),
            np.zeros((len(rows), 5), np.int64),
        )
        named = index.names(rows)
        read = originals(index.folders, named, side=8 * SIDE, fetch=fetch, whole=True, max_pixels=max_pixels)
        for number, original in enumerate(read):
            if not isinstance(original, str):
                compared.put(number, original)
            elif on_unreadable is not None:
                on_unreadable(named[number].path)
            if on_progress is not None:
                on_progress(number + 1, len(rows))
        first, second = place[: len(left)], place[len(left) :]
        for start in range(0, len(left), _BLOCK):
            some = slice(start, start + _BLOCK)
            found[some] = compared.same(first[some], second[some])
    return found


def contrast(image: Image.Image) -> np.ndarray:
    """uint8 `[SIDE, SIDE]`: gray levels between the lightest and the darkest pixel of each of so many cells."""
    grey = np.asarray(image.convert("L").resize((8 * SIDE, 8 * SIDE), Image.Resampling.BILINEAR))
    cells = grey.reshape(SIDE, 8, SIDE, 8)
    return cells.max((1, 3)) - cells.min((1, 3))


def same_detail(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Whether pairs of images, each small versions and contrasts, are no blank sheets with different marks on them.

    Small marks on a large page (such as a few words) are lost in the small versions, which then look blank.
    """
    plain = np.ones(len(one[0]), bool)
    for small, _ in (one, other):
        plain &= small.astype(np.float32).std((1, 2)).mean(1) < _PLAIN
    marks = [np.where(detail < _CELL, 0, detail).astype(np.float32) for _, detail in (one, other)]
    differ = np.abs(marks[0] - marks[1]).sum((1, 2))
    return ~plain | (differ <= _DIFFERENT * np.maximum(*marks).sum((1, 2)))


def smaller(image: Image.Image) -> np.ndarray:
    """An RGB image as uint8 `[SIDE, SIDE, 3]`, blurred: fine textures would differ after the slightest shift."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(1)))


def common(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Shares `[P]` of the variance that images, uint8 `[P, S, S, 3]`, have in common where they lie best; at most 1.

    The second is shifted and stretched along both axes until it differs least from the first (Gauss-Newton, starting
    without a shift), so that one may be a crop of the other.
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
    """Values at these rows and columns of each image (linear interpolation), and which of them are inside."""
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
    """The share of the variance that both have in common where they overlap; 1 means no difference."""
    weight = inside[..., None].astype(np.float32)
    count = weight.sum((1, 2, 3))[:, None, None, None]
    spread = [
        (((part - (part * weight).sum((1, 2), keepdims=True) / count) ** 2) * weight).sum((1, 2, 3))
        for part in (here, moved)
    ]
    differ = (((here - moved) ** 2) * weight).sum((1, 2, 3))
    return 1 - differ / np.maximum((spread[0] + spread[1]) / 2, count[:, 0, 0, 0] * 3 * _PLAIN**2)
