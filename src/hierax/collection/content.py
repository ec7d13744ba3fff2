"""Reads the bytes of a source (a regular file, a member of a tar shard, or a URL), and limits their number."""

from __future__ import annotations

import os
from typing import BinaryIO

from hierax.data.tar import ABSENT
from hierax.processing.decode import DEFAULT_MAX_PIXELS, pillow_is_quiet, read_header
from hierax.processing.paths import opened_regular

_SURE = 1 << 26  # number of bytes that are read without checking the header
_PER_PIXEL = 16  # bytes: four channels of 32 bits


def read_file(path: str, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> bytes:
    """All bytes of a file that may be an image.

    Raises:
        OSError, ValueError: the file cannot be read, or is not a regular file, or is much too large for its image.
    """
    with opened_regular(path) as file:
        return _read(file, 0, os.fstat(file.fileno()).st_size, max_pixels)


def read_member(shard: str, offset: int, size: int, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> bytes:
    """The bytes of a file in a tar shard, by its position.

    Raises:
        OSError, ValueError: see `read_file`; or the shard does not contain all bytes.
    """
    check_place(offset)
    with opened_regular(shard) as file:
        content = _read(file, offset, size, max_pixels)
    if len(content) < size:
        raise ValueError(f"truncated: {len(content):,} of {size:,} bytes are present")
    return content


def check_place(offset: int) -> None:
    """Raises `ValueError` if the shard does not contain the bytes of a member."""
    if offset < 0:
        what = "a link to a file that is not in the archive" if offset == ABSENT else "stored as a sparse file"
        raise ValueError(f"{what}; its bytes cannot be read")


def _read(file: BinaryIO, offset: int, size: int, max_pixels: int | None) -> bytes:
    """Reads `size` bytes from `offset`, if an image can have that many bytes."""
    file.seek(offset)
    if size > _SURE:
        with pillow_is_quiet():
            image = read_header(file, name="image", max_pixels=max_pixels)  # reads only the beginning
        if size > _SURE + image.width * image.height * _PER_PIXEL:
            raise ValueError(f"{size:,} bytes for {image.width} x {image.height} pixels")
        file.seek(offset)
    return file.read(size)
