"""Reads TIFF files that Pillow reads wrongly or not at all: samples with many bits, signed or floating-point samples,
separate planes, many bands.

Only the layout is read here. Pillow (libtiff) decompresses the bytes of strips and tiles as if they were gray levels of
8 bits, one pixel per byte.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import TiffImagePlugin

from hierax.processing.errors import ImageError
from hierax.reprs.text import short_repr

_LONG = {
    1: "B",
    2: "c",
    3: "H",
    4: "I",
    5: "II",
    6: "b",
    7: "B",
    8: "h",
    9: "i",
    10: "ii",
    11: "f",
    12: "d",
    13: "I",
    16: "Q",
    17: "q",
    18: "Q",
}
_DTYPES = {1: "u", 2: "i", 3: "f"}
_MOST_VALUES = 1 << 24  # maximum number of values of a tag
_MOST_SAMPLES = (1 << 16) - 1  # per pixel: the tag has 16 bits in the standard
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_COLORS, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _EXTRA, _FORMAT = 320, 322, 323, 324, 325, 338, 339
_TOP = 281  # MaxSampleValue
_SUBFILE, _NO_PAGE = 254, 1 | 4  # NewSubfileType: a smaller version, or a mask
_MOST_PAGES = 64  # maximum number of pages that are checked
_JPEG, _YCBCR = 7, 6  # a compression, a photometric
_FILL_ORDER = 266  # 2: the first pixel is in the lowest bit of a byte
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# Compressions that neither Pillow nor libtiff reads, by name
_UNREAD = {33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 34892: "DNG's JPEG", 34933: "PNG",
           34934: "JPEG XR", 22610: "JPEG XR", 48124: "Jetraw", 50002: "JPEG XL", 52546: "JPEG XL"}  # fmt: skip
_BYTES_APART = 3  # the predictor for floating-point samples


@short_repr()
@dataclass(frozen=True)
class Layout:
    """The layout of the first page of a TIFF.

    Attributes:
        tags: the values of each tag, by its number.
        order: the byte order, as in `struct`.
        pages: whether other pages follow.
        big: whether it is a BigTIFF, with offsets of 64 bits.
    """

    tags: dict[int, tuple[Any, ...]]
    order: str
    pages: bool = False
    big: bool = False

    def one(self, tag: int, default: int) -> int:
        """The first value of a tag."""
        values = self.tags.get(tag)
        return int(values[0]) if values else default

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.one(_WIDTH, 0), self.one(_HEIGHT, 0)

    @property
    def samples(self) -> int:
        """Values per pixel."""
        return self.one(_SAMPLES, 1)

    @property
    def bits(self) -> tuple[int, ...]:
        """The number of bits of each sample."""
        given = tuple(int(bits) for bits in self.tags.get(_BITS, (1,)))
        return given if len(given) == self.samples else given[:1] * self.samples

    @property
    def formats(self) -> tuple[int, ...]:
        """The format of each sample: 1 unsigned, 2 signed, 3 floating-point. 4 (not stated) becomes 1."""
        given = tuple(1 if value == 4 else int(value) for value in self.tags.get(_FORMAT, (1,)))
        return given if len(given) == self.samples else given[:1] * self.samples

    @property
    def photometric(self) -> int:
        """The color space: 0: white is zero, 1: black is zero, 2: RGB, 3: palette, 5: CMYK, …"""
        return self.one(_PHOTOMETRIC, 2 if self.samples >= 3 else 1)

    @property
    def extra(self) -> tuple[int, ...]:
        """The meaning of each sample that is not a color: 0: not stated; 1 and 2: alpha (1: colors are multiplied by
        it).
        """
        return tuple(map(int, self.tags.get(_EXTRA, ())))

    @property
    def top(self) -> int | None:
        """The maximum value of samples, if the file states it."""
        values = self.tags.get(_TOP)
        return int(max(values)) if values else None

    @property
    def dtype(self) -> str:
        """The name of the numpy dtype of the samples."""
        kind = {1: "uint", 2: "int", 3: "float"}.get(self.formats[0], "complex")
        return f"{kind}{next((bits for bits in (8, 16, 32, 64) if bits >= max(self.bits)), 64)}"

    @property
    def plain(self) -> bool:
        """Whether Pillow reads the file correctly: unsigned, up to 8 bits, in one plane, with a known color space."""
        together = self.one(_PLANAR, 1) == 1 or self.samples == 1
        known = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4}.get(self.photometric, self.samples) == self.samples
        alpha = self.extra in ((1,), (2,)) and self.samples in (2, 4) and self.photometric in (1, 2)
        if self.big and self.order == ">":  # Pillow finds no tags in it
            return False
        if set(self.bits) != {8} and (self.samples > 1 or self.bits[0] not in (1, 2, 4)):  # no mode for it
            return False
        return max(self.bits) <= 8 and set(self.formats) == {1} and together and (known or alpha)


def read_layout(stream: BinaryIO) -> Layout:
    """The layout of the first page. Raises ValueError, KeyError or struct.error if the file is not a TIFF."""
    stream.seek(0)
    head = stream.read(16)
    order = {b"II": "<", b"MM": ">"}[head[:2]]
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    place = struct.unpack(order + ("Q" if big else "I"), head[8:16] if big else head[4:8])[0]
    tags, after = _read_tags(stream, order, place, big=big)
    if not 0 < int(tags.get(_SAMPLES, (1,))[0]) <= _MOST_SAMPLES:
        raise ValueError(f"{tags[_SAMPLES][0]} samples per pixel")
    pages, places = False, {place}
    while after and after not in places and len(places) < _MOST_PAGES and not pages:
        places.add(after)
        try:
            others, after = _read_tags(stream, order, after, big=big)
        except (ValueError, struct.error):  # only the first page is read
            break
        pages = not int(others.get(_SUBFILE, (0,))[0]) & _NO_PAGE
    return Layout(tags, order, pages, big)


def _read_tags(stream: BinaryIO, order: str, place: int, *, big: bool) -> tuple[dict[int, tuple[Any, ...]], int]:
    """The tags of a page, and the offset of the next page; 0 if there is none."""
    count_of, entry, inline = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    offset = order + ("Q" if big else "I")
    stream.seek(place)
    count = struct.unpack(order + count_of, stream.read(struct.calcsize(count_of)))[0]
    if count > 4096:
        raise ValueError(f"{count} tags")
    length = struct.calcsize(order + entry)
    table = stream.read(count * length)
    following = stream.read(struct.calcsize(offset))
    tags: dict[int, tuple[Any, ...]] = {}
    for number in range(count):
        tag, kind, many, value = struct.unpack(order + entry, table[number * length : (number + 1) * length])
        code = _LONG.get(kind)
        if code is None or many > _MOST_VALUES:
            continue
        size = struct.calcsize(order + code) * many
        if size > inline:
            stream.seek(struct.unpack(offset, value)[0])
            value = stream.read(size)
        tags.setdefault(
            tag, struct.unpack(order + code * many if len(code) > 1 else f"{order}{many}{code}", value[:size])
        )
    return tags, struct.unpack(offset, following)[0] if len(following) == struct.calcsize(offset) else 0


def check_compression(layout: Layout, *, name: str) -> None:
    """Raises `ImageError` for a TIFF with an unsupported compression."""
    number = layout.one(_COMPRESSION, 1)
    if number not in TiffImagePlugin.COMPRESSION_INFO:
        raise ImageError(
            name,
            f"a TIFF compressed by {_UNREAD.get(number, 'an unknown method')} (compression {number}), which is "
            "not read",
        )


def check_tiff(stream: BinaryIO, *, name: str) -> None:
    """Raises `ImageError` for a TIFF with fewer strips, tiles or bytes than its pixels need. Pillow would leave the
    rest black, or would use other bytes of the file.
    """
    place = stream.tell()
    try:
        layout = read_layout(stream)
    except Exception:  # Pillow then raises the error
        return
    finally:
        stream.seek(place)
    across, down, (_, block_height) = _blocks(layout, name)
    planes = layout.samples if layout.one(_PLANAR, 1) == 2 else 1
    offsets, counts = _places(layout)
    compression = layout.one(_COMPRESSION, 1)
    if len(offsets) < across * down * planes:
        raise ImageError(name, "a damaged TIFF file (blocks are missing)")
    for number, (offset, count) in enumerate(zip(offsets, counts, strict=False)):
        rows = min(block_height, layout.size[1] - number % (across * down) * block_height)
        if not offset or not count:
            raise ImageError(name, "a damaged TIFF file (blocks are missing)")
        if compression == 1 and _TILES not in layout.tags and layout.photometric != _YCBCR:
            bits = layout.size[0] * sum(layout.bits) // planes
            short = count < rows * -(-bits // 8)
        else:
            short = compression == _JPEG and not _has_end(stream, offset, count)
        if short:
            raise ImageError(name, "damaged or truncated (a TIFF's strip)")
    stream.seek(place)


def _has_end(stream: BinaryIO, offset: int, count: int) -> bool:
    stream.seek(offset)
    return b"\xff\xd9" in stream.read(count)


def _blocks(layout: Layout, name: str) -> tuple[int, int, tuple[int, int]]:
    """The number of strips or tiles per row and per column, and the width and height of one."""
    (width, height), tiled = layout.size, _TILES in layout.tags
    block_width = layout.one(_TILE_WIDTH, 0) if tiled else width
    block_height = layout.one(_TILE_HEIGHT, 0) if tiled else min(layout.one(_ROWS, height), height)
    if min(block_width, block_height) <= 0:
        raise ImageError(name, "a damaged TIFF file (its blocks have no pixels)")
    return -(-width // block_width), -(-height // block_height), (block_width, block_height)


def _places(layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The offsets and sizes in bytes of all strips or tiles."""
    tiled = _TILES in layout.tags
    return layout.tags.get(_TILES if tiled else _STRIPS, ()), layout.tags.get(
        _TILE_BYTES if tiled else _STRIP_BYTES, ()
    )


