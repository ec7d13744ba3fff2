"""Reads the bytes of a source (a regular file, a member of a tar shard, or a URL), and limits their number."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

from hierax.data.tar import ABSENT
from hierax.processing import DEFAULT_MAX_PIXELS
from hierax.processing.paths import opened_regular
from hierax.processing.reading import stated_size

_SURE = 1 << 26  # number of bytes that are read without checking the header


def read_file(path: str, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> bytes:
    """All bytes of a file that may be an image.

    Raises:
        OSError, ValueError: the file cannot be read, or is not a regular file, or is much too large for its image.
    """
    with opened_regular(path) as file:
        return _read(file, path, 0, os.fstat(file.fileno()).st_size, max_pixels)


def read_member(shard: str, offset: int, size: int, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> bytes:
    """The bytes of a file in a tar shard, by its position.

    Raises:
        OSError, ValueError: see `read_file`; or the shard does not contain all bytes.
    """
    check_place(offset)
    with opened_regular(shard) as file:
        content = _read(file, shard, offset, size, max_pixels)
    if len(content) < size:
        raise ValueError(f"truncated: {len(content):,} of {size:,} bytes are present")
    return content


def check_place(offset: int) -> None:
    """Raises `ValueError` if the shard does not contain the bytes of a member."""
    if offset < 0:
        what = "a link to a file that is not in the archive" if offset == ABSENT else "stored as a sparse file"
        raise ValueError(f"{what}; its bytes cannot be read")


def _read(file: BinaryIO, path: str, offset: int, size: int, max_pixels: int | None) -> bytes:
    """Reads `size` bytes from `offset`, if an image can have that many bytes."""
    if size > _SURE:
        with io.BufferedReader(Section(path, offset, size)) as image:  # only the beginning is read
            width, height, each = stated_size(image, name="image", max_pixels=max_pixels)
        if size > _SURE + width * height * each:
            raise ValueError(f"{size:,} bytes for {width} x {height} pixels")
    file.seek(offset)
    return file.read(size)


class Section(io.RawIOBase):
    """A part of a file that can be read like a file: `size` bytes that begin at `start`."""

    def __init__(self, path: str, start: int, size: int) -> None:
        check_place(start)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed in close())
        self._start, self._size, self._place = start, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position in the part, and returns the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(base + offset, 0)
        return self._place

    def readinto(self, buffer: object) -> int:
        """Fills the buffer with the next bytes, and returns their number."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        count = max(min(len(view), self._size - self._place), 0)
        self._file.seek(self._start + self._place)
        count = self._file.readinto(view[:count])
        self._place += count
        return count

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()
