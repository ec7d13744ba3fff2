"""Sliding windows: a large image is cut into windows that overlap, and their logits are merged with weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

OVERLAP = 0.25
"""The share of their side that windows have in common with the next one, if nothing else is stated."""
Box = tuple[slice, slice]
"""Rows and columns of a window, in pixels of the model's input."""


@dataclass(frozen=True)
class Axis:
    """The windows along one axis of an image.

    Attributes:
        length: pixels of the image.
        stride: pixels per cell of the logits.
        side: pixels of a window.
        starts: the first pixel of each window, in order. The last window may reach over the edge of the image.
    """

    length: int
    stride: int
    side: int
    starts: tuple[int, ...]

    @property
    def cells(self) -> int:
        """Cells of the logits of the whole image."""
        return -(-self.length // self.stride)

    def first_cell(self, number: int) -> int:
        """The first cell of a window."""
        return self.starts[number] // self.stride

    def weights(self) -> list[Tensor]:
        """The weight of each cell of each window, from 0 to 1. At every cell of the image, their sum is 1.

        A weight falls linearly towards a border that lies inside of another window: there, a window sees less of what
        is around a pixel.
        """
        count = -(-self.side // self.stride)
        ends = [start // self.stride for start in self.starts]
        raw = []
        for number, first in enumerate(ends):
            weight = torch.ones(count, dtype=torch.float64)
            ramp = torch.arange(count, dtype=torch.float64) + 0.5
            if number and (shared := ends[number - 1] + count - first) > 0:
                weight = torch.minimum(weight, ramp / shared)
            if number + 1 < len(ends) and (shared := first + count - ends[number + 1]) > 0:
                weight = torch.minimum(weight, ramp.flip(0) / shared)
            raw.append(weight)
        total = torch.zeros(ends[-1] + count, dtype=torch.float64)
        for first, weight in zip(ends, raw, strict=True):
            total[first : first + count] += weight
        return [(weight / total[first : first + count]).float() for first, weight in zip(ends, raw, strict=True)]


def default_window(image_size: Sequence[int], unit: Sequence[int]) -> tuple[int, ...]:
    """Height and width of the windows of a model for `image_size`: twice its longer side, in multiples of `unit`."""
    side = 2 * max(image_size)
    return tuple(-(-side // step) * step for step in unit)


def axis(length: int, *, stride: int, window: int, overlap: float, fixed: bool = False) -> Axis:
    """The windows along an axis of `length` pixels: one of this length if it is not longer than `window`, or with
    `fixed` one of `window`.

    Otherwise there are as few windows as possible that share at least `overlap` (0 to below 1) of their side with the
    next one. They begin at whole cells, at even distances. The last one reaches over the edge by less than a cell.
    """
    if length <= window:
        return Axis(length, stride, window if fixed else length, (0,))
    rest = -(-(length - window) // stride)  # cells that the first window does not reach
    step = max(math.floor(window * (1 - overlap)) // stride, 1)
    count = -(-rest // step)
    return Axis(length, stride, window, tuple(number * rest // count * stride for number in range(count + 1)))


def merged_rows(
    rows: Axis, columns: Axis, logits_of: Callable[[Sequence[Box]], Iterator[Tensor]]
) -> Iterator[tuple[slice, Tensor]]:
    """Yields the merged logits `[classes, cells, columns.cells]` of an image, a band of rows at a time, from the top.

    Besides what `logits_of` has in advance, the logits of one row of windows are in memory.

    Args:
        rows, columns: the windows along both axes.
        logits_of: computes the logits `[classes, cells, cells]` of all windows, in the order in which they are given.
            They are taken one by one.
    """
    shares, weights = rows.weights(), columns.weights()
    across = [slice(left, left + columns.side) for left in columns.starts]
    every = logits_of([(slice(top, top + rows.side), left) for top in rows.starts for left in across])
    kept: Tensor | None = None  # the sums of the rows from `first` on
    for number in range(len(rows.starts)):
        first = rows.first_cell(number)
        for place, logits in enumerate(islice(every, len(across))):
            if kept is None or kept.shape[1] < logits.shape[1]:
                grown = logits.new_zeros(logits.shape[0], logits.shape[1], columns.first_cell(-1) + len(weights[-1]))
                if kept is not None:
                    grown[:, : kept.shape[1]] = kept
                kept = grown
            left, weight = columns.first_cell(place), shares[number][:, None] * weights[place]
            kept[:, :, left : left + len(weights[place])] += logits * weight.to(logits.device)
        assert kept is not None
        following = rows.first_cell(number + 1) if number + 1 < len(rows.starts) else rows.cells
        yield slice(first, following), kept[:, : following - first, : columns.cells]
        kept = kept[:, following - first :].clone()
