"""Several images with captions on one sheet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw

from hierax.viz.fonts import Font, drawable, load_font

_PAPER, _INK, _FADED = (255, 255, 255), (24, 24, 27), (100, 100, 108)


@dataclasses.dataclass(frozen=True)
class Tile:
    """An image on a sheet, with a title and a note below it."""

    picture: Image.Image
    title: str
    note: str = ""


def sheet(
    rows: Iterable[Sequence[Tile]],
    *,
    heading: str = "",
    note: str = "",
    widths: tuple[int, int] = (224, 512),
    margin: int = 20,
) -> Image.Image:
    """Rows of images with captions on white, under a `heading` and a `note`.

    Images narrower than the first of `widths` are enlarged by a whole factor; images wider than the second are shrunk.
    Long texts are wrapped.
    """
    tiles = [[dataclasses.replace(tile, picture=fitted(tile.picture, *widths)) for tile in row] for row in rows]
    columns = max(len(row) for row in tiles)
    wide = [max(row[i].picture.width for row in tiles if i < len(row)) for i in range(columns)]
    lefts = [margin + sum(wide[:i]) + i * margin for i in range(columns)]
    width = lefts[-1] + wide[-1] + margin
    texts = [[_caption(tile, wide[i]) for i, tile in enumerate(row)] for row in tiles]
    top_lines = _lines(heading, 22, _INK, width - 2 * margin) + _lines(note, 15, _FADED, width - 2 * margin)
    tops = [margin + (_height(top_lines) + margin if top_lines else 0)]
    for row, captions in zip(tiles, texts, strict=True):
        tall = max(tile.picture.height for tile in row)
        tops.append(tops[-1] + tall + 8 + max(_height(lines) for lines in captions) + margin)
    page = Image.new("RGB", (width, tops[-1]), _PAPER)
    draw = ImageDraw.Draw(page)
    _write(draw, top_lines, margin, margin)
    for row, captions, top in zip(tiles, texts, tops, strict=False):
        below = top + max(tile.picture.height for tile in row) + 8
        for tile, lines, left in zip(row, captions, lefts, strict=False):
            page.paste(tile.picture.convert("RGB"), (left, top))
            _write(draw, lines, left, below)
    return page


_Line = tuple[str, Font, int, tuple[int, int, int]]  # text, font, size in points and color


def fitted(picture: Image.Image, least: int = 224, most: int = 512) -> Image.Image:
    """The image as `sheet` shows it: enlarged by a whole factor if it is narrower than `least` pixels, shrunk if it is
    wider than `most`.
    """
    width, height = picture.size
    if width > most:
        return picture.resize((most, max(1, height * most // width)), Image.Resampling.BOX)
    times = -(-least // width)
    return picture.resize((width * times, height * times), Image.Resampling.NEAREST)


def _caption(tile: Tile, width: int) -> list[_Line]:
    return _lines(tile.title, 16, _INK, width) + _lines(tile.note, 14, _FADED, width)


def _lines(text: str, points: int, color: tuple[int, int, int], width: int) -> list[_Line]:
    """The text, wrapped to lines that fit; a word that is longer than a line, as in scripts without spaces,
    is split.
    """
    shown = drawable(text)
    font, lines = load_font(shown, points), list[str]()
    for word in shown.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return [(line, font, points, color) for line in lines]


def _height(lines: Sequence[_Line]) -> int:
    return sum(round(points * 1.35) for _, _, points, _ in lines)


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[_Line], left: int, top: int) -> None:
    for text, font, points, color in lines:
        draw.text((left, top), text, fill=color, font=font)
        top += round(points * 1.35)
