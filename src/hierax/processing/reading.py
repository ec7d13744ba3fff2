"""Reads any kind of image as upright pixels: a Pillow image or an array."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, Union, cast

import numpy as np
from PIL import Image

from hierax.processing.arrays import SHAPES, is_tensor, read_array
from hierax.processing.color import bands, orientation, to_gray, to_rgb, upright, upright_array
from hierax.processing.decode import (
    DEFAULT_MAX_PIXELS,
    check_pixels,
    decode,
    decode_fast,
    load,
    load_opened,
    open_source,
    pillow_is_quiet,
    read_header,
)
from hierax.processing.deep import (
    JPEG_2000,
    Deep,
    deep_tiff,
    image_values,
    is_tiff,
    jpeg2000_values,
    png_values,
    tiff_values,
)
from hierax.processing.errors import ImageError
from hierax.processing.jpeg2000 import dtype_of, read_bands
from hierax.processing.pnm import is_pnm, read_pnm
from hierax.processing.record import Preprocessing

if TYPE_CHECKING:
    import torch

ImageInput: TypeAlias = Union[str, "os.PathLike[str]", bytes, Image.Image, np.ndarray, "torch.Tensor"]
"""A path, the bytes of a file, a Pillow image, a numpy array or a torch tensor."""

_PER_PIXEL = 16  # bytes: four channels of 32 bits
_NUMPY = b"\x93NUMPY"
_NUMPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_UNREADABLE_ARRAY = (ValueError, EOFError, OSError, MemoryError)


def load_image(source: ImageInput, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Reads an image as upright RGB with 8 bits per channel.

    Arrays are read as by `HieraImageProcessor`, and so are Pillow images: only one that is not decoded yet can be
    checked for missing data. Raises `ImageError` naming the source if it is missing, not an image, damaged, or larger
    than `max_pixels` pixels (None: no limit).
    """
    name = source_name(source, default="image")
    image = read_image(source, channels=3, name=name, max_pixels=max_pixels)
    if isinstance(image, Image.Image):
        return image
    if image.dtype != np.uint8:
        image = np.rint(image * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(image))


def source_name(source: object, *, default: str) -> str:
    """The name of an image in errors: its path, otherwise `default`."""
    if not isinstance(source, (str, os.PathLike)):
        return default
    path = os.fsdecode(source)
    return path if len(path) <= 500 else path[:499] + "…"  # for example, a data: URL


