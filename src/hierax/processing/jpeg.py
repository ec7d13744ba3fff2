"""JPEG files: decoding by simplejpeg if it is installed, and checks that neither decoder makes by itself.

libjpeg fills lost parts of a file with gray and continues; Pillow does not ask whether that happened. simplejpeg does:
if it is installed, such a file is an error, whichever of the two decodes the pixels.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np

from hierax.processing.errors import ImageError

_MOST_SCANS = 100  # a progressive file has about ten; each costs as much time as the whole image
_FORMS = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_SCAN, _END, _ALONE = b"\xff\xda", b"\xff\xd9", (b"\xff\x01", b"\xff\xd8")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # except for markers within a scan
# Not among them: bytes before the end marker, and odd values in headers. Files of cameras have both, and are whole.
_LOST = re.compile(r"premature end|bad (huffman|arithmetic)|found marker|extraneous bytes before marker 0x(?!d9)", re.I)


@cache
def simplejpeg() -> ModuleType | None:
    """The package, or None if it is not installed."""
    try:
        return import_module("simplejpeg")
    except ImportError:
        return None


def jpeg_array(
    data: bytes, *, name: str, mode: str = "RGB", shrink: tuple[int, int] | None = None
) -> np.ndarray | None:
    """`[height, width, channels]`, not upright; None if simplejpeg is missing or Pillow has a better error.

    Args:
        mode: Pillow's name of the colors: "RGB", "L" or "CMYK".
        shrink: decode at the smallest scale of 1/8 to 1 with at least this height and width.

    Raises:
        ImageError: parts of the image are lost.
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
    """Raises `ImageError` for a file with lost parts, if simplejpeg is installed."""
    jpeg_array(data, name=name, mode=mode, shrink=(1, 1))


def check_scans(data: bytes, *, name: str) -> None:
    """Raises `ImageError` for a file of far more scans than an image needs: a small one could take minutes."""
    scans, place = 0, 2
    while (found := _MARKER.search(data, place)) and found[0] != _END:
        place = found.end()
        if found[0] in _ALONE:
            continue
        scans += found[0] == _SCAN
        if scans > _MOST_SCANS:
            raise ImageError(
                name, f"a JPEG of more than {_MOST_SCANS} scans, which would take long; expected about ten"
            )
        place += max(int.from_bytes(data[place : place + 2], "big"), 2)
