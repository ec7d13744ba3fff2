"""Where the crop lies in the resized picture, and its pixels: bit for bit Pillow's, or fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hierax.processing.record import RESAMPLING, Preprocessing

_NEAREST = RESAMPLING["nearest"]
_TORCH_MODES = {RESAMPLING["bilinear"]: "bilinear", RESAMPLING["bicubic"]: "bicubic"}
# Up to this many pixels the copies of the two-pass crop cost less than the columns and rows it spares (measured).
_TWO_PASS_PIXELS = 2_000_000


@dataclass(frozen=True)
class Geometry:
    """A picture resized to `resized_height` x `resized_width`, of which the window of `height` x `width` at (`top`,
    `left`) is kept. `top` and `left` are negative where the window is the larger; what lies outside of the picture is
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
        """First and last + 1 row of the resized picture within the window."""
        return max(self.top, 0), min(self.top + self.height, self.resized_height)

    @property
    def columns(self) -> tuple[int, int]:
        """First and last + 1 column of the resized picture within the window."""
        return max(self.left, 0), min(self.left + self.width, self.resized_width)


def geometry(record: Preprocessing, *, height: int, width: int) -> Geometry:
    """What `record` does to a picture of `height` x `width` pixels: the long side and the crop's offsets are rounded
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
    """The part of the resized picture within the window, [rows, columns, channels].

    `picture` is RGB or grey, or an array [height, width, channels] of uint8 or float32. uint8 equals Pillow's
    `resize` and `crop` bit for bit; the channels of a float array are resized in mode F.
    """
    if isinstance(picture, Image.Image):
        array = np.asarray(_resize_crop_image(picture, plan, resample))
        return array if array.ndim == 3 else array[:, :, None]
    if picture.dtype == np.uint8 and picture.shape[2] == 3:
        return resize_crop(Image.fromarray(np.ascontiguousarray(picture)), plan, resample=resample)
    planes = [Image.fromarray(np.ascontiguousarray(picture[:, :, c])) for c in range(picture.shape[2])]
    return np.stack([np.asarray(_resize_crop_image(plane, plan, resample)) for plane in planes], axis=2)


def resize_crop_fast(picture: Image.Image | np.ndarray, plan: Geometry, *, resample: int) -> np.ndarray:
    """As `resize_crop` with torch's 8-bit kernels where they apply (uint8, bilinear or bicubic): within one grey
    level.
    """
    mode = _TORCH_MODES.get(resample)
    whole = picture.size[::-1] if isinstance(picture, Image.Image) else picture.shape[:2]
    unchanged = whole == (plan.resized_height, plan.resized_width)
    if mode is None or unchanged or (isinstance(picture, np.ndarray) and picture.dtype != np.uint8):
        return resize_crop(picture, plan, resample=resample)
    import torch

    # torch takes no read-only arrays and no negative strides.
    array = np.require(np.asarray(picture), requirements=["C", "W"])
    planes = torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)[None]
    size = [plan.resized_height, plan.resized_width]
    planes = torch.nn.functional.interpolate(planes, size=size, mode=mode, antialias=True, align_corners=False)
    (top, bottom), (left, right) = plan.rows, plan.columns
    return planes[0, :, top:bottom, left:right].permute(1, 2, 0).numpy()


def _resize_crop_image(image: Image.Image, plan: Geometry, resample: int) -> Image.Image:
    size = (plan.resized_width, plan.resized_height)
    (top, bottom), (left, right) = plan.rows, plan.columns
    if image.size == size:
        return _crop(image, left, top, right, bottom)
    exact_x, exact_y = _exact(image.width, size[0]), _exact(image.height, size[1])
    if resample == _NEAREST or not (exact_x or exact_y):
        return _crop(image.resize(size, resample), left, top, right, bottom)
    if (exact_x and exact_y) or image.width * image.height > _TWO_PASS_PIXELS:
        return _one_pass(image, plan, resample)
    return _two_passes(image, plan, resample)


def _exact(length: int, resized: int) -> bool:
    """Whether the edges of resized pixels are numbers that a 32-bit float holds, in source pixels.

    Then resizing a box of the picture is the same arithmetic as resizing all of it, so the crop can be resized alone.
    So it is for the short side whenever the record's size is a power of two, and for both sides of 1:1, 3:2 and 5:4
    pictures.
    """
    return length <= 16384 and (length << 10) % resized == 0


def _one_pass(image: Image.Image, plan: Geometry, resample: int) -> Image.Image:
    """Resize the window alone along the axes that allow it; crop along the others."""
    (top, bottom), (left, right) = plan.rows, plan.columns
    x = _span(image.width, plan.resized_width, left, right)
    y = _span(image.height, plan.resized_height, top, bottom)
    image = image.resize((x.count, y.count), resample, box=(x.start, y.start, x.stop, y.stop))
    return _crop(image, x.skip, y.skip, x.skip + right - left, y.skip + bottom - top)


def _two_passes(image: Image.Image, plan: Geometry, resample: int) -> Image.Image:
    """Rows, then columns, as Pillow does within one call (8-bit values in between), each for the window alone.

    Saves what one call cannot: rows outside the window in the first pass and columns outside of it in the second.
    """
    (top, bottom), (left, right) = plan.rows, plan.columns
    height, width = image.height, right - left
    scale = height / plan.resized_height
    reach = 3 * max(scale, 1) + 2  # the widest filter (Lanczos) looks 3 resized pixels far
    first, last = max(0, math.floor(top * scale - reach)), min(height, math.ceil(bottom * scale + reach))
    x = _span(image.width, plan.resized_width, left, right)
    strip = image.crop((0, first, image.width, last))
    strip = strip.resize((x.count, last - first), resample, box=(x.start, 0, x.stop, last - first))
    strip = _crop(strip, x.skip, 0, x.skip + width, last - first)
    if _exact(height, plan.resized_height):
        box = (0, top * scale - first, width, bottom * scale - first)
        return strip.resize((width, bottom - top), resample, box=box)
    # The second pass must see the rows at their place in the picture: its rounding depends on it.
    tall = Image.new(image.mode, (width, height))
    tall.paste(strip, (0, first))
    return _crop(tall.resize((width, plan.resized_height), resample), 0, top, width, bottom)


@dataclass(frozen=True)
class _Span:
    """Along one axis: source pixels `start`..`stop` become `count`, of which the first `skip` lie before the window."""

    start: float
    stop: float
    count: int
    skip: int


def _span(length: int, resized: int, first: int, last: int) -> _Span:
    if _exact(length, resized):
        return _Span(first * length / resized, last * length / resized, last - first, 0)
    return _Span(0, length, resized, first)


def _crop(image: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    whole = (left, top, right, bottom) == (0, 0, *image.size)
    return image if whole else image.crop((left, top, right, bottom))
