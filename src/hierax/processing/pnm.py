"""PGM and PPM files that are text, or with a white other than 255. Pillow reads them slowly, value by value."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from hierax.processing.errors import ImageError

_HEADER = 1 << 16  # maximum bytes of a header with its comments
_SPACE = rb"(?:\s|#[^\n\r]*[\n\r])+"
_START = re.compile(rb"P([2356])" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,5})\s")


def is_pnm(start: bytes) -> bool:
    """Whether a file with these first bytes may be a PGM or PPM file."""
    return start[:1] == b"P" and start[1:2] in b"2356" and (start[2:3].isspace() or start[2:3] == b"#")


def read_pnm(stream: BinaryIO, *, name: str, check: Callable[[tuple[int, int]], None]) -> tuple[np.ndarray, int] | None:
    """The unchanged values, `[height, width, 1 or 3]`, and the value of white. None for binary files with white 255,
    which Pillow reads.

    `check` is called with width and height before the values are read.

    Raises:
        ImageError: the file is damaged or truncated.
    """
    stream.seek(0)
    head = stream.read(_HEADER)
    found = _START.match(head)
    if found is None:
        if len(head) < _HEADER:
            return None  # Pillow then checks whether it is another kind of file
        raise ImageError(name, "not an image, or a PGM or PPM file with a header of more than 64 kB")
    kind, width, height, top = (int(text) for text in found.groups())
    if not 0 < top < 65536:
        raise ImageError(name, f"a damaged PPM file (its white is {top})")
    check((width, height))
    if kind >= 5 and top == 255:
        return None
    channels = 3 if kind in (3, 6) else 1
    count = width * height * channels
    stream.seek(found.end())
    if kind >= 5:
        dtype = np.dtype(">u2" if top > 255 else "u1")
        data = stream.read(count * dtype.itemsize)
        values = np.frombuffer(data, dtype, len(data) // dtype.itemsize)
    else:
        text = stream.read(count * 8 + _HEADER)  # at most five digits per value, and spaces
        values = _numbers(re.sub(rb"#[^\n\r]*", b" ", text), name)
    if len(values) < count:
        raise ImageError(name, f"damaged or truncated ({len(values):,} of {count:,} values)")
    values = values[:count].astype(np.uint16).clip(0, top)
    return values.reshape(height, width, channels), top


def _numbers(text: bytes, name: str) -> np.ndarray:
    if re.search(rb"[^\d\s]", text):
        raise ImageError(name, "a damaged PPM file (its values are not whole numbers)")
    return np.fromstring(text.decode("ascii"), dtype=np.int64, sep=" ").clip(0, 65535) if text.strip() else np.zeros(0)
