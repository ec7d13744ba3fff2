"""Finds blank images, which have only one color. They look alike, but are usually not copies of each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.collection.originals import Original, originals
from hierax.processing import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from hierax.collection.mapped import RowInfo

_SIDE = 256  # pixels per side of the reduced image that is checked
_LEVELS = 1  # of 255: pixels of one color may differ by this much
_HEAD, _DENSE = 4096, 0.03  # maximum size of a compressed file of a blank image: bytes, plus bytes per pixel
_UNCOMPRESSED = (".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".npy", ".tga", ".qoi")


def blank_rows(
    folders: Sequence[Path],
    rows: Sequence[RowInfo],
    *,
    fetch: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> set[str]:
    """The ids of the rows with an image of one color.

    Files that are too large for a blank image are not read, and equal files are read once. Images that cannot be read
    are not blank.
    """
    candidates = {row.hash or row.id: row for row in rows if _may_be_blank(row)}
    found = originals(folders, list(candidates.values()), side=_SIDE, fetch=fetch, whole=True, max_pixels=max_pixels)
    blank = {
        name for name, image in zip(candidates, found, strict=True) if isinstance(image, Original) and is_blank(image)
    }
    return {row.id for row in rows if (row.hash or row.id) in blank}


def is_blank(original: Original) -> bool:
    """Whether the whole image has one color, in all its frames. A transparent image must have one color over white and
    over black.
    """
    shown = [original.image, *original.later, *([original.shaded] if original.shaded else [])]
    bands = [band for image in shown for band in image.convert("RGB").split()]
    return all(high - low <= _LEVELS for low, high in (band.getextrema() for band in bands))  # type: ignore[misc]


def _may_be_blank(row: RowInfo) -> bool:
    """Whether the image may be blank, judged by the size of its file. This is fast."""
    if row.start is not None:  # a segment of a video
        return False
    if not os.path.isfile(row.path) or row.path.lower().endswith(_UNCOMPRESSED) or not row.width:
        return True
    return os.path.getsize(row.path) <= _HEAD + _DENSE * row.width * row.height
