"""Class maps as images: colors of classes, palette images, overlays and their legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from hierax.processing.arrays import to_numpy
from hierax.viz.fonts import drawable, load_font

if TYPE_CHECKING:
    from torch import Tensor

    Colors = np.ndarray | Sequence[Sequence[int]]

_PAPER, _INK = (255, 255, 255), (24, 24, 27)


def palette(count: int) -> np.ndarray:
    """Colors of `count` classes, uint8 `[count, 3]`: those of the masks of Pascal VOC, whose first is black.

    The bits of the number of a class are dealt to red, green and blue, the lowest ones to the highest bits of a color.
    """
    numbers = np.arange(count)[:, None] >> np.arange(3)
    colors = np.zeros((count, 3), np.int64)
    for place in range(8):
        colors |= (numbers >> 3 * place & 1) << 7 - place
    return colors.astype(np.uint8)


def paint(mask: np.ndarray | Tensor, colors: Colors | None = None) -> Image.Image:
    """A class map `[H, W]` as an image whose values are the classes.

    Up to class 255 it is a palette image (mode "P"); otherwise it is gray with 16 bits, and has no colors.

    Args:
        mask: integers, the class of each pixel.
        colors: red, green and blue of each class, 0 to 255; None is `palette`.
    """
    array = to_numpy(mask)
    if array.max(initial=0) > 255:
        return Image.fromarray(array.astype(np.uint16))
    image = Image.fromarray(array.astype(np.uint8))
    table = np.zeros((256, 3), np.uint8)  # with fewer entries, Pillow would write fewer bits per pixel
    known = _table(colors)[:256]
    table[: len(known)] = known
    image.putpalette(table.tobytes())
    return image


def overlay(
    image: Image.Image, mask: np.ndarray | Tensor, colors: Colors | None = None, *, opacity: float = 0.5
) -> Image.Image:
    """The colors of a class map over an image of the same size, in RGB.

    Args:
        image: the image, of any mode.
        mask: integers `[H, W]`, the class of each pixel. Where a class has no color, or black, the image is unchanged:
            black is the color of the background, and would only darken it.
        colors: red, green and blue of each class, 0 to 255; None is `palette`.
        opacity: from 0, where only the image is seen, to 1, where only the classes are seen.

    Raises:
        ValueError: the sizes differ, or the opacity is not between 0 and 1.
    """
    array = to_numpy(mask)
    if array.shape != (image.height, image.width):
        raise ValueError(f"mask has shape {list(array.shape)}; expected [{image.height}, {image.width}], as the image")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity!r}; expected a number from 0 to 1")
    table, plain = _table(colors), image.convert("RGB")
    shown = array < len(table)
    painted = table[np.where(shown, array, 0)]
    shown &= painted.any(-1)
    mixed = Image.blend(plain, Image.fromarray(painted), opacity)
    return mixed if shown.all() else Image.composite(mixed, plain, Image.fromarray(shown))


def with_legend(image: Image.Image, entries: Sequence[tuple[str, Sequence[int]]]) -> Image.Image:
    """The image with a legend below it: each entry is a text and its color. Its width stays, long texts are cut."""
    points = min(max(image.width // 48, 12), 48)
    line, box, gap = round(points * 1.7), points, points // 2
    shown = [(drawable(text), tuple(int(c) for c in color)) for text, color in entries]
    places: list[tuple[int, int]] = []
    x, y = gap, 0
    for text, _ in shown:
        width = box + gap + int(load_font(text, points).getlength(text)) + 2 * gap
        if x > gap and x + width > image.width:
            x, y = gap, y + line
        places.append((x, y))
        x += width
    page = Image.new("RGB", (image.width, image.height + (y + line + gap if shown else 0)), _PAPER)
    page.paste(image, (0, 0))
    draw = ImageDraw.Draw(page)
    for (text, color), (left, top) in zip(shown, places, strict=True):
        upper = image.height + gap // 2 + top
        draw.rectangle((left, upper + gap // 2, left + box, upper + gap // 2 + box), fill=color, outline=_INK)
        draw.text(
            (left + box + gap, upper + gap // 2 + box // 2), text, fill=_INK, font=load_font(text, points), anchor="lm"
        )
    return page


def _table(colors: Colors | None) -> np.ndarray:
    """Colors as uint8 `[count, 3]`.

    Raises:
        ValueError: they are not three numbers from 0 to 255 for each class.
    """
    if colors is None:
        return palette(256)
    table = np.asarray(colors)
    if table.ndim != 2 or table.shape[1] != 3 or table.dtype.kind not in "iu" or table.min() < 0 or table.max() > 255:
        raise ValueError(f"colors has shape {list(table.shape)}; expected [classes, 3], integers from 0 to 255")
    return table.astype(np.uint8)
