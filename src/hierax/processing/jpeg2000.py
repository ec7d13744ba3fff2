"""JPEG 2000 files: reads the types of their bands, and makes a check that the decoder does not make."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from hierax.processing.errors import ImageError

_START = b"\xff\x4f\xff\x51"  # start of the code stream, which may be inside of boxes
_TILE_PART = b"\xff\x90"
_SIZES = struct.Struct(">8IH")  # sizes of the image and of its tiles, each with an offset; the number of bands


@dataclass(frozen=True)
class Band:
    """The type of the values of a band."""

    bits: int
    signed: bool


def read_bands(data: bytes) -> list[Band]:
    """All bands of a file; an empty list if it is damaged."""
    place = data.find(_START)
    if place < 0 or len(data) < place + 42:
        return []
    count = int.from_bytes(data[place + 40 : place + 42], "big")
    stated = data[place + 42 : place + 42 + 3 * count : 3]
    return [Band((byte & 127) + 1, bool(byte & 128)) for byte in stated]


def dtype_of(bands: list[Band]) -> str:
    """The name of the numpy dtype that can store the values of all bands."""
    bits = max((band.bits for band in bands), default=8)
    return f"{'int' if any(band.signed for band in bands) else 'uint'}{8 if bits <= 8 else 16 if bits <= 16 else 32}"


def check_jpeg2000(stream: BinaryIO, *, name: str) -> None:
    """Raises `ImageError` if tiles are missing; the decoder would leave them black."""
    place = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(place)
    start = data.find(_START)
    if start < 0 or len(data) < start + 42:
        return  # the decoder raises the error
    right, bottom, _, _, width, height, left, top, _ = _SIZES.unpack_from(data, start + 8)
    if not width or not height:
        return
    count = -(-(right - left) // width) * -(-(bottom - top) // height)
    found = _tiles(data, start)
    if len(found) < count:
        raise ImageError(name, f"damaged or truncated ({len(found):,} of {count:,} tiles)")


def _tiles(data: bytes, start: int) -> set[int]:
    """The numbers of all tiles that are present, at least in part."""
    found: set[int] = set()
    place = start + 2
    while place + 12 <= len(data):
        marker, length = data[place : place + 2], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _TILE_PART:
            found.add(int.from_bytes(data[place + 4 : place + 6], "big"))
            length = int.from_bytes(data[place + 6 : place + 10], "big") or len(data)
            place += max(length, 12)
        elif found or marker[:1] != b"\xff":
            break
        else:
            place += 2 + length
    return found
