"""Reads masks: images whose values are numbers of classes, or colors that stand for classes."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from PIL import Image

from hierax.processing import DEFAULT_MAX_PIXELS, ImageError
from hierax.processing.color import orientation, upright_array
from hierax.processing.decode import decode, open_source, pillow_is_quiet, read_header
from hierax.processing.reading import read_values

MaskInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image"

_LOSSY = ("JPEG", "MPO", "AVIF", "HEIF", "JPEG2000")
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_SCALES = {2: 85, 4: 17}  # by which Pillow multiplies gray values of so many bits


@dataclass(frozen=True)
class Mask:
    """A mask as it is stored, upright.

    Attributes:
        values: integers `[H, W]`, or colors, uint8 `[H, W, 3]`.
        palette: the colors of a palette image, uint8 `[n, 3]`; its values are indices.
        orientation: the EXIF orientation that the file stated; 1 for none.
        deep: whether values have more than 8 bits.
        gray_color: whether values are gray levels that were stored as colors (RGB).
    """

    values: np.ndarray
    palette: np.ndarray | None = None
    orientation: int = 1
    deep: bool = False
    gray_color: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[0], self.values.shape[1]


def read_mask(source: MaskInput, *, name: str, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Mask:
    """Reads a mask without changing its values: a palette image keeps its indices.

    Raises:
        ImageError: it cannot be read, is transparent, or its format changes values, as JPEG does.
    """
    if isinstance(source, Image.Image):
        _check_format(source, b"", name)
        return _mask(source, name, bits=8)
    with open_source(source, name=name) as stream, pillow_is_quiet():
        start = stream.read(32)
        if start.startswith(b"\x93NUMPY"):
            raise ImageError(name, "an array (.npy); expected an image, such as a PNG of one channel")
        stream.seek(0)
        header = read_header(stream, name=name, max_pixels=max_pixels)
        _check_format(header, start, name)
        tag = orientation(header)  # Pillow turns a TIFF while it decodes, and forgets how
    deep = read_values(source, name=name, exact=False, max_pixels=max_pixels)
    if deep is not None:
        values = deep if isinstance(deep, np.ndarray) else deep.values
        return replace(_deep_mask(values, name), orientation=tag)
    image = decode(source, name=name, max_pixels=max_pixels)
    bits, colors = (start[24], start[25]) if start.startswith(b"\x89PNG") else (8, 0)
    if bits == 16 and image.mode[0] != "I":
        raise ImageError(name, f"a mask of 16-bit colors ({image.mode}); expected class numbers in one channel")
    return replace(_mask(image, name, bits=8 if colors else bits), orientation=tag)


def _check_format(image: Image.Image, start: bytes, name: str) -> None:
    lossy = image.format in _LOSSY or (image.format == "WEBP" and start[12:16] != b"VP8L")
    if lossy:
        raise ImageError(
            name,
            f"a mask saved as {image.format}, which changes the numbers of classes at all edges; expected a PNG: save "
            "masks as PNG from the original data (a conversion of this file does not restore them)",
        )


def _mask(image: Image.Image, name: str, *, bits: int) -> Mask:
    tag = orientation(image)
    if image.mode in _ALPHA:
        image = _without_alpha(image, name)
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        return Mask(_upright(np.asarray(image), tag), palette, tag)
    values = np.asarray(image)
    if image.mode == "1":
        return Mask(_upright(values.astype(np.uint8), tag), None, tag)
    if image.mode == "L":
        return Mask(_upright(values // _SCALES[bits] if bits in _SCALES else values, tag), None, tag)
    if image.mode == "RGB":
        values = _one_channel(values)
        return Mask(_upright(values, tag), None, tag, gray_color=values.ndim == 2)
    if image.mode[0] == "I" or image.mode == "F":
        return Mask(_upright(_whole(values, name), tag), None, tag, deep=True)
    raise ImageError(name, f"a mask of color mode {image.mode}; expected class numbers in one channel, or RGB colors")


def _without_alpha(image: Image.Image, name: str) -> Image.Image:
    """An image whose alpha channel is opaque everywhere, without it."""
    alpha = np.asarray(image.getchannel(len(image.getbands()) - 1))
    if alpha.min() < 255:
        raise ImageError(
            name,
            f"a mask with transparency ({image.mode}), so it is not clear whether its colors or its alpha channel "
            "name the classes; expected class numbers in one channel: save the channel that names them as a PNG",
        )
    if image.mode == "PA":
        return Image.fromarray(np.asarray(image.convert("RGBA"))[:, :, :3])
    return image.convert("L" if image.mode[0] == "L" else "RGB")


def _one_channel(values: np.ndarray) -> np.ndarray:
    """Gray that was saved as RGB as `[H, W]`; colors unchanged."""
    equal = (values[:, :, 0] == values[:, :, 1]).all() and (values[:, :, 0] == values[:, :, 2]).all()
    return values[:, :, 0] if equal else values


def _whole(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind == "f":
        if not (np.isfinite(values) & (values == np.rint(values))).all():
            raise ImageError(name, "a mask of floats that are not whole numbers; expected class numbers")
        if np.abs(values).max(initial=0) > 2**31 - 1:
            raise ImageError(name, "a mask of floats above 2^31; expected class numbers")
    if values.dtype.kind == "u" and values.dtype.itemsize > 2:
        values = values.astype(np.int64)
    return values.astype(np.int64) if values.dtype.kind == "f" else values


def _deep_mask(values: np.ndarray, name: str) -> Mask:
    """The mask of a file of more than 8 bits, which `read_values` made upright."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2:
        raise ImageError(name, f"a mask of {values.shape[2]} bands; expected class numbers in one band")
    return Mask(_whole(values, name), deep=True)


def _upright(values: np.ndarray, tag: int) -> np.ndarray:
    if values.ndim == 3:
        return upright_array(values, tag)
    return upright_array(values[:, :, None], tag)[:, :, 0]
