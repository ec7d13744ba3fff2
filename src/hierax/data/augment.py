"""Augmentation of single images: random resized crop, flip, RandAugment, random erasing.

All randomness comes from the given generator, so a run that was interrupted augments an image in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_BICUBIC = Image.Resampling.BICUBIC
_LEVELS = 10.0  # magnitudes of RandAugment go from 0 to 10
_Op: TypeAlias = Callable[[Image.Image, float, bool], Image.Image]


def random_crop(
    random: np.random.Generator,
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop with a random share of the area and a random aspect ratio.

    If ten such crops do not fit, it is the largest central crop within the ratios, as in the published recipes.
    `ratio` is of width to height.
    """
    for _ in range(10):
        area = height * width * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w


def jitter_crop(
    random: np.random.Generator, height: int, width: int, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Like `random_crop`, for shares of the area that may be above 1. Such a crop reaches beyond the image, which is
    anywhere in it; its top and left may be negative.
    """
    area = height * width * random.uniform(*scale)
    aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w, h = max(round(math.sqrt(area * aspect)), 1), max(round(math.sqrt(area / aspect)), 1)
    top, left = (
        int(random.integers(min(have - want, 0), max(have - want, 0) + 1)) for have, want in ((height, h), (width, w))
    )
    return top, left, h, w


def center_crop(height: int, width: int, *, aspect: float) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest crop at the center whose width is `aspect` times its height."""
    h, w = min(height, max(round(width / aspect), 1)), min(width, max(round(height * aspect), 1))
    return (height - h) // 2, (width - w) // 2, h, w


def _enhance(kind: type) -> _Op:
    """An operation on color, contrast, brightness or sharpness. The change, in either direction, grows with the
    magnitude.
    """

    def apply(image: Image.Image, magnitude: float, flip: bool) -> Image.Image:
        change = 0.9 * magnitude / _LEVELS
        return kind(image).enhance(max(0.1, 1 - change if flip else 1 + change))

    return apply


def _affine(matrix: Callable[[float, Image.Image], tuple[float, ...]]) -> _Op:
    def apply(image: Image.Image, magnitude: float, flip: bool) -> Image.Image:
        data = matrix(-magnitude if flip else magnitude, image)
        return image.transform(image.size, Image.Transform.AFFINE, data, resample=_BICUBIC, fillcolor=_gray_fill(image))

    return apply


def _gray_fill(image: Image.Image) -> tuple[int, ...] | int:
    """The color of pixels outside of the image: the mean of ImageNet."""
    return (124, 116, 104) if image.mode == "RGB" else 116


def _rotate(image: Image.Image, magnitude: float, flip: bool) -> Image.Image:
    degrees = 30.0 * magnitude / _LEVELS
    return image.rotate(-degrees if flip else degrees, resample=_BICUBIC, fillcolor=_gray_fill(image))


def _posterize(image: Image.Image, magnitude: float, _: bool) -> Image.Image:
    # at 10, the published form removes all bits, which gives a black image; here one bit remains
    return ImageOps.posterize(image, max(4 - int(4 * magnitude / _LEVELS), 1))


def _solarize(image: Image.Image, magnitude: float, _: bool) -> Image.Image:
    return ImageOps.solarize(image, 256 - int(256 * magnitude / _LEVELS))


def _solarize_add(image: Image.Image, magnitude: float, _: bool) -> Image.Image:
    add = int(110 * magnitude / _LEVELS)
    table = [min(255, i + add) if i < 128 else i for i in range(256)]
    return image.point(table * len(image.getbands()))


OPERATIONS: dict[str, _Op] = {
    "autocontrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, *_: ImageOps.equalize(image),
    "invert": lambda image, *_: ImageOps.invert(image),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": _affine(lambda m, _: (1, 0.3 * m / _LEVELS, 0, 0, 1, 0)),
    "shear_y": _affine(lambda m, _: (1, 0, 0, 0.3 * m / _LEVELS, 1, 0)),
    "translate_x": _affine(lambda m, image: (1, 0, 0.45 * m / _LEVELS * image.width, 0, 1, 0)),
    "translate_y": _affine(lambda m, image: (1, 0, 0, 0, 1, 0.45 * m / _LEVELS * image.height)),
}
"""The operations of RandAugment in their "increasing" form: all change more with the magnitude (0 to 10)."""


COLOR_OPERATIONS = tuple(name for name in OPERATIONS if not name.startswith(("rotate", "shear", "translate")))
"""The operations that move no pixel: those for images whose pixels have classes."""


def rand_augment(
    image: Image.Image,
    random: np.random.Generator,
    *,
    magnitude: float,
    std: float,
    names: Sequence[str] = tuple(OPERATIONS),
) -> Image.Image:
    """Applies RandAugment to an RGB or gray image (Cubuk et al., 2020): two operations, each with probability 1/2.

    The magnitude is drawn from a normal distribution with mean `magnitude` and standard deviation `std`. As in the
    recipes of MAE and Hiera (rand-m9-mstd0.5-inc1), the operations have their increasing form. `names` are the
    operations to choose from.
    """
    for _ in range(2):
        name, drawn, flip = (
            names[int(random.integers(len(names)))],
            random.normal(magnitude, std),
            random.random() < 0.5,
        )
        if random.random() < 0.5:
            image = OPERATIONS[name](image, min(max(drawn, 0.0), _LEVELS), flip)
    return image


def erase(pixels: np.ndarray, random: np.random.Generator, *, probability: float) -> np.ndarray:
    """Random erasing of uint8 `[H, W, C]`: with this probability, a rectangle of 2 to 33 % of the area becomes noise
    with ImageNet's mean and standard deviation (Zhong et al., 2020).
    """
    if random.random() >= probability:
        return pixels
    height, width = pixels.shape[:2]
    for _ in range(10):
        area = height * width * random.uniform(0.02, 1 / 3)
        aspect = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            noise = random.normal(116, 58, (h, w, pixels.shape[2])).clip(0, 255).astype(np.uint8)
            pixels = pixels.copy()
            pixels[top : top + h, left : left + w] = noise
            return pixels
    return pixels