def read_samples(stream: BinaryIO, layout: Layout, *, name: str) -> np.ndarray:
    """The samples, `[height, width, samples]`, in the dtype of the file. Raises `ImageError`."""
    bits, formats = set(layout.bits), set(layout.formats)
    kind, width = _DTYPES.get(min(formats)), min(bits)
    packed = kind == "u" and 0 < width < 16 and width != 8
    if (
        len(bits) > 1
        or len(formats) > 1
        or kind is None
        or not (packed or width in (8, 16, 32, 64))
        or (kind, width) == ("f", 8)
    ):
        raise ImageError(name, f"a TIFF of {describe_layout(layout)}, which is not read")
    if packed and layout.one(_PREDICTOR, 1) != 1:
        raise ImageError(name, f"a TIFF of {describe_layout(layout)} with a predictor, which is not read")
    apart = layout.one(_PLANAR, 1) == 2 and layout.samples > 1
    planes = layout.samples if apart else 1
    parts = [_plane(stream, layout, plane, planes, packed=packed, name=name) for plane in range(planes)]
    return np.concatenate(parts, axis=2)


def describe_layout(layout: Layout) -> str:
    """The samples as text, such as `5 bands of 16 bits`."""
    kinds = {1: "", 2: " (signed)", 3: " (floating)", 5: " (complex)", 6: " (complex)"}
    bits = " and ".join(str(bits) for bits in dict.fromkeys(layout.bits))
    bands = "1 band" if layout.samples == 1 else f"{layout.samples} bands"
    return f"{bands} of {bits} bits{kinds.get(layout.formats[0], '')}"


