"""Reads a part of an image at the training size, and decodes no more than needed."""

from __future__ import annotations

import io
from collections.abc import Callable
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
    """Reads the part of an upright image that `part(height, width)` selects, resized to `size`.

    JPEGs are decoded at 1/2, 1/4 or 1/8 of their scale if the part stays at least twice as large as `size`. The part is
    then rounded to whole pixels of that scale.

    Args:
        source: a path, the bytes of a file, a Pillow image, an array or a tensor.
        channels: number of channels.
        name: the name of the image in errors.
        part: a function that selects the part.
        size: rows and columns of the result.
        exact: return the values of the file in float32; images of 8 bits are then refused.
        max_pixels: maximum number of pixels; None: no limit.

    Returns:
        uint8 `[*size, channels]`; float32 if `exact`.

    Raises:
        ImageError: the image cannot be read.
    """
    if exact:
        pixels = read_image(source, channels=channels, name=name, unit=False, max_pixels=max_pixels)
        if isinstance(pixels, Image.Image) or pixels.dtype == np.uint8:
            raise ImageError(name, "an image of 8 bits; the other images have more bits")
        top, left, height, width = part(*pixels.shape[:2])
        return resize(pixels[top : top + height, left : left + width], size)
    if channels == 3 and isinstance(source, (str, bytes)) and simplejpeg() is not None:
        with open_source(source, name=name) as stream:
            source = stream.read()
        found = _jpeg_crop(source, name=name, part=part, size=size, max_pixels=max_pixels)
        if found is not None:
            return resize(found, size)
    pixels = np.asarray(read_image(source, channels=channels, name=name, fast=True, max_pixels=max_pixels))
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    if pixels.dtype != np.uint8:  # an array of floats from 0 to 1
        pixels = np.rint(pixels * 255).astype(np.uint8)
    top, left, height, width = part(*pixels.shape[:2])
    return resize(pixels[top : top + height, left : left + width], size)


def _jpeg_crop(
    data: bytes, *, name: str, part: Callable[[int, int], Box], size: tuple[int, int], max_pixels: int | None
) -> np.ndarray | None:
    """The part before resizing. None if the file is not a JPEG, or if Pillow must decode it."""
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
    top, left, rows, columns = (round(value / shrink) for value in box)
    return pixels[top : top + rows, left : left + columns]


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
