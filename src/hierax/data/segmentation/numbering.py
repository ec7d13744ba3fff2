"""How the values and colors of masks become numbers of classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hierax.data.dataset import IGNORE
from hierax.data.segmentation.masks import Mask
from hierax.processing import ImageError

MAX_CLASSES = 255
"""Classes have the numbers 0 to 254, because 255 stands for none."""
_DEEP_IGNORE = 65535
_LATER = 1 << 30  # stands for a value or color without a class, which the caller has to refuse


@dataclass(frozen=True, eq=False)
class Colors:
    """The class of each color.

    Attributes:
        colors: uint8 `[n, 3]`.
        numbers: the class of each color; 255 for none.
        required: whether gray and palette masks must have these colors too. Otherwise, their values are classes, and
            a palette of which each used color is known is read by color. So are gray levels that were stored as RGB,
            such as a black part of a mask in color.
    """

    colors: np.ndarray
    numbers: tuple[int, ...]
    required: bool

    def has_all(self, colors: np.ndarray) -> bool:
        """Whether all colors of an array `[..., 3]` are known."""
        return bool((self.lookup(colors) != _LATER).all())

    def lookup(self, colors: np.ndarray) -> np.ndarray:
        """The class of each color of an array `[..., 3]`; `_LATER` for an unknown color."""
        keys = _packed(self.colors)
        order = np.argsort(keys)
        keys, numbers = keys[order], np.asarray(self.numbers, np.int64)[order]
        wanted = _packed(colors)
        places = np.searchsorted(keys, wanted).clip(0, len(keys) - 1)
        return np.where(keys[places] == wanted, numbers[places], _LATER)


@dataclass(frozen=True, eq=False)
class Numbering:
    """How the values of masks become classes.

    Attributes:
        count: number of classes; None: any number up to 255.
        colors: the class of each color; None if colors name no classes.
        values: int64, the class of each value 0, 1, … (255: none, -1: not allowed); None: values are classes.
        binary: whether 255 is class 1, not "none": masks of 0 and 255.
        reduce: whether 0 becomes "none", and all other classes are one lower.
    """

    count: int | None = None
    colors: Colors | None = None
    values: np.ndarray | None = None
    binary: bool = False
    reduce: bool = False

    def classes_of(self, mask: Mask, *, name: str) -> np.ndarray:
        """The class of each pixel, uint8 `[H, W]`, 255 for none.

        Raises:
            ImageError: a value or color stands for no class.
        """
        numbers = self.check(self.numbers_of(mask, name=name), name=name)
        return np.ascontiguousarray(numbers.astype(np.uint8))

    def check(self, numbers: np.ndarray, *, name: str, where: str = "") -> np.ndarray:
        """The classes of numbers that a mask holds; `where` says in errors from where the classes are known.

        Raises:
            ImageError: a number is no class.
        """
        if self.binary:
            numbers = np.where(numbers == IGNORE, 1, numbers)
        if self.reduce:
            numbers = np.where((numbers == 0) | (numbers == IGNORE), IGNORE, numbers.astype(np.int64) - 1)
        count = MAX_CLASSES if self.count is None else self.count
        wrong = (numbers < 0) | ((numbers >= count) & (numbers != IGNORE))
        if wrong.any():
            raise self._no_class(int(numbers[wrong].max()), name, where)
        return numbers

    def numbers_of(self, mask: Mask, *, name: str) -> np.ndarray:
        """The numbers that a mask holds, before they are reduced and checked: integers `[H, W]`.

        Raises:
            ImageError: the mask has colors, but no colors are known; or a color is not among them.
        """
        if mask.values.ndim == 3:
            return self._by_color(mask.values, name)
        values = mask.values
        if mask.palette is not None and self.colors is not None:
            found = self._by_palette(mask, name)
            if found is not None:
                return found
        elif self.colors is not None and not mask.deep:
            colors = np.repeat(values[:, :, None], 3, axis=2).astype(np.uint8)
            if self.colors.required or (mask.gray_color and self.colors.has_all(colors)):
                return self._by_color(colors, name)
        if mask.deep:
            values = np.where(values == _DEEP_IGNORE, IGNORE, values.astype(np.int64))
        return values if self.values is None else self._by_value(values, name)

    def _by_color(self, colors: np.ndarray, name: str) -> np.ndarray:
        if self.colors is None:
            raise ImageError(
                name,
                f"a mask in color, such as {_shown(_most_frequent(colors))}, but no class is known for its colors; "
                "expected class numbers in one channel, or a table of colors: --colors FILE (in Python: colors) with "
                "a line 'name,red,green,blue' for each class",
            )
        numbers = self.colors.lookup(colors)
        unknown = numbers == _LATER
        if unknown.any():
            row, column = np.argwhere(unknown)[0].tolist()
            raise ImageError(
                name,
                f"{int(unknown.sum()):,} pixels of colors that stand for no class, such as "
                f"{_shown(colors[row, column])} at column {column}, row {row}; expected one of the "
                f"{len(self.colors.colors)} colors of the classes (edges that were smoothed have other colors)",
            )
        return numbers

    def _by_palette(self, mask: Mask, name: str) -> np.ndarray | None:
        """The classes of a palette image by its colors; None if its indices are the classes."""
        assert self.colors is not None
        assert mask.palette is not None
        used = np.flatnonzero(np.bincount(mask.values.ravel(), minlength=256))
        if used[-1] >= len(mask.palette):
            raise ImageError(name, f"damaged: index {used[-1]} in a palette of {len(mask.palette)} colors")
        table = self.colors.lookup(mask.palette)
        if (table[used] != _LATER).all():
            return table[mask.values]
        return self._by_color(mask.palette[mask.values], name) if self.colors.required else None

    def _by_value(self, values: np.ndarray, name: str) -> np.ndarray:
        assert self.values is not None
        inside = (values >= 0) & (values < len(self.values))
        found = np.where(inside, self.values[np.where(inside, values, 0)], -1)
        found = np.where(values == IGNORE, IGNORE, found) if len(self.values) <= IGNORE else found
        if (found < 0).any():
            raise ImageError(name, f"the value {values[found < 0][0]} stands for no class of this data")
        return found

    def _no_class(self, number: int, name: str, where: str) -> ImageError:
        if self.count is None or number >= MAX_CLASSES or number < 0:
            return ImageError(
                name,
                f"the value {number + self.reduce}; expected class numbers from 0 to {MAX_CLASSES - 1}, and 255 or "
                "65535 for pixels without a class (larger values often number objects or colors, not classes)",
            )
        hint = ""
        if number == self.count and not self.reduce:
            hint = (
                "; if 0 means no class in these masks, --reduce-labels (in Python: reduce_labels) subtracts 1; if it "
                "is the background, name it first among the classes"
            )
        known = f" ({where})" if where else ""
        return ImageError(
            name,
            f"class {number}, but there are {self.count} classes{known}; expected 0 to {self.count - 1}, or 255 for "
            f"none{hint}",
        )


def _packed(colors: np.ndarray) -> np.ndarray:
    wide = colors.astype(np.int64)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _most_frequent(colors: np.ndarray) -> np.ndarray:
    found, counts = np.unique(colors.reshape(-1, 3), axis=0, return_counts=True)
    gray = (found[:, 0] == found[:, 1]) & (found[:, 0] == found[:, 2])
    return found[np.argmax(np.where(gray, 0, counts))]


def _shown(color: np.ndarray) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in color)
