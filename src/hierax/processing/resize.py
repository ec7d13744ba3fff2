"""Resizes and crops images: bit for bit like Pillow, or faster with torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image

from hierax.processing.record import Preprocessing
from hierax.processing.record_fields import RESAMPLING

_PILLOW = int(PIL.__version__.partition(".")[0])
_KNOWN_PILLOW = 13  # the newest version with a known order of passes (see columns_first)
_NEAREST = RESAMPLING["nearest"]
_TORCH_MODES = {RESAMPLING["bilinear"]: "bilinear", RESAMPLING["bicubic"]: "bicubic"}
_LARGE = 1 << 26  # pixels
_STRIP_PIXELS = 1 << 20  # with fewer, there are more calls; more do not fit into the cache (measured from 2^14 on)


@dataclass(frozen=True)
class Geometry:
    """How an image is resized and cropped: to `resized_height` x `resized_width`, then to the crop of `height` x
    `width` at (`top`, `left`). If the crop is larger than the image, `top` and `left` are negative, and black is added.
    """

    resized_height: int
    resized_width: int
    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> tuple[int, int]:
        """The first row of the resized image in the crop, and the last row plus 1."""
        return max(self.top, 0), min(self.top + self.height, self.resized_height)

    @property
    def columns(self) -> tuple[int, int]:
        """The first column of the resized image in the crop, and the last column plus 1."""
        return max(self.left, 0), min(self.left + self.width, self.resized_width)


def geometry(record: Preprocessing, *, height: int, width: int) -> Geometry:
    """How `record` resizes and crops an image of `height` x `width` pixels. The long side and the offsets of the crop
    are rounded down.
    """
    new_height, new_width = height, width
    if record.do_resize:
        edge = record.size.get("shortest_edge")
        if edge is None:
            new_height, new_width = record.size["height"], record.size["width"]
        else:
            short = min(height, width)
            new_height, new_width = edge * height // short, edge * width // short
    if not record.do_center_crop:
        return Geometry(new_height, new_width, 0, 0, new_height, new_width)
    crop_height, crop_width = record.crop_size["height"], record.crop_size["width"]
    top, left = (new_height - crop_height) // 2, (new_width - crop_width) // 2
    return Geometry(new_height, new_width, top, left, crop_height, crop_width)


def resize_crop(picture: Image.Image | np.ndarray, plan: Geometry, *, resample: int) -> np.ndarray:
    """The part of the resized image that is in the crop, [rows, columns, channels].

    `picture` is RGB or gray, or an array [height, width, channels] of uint8 or float32. For uint8, the result is equal
    to `resize` and `crop` of Pillow, bit for bit. The channels of a float array are resized in mode F.
    """
    if _size(picture) == (plan.resized_width, plan.resized_height):
        (top, bottom), (left, right) = plan.rows, plan.columns
        part = picture.crop((left, top, right, bottom)) if isinstance(picture, Image.Image) else picture
        part = np.asarray(part) if isinstance(part, Image.Image) else part[top:bottom, left:right]
    elif isinstance(picture, Image.Image) or (picture.dtype == np.uint8 and picture.shape[2] == 3):
        part = np.asarray(_resize_crop(picture, plan, resample))
    else:
        planes = np.moveaxis(picture, 2, 0)
        part = np.stack([np.asarray(_resize_crop(plane, plan, resample)) for plane in planes], axis=2)
    return part if part.ndim == 3 else part[:, :, None]


def resize_crop_fast(picture: Image.Image | np.ndarray, plan: Geometry, *, resample: int) -> np.ndarray:
    """Like `resize_crop`, but uses the 8-bit kernels of torch if a uint8 image becomes smaller (bilinear or bicubic).

    Photos differ by at most one gray level. If a photo is reduced to more than 1/1.6 of its size, or for noise in black
    and white, one in several million values differs by two levels (measured on 10,000 images).
    """
    mode = _TORCH_MODES.get(resample)
    width, height = _size(picture)
    # near the same size and for larger sizes, rounding errors reach two levels more often, and the gain is small
    shrinks = min(width / plan.resized_width, height / plan.resized_height) >= 1.25
    large = width * height > _LARGE  # torch needs a copy of the array
    if mode is None or not shrinks or large or (isinstance(picture, np.ndarray) and picture.dtype != np.uint8):
        return resize_crop(picture, plan, resample=resample)
    import torch

    array = np.asarray(picture)
    if not array.flags.writeable or min(array.strides) < 0:  # torch supports neither
        array = array.copy(order="C")
    planes = torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)[None]
    size = (plan.resized_height, plan.resized_width)
    # torch resizes rows, then columns; if Pillow uses the other order, it must be used here too
    sizes = [(size[0], width), size] if columns_first(width, height, *size[::-1]) else [size]
    for to in sizes:
        planes = torch.nn.functional.interpolate(planes, size=to, mode=mode, antialias=True, align_corners=False)
    (top, bottom), (left, right) = plan.rows, plan.columns
    return planes[0, :, top:bottom, left:right].permute(1, 2, 0).numpy()


def _size(picture: Image.Image | np.ndarray) -> tuple[int, int]:
    """Width and height."""
    return picture.size if isinstance(picture, Image.Image) else (picture.shape[1], picture.shape[0])


def _resize_crop(picture: Image.Image | np.ndarray, plan: Geometry, resample: int) -> Image.Image:
    """Resizes and crops an image of mode RGB, gray or F, or an array that Pillow can convert to one of these."""
    (top, bottom), (left, right) = plan.rows, plan.columns
    width, height = _size(picture)
    size = (plan.resized_width, plan.resized_height)
    # nearest-neighbor interpolation uses other arithmetic, for which boxes are not exact
    if resample == _NEAREST or _PILLOW > _KNOWN_PILLOW or columns_first(width, height, *size):
        return _crop(_strip(picture, 0, height).resize(size, resample), left, top, right, bottom)
    x = _span(width, plan.resized_width, left, right)
    y = _span(height, plan.resized_height, top, bottom)
    boxed = x.exact and y.exact and not columns_first(width, height, x.count, y.count)
    if boxed and isinstance(picture, Image.Image):
        return picture.resize((x.count, y.count), resample, box=(x.start, y.start, x.stop, y.stop))
    return _two_passes(picture, plan, x, y, resample)


def columns_first(width: int, height: int, new_width: int, new_height: int) -> bool:
    """Whether Pillow resizes the columns before the rows. Since version 13, it does so if the height is reduced by more
    than twice as many pixels as the width. Between the passes, values are rounded to 8 bits and clipped, so the order
    changes the result.
    """
    return _PILLOW >= 13 and height - new_height > max(0, 2 * (width - new_width))


@dataclass(frozen=True)
class _Span:
    """Along one axis, the source pixels `start`..`stop` become `count` pixels; the first `skip` of them are before the
    crop.

    If the edges of resized pixels (in source pixels) can be stored exactly in a 32-bit float, resizing a box of the
    image gives the same values as resizing the whole image. Then only the crop is computed (`exact`). This is true for
    the short side if the size of the record is a power of two, and for both sides of 1:1, 3:2 and 5:4 images.
    """

    start: float
    stop: float
    count: int
    skip: int
    exact: bool


def _span(length: int, resized: int, first: int, last: int) -> _Span:
    if length <= 16384 and (length << 10) % resized == 0:
        return _Span(first * length / resized, last * length / resized, last - first, 0, exact=True)
    return _Span(0, length, resized, first, exact=False)


def _two_passes(picture: Image.Image | np.ndarray, plan: Geometry, x: _Span, y: _Span, resample: int) -> Image.Image:
    """Resizes rows, then columns, like one call of Pillow (with 8-bit values in between), but only for the crop.

    So the first pass skips rows outside of the crop, and the second pass skips columns. The first pass works strip by
    strip, because copies of strips fit into the cache of the processor.
    """
    (top, bottom), (left, right) = plan.rows, plan.columns
    source_width, source_height = _size(picture)
    scale = source_height / plan.resized_height
    reach = 3 * max(scale, 1) + 2  # the widest filter (Lanczos) reaches 3 resized pixels
    first, last = max(0, math.floor(top * scale - reach)), min(source_height, math.ceil(bottom * scale + reach))
    # if the second pass is not exact, its rounding depends on the position of the rows, which must not change
    offset, height = (first, last - first) if y.exact else (0, source_height)
    narrow = None
    step = max(1, _STRIP_PIXELS // source_width)
    for start in range(first, last, step):
        stop = min(start + step, last)
        strip = _strip(picture, start, stop)
        strip = strip.resize((x.count, stop - start), resample, box=(x.start, 0, x.stop, stop - start))
        narrow = narrow or Image.new(strip.mode, (right - left, height))
        narrow.paste(_crop(strip, x.skip, 0, x.skip + right - left, stop - start), (0, start - offset))
    assert narrow is not None  # a crop has rows
    box = (0, y.start - offset, right - left, y.stop - offset)
    return _crop(
        narrow.resize((right - left, y.count), resample, box=box), 0, y.skip, right - left, y.skip + bottom - top
    )


def _strip(picture: Image.Image | np.ndarray, first: int, last: int) -> Image.Image:
    """The rows `first`..`last` as an image."""
    if isinstance(picture, Image.Image):
        return _crop(picture, 0, first, picture.width, last)
    return Image.fromarray(np.ascontiguousarray(picture[first:last]))


def _crop(image: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    whole = (left, top, right, bottom) == (0, 0, *image.size)
    return image if whole else image.crop((left, top, right, bottom))
