"""Draws the sheet of the demonstration: one row for each photo, with the model's results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from hierax.viz.fonts import drawable, load_font

TILE = 200
"""Side of an image on the sheet, in pixels: whole pixels for a cell of 20 x 20 and of 40 x 40."""
_MARGIN, _GAP = 28, 20  # around the sheet, between images
SMALL, _PITCH = 79, 124  # side of a neighbor, and distance between two of them, enough for the longest label
_LINE, _BAR = 25, 21  # distance of the lines of labels, height of their bars
_PAPER, _INK, _FADED, _SHARE, _RULE = (255, 255, 255), (24, 24, 27), (100, 100, 108), (203, 222, 248), (228, 228, 231)
_Color = tuple[int, int, int]


@dataclass(frozen=True)
class Row:
    """The content of one row: a photo and the model's results.

    Attributes:
        name: name of the photo's file.
        pictures: a square image for each column except the last; they are resized to `TILE`.
        answers: labels, their probabilities, and the probabilities as text; the most likely label is first.
        neighbors: images and their labels, the nearest first; four of them fill the last column.
    """

    name: str
    pictures: Sequence[Image.Image]
    answers: Sequence[tuple[str, float, str]]
    neighbors: Sequence[tuple[Image.Image, str]]


def demo_sheet(
    rows: Sequence[Row], *, heading: str, notes: Sequence[str], columns: Sequence[tuple[str, str]]
) -> Image.Image:
    """The sheet: all rows on white, under a heading and lines of notes; `columns` has the title and note of each
    column.
    """
    places = [_MARGIN + number * (TILE + _GAP) for number in range(len(columns) + 1)]
    words, left = places[1], [places[0], *places[2:]]  # the labels of a photo are beside it
    width = left[-1] + 2 * _PITCH + _MARGIN - 4
    top = _MARGIN + 36 + 20 * len(notes) + 14
    first, tall = top + 46, TILE + _GAP
    page = Image.new("RGB", (width, first + tall * len(rows) + _MARGIN - _GAP), _PAPER)
    draw = ImageDraw.Draw(page)
    _write(draw, heading, (_MARGIN, _MARGIN - 4), 28)
    for number, note in enumerate(notes):
        _write(draw, note, (_MARGIN, _MARGIN + 34 + 20 * number), 16, _FADED)
    for x, (title, note) in zip(left, columns, strict=True):
        _write(draw, title, (x, top), 18)
        _write(draw, note, (words if x == left[0] else x, top + 23), 14, _FADED)
    for number, row in enumerate(rows):
        y = first + number * tall
        for x, image in zip(left, row.pictures, strict=False):
            page.paste(_square(image), (x, y))
        _write(draw, row.name, (words, y - 2), 15, _FADED, room=TILE)
        for place, answer in enumerate(row.answers, start=1):
            _answer(draw, *answer, (words, y + place * _LINE + 4))
        _neighbors(page, draw, row.neighbors, (left[-1], y))
    return page


def _square(picture: Image.Image, side: int = TILE) -> Image.Image:
    """Resizes an image smoothly. An image of less than half the size is a map; its cells keep sharp edges."""
    cells = 2 * picture.width <= side
    return picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST if cells else Image.Resampling.LANCZOS)


def _answer(draw: ImageDraw.ImageDraw, label: str, probability: float, share: str, at: tuple[int, int]) -> None:
    """Draws a label on a bar; the length of the bar shows the probability."""
    x, y = at
    draw.rectangle((x, y, x + TILE - 1, y + _BAR), fill=(244, 244, 246))
    draw.rectangle((x, y, x + max(round(TILE * probability), 1) - 1, y + _BAR), fill=_SHARE)
    _write(draw, share, (x + TILE - 5 - round(load_font(share, 15).getlength(share)), y + 1), 15)
    _write(draw, label, (x + 5, y + 1), 15, room=TILE - 55)


def _neighbors(
    page: Image.Image, draw: ImageDraw.ImageDraw, found: Sequence[tuple[Image.Image, str]], at: tuple[int, int]
) -> None:
    """Draws four images in two rows, with their labels below."""
    for number, (image, label) in enumerate(found[:4]):
        x, y = at[0] + number % 2 * _PITCH, at[1] + number // 2 * (SMALL + 22)
        page.paste(_square(image, SMALL), (x, y))
        _write(draw, label, (x, y + SMALL + 1), 13, _FADED, room=_PITCH - 4)


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    at: tuple[int, int],
    points: int,
    color: _Color = _INK,
    *,
    room: int | None = None,
) -> None:
    """The text in one line, shortened to at most `room` pixels."""
    shown = drawable(text)
    font = load_font(shown, points)
    if room is not None and font.getlength(shown) > room:
        fits = (n for n in range(len(shown) - 1, 0, -1) if font.getlength(f"{shown[:n].rstrip()}...") <= room)
        shown = f"{shown[: next(fits, 0)].rstrip()}..."
    draw.text(at, shown, fill=color, font=font)
