"""Reads the bytes of a source (a regular file, a member of a tar shard, or a URL), and limits their number."""

from __future__ import annotations

import os
from typing import BinaryIO

from hierax.data.tar import ABSENT
from hierax.processing.decode import DEFAULT_MAX_PIXELS, pillow_is_quiet, read_header
from hierax.processing.paths import opened_regular

_SURE = 1 << 26  # bytes that are read without a look at what they are
_PER_PIXEL = 16  # bytes: four channels of 32 bits


def read_file(path: str, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> bytes:
    """All bytes of a file that may hold an image.

    Raises:
        OSError, ValueError: it cannot be read, is not a regular file, or is much too large for its image.
    """
    with opened_regular(path) as file:
        return _read(file, 0, os.fstat(file.fileno()).st_size, max_pixels)


def read_member(shard: str, offset: int, size: int, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> bytes:
    """The bytes of a file in a tar shard, by its position.

    Raises:
        OSError, ValueError: as in `read_file`; or the shard does not hold all bytes.
    """
    check_place(offset)
    with opened_regular(shard) as file:
        content = _read(file, offset, size, max_pixels)
    if len(content) < size:
        raise ValueError(f"cut off: {len(content):,} of {size:,} bytes are there")
    return content


def check_place(offset: int) -> None:
    """Raises `ValueError` for a member whose bytes are not in its shard."""
    if offset < 0:
        what = "a link to what the archive does not hold" if offset == ABSENT else "stored with holes"
        raise ValueError(f"{what}; its bytes cannot be read")


def _read(file: BinaryIO, offset: int, size: int, max_pixels: int | None) -> bytes:
    """Reads `size` bytes from `offset`, if an image can have that many."""
    file.seek(offset)
    if size > _SURE:
        with pillow_is_quiet():
            image = read_header(file, name="image", max_pixels=max_pixels)  # at the beginning of a file only
        if size > _SURE + image.width * image.height * _PER_PIXEL:
            raise ValueError(f"{size:,} bytes for {image.width} x {image.height} pixels")
        file.seek(offset)
    return file.read(size)
