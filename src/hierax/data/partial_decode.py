"""Reads a part of an image at the training size, and decodes no more than needed."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image

from hierax.processing.color import orientation, upright_array
from hierax.processing.decode import DEFAULT_MAX_PIXELS, check_pixels, open_source, pillow_is_quiet, read_header
from hierax.processing.errors import ImageError
from hierax.processing.jpeg import check_scans, jpeg_array, simplejpeg
from hierax.processing.reading import ImageInput, read_image

Box: TypeAlias = "tuple[int, int, int, int]"
"""Top, left, height and width of a part of an image, in pixels of the image."""

_KEEP = 2  # a JPEG is decoded at a smaller scale only if the part stays this many times as large as the target
_MEAN = (124, 116, 104)  # of ImageNet, in gray levels


@dataclass(frozen=True)
class Crop:
    """A part of an image at the training size, and where it comes from.

    Attributes:
        pixels: uint8 or float32 `[height, width, channels]`. Outside of the image, they have the mean color.
        box: top, left, height and width of what was resized, in pixels of the upright image. It differs from the part
            that was asked for if a JPEG was decoded at a smaller scale, or the part reaches beyond the image.
        inside: where it is in `pixels`: first row, first column, last row plus 1, last column plus 1.
    """

    pixels: np.ndarray
    box: tuple[float, float, float, float]
    inside: tuple[int, int, int, int]

    def of_target(self, target: np.ndarray, *, fill: int) -> np.ndarray:
        """The same part of a map `[H, W]` of the upright image, at the same size, by nearest neighbor; `fill` outside
        of the image.
        """
        first, start, last, stop = self.inside
        rows = _nearest(self.box[0], self.box[2], last - first, target.shape[0])
        columns = _nearest(self.box[1], self.box[3], stop - start, target.shape[1])
        part = np.full(self.pixels.shape[:2], fill, target.dtype)
        part[first:last, start:stop] = target[rows[:, None], columns]
        return part


def _nearest(start: float, length: float, count: int, available: int) -> np.ndarray:
    """The pixels in which the centers of `count` equal parts of `length` pixels lie."""
    places = np.floor(start + (np.arange(count) + 0.5) * (length / count)).astype(np.int64)
    return places.clip(0, available - 1)


def read_crop(
    source: ImageInput,
    *,
    channels: int,
    name: str,
    part: Callable[[int, int], Box],
    size: tuple[int, int],
    exact: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> np.ndarray:
    """The pixels of `read_part`."""
    return read_part(
        source, channels=channels, name=name, part=part, size=size, exact=exact, max_pixels=max_pixels
    ).pixels


def read_part(
    source: ImageInput,
    *,
    channels: int,
    name: str,
    part: Callable[[int, int], Box],
    size: tuple[int, int],
    exact: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Crop:
    """Reads the part of an upright image that `part(height, width)` selects, resized to `size`.

    JPEGs are decoded at 1/2, 1/4 or 1/8 of their scale if the part stays at least twice as large as `size`. The part is
    then rounded to whole pixels of that scale.

    Args:
        source: a path, the bytes of a file, a Pillow image, an array or a tensor.
        channels: number of channels.
        name: the name of the image in errors.
        part: a function that selects the part. It may reach beyond the image.
        size: rows and columns of the result.
        exact: return the values of the file in float32; images of 8 bits are then refused.
        max_pixels: maximum number of pixels; None: no limit.

    Returns:
        The part; its pixels are uint8 `[*size, channels]`, float32 if `exact`.

    Raises:
        ImageError: the image cannot be read.
    """
    if exact:
        pixels = read_image(source, channels=channels, name=name, unit=False, max_pixels=max_pixels)
        if isinstance(pixels, Image.Image) or pixels.dtype == np.uint8:
            raise ImageError(name, "an image of 8 bits; the other images have more bits")
        return _cut(pixels, part(*pixels.shape[:2]), size)
    if channels == 3 and isinstance(source, (str, bytes)) and simplejpeg() is not None:
        with open_source(source, name=name) as stream:
            source = stream.read()
        found = _jpeg_crop(source, name=name, part=part, size=size, max_pixels=max_pixels)
        if found is not None:
            return found
    pixels = np.asarray(read_image(source, channels=channels, name=name, fast=True, max_pixels=max_pixels))
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    if pixels.dtype != np.uint8:  # an array of floats from 0 to 1
        pixels = np.rint(pixels * 255).astype(np.uint8)
    return _cut(pixels, part(*pixels.shape[:2]), size)


def _cut(pixels: np.ndarray, box: Box, size: tuple[int, int], *, beyond: bool | None = None) -> Crop:
    """The part `box` of pixels `[H, W, C]`, resized. If it reaches `beyond` them, the rest has the mean color."""
    top, left, height, width = box
    rows, columns = pixels.shape[:2]
    if beyond is None:
        beyond = _is_beyond(box, rows, columns)
    if not beyond:
        part = pixels[top : top + height, left : left + width]
        return Crop(resize(part, size), (top, left, *part.shape[:2]), (0, 0, *size))
    y, x = min(max(top, 0), rows - 1), min(max(left, 0), columns - 1)
    part = pixels[y : max(min(top + height, rows), y + 1), x : max(min(left + width, columns), x + 1)]
    first, last = _place(y - top, part.shape[0], height, size[0])
    start, stop = _place(x - left, part.shape[1], width, size[1])
    resized = resize(part, (last - first, stop - start))
    whole = np.empty((*size, pixels.shape[2]), pixels.dtype)
    whole[:] = _fill(part)
    whole[first:last, start:stop] = resized
    return Crop(whole, (y, x, *part.shape[:2]), (first, start, last, stop))


def _is_beyond(box: Box, height: int, width: int) -> bool:
    top, left, rows, columns = box
    return min(top, left) < 0 or top + rows > height or left + columns > width


def _place(before: int, length: int, whole: int, count: int) -> tuple[int, int]:
    """Where `length` of `whole` pixels lie after `before` others, if all become `count` pixels: at least one."""
    first = min(round(before * count / whole), count - 1)
    return first, max(round((before + length) * count / whole), first + 1)


def _fill(pixels: np.ndarray) -> np.ndarray:
    """The color outside of an image: the mean of ImageNet; for other values, the mean of its own."""
    channels = pixels.shape[2]
    if pixels.dtype != np.uint8 or channels not in (1, 3):
        return pixels.mean((0, 1)).astype(pixels.dtype)
    return np.array(_MEAN if channels == 3 else _MEAN[1:2], np.uint8)


def _jpeg_crop(
    data: bytes, *, name: str, part: Callable[[int, int], Box], size: tuple[int, int], max_pixels: int | None
) -> Crop | None:
    """The part. None if the file is not a JPEG, or if Pillow must decode it."""
    package = simplejpeg()
    if package is None or not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colors, _ = package.decode_jpeg_header(data)
    except ValueError:
        return None
    if colors not in ("YCbCr", "RGB"):
        return None
    check_pixels((width, height), name=name, max_pixels=max_pixels)
    tag = _orientation(data, name) if _has_metadata(data) else 1
    turned = tag >= 5
    box = part(*((width, height) if turned else (height, width)))
    shrink = next((k for k in (8, 4, 2) if min(box[2] / size[0], box[3] / size[1]) >= k * _KEEP), 1)
    check_scans(data, name=name)
    array = jpeg_array(data, name=name, shrink=(-(-height // shrink), -(-width // shrink)))
    if array is None:
        return None
    pixels = upright_array(array, tag)
    height, width = (width, height) if turned else (height, width)
    top, left, rows, columns = (round(value / shrink) for value in box)
    found = _cut(pixels, (top, left, rows, columns), size, beyond=_is_beyond(box, height, width))
    # the last row of a smaller scale may reach beyond the image; in an image that was turned, it may be the first
    over = pixels.shape[0] * shrink - height, pixels.shape[1] * shrink - width
    y, x = over[0] if tag in (3, 4, 7, 8) else 0, over[1] if tag in (2, 3, 6, 7) else 0
    found_top, found_left, found_rows, found_columns = (value * shrink for value in found.box)
    return Crop(found.pixels, (found_top - y, found_left - x, found_rows, found_columns), found.inside)


def _has_metadata(data: bytes) -> bool:
    """Whether a JPEG has a segment that may hold its orientation (APP1: Exif or XMP)."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xE1:
            return True
        if marker == 0xDA:  # the image begins
            return False
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _orientation(data: bytes, name: str) -> int:
    with pillow_is_quiet():
        return orientation(read_header(io.BytesIO(data), name=name, max_pixels=None))


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes uint8 or float32 pixels `[H, W, C]` to `size` (bicubic, antialiased). For uint8, it uses 8-bit kernels of
    torch.
    """
    if pixels.shape[:2] == size:
        return pixels
    if not pixels.flags.writeable or not pixels.flags.c_contiguous:  # torch does not accept negative strides
        pixels = pixels.copy(order="C")
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    out = torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True, align_corners=False)
    return out[0].permute(1, 2, 0).numpy()
