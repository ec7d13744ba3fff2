"""Looks at masks before they are used: which numbers they hold, and the traps that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from hierax.data.dataset import IGNORE
from hierax.data.segmentation.dataset import MaskedImages
from hierax.data.segmentation.numbering import Numbering
from hierax.devices import available_cores

_ALL = 500
"""Up to this number of masks, all are looked at; of more, evenly spaced ones, unless classes are unknown."""


@dataclass(frozen=True)
class Survey:
    """What masks hold.

    Attributes:
        names: the masks that could be read.
        values: of each of these, the numbers in it, sorted.
        palette: the first palette of a mask, uint8 `[n, 3]`; None if none has one.
        problems: the errors of the others.
        complete: whether all masks were looked at.
    """

    names: list[str]
    values: list[list[int]]
    palette: np.ndarray | None
    problems: list[ValueError | OSError]
    complete: bool

    @property
    def found(self) -> list[int]:
        """All numbers, sorted."""
        return sorted(set().union(*self.values))

    def first_with(self, value: int) -> str:
        """The first mask that holds a number."""
        return next(name for name, values in zip(self.names, self.values, strict=True) if value in values)


def survey(images: Sequence[MaskedImages], numbering: Numbering, *, whole: bool) -> Survey:
    """Reads masks: all of them if `whole`, or if there are few; otherwise evenly spaced ones."""
    places = [(source, index) for source in images for index in range(len(source))]
    count = len(places) if whole else min(len(places), _ALL)
    chosen = [places[int(i)] for i in np.linspace(0, len(places) - 1, count).round()] if count else []

    def look(place: tuple[MaskedImages, int]) -> tuple[list[int], np.ndarray | None] | ValueError | OSError:
        source, index = place
        try:
            mask = source.mask(index)
            return values_in(numbering.numbers_of(mask, name=source.mask_name(index))), mask.palette
        except (ValueError, OSError) as error:
            return error

    with ThreadPoolExecutor(max(1, min(8, available_cores()))) as pool:
        found = list(pool.map(look, chosen))
    good = [(place, one) for place, one in zip(chosen, found, strict=True) if isinstance(one, tuple)]
    return Survey(
        names=[source.mask_name(index) for (source, index), _ in good],
        values=[values for _, (values, _) in good],
        palette=next((palette for _, (_, palette) in good if palette is not None), None),
        problems=[one for one in found if not isinstance(one, tuple)],
        complete=count == len(places),
    )


def values_in(numbers: np.ndarray) -> list[int]:
    """The different numbers in a mask, sorted."""
    if numbers.dtype == np.uint8:
        return np.flatnonzero(np.bincount(numbers.ravel(), minlength=256)).tolist()
    return np.unique(numbers).tolist()


def is_binary(values: Sequence[int], count: int | None) -> bool:
    """Whether masks hold 0 and 255 alone, and 255 must be the second class, because there would be only one."""
    return IGNORE in values and set(values) <= {0, IGNORE} and count in (None, 2)


def are_gray_levels(values: Sequence[int]) -> bool:
    """Whether numbers look like gray levels that were chosen to be seen, such as 0, 128 and 255."""
    classes = list(values)
    few = 2 <= len(classes) <= 16 and classes[-1] <= IGNORE
    return few and classes[0] == 0 and min(np.diff(classes).tolist()) > 12
