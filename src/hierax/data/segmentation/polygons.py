"""Draws polygons and run lengths of COCO as masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def draw_outline(mask: np.ndarray, outline: Any, value: int) -> None:
    """Sets the pixels of an object in a mask `[H, W]` to a value.

    Args:
        mask: is changed.
        outline: a list of polygons `[x1, y1, x2, y2, …]`, or run lengths as a dict.
        value: the value.

    Raises:
        ValueError: the outline is neither.
    """
    if isinstance(outline, Mapping):
        mask[read_runs(outline, *mask.shape)] = value
        return
    for points in _polygons(outline):
        # only the part of the mask around the polygon
        left, top = (int(n) for n in np.floor(points.min(0)).clip(0, mask.shape[::-1]))
        right, bottom = (int(n) for n in np.ceil(points.max(0)).clip(0, mask.shape[::-1]))
        part = mask[top:bottom, left:right]
        if part.size:
            part[fill_polygon(points - (left, top), *part.shape)] = value


def area_of(outline: Any) -> float:
    """The area of an outline in pixels; that of polygons as if they did not overlap.

    Raises:
        ValueError: it is neither a list of polygons nor run lengths.
    """
    if isinstance(outline, Mapping):
        return float(sum(_lengths(outline)[1::2]))
    area = 0.0
    for points in _polygons(outline):
        x, y = points[:, 0], points[:, 1]
        area += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return area


def fill_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels whose centers lie inside of a polygon, boolean `[height, width]`.

    Args:
        points: `[n, 2]`, x and y in pixels; 0, 0 is the top left corner of the first pixel. Parts that the outline goes
            around twice are outside.
        height, width: size of the image. The rest of the polygon is cut off.
    """
    x, y = points[:, 0], points[:, 1]
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    # each edge crosses the centers of the rows first to last - 1
    first = np.ceil(np.minimum(y, next_y) - 0.5).clip(0, height).astype(np.int64)
    last = np.ceil(np.maximum(y, next_y) - 0.5).clip(0, height).astype(np.int64)
    counts = np.maximum(last - first, 0)
    edge = np.repeat(np.arange(len(x)), counts)
    row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    slope = (next_x - x)[edge] / (next_y - y)[edge]
    crossing = x[edge] + (row + 0.5 - y[edge]) * slope
    column = np.ceil(crossing - 0.5).clip(0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), bool)
    np.logical_xor.at(turns, (row, column), True)
    return np.logical_xor.accumulate(turns, axis=1)[:, :width]


def _polygons(parts: Any) -> list[np.ndarray]:
    """Polygons `[n, 2]`; one of less than three points has no area and is left out. A polygon that is not in a list is
    taken too. Raises `ValueError` for what is no polygon.
    """
    found = []
    single = isinstance(parts, (list, tuple)) and all(isinstance(n, (int, float)) for n in parts)
    for part in parts if isinstance(parts, (list, tuple)) and not single else [parts]:
        try:
            points = np.asarray(part if isinstance(part, (list, tuple)) else [], np.float64)
        except (TypeError, ValueError):
            points = np.zeros(0)
        if points.ndim != 1 or not len(points) or len(points) % 2 or not np.isfinite(points).all():
            raise ValueError(f"a polygon {str(part)[:60]}; expected x and y of its points")
        if len(points) >= 6:
            found.append(points.reshape(-1, 2))
    return found


def read_runs(rle: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """The pixels of run lengths `{"size": [height, width], "counts": …}`, boolean `[height, width]`. Runs go down the
    columns; their lengths are a list of numbers, or the text of pycocotools.

    Raises:
        ValueError: the lengths do not fit the size, or the size is not that of the image.
    """
    size = rle.get("size")
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise ValueError(f"run lengths of size {size}; expected [{height}, {width}], as of the image")
    lengths = _lengths(rle)
    if sum(lengths) != height * width:
        raise ValueError(f"run lengths of {sum(lengths):,} pixels in all; expected {height * width:,}")
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return values.reshape(width, height).T


def _lengths(rle: Mapping[str, Any]) -> list[int]:
    counts = rle.get("counts")
    lengths = _compressed(counts) if isinstance(counts, (str, bytes)) else counts
    if not isinstance(lengths, list) or not all(isinstance(n, int) and n >= 0 for n in lengths):
        raise ValueError("run lengths that are no list of whole numbers, and no text of pycocotools")
    return lengths


def _compressed(text: str | bytes) -> list[int]:
    """The lengths in a text: groups of 5 bits from the lowest ones on, each as a character from "0" on whose sixth bit
    says that another one follows. From the fourth on, they are differences to the length two before.
    """
    lengths: list[int] = []
    value = shift = 0
    for byte in text.encode("utf-8") if isinstance(text, str) else text:
        digit = byte - 48
        if not 0 <= digit < 64:
            raise ValueError("run lengths that are no text of pycocotools")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:  # negative
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths that end too early")
    return lengths
