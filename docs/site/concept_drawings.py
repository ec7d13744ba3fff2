"""Draws the images of docs/concepts.md: `python docs/site/concept_drawings.py`. What is drawn is computed by hierax."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import hierax
from hierax.model.config import HieraConfig, variant_config
from hierax.model.positions import resize_table
from hierax.model.tokens import UnitLayout
from svg import Drawing

OUTPUT = Path(__file__).parents[1] / "concepts"
PHOTO = Path(hierax.__file__).parent / "assets" / "cat.jpg"
SIDE = 224
UNIT = 32


def photo() -> Image.Image:
    """The middle of the cat, 224 x 224."""
    with Image.open(PHOTO) as opened:
        side = min(opened.size)
        left, top = (opened.width - side) // 2, (opened.height - side) // 2
        return (
            opened.convert("RGB")
            .crop((left, top, left + side, top + side))
            .resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        )


def config() -> HieraConfig:
    """The architecture that is drawn."""
    return variant_config("hiera_tiny_224")


def mask_units() -> Drawing:
    """An image, its mask units, and the tokens of one."""
    drawing = Drawing(480, 278, "An image of 224 x 224 pixels has 7 x 7 mask units; a mask unit has 8 x 8 tokens")
    whole = photo()
    row, column = 2, 3
    drawing.image(0, 0, SIDE, SIDE, whole)
    drawing.grid(0, 0, SIDE, 7, "grid")
    drawing.rect(column * UNIT, row * UNIT, UNIT, UNIT, "orange-line")
    part = whole.crop((column * UNIT, row * UNIT, (column + 1) * UNIT, (row + 1) * UNIT))
    drawing.image(272, 16, 192, 192, part.resize((192, 192), Image.Resampling.BICUBIC))
    drawing.grid(272, 16, 192, 8, "grid")
    drawing.rect(272, 16, 192, 192, "orange-line")
    drawing.arrow(230, 112, 34)
    for x, lines in (
        (0, ("Image: 224 × 224 pixels", "7 × 7 = 49 mask units")),
        (256, ("Mask unit: 32 × 32 pixels", "8 × 8 = 64 tokens of 4 pixels")),
    ):
        drawing.text(x, 252, lines[0], "bold")
        drawing.text(x, 276, lines[1], "soft")
    return drawing


def stages() -> Drawing:
    """Four mask units in each stage, and what one token attends to."""
    shape = config()
    drawing = Drawing(480, 260, "From stage to stage a mask unit has fewer tokens and more channels")
    for stage in range(4):
        x, tokens = stage * 123, 8 >> stage
        everywhere = not shape.masked_unit_attention[stage]
        drawing.text(x, 18, f"Stage {stage + 1}", "bold")
        for unit in range(4):
            left, top = x + 54 * (unit % 2), 30 + 54 * (unit // 2)
            drawing.rect(left, top, 52, 52, "orange" if everywhere or unit == 0 else "fill")
            drawing.grid(left, top, 52, tokens, "line")
        drawing.rect(x, 30, 52 / tokens, 52 / tokens, "blue")
        side = SIDE // shape.stage_stride(stage)[-1]
        facts = (
            f"{side} × {side} tokens",
            f"{shape.dims[stage]} channels",
            f"{shape.depths[stage]} block{'s' * (shape.depths[stage] > 1)}",
        )
        for line, fact in enumerate(facts):
            drawing.text(x, 164 + 22 * line, fact, "soft")
    drawing.rect(0, 244, 14, 14, "blue")
    drawing.text(22, 256, "one token")
    drawing.rect(130, 244, 14, 14, "orange")
    drawing.text(152, 256, "what it attends to")
    return drawing


def pooling() -> Drawing:
    """Queries are pooled, keys and values are not."""
    drawing = Drawing(480, 192, "Between stages, four queries become one; keys and values stay as they are")
    values = np.array([[3, 7, 2, 1], [5, 4, 6, 2], [1, 2, 9, 4], [8, 3, 5, 6]])
    pooled = values.reshape(2, 2, 2, 2).max((1, 3))
    for x, table, step in ((0, values, 40), (216, pooled, 80)):
        for (row, column), value in np.ndenumerate(table):
            odd = (row * step // 80 + column * step // 80) % 2
            left, top = x + column * step, 30 + row * step
            drawing.rect(left, top, step, step, "fill" if odd else "paper")
            drawing.rect(left, top, step, step, "line")
            best = step == 80 or value == pooled[row // 2, column // 2]
            drawing.text(left + step / 2, top + step / 2 + 5, str(value), "bold" if best else "soft", "middle")
    drawing.text(0, 18, "Queries of a mask unit", "bold")
    drawing.text(216, 18, "Pooled queries", "bold")
    drawing.arrow(170, 110, 38)
    for line, text in enumerate(("maximum", "of 2 × 2")):
        drawing.text(386, 104 + 22 * line, text, "soft")
    return drawing


def masking() -> Drawing:
    """Hidden units are left out of the encoder."""
    whole, shape = photo(), config()
    kept = np.sort(np.random.default_rng(3).permutation(49)[: round(49 * (1 - shape.mask_ratio))])
    drawing = Drawing(480, 278, "Of 49 mask units the encoder sees 20; the decoder fills in the others")
    drawing.image(0, 0, SIDE, SIDE, whole)
    for unit in set(range(49)) - set(kept.tolist()):
        drawing.rect(unit % 7 * UNIT, unit // 7 * UNIT, UNIT, UNIT, "fill")
    drawing.grid(0, 0, SIDE, 7, "line")
    drawing.arrow(230, 112, 40)
    for place, unit in enumerate(kept.tolist()):
        x, y = unit % 7 * UNIT, unit // 7 * UNIT
        drawing.image(284 + place % 5 * 38, 36 + place // 5 * 38, UNIT, UNIT, whole.crop((x, y, x + UNIT, y + UNIT)))
    drawing.text(0, 252, f"{49 - len(kept)} of 49 units are hidden", "bold")
    drawing.text(256, 252, f"The encoder sees {len(kept)} units", "bold")
    drawing.text(0, 276, "The decoder fills them in", "soft")
    drawing.text(256, 276, "and computes only these", "soft")
    return drawing


def orders() -> Drawing:
    """Which places one unit of attention covers, in the order of mask units and in the order of rows."""
    whole, shape = photo(), config()
    drawing = Drawing(480, 276, "64 tokens that attend to each other, in the right order and in the order of rows")
    grid = torch.arange(56 * 56).reshape(1, 56, 56, 1)
    right = UnitLayout.of(shape).unroll(grid)[0, 17].flatten().tolist()
    wrong = list(range(17, 56 * 56, 49))
    for x, places, title, text in (
        (0, right, "Order of mask units", "one part of the image"),
        (256, wrong, "Order of rows", "every 49th token"),
    ):
        drawing.image(x, 0, SIDE, SIDE, whole)
        drawing.rect(x, 0, SIDE, SIDE, "veil")
        for place in places:
            drawing.rect(x + place % 56 * 4, place // 56 * 4, 4, 4, "orange")
        drawing.text(x, 252, title, "bold")
        drawing.text(x, 274, text, "soft")
    return drawing


def position_table() -> torch.Tensor:
    """A table of 4 x 4 units of 8 x 8 tokens: a pattern that repeats in every unit, and a slope over the image."""
    axis = torch.arange(32.0)
    bump = torch.exp(-((axis % 8 - 2) ** 2) / 3)
    slope = (axis[:, None] + axis[None]) / 62
    return (0.75 * bump[:, None] * bump[None] + 0.25 * slope)[None, :, :, None]


def positions() -> Drawing:
    """A table of position embeddings and two ways to enlarge it."""
    drawing = Drawing(480, 166, "A table of position embeddings, and two ways to enlarge it")
    table, unit, step = position_table(), (8, 8), 3.4
    tables = (
        ("4 × 4 units", table, 4),
        ("5 × 5, bicubic", resize_table(table, (40, 40), method="bicubic", unit=unit), 5),
        ("5 × 5, window", resize_table(table, (40, 40), method="window", unit=unit), 5),
    )
    for x, (name, made, units) in zip((0, 160, 330), tables, strict=True):
        gray = (made[0, :, :, 0].clamp(0, 1).numpy() * 255).astype(np.uint8)
        side = step * len(gray)
        drawing.image(x, 28, side, side, Image.fromarray(gray))
        drawing.grid(x, 28, side, units, "thin")
        drawing.text(x, 18, name, "bold")
    return drawing


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "mask-units": mask_units,
    "stages": stages,
    "pooling": pooling,
    "masking": masking,
    "orders": orders,
    "positions": positions,
}


def main(arguments: Sequence[str]) -> None:
    """Draws all images into a folder, by default that of the page."""
    output = Path(arguments[0]) if arguments else OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        draw().save(output / f"{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
