"""Draws objects on an image: boxes with class and score, and masks."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from hierax.detection.masks import decode
from hierax.detection.objects import FoundObject
from hierax.viz.fonts import drawable, load_font

_OPACITY = 0.45
_GOLDEN = 0.618033988749895  # steps on the circle of hues by which neighboring classes differ most


def color_of(label: int) -> tuple[int, int, int]:
    """The color of a class."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * _GOLDEN) % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_objects(image: Image.Image, objects: Sequence[FoundObject], classes: Sequence[str]) -> Image.Image:
    """A copy of an RGB image with the objects on it; those with the highest scores are on top."""
    pixels = np.array(image)
    for found in reversed(objects):
        if found.mask is not None:
            inside = decode(found.mask, image.height, image.width)
            pixels[inside] = (1 - _OPACITY) * pixels[inside] + _OPACITY * np.array(color_of(found.label))
    drawn = Image.fromarray(pixels)
    pen = ImageDraw.Draw(drawn)
    line = max(2, round(min(image.size) / 250))
    points = max(11, round(min(image.size) / 40))
    for found in reversed(objects):
        left, top, wide, high = found.box
        color = color_of(found.label)
        pen.rectangle((left, top, left + wide, top + high), outline=color, width=line)
        text = drawable(f"{classes[found.label]} {found.score:.2f}")
        font = load_font(text, points)
        length, height = round(font.getlength(text)) + 6, round(points * 1.35)
        x = min(max(left, 0), max(image.width - length, 0))
        y = top - height if top >= height else min(top, image.height - height)
        pen.rectangle((x, y, x + length, y + height), fill=color)
        dark = sum(w * c for w, c in zip((0.299, 0.587, 0.114), color, strict=True)) > 150
        pen.text((x + 3, y), text, fill=(0, 0, 0) if dark else (255, 255, 255), font=font)
    return drawn
