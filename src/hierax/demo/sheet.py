"""Draws the sheet of the demonstration: one row for each photo, with the model's results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from hierax.viz.fonts import drawable, load_font

TILE = 240
"""Side of an image on the sheet, in pixels: whole pixels for a cell of 20 x 20, 40 x 40 and 80 x 80, and for 5 x 5
mask units."""
SMALL = 114
"""Side of a neighbor, in pixels."""
NOT_SURE = "not sure"
_MARGIN, _GAP = 32, 20  # around the sheet, between images
_TALL = TILE + 48  # from one row to the next: an image, the line below it, and a gap
_LINE, _BAR = 38, 31  # distance of the lines of labels, height of their bars
# The sheet is made to be read at half its size, as on a page: no text is smaller than 18 points.
_TITLE, _VERDICT, _COLUMN, _LABEL, _NOTE, _LEAST = 36, 34, 26, 21, 20, 18
_PAPER, _INK, _FADED, _SHARE, _RULE = (255, 255, 255), (24, 24, 27), (100, 100, 108), (203, 222, 248), (244, 244, 246)
_Color = tuple[int, int, int]


@dataclass(frozen=True)
class Row:
    """The content of one row: a photo and the model's results.

    Attributes:
        name: name of the photo's file.
        pictures: a square image for each column except the last; they are resized to `TILE`.
        answers: labels, their probabilities, and the probabilities as text; the most likely label is first.
        neighbors: images, the nearest first; four of them fill the last column.
        sure: whether the first label is said to be the answer; if not, the sheet says "not sure".
        note: a line below the reconstruction, which is the last of `pictures`.
    """

    name: str
    pictures: Sequence[Image.Image]
    answers: Sequence[tuple[str, float, str]]
    neighbors: Sequence[Image.Image]
    sure: bool = True
    note: str = ""

    @property
    def verdict(self) -> str:
        """The first label, or that the model is not sure."""
        return "" if not self.answers else self.answers[0][0] if self.sure else NOT_SURE


def demo_sheet(
    rows: Sequence[Row], *, heading: str, notes: Sequence[str], columns: Sequence[tuple[str, str]]
) -> Image.Image:
    """The sheet: all rows on white, under a heading and lines of notes; `columns` has the title and note of each
    column: the photo, its labels, the other images, the neighbors.
    """
    places = [_MARGIN + number * (TILE + _GAP) for number in range(len(columns))]
    left = [places[0], *places[2:]]  # of images
    top = _MARGIN + 52 + 28 * len(notes) + 16
    first = top + 66
    page = Image.new("RGB", (places[-1] + TILE + _MARGIN, first + _TALL * len(rows)), _PAPER)
    draw = ImageDraw.Draw(page)
    _write(draw, heading, (_MARGIN, _MARGIN - 6), _TITLE)
    for number, note in enumerate(notes):
        _write(draw, note, (_MARGIN, _MARGIN + 46 + 28 * number), _NOTE, _FADED)
    for x, (title, note) in zip(places, columns, strict=True):
        _write(draw, title, (x, top), _COLUMN, room=TILE)
        _write(draw, note, (x, top + 34), _LEAST, _FADED, room=TILE)
    for number, row in enumerate(rows):
        y = first + number * _TALL
        for x, image in zip(left, row.pictures, strict=False):
            page.paste(_square(image), (x, y))
        _answers(draw, row, (places[1], y))
        _write(draw, row.note, (left[len(row.pictures) - 1], y + TILE + 3), _LEAST, _FADED, room=TILE)
        _neighbors(page, row.neighbors, (left[-1], y))
    return page


def _square(picture: Image.Image, side: int = TILE) -> Image.Image:
    """Resizes an image smoothly. An image of less than half the size is a map; its cells keep sharp edges."""
    cells = 2 * picture.width <= side
    return picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST if cells else Image.Resampling.LANCZOS)


def _answers(draw: ImageDraw.ImageDraw, row: Row, at: tuple[int, int]) -> None:
    """Writes the name of the photo and the verdict, and below them the labels on their bars."""
    x, y = at
    _write(draw, row.name, (x, y - 5), _LEAST, _FADED, room=TILE)
    verdict = drawable(row.verdict)
    points = next((p for p in range(_VERDICT, _LEAST, -1) if load_font(verdict, p).getlength(verdict) <= TILE), _LEAST)
    _write(draw, verdict, (x, y + 27), points, _INK if row.sure else _FADED, room=TILE)
    for place, answer in enumerate(row.answers):
        _answer(draw, *answer, (x, y + 90 + place * _LINE))


def _answer(draw: ImageDraw.ImageDraw, label: str, probability: float, share: str, at: tuple[int, int]) -> None:
    """Draws a label on a bar; the length of the bar shows the probability."""
    x, y = at
    draw.rectangle((x, y, x + TILE - 1, y + _BAR), fill=_RULE)
    draw.rectangle((x, y, x + max(round(TILE * probability), 1) - 1, y + _BAR), fill=_SHARE)
    _write(draw, share, (x + TILE - 7 - round(load_font(share, _LABEL).getlength(share)), y + 2), _LABEL)
    _write(draw, label, (x + 7, y + 2), _LABEL, room=TILE - 75)


def _neighbors(page: Image.Image, found: Sequence[Image.Image], at: tuple[int, int]) -> None:
    """Draws four images in two rows."""
    for number, image in enumerate(found[:4]):
        x, y = (place + step * (TILE - SMALL) for place, step in zip(at, (number % 2, number // 2), strict=True))
        page.paste(_square(image, SMALL), (x, y))


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
