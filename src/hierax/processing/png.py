"""PNG files: checks that Pillow does not make, and removal of metadata that it refuses.

If compressed data are missing, Pillow leaves the last rows black or empty. It refuses an image with a large color
profile or text, although these do not change the pixels.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

from hierax.processing.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNKS = 10_000  # maximum number of chunks, plus one per kB: many empty chunks take a long time to read
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # channels of each color type
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_WITH_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # keywords of text chunks
_LIMITS = ("MAX_TEXT_CHUNK", "Too much memory used in text")
_PART = 1 << 20


def check_png(data: bytes, *, name: str) -> None:
    """Raises `ImageError` for a PNG with a wrong checksum, or without its last chunk."""
    kind, place, view = b"", len(SIGNATURE), memoryview(data)
    for kind, start, end in _chunks(data):
        place = end + 4
        if place > len(data):
            raise ImageError(name, f"damaged or truncated (its chunk {_chunk_name(kind)} is incomplete)")
        if zlib.crc32(view[start - 4 : end]) != int.from_bytes(data[end:place], "big"):
            raise ImageError(name, f"damaged or truncated (the checksum of its chunk {_chunk_name(kind)} is wrong)")
    if kind != b"IEND":
        raise ImageError(name, "damaged or truncated (a PNG without its last chunk)")


def without_metadata(data: bytes) -> bytes:
    """The file without its color profile and texts, except texts that may contain its orientation. If there is nothing
    to remove, `data` itself.
    """
    parts, begin = [], 0
    for kind, start, end in _chunks(data):
        if kind == b"iCCP" or (kind in _TEXTS and not data.startswith(_WITH_ORIENTATION, start)):
            parts.append(data[begin : start - 8])
            begin = min(end + 4, len(data))
    return b"".join((*parts, data[begin:])) if parts else data


def check_rows(data: bytes, image: Image.Image, *, name: str) -> None:
    """Raises `ImageError` if the compressed data of a decoded PNG end before its last row."""
    width, height, depth, color, _, _, interlaced = (
        *(int.from_bytes(data[16 + 4 * i : 20 + 4 * i], "big") for i in range(2)),
        *data[24:29],
    )
    last = image.im.crop((0, image.height - 1, image.width, image.height))  # Image.crop has a global limit
    if not interlaced and last.getbbox(False) is not None:
        return  # missing rows are 0, so only images with zeros in the last row need the check below
    bits = depth * _CHANNELS.get(color, 1)
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sides = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    need = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sides if columns > 0 and rows > 0)
    have = _inflate(data, need, name)
    if have < need:
        rows = "too early" if interlaced else f"after {have * height // need:,} of {height:,} rows"
        raise ImageError(name, f"damaged or truncated (its compressed data end {rows})")


def check_chunks(stream: BinaryIO, name: str, *, until: bytes = b"") -> None:
    """Raises `ImageError` if a PNG has far too many chunks for its size. Chunks are counted up to the first `until`."""
    size, place = stream.seek(0, os.SEEK_END), len(SIGNATURE)
    most = _CHUNKS + size // 1024
    for _ in range(most):
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8 or head[4:] == until:
            return
        place += 12 + int.from_bytes(head[:4], "big")
    raise ImageError(name, f"a PNG of more than {most:,} chunks for {size:,} bytes")


def problem_of(error: Exception) -> str:
    """The text of an error of Pillow; a clear sentence if the error is about its limits for metadata."""
    if any(limit in str(error) for limit in _LIMITS):
        return "its EXIF or XMP metadata are larger than the limit of Pillow; save the image without them"
    return str(error)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the name of each chunk, and the start and end of its content. The last chunk may be incomplete."""
    place, kind = len(SIGNATURE), b""
    while place + 8 <= len(data) and kind != b"IEND":
        kind, start = data[place + 4 : place + 8], place + 8
        end = start + int.from_bytes(data[place : place + 4], "big")
        yield kind, start, end
        place = end + 4


def _inflate(data: bytes, need: int, name: str) -> int:
    """The number of bytes after decompression. It stops when `need` bytes are reached."""
    have, inflater = 0, zlib.decompressobj()
    for kind, start, end in _chunks(data):
        rest = data[start:end] if kind == b"IDAT" else b""
        while rest and have < need and not inflater.eof:
            try:
                have += len(inflater.decompress(rest, _PART))
            except zlib.error as error:
                raise ImageError(name, f"damaged or truncated ({error})") from error
            rest = inflater.unconsumed_tail
    return have + len(inflater.flush() if have < need else b"")


def _chunk_name(kind: bytes) -> str:
    return ascii(kind.decode("latin-1")).strip("'")
