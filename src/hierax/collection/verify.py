"""Decides whether two images are the same by aligning small versions of them and comparing the pixels.

Drawings on a transparent background are compared on white and on black. Animations and segments of videos are compared
by three frames, and by their number of frames. For nearly blank images, the positions of their marks are compared too.
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
"""Fraction of the variance that two images must share to count as the same."""
SIDE = 32  # pixels of the small versions
_STEPS = 6  # steps of the alignment; twelve steps find no more pairs
_BLOCK = 512  # number of pairs that are compared at the same time
_REACH = 0.12  # maximum fraction of the side that may be cropped at each edge
_PLAIN = 9.0  # minimum standard deviation in gray levels: the variance of a plain image is only noise


_SHOTS = 4  # small versions of a row: its first frame on white and on black, a frame of its middle, one of its end
_CELL = 24  # minimum difference in gray levels between the lightest and the darkest pixel of a cell with a mark
_DIFFERENT = 0.35  # maximum fraction of the contrast of the marks by which two nearly blank images may differ


@dataclass
class _ComparisonData:
    """The data of rows that are compared.

    Attributes:
        small: uint8 `[rows, _SHOTS, SIDE, SIDE, 3]`.
        detail: uint8 `[rows, SIDE, SIDE]`, the contrast of every cell.
        facts: int64 `[rows, 5]`: whether the image was read, whether it has transparency, whether it is light, its
            number of frames, its duration.
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
        """Booleans, True for each of these pairs that shows the same image."""
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
    """Booleans, True for each pair of rows that shows the same image. They are False if an image can no longer be read
    or has changed; `on_unreadable` is then called with its path.

    Each image is read once. The small versions are in a temporary file, at most 13 kB per image.
    """
    rows, place = np.unique(np.concatenate([left, right]), return_inverse=True)
    found = np.zeros(len(left), bool)
    if not len(rows):
        return found
    with tempfile.TemporaryFile() as file:
        shape = (len(rows), _SHOTS, SIDE, SIDE, 3)
        compared = _ComparisonData(
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
    """The contrast of an image, uint8 `[SIDE, SIDE]`: the difference in gray levels between the lightest and the
    darkest pixel of each cell.
    """
    gray = np.asarray(image.convert("L").resize((8 * SIDE, 8 * SIDE), Image.Resampling.BILINEAR))
    cells = gray.reshape(SIDE, 8, SIDE, 8)
    return cells.max((1, 3)) - cells.min((1, 3))


def same_detail(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Booleans, False for each pair of nearly blank images that have different marks. `one` and `other` are the small
    versions and the contrasts of the images.

    Small marks on a large page (such as a few words) are not visible in the small versions, which then look blank.
    """
    plain = np.ones(len(one[0]), bool)
    for small, _ in (one, other):
        plain &= small.astype(np.float32).std((1, 2)).mean(1) < _PLAIN
    marks = [np.where(detail < _CELL, 0, detail).astype(np.float32) for _, detail in (one, other)]
    differ = np.abs(marks[0] - marks[1]).sum((1, 2))
    return ~plain | (differ <= _DIFFERENT * np.maximum(*marks).sum((1, 2)))


def smaller(image: Image.Image) -> np.ndarray:
    """A small, blurred version of an RGB image, uint8 `[SIDE, SIDE, 3]`. Without the blur, fine textures would differ
    after a very small shift.
    """
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(1)))


def common(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The fraction `[P]` of the variance that two images, uint8 `[P, S, S, 3]`, share after alignment; at most 1.

    The second image is shifted and scaled along both axes until it differs least from the first (Gauss-Newton, without
    a shift at the start). So one image may be a crop of the other.
    """
    here, there = one.astype(np.float32), other.astype(np.float32)
    side = here.shape[1]
    grid = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    gain = np.tile(np.array([1, 0, 1, 0], np.float32), (len(here), 1))  # y: scale and shift; x: scale and shift
    best = np.full(len(here), -np.inf, np.float32)
    for _ in range(_STEPS):
        y = gain[:, 0, None] * grid + gain[:, 1, None]
        x = gain[:, 2, None] * grid + gain[:, 3, None]
        moved, inside = _sample(there, y, x)
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


def _sample(pictures: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values at these rows and columns of each image (linear interpolation), and booleans: which are inside."""
    side = pictures.shape[1]
    (top, down, rows), (left, across, columns) = (_between(at, side) for at in (y, x))
    number = np.arange(len(pictures))[:, None]
    upper = pictures[number, top]
    upper += (pictures[number, top + 1] - upper) * down[:, :, None, None]
    west = np.take_along_axis(upper, left[:, None, :, None], 2)
    west += (np.take_along_axis(upper, left[:, None, :, None] + 1, 2) - west) * across[:, None, :, None]
    return west, rows[:, :, None] & columns[:, None, :]


def _between(at: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For positions from -0.5 to 0.5: the previous pixel, the distance to it, and whether the position is inside."""
    position = (at + 0.5) * side - 0.5
    before = np.clip(np.floor(position).astype(np.int64), 0, side - 2)
    return before, np.clip(position - before, 0, 1), (position > -0.5) & (position < side - 0.5)


def _share(here: np.ndarray, moved: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The fraction of the variance that both share where they overlap; 1 means no difference."""
    weight = inside[..., None].astype(np.float32)
    count = weight.sum((1, 2, 3))[:, None, None, None]
    spread = [
        (((part - (part * weight).sum((1, 2), keepdims=True) / count) ** 2) * weight).sum((1, 2, 3))
        for part in (here, moved)
    ]
    differ = (((here - moved) ** 2) * weight).sum((1, 2, 3))
    return 1 - differ / np.maximum((spread[0] + spread[1]) / 2, count[:, 0, 0, 0] * 3 * _PLAIN**2)
