"""Heat over an image: which regions speak for a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from hierax.viz.attention import heat_colors
from hierax.viz.fonts import load_font
from hierax.viz.maps import enlarge, finite_array

if TYPE_CHECKING:
    from torch import Tensor

_PAPER, _INK = (255, 255, 255), (24, 24, 27)


def heat_overlay(
    image: Image.Image, values: np.ndarray | Tensor, *, stride: Sequence[int] | None = None, opacity: float = 0.6
) -> Image.Image:
    """Heat `[rows, columns]` from 0 to 1 over the gray image: dark is 0, bright yellow is 1.

    The colors can be told apart by color-blind readers, and also in gray. The cells are drawn as squares.

    Args:
        image: the image that the model saw; its size stays.
        values: the heat of each cell, from 0 to 1.
        stride: pixels per cell, vertical and horizontal; parts of cells outside of the image are cut off. None: every
            cell covers an equal share of the image.
        opacity: from 0, where only the image is seen, to 1, where only the heat is seen.

    Raises:
        ValueError: the values have no rows and columns, or are not finite or not from 0 to 1; or there are too few for
            the stride; or the opacity is not from 0 to 1.
    """
    heat, size = finite_array(values), (image.height, image.width)
    if heat.ndim != 2 or not heat.size or heat.min() < 0 or heat.max() > 1:
        raise ValueError(f"values have shape {list(heat.shape)}; expected [rows, columns] with numbers from 0 to 1")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity!r}; expected a number from 0 to 1")
    colors = heat_colors(heat)
    if stride is None:
        rows, columns = (np.arange(side) * cells // side for side, cells in zip(size, heat.shape, strict=True))
        colors = colors[rows][:, columns]
    else:
        colors = enlarge(colors, stride=stride, size=size)
    gray = np.asarray(image.convert("L"), np.float32)[..., None]
    return Image.fromarray(np.rint((1 - opacity) * gray + opacity * colors).astype(np.uint8))


def with_heat_bar(image: Image.Image, *, low: str = "0", high: str = "1", opacity: float = 0.6) -> Image.Image:
    """The image with a bar of the colors of `heat_overlay` below it, and the texts of its ends."""
    points = min(max(image.width // 16, 10), 28)
    gap, tall = points // 2, max(points // 2, 6)
    page = Image.new("RGB", (image.width, image.height + gap + tall + 2 + round(points * 1.4)), _PAPER)
    page.paste(image.convert("RGB"), (0, 0))
    colors = opacity * heat_colors(np.linspace(0, 1, image.width, dtype=np.float32)) + (1 - opacity) * 128
    bar = np.broadcast_to(np.rint(colors).astype(np.uint8)[None], (tall, image.width, 3))
    page.paste(Image.fromarray(np.ascontiguousarray(bar)), (0, image.height + gap))
    draw, below = ImageDraw.Draw(page), image.height + gap + tall + 2
    for text, left in ((low, True), (high, False)):
        font = load_font(text, points)
        draw.text((0 if left else image.width - font.getlength(text), below), text, fill=_INK, font=font)
    return page