def _plane(stream: BinaryIO, layout: Layout, plane: int, planes: int, *, packed: bool, name: str) -> np.ndarray:
    """The samples of one plane, `[height, width, samples of the plane]`."""
    (width, height), samples = layout.size, layout.samples // planes
    bits = layout.bits[0]
    across, down, (block_width, block_height) = _blocks(layout, name)
    predictor = layout.one(_PREDICTOR, 1)
    out = np.empty((height, width, samples), np.dtype(f"{_DTYPES[layout.formats[0]]}{2 if packed else bits // 8}"))
    offsets, counts = _places(layout)
    blocks = across * down
    if len(offsets) < blocks * planes or len(counts) < blocks * planes:
        raise ImageError(name, "a damaged TIFF file (blocks are missing)")
    for block in range(blocks):
        top, left = block // across * block_height, block % across * block_width
        rows = block_height if _TILES in layout.tags else min(block_height, height - top)
        place = int(offsets[plane * blocks + block]), int(counts[plane * blocks + block])
        raw = _decompress(stream, place, layout, -(-block_width * samples * bits // 8), rows, name=name)
        values = _values(raw, block_width, samples, layout, predictor, packed=packed)
        part = values[: height - top, : width - left]
        out[top : top + part.shape[0], left : left + part.shape[1]] = part
    return out


def _decompress(
    stream: BinaryIO, place: tuple[int, int], layout: Layout, row: int, rows: int, *, name: str
) -> np.ndarray:
    """The bytes of a block after decompression, `[rows, row]`."""
    stream.seek(place[0])
    data = stream.read(place[1])
    if layout.one(_FILL_ORDER, 1) == 2:
        data = data.translate(_REVERSED)
    compression = layout.one(_COMPRESSION, 1)
    if compression == 1:
        if len(data) < row * rows:
            raise ImageError(name, "damaged or truncated (a TIFF's strip)")
        return np.frombuffer(data, np.uint8, row * rows).reshape(rows, row)
    tags = [(_WIDTH, row), (_HEIGHT, rows), (_BITS, 8), (_COMPRESSION, compression), (_PHOTOMETRIC, 1), (_STRIPS, 0),
            (_SAMPLES, 1), (_ROWS, rows), (_STRIP_BYTES, len(data))]  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, start if tag == _STRIPS else value) for tag, value in tags]
    file = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + data
    try:
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(file))
        image.load()
    except Exception as error:
        raise ImageError(name, f"damaged, truncated, or compressed in a way that is not read ({error})") from error
    return np.asarray(image)


def _values(raw: np.ndarray, width: int, samples: int, layout: Layout, predictor: int, *, packed: bool) -> np.ndarray:
    """The samples of the bytes of a block, `[rows, width, samples]`."""
    rows, bits = len(raw), layout.bits[0]
    if packed:
        spread = np.unpackbits(raw, axis=1)[:, : width * samples * bits].reshape(rows, width, samples, bits)
        return (spread @ (1 << np.arange(bits - 1, -1, -1))).astype(np.uint16)
    kind = _DTYPES[layout.formats[0]]
    if predictor == _BYTES_APART:
        planes = np.cumsum(raw.reshape(rows, -1, samples), axis=1, dtype=np.uint8).reshape(rows, bits // 8, -1)
        return np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">{kind}{bits // 8}").reshape(rows, width, samples)
    found = np.ascontiguousarray(raw).view(f"{layout.order}{kind}{bits // 8}").reshape(rows, width, samples)
    if predictor != 2:
        return found
    whole = found.astype(f"u{bits // 8}") if kind == "u" else found.view(f"{layout.order}u{bits // 8}")
    return np.cumsum(whole, axis=1, dtype=f"u{bits // 8}").view(f"{kind}{bits // 8}")