def read_image(
    source: ImageInput,
    *,
    channels: int,
    name: str,
    convert: bool = True,
    fast: bool = False,
    unit: bool = True,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Image.Image | np.ndarray:
    """Reads an image as an upright Pillow image, RGB or gray, or as an array [height, width, channels] of uint8 or
    float32.

    Args:
        source: a path, the bytes of a file, a Pillow image, an array or a tensor.
        channels: for 3 channels, files and Pillow images are converted to RGB; for 1 channel, to gray. For other
            numbers, they must have this number of bands.
        name: the name of the image in errors.
        convert: if False, images that are not RGB are refused.
        fast: decode JPEGs with simplejpeg.
        unit: see `read_array`, also for arrays.
        max_pixels: maximum number of pixels; None: no limit.

    Raises:
        ImageError: the image cannot be read or converted.
    """
    if isinstance(source, (bytearray, memoryview)):
        source = bytes(source)
    if is_tensor(source) or isinstance(source, np.ndarray):
        return read_array(cast("np.ndarray", source), channels=channels, unit=unit, name=name)
    if isinstance(source, Image.Image):
        image = source
        check_pixels(image.size, name=name, max_pixels=max_pixels)
        with pillow_is_quiet():
            load_opened(image, name=name, max_pixels=max_pixels)
    elif isinstance(source, (str, os.PathLike, bytes)):
        found = read_values(source, name=name, exact=not unit, max_pixels=max_pixels)
        if isinstance(found, np.ndarray):
            return read_array(found, channels=channels, unit=unit, name=name)
        if found is not None:
            return found.levels(channels, name=name) if unit else found.raw(channels, name=name)
        read = decode_fast if fast and channels == 3 else decode
        image = read(source, name=name, max_pixels=max_pixels)
        if isinstance(image, np.ndarray):
            return image
    else:
        raise ImageError(
            name, f"{type(source).__name__} is not an image; expected a path, bytes, a PIL image, an array or a tensor"
        )
    with pillow_is_quiet():
        load(image, name=name)
        deep = image_values(image)
        if deep is not None and channels in (1, 3) and (convert or channels == 1):
            values = deep.levels(channels, name=name) if unit else deep.raw(channels, name=name)
            return upright_array(values, orientation(image))
        return _to_channels(upright(image), channels, convert=convert, name=name)


def read_values(
    source: str | os.PathLike[str] | bytes, *, name: str, exact: bool, max_pixels: int | None
) -> Deep | np.ndarray | None:
    """The values of a file with more than 8 bits that Pillow does not read completely, or the array of a `.npy` file;
    None for other files.

    16-bit PNGs and JPEG 2000 files are read only with `exact`, because Pillow reads their gray levels correctly. Raises
    `ImageError`.
    """
    with open_source(source, name=name) as stream, pillow_is_quiet():
        start = stream.read(16)
        if start.startswith(_NUMPY):
            return _array(stream, name, max_pixels)
        if is_tiff(start):
            layout = deep_tiff(stream, name=name)
            if layout is None:
                return None
            check_pixels(layout.size, name=name, max_pixels=max_pixels)
            return tiff_values(stream, layout, name=name)
        if is_pnm(start):
            found = read_pnm(stream, name=name, check=partial(check_pixels, name=name, max_pixels=max_pixels))
            return None if found is None else Deep(found[0], found[1])
        if not exact or not start.startswith((b"\x89PNG", *JPEG_2000)):
            return None
        stream.seek(0)
        data = stream.read()
    image = decode(data, name=name, max_pixels=max_pixels)  # this checks that the file is complete
    found = jpeg2000_values(image, data, name=name) if start.startswith(JPEG_2000) else png_values(data, name=name)
    return None if found is None else found.upright(orientation(image))


def stored_dtype(source: ImageInput, *, name: str) -> str:
    """The numpy dtype of the values of an image, read from its header: "uint8", "uint16", "float32", ….

    Raises:
        ImageError: the header cannot be read.
    """
    if is_tensor(source) or isinstance(source, np.ndarray):
        return str(cast("np.ndarray", source).dtype).removeprefix("torch.")
    if isinstance(source, Image.Image):
        return _dtype_of_mode(source.mode)
    if not isinstance(source, (str, os.PathLike, bytes)):
        raise ImageError(name, f"{type(source).__name__} is not an image")
    with open_source(source, name=name) as stream, pillow_is_quiet():
        start = stream.read(32)
        if start.startswith(_NUMPY):
            return str(_array_header(stream, name)[1])
        if is_tiff(start):
            layout = deep_tiff(stream)
            return "uint8" if layout is None else layout.dtype
        if start.startswith(b"\x89PNG"):
            return "uint16" if start[24:25] == b"\x10" else "uint8"
        stream.seek(0)
        if start.startswith(JPEG_2000):
            return dtype_of(read_bands(stream.read()))
        return _dtype_of_mode(read_header(stream, name=name, max_pixels=None).mode)


def _dtype_of_mode(mode: str) -> str:
    return {"I": "int32", "F": "float32"}.get(mode, "uint16" if mode.startswith("I;16") else "uint8")


def check_values(picture: Image.Image | np.ndarray, record: Preprocessing, *, name: str) -> None:
    """Raises `ImageError` for an image of 8 bits if the record states that the model was trained on other values."""
    levels = isinstance(picture, Image.Image) or picture.dtype == np.uint8
    if levels and record.takes_values:
        kind = record.image_dtype or "values"
        mean, std = record.image_mean[0], record.image_std[0]
        raise ImageError(
            name,
            f"an image of 8 bits; this model was trained on {kind} with mean {mean:g} and standard deviation {std:g} "
            "(do_rescale is false in its record); expected a PNG or TIFF of more bits, or .npy",
        )


def stated_size(stream: BinaryIO, *, name: str, max_pixels: int | None) -> tuple[int, int, int]:
    """Width and height of an image in pixels, and the number of bytes that its file needs per pixel, at most. They are
    read from the header alone. For a compressed image, the bytes are those of four channels of 32 bits.

    Raises:
        ImageError: the file is not an image, or is damaged, or has more than `max_pixels` pixels (None: no limit).
    """
    with pillow_is_quiet():
        start = stream.read(16)
        if start.startswith(_NUMPY):
            shape, dtype = _array_header(stream, name)
            width, height = _check_array(shape, name=name, max_pixels=max_pixels)
            return width, height, -(-math.prod(shape) * dtype.itemsize // max(width * height, 1))
        layout = deep_tiff(stream) if is_tiff(start) else None
        if layout is not None:
            check_pixels(layout.size, name=name, max_pixels=max_pixels)
            return *layout.size, max(_PER_PIXEL, sum(layout.bits) // 8)
        stream.seek(0)
        image = read_header(stream, name=name, max_pixels=max_pixels)
        return image.width, image.height, _PER_PIXEL


def _array(stream: BinaryIO, name: str, max_pixels: int | None) -> np.ndarray:
    """The array of a `.npy` file."""
    shape, dtype = _array_header(stream, name)
    if dtype.kind not in "fiub":
        raise ImageError(name, f"contains {dtype}; expected an array of numbers")
    _check_array(shape, name=name, max_pixels=max_pixels)
    stream.seek(0)
    try:
        return np.load(stream, allow_pickle=False)
    except _UNREADABLE_ARRAY as error:
        raise _no_array(name, error) from None


def _array_header(stream: BinaryIO, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the dtype of the array of a `.npy` file."""
    stream.seek(0)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _NUMPY_HEADERS:
            raise ValueError(f"version {version} of the format, which is not for numbers")
        shape, _, dtype = _NUMPY_HEADERS[version](stream)
    except _UNREADABLE_ARRAY as error:
        raise _no_array(name, error) from None
    return shape, dtype


def _no_array(name: str, error: Exception) -> ImageError:
    return ImageError(name, f"not an array that numpy can read: {' '.join(str(error).split())}")


def _check_array(shape: tuple[int, ...], *, name: str, max_pixels: int | None) -> tuple[int, int]:
    """Width and height of an array: its axes without the channels, which are the shortest of three axes. Raises
    `ImageError` if it is not an image, or has too many pixels.
    """
    if len(shape) not in (2, 3):
        raise ImageError(name, f"shape {list(shape)}; expected {SHAPES}")
    axes = list(shape)
    if len(axes) == 3:
        axes.remove(min(axes))
    height, width = axes
    if width * height > 0:
        check_pixels((width, height), name=name, max_pixels=max_pixels)
    return width, height


def _to_channels(image: Image.Image, channels: int, *, convert: bool, name: str) -> Image.Image | np.ndarray:
    if channels not in (1, 3):
        return bands(image, channels, name=name)
    mode = "RGB" if channels == 3 else "L"
    if not convert and image.mode != mode:
        raise ImageError(
            name, f"color mode {image.mode}; expected {mode}, because do_convert_rgb is false in the record"
        )
    return to_rgb(image, name=name) if channels == 3 else to_gray(image, name=name)
