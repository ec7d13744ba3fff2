"""JPEG files: fast decoding with simplejpeg, and checks that Pillow does not make.

libjpeg fills missing parts of a file with gray and continues, and Pillow does not report it. simplejpeg does: if it is
installed, such a file is an error, also if Pillow decodes the pixels.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np

from hierax.processing.errors import ImageError

_MOST_SCANS = 100  # a progressive file has about ten; decoding each takes as long as a whole image
_FORMS = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_SCAN, _END, _ALONE = b"\xff\xda", b"\xff\xd9", (b"\xff\x01", b"\xff\xd8")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # except for markers within a scan
# Extra bytes before the end marker and unusual values in headers are accepted, because files of cameras have them.
_LOST = re.compile(r"premature end|bad (huffman|arithmetic)|found marker|extraneous bytes before marker 0x(?!d9)", re.I)


@cache
def simplejpeg() -> ModuleType | None:
    """The package simplejpeg; None if it is not installed."""
    try:
        return import_module("simplejpeg")
    except ImportError:
        return None


def jpeg_array(
    data: bytes, *, name: str, mode: str = "RGB", shrink: tuple[int, int] | None = None
) -> np.ndarray | None:
    """Decodes a JPEG to `[height, width, channels]`, not upright. None if simplejpeg is missing, or if Pillow gives a
    better error.

    Args:
        data: the bytes of the file.
        name: the name of the image in errors.
        mode: the color mode, by its name in Pillow: "RGB", "L" or "CMYK".
        shrink: decode at the smallest scale, from 1/8 to 1, with at least this height and width.

    Raises:
        ImageError: parts of the image are missing.
    """
    package, form = simplejpeg(), _FORMS.get(mode)
    if package is None or form is None:
        return None
    least = {} if shrink is None else {"min_height": shrink[0], "min_width": shrink[1]}
    try:
        return package.decode_jpeg(data, form, **least)
    except ValueError as error:
        if _LOST.search(str(error)):
            raise ImageError(name, f"damaged or truncated ({error})") from error
        return None


def check_jpeg(data: bytes, *, name: str, mode: str) -> None:
    """Raises `ImageError` if parts of the image are missing. Without simplejpeg, it checks nothing."""
    jpeg_array(data, name=name, mode=mode, shrink=(1, 1))


def check_scans(data: bytes, *, name: str) -> None:
    """Raises `ImageError` if a file has far more scans than an image needs: a small file could take minutes
    to decode.
    """
    scans, place = 0, 2
    while (found := _MARKER.search(data, place)) and found[0] != _END:
        place = found.end()
        if found[0] in _ALONE:
            continue
        scans += found[0] == _SCAN
        if scans > _MOST_SCANS:
            raise ImageError(
                name, f"a JPEG of more than {_MOST_SCANS} scans, which would take too long; expected about ten"
            )
        place += max(int.from_bytes(data[place : place + 2], "big"), 2)
