"""Where the crop lies in the resized image, and its pixels: bit for bit Pillow's, or fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image

from hierax.processing.record import RESAMPLING, Preprocessing

_PILLOW = int(PIL.__version__.partition(".")[0])
_KNOWN_PILLOW = 13  # the newest whose order of passes was read (see columns_first)
_NEAREST = RESAMPLING["nearest"]
_TORCH_MODES = {RESAMPLING["bilinear"]: "bilinear", RESAMPLING["bicubic"]: "bicubic"}
_LARGE = 1 << 26  # pixels
_STRIP_PIXELS = 1 << 20  # fewer cost more calls, more fall out of the cache (measured from 2^14 to whole images)


@dataclass(frozen=True)
class Geometry:
    """An image resized to `resized_height` x `resized_width`, of which the window of `height` x `width` at (`top`,
    `left`) is kept. `top` and `left` are negative where the window is the larger; what lies outside of the image is
    black.
    """

    resized_height: int
    resized_width: int
    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> tuple[int, int]:
        """First and last + 1 row of the resized image within the window."""
        return max(self.top, 0), min(self.top + self.height, self.resized_height)

    @property
    def columns(self) -> tuple[int, int]:
        """First and last + 1 column of the resized image within the window."""
        return max(self.left, 0), min(self.left + self.width, self.resized_width)


def geometry(record: Preprocessing, *, height: int, width: int) -> Geometry:
    """What `record` does to an image of `height` x `width` pixels: the long side and the crop's offsets are rounded
    down.
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
    """The part of the resized image within the window, [rows, columns, channels].

    `picture` is RGB or gray, or an array [height, width, channels] of uint8 or float32. uint8 equals Pillow's `resize`
    and `crop` bit for bit; the channels of a float array are resized in mode F.
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
    """As `resize_crop`, by torch's 8-bit kernels where uint8 is to shrink, bilinear or bicubic.

    Photographs come out within one gray level. Of those that shrink to more than 1/1.6, and of black and white noise,
    one value in some millions is two levels off (measured on 10,000 images).
    """
    mode = _TORCH_MODES.get(resample)
    width, height = _size(picture)
    # Near the same size and above, the roundings of both passes add up to two levels more often, for little gain.
    shrinks = min(width / plan.resized_width, height / plan.resized_height) >= 1.25
    large = width * height > _LARGE  # the arrays that torch takes are copies
    if mode is None or not shrinks or large or (isinstance(picture, np.ndarray) and picture.dtype != np.uint8):
        return resize_crop(picture, plan, resample=resample)
    import torch

    array = np.asarray(picture)
    if not array.flags.writeable or min(array.strides) < 0:  # torch takes neither
        array = array.copy(order="C")
    planes = torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)[None]
    size = (plan.resized_height, plan.resized_width)
    # torch shrinks rows, then columns; where Pillow has it the other way round, so must we to stay close.
    sizes = [(size[0], width), size] if columns_first(width, height, *size[::-1]) else [size]
    for to in sizes:
        planes = torch.nn.functional.interpolate(planes, size=to, mode=mode, antialias=True, align_corners=False)
    (top, bottom), (left, right) = plan.rows, plan.columns
    return planes[0, :, top:bottom, left:right].permute(1, 2, 0).numpy()


def _size(picture: Image.Image | np.ndarray) -> tuple[int, int]:
    """Width and height."""
    return picture.size if isinstance(picture, Image.Image) else (picture.shape[1], picture.shape[0])


def _resize_crop(picture: Image.Image | np.ndarray, plan: Geometry, resample: int) -> Image.Image:
    """`picture`: RGB, gray or mode F, or an array that Pillow takes for one of them."""
    (top, bottom), (left, right) = plan.rows, plan.columns
    width, height = _size(picture)
    size = (plan.resized_width, plan.resized_height)
    # Nearest picks pixels by another arithmetic, in which boxes are not exact.
    if resample == _NEAREST or _PILLOW > _KNOWN_PILLOW or columns_first(width, height, *size):
        return _crop(_strip(picture, 0, height).resize(size, resample), left, top, right, bottom)
    x = _span(width, plan.resized_width, left, right)
    y = _span(height, plan.resized_height, top, bottom)
    boxed = x.exact and y.exact and not columns_first(width, height, x.count, y.count)
    if boxed and isinstance(picture, Image.Image):
        return picture.resize((x.count, y.count), resample, box=(x.start, y.start, x.stop, y.stop))
    return _two_passes(picture, plan, x, y, resample)


def columns_first(width: int, height: int, new_width: int, new_height: int) -> bool:
    """Whether Pillow resizes along the columns before the rows: since 13, where the height loses over twice what the
    width does. Values between the passes are rounded to 8 bits and clipped, so the order shows in the result.
    """
    return _PILLOW >= 13 and height - new_height > max(0, 2 * (width - new_width))


@dataclass(frozen=True)
class _Span:
    """Along one axis: source pixels `start`..`stop` become `count`, of which the first `skip` lie before the window.

    Where the edges of resized pixels are numbers that a 32-bit float holds (in source pixels), resizing a box of the
    image is the same arithmetic as resizing all of it, and the window can be made alone: `exact`. So it is for the
    short side whenever the record's size is a power of two, and for both sides of 1:1, 3:2 and 5:4 images.
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
    """Rows, then columns, as Pillow does within one call (8-bit values in between), each for the window alone.

    Saves what one call cannot: rows outside of the window in the first pass and columns in the second. The first pass
    goes strip by strip, for copies of strips stay in the processor's cache.
    """
    (top, bottom), (left, right) = plan.rows, plan.columns
    source_width, source_height = _size(picture)
    scale = source_height / plan.resized_height
    reach = 3 * max(scale, 1) + 2  # the widest filter (Lanczos) looks 3 resized pixels far
    first, last = max(0, math.floor(top * scale - reach)), min(source_height, math.ceil(bottom * scale + reach))
    # Where the second pass is inexact, it must see the rows at their place in the image: its rounding depends on it.
    offset, height = (first, last - first) if y.exact else (0, source_height)
    narrow = None
    step = max(1, _STRIP_PIXELS // source_width)
    for start in range(first, last, step):
        stop = min(start + step, last)
        strip = _strip(picture, start, stop)
        strip = strip.resize((x.count, stop - start), resample, box=(x.start, 0, x.stop, stop - start))
        narrow = narrow or Image.new(strip.mode, (right - left, height))
        narrow.paste(_crop(strip, x.skip, 0, x.skip + right - left, stop - start), (0, start - offset))
    assert narrow is not None  # a window has rows
    box = (0, y.start - offset, right - left, y.stop - offset)
    return _crop(
        narrow.resize((right - left, y.count), resample, box=box), 0, y.skip, right - left, y.skip + bottom - top
    )


def _strip(picture: Image.Image | np.ndarray, first: int, last: int) -> Image.Image:
    """Rows `first`..`last` as an image."""
    if isinstance(picture, Image.Image):
        return _crop(picture, 0, first, picture.width, last)
    return Image.fromarray(np.ascontiguousarray(picture[first:last]))


def _crop(image: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    whole = (left, top, right, bottom) == (0, 0, *image.size)
    return image if whole else image.crop((left, top, right, bottom))
