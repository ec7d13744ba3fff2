"""From anything that is a picture to upright pixels: a Pillow image, or an array."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias, Union, cast

import numpy as np
from PIL import Image

from hierax.processing.arrays import is_tensor, read_array
from hierax.processing.colour import bands, to_grey, to_rgb, upright
from hierax.processing.decode import DEFAULT_MAX_PIXELS, check_pixels, decode, decode_fast, load, pillow_is_quiet
from hierax.processing.errors import ImageError

if TYPE_CHECKING:
    import torch

Picture: TypeAlias = Union[str, "os.PathLike[str]", bytes, Image.Image, np.ndarray, "torch.Tensor"]
"""A path, the bytes of a file, a Pillow image, a numpy array or a torch tensor."""


def load_image(source: Picture, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Image.Image:
    """The picture as upright RGB, 8 bits a channel: its first frame, its transparency over white (see `to_rgb`).

    Arrays are read as by `HieraImageProcessor`. Raises `ImageError` naming the source: missing, no image, damaged, or
    of more than `max_pixels` pixels (None: no limit).
    """
    name = source_name(source, default="image")
    picture = read_picture(source, channels=3, name=name, max_pixels=max_pixels)
    if isinstance(picture, Image.Image):
        return picture
    if picture.dtype != np.uint8:
        picture = np.rint(picture * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(picture))


def source_name(source: object, *, default: str) -> str:
    """What errors call a picture: its path, or else `default`."""
    if not isinstance(source, (str, os.PathLike)):
        return default
    path = os.fsdecode(source)
    return path if len(path) <= 500 else path[:499] + "…"  # a data: URL, say


def read_picture(
    source: Picture,
    *,
    channels: int,
    name: str,
    convert: bool = True,
    fast: bool = False,
    unit: bool = True,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Image.Image | np.ndarray:
    """The picture upright: RGB or grey, or an array [height, width, channels] of uint8 or float32.

    Files and Pillow images are converted to RGB for 3 channels (refused if not `convert`), to grey for 1, and must
    have as many bands for other numbers. Arrays: see `read_array`, also for `unit`. `fast` decodes JPEGs by
    simplejpeg. Raises `ImageError`.
    """
    if isinstance(source, (bytearray, memoryview)):
        source = bytes(source)
    if is_tensor(source) or isinstance(source, np.ndarray):
        return read_array(cast("np.ndarray", source), channels=channels, unit=unit, name=name)
    if isinstance(source, Image.Image):
        image = source
        check_pixels(image.size, name=name, max_pixels=max_pixels)
    elif isinstance(source, (str, os.PathLike, bytes)):
        read = decode_fast if fast and channels == 3 else decode
        image = read(source, name=name, max_pixels=max_pixels)
        if isinstance(image, np.ndarray):
            return image
    else:
        raise ImageError(
            name, f"{type(source).__name__} is no picture; a path, bytes, a PIL image, an array or a tensor is"
        )
    with pillow_is_quiet():
        load(image, name=name)
        return _to_channels(upright(image), channels, convert=convert, name=name)


def _to_channels(image: Image.Image, channels: int, *, convert: bool, name: str) -> Image.Image | np.ndarray:
    if channels not in (1, 3):
        return bands(image, channels, name=name)
    mode = "RGB" if channels == 3 else "L"
    if not convert and image.mode != mode:
        raise ImageError(
            name, f"colour mode {image.mode}; the record's do_convert_rgb is false, so only {mode} is taken"
        )
    return to_rgb(image, name=name) if channels == 3 else to_grey(image, name=name)
