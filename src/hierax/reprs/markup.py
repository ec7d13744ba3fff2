"""HTML for notebooks: tables, bars and images in one self-contained piece, without scripts, styles of pages or links.

Texts come from files and models of other people: `Markup` is the only kind of text that is not escaped. Colors of text
and background are those of the notebook, so a piece is readable on light and on dark pages.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from hierax.notices import printable
from hierax.reprs.text import described

if TYPE_CHECKING:
    from PIL import Image

MOST_BYTES = 400_000
"""Maximum size of a piece; of what would be longer, the notebook shows the `repr`."""
ROWS = 20
"""Maximum number of rows of a table."""
_TEXT = 300  # maximum length of a text in characters
_SIDE = 320  # maximum width and height of an image in pixels, if no other is given
_FAINT = "rgba(128,128,128,.25)"
_BLUE = "#4c8dff"


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


Cell: TypeAlias = "Markup | str | float | None"


def html_repr(method: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """A decorator for `_repr_html_`: if the HTML cannot be made or is too long, it is None, and a notebook shows the
    text of `repr`.
    """

    @functools.wraps(method)
    def safe(self: Any) -> str | None:
        try:
            made = method(self)
            return made if made is not None and len(made.encode()) <= MOST_BYTES else None
        except Exception:  # of any kind: files may be gone, tensors may have no numbers
            return None

    return safe


def escaped(value: Cell) -> Markup:
    """A text in one line, escaped; of long ones the beginning. Markup stays as it is, and None is a dash."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup("–")
    shown = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
    shown = printable(shown[: _TEXT + 1])
    return Markup(html.escape(shown if len(shown) <= _TEXT else f"{shown[:_TEXT]}…"))


def ending(text: str, most: int = 60) -> str:
    """The end of a long text, such as a path."""
    return text if len(text) <= most else f"…{text[-most:]}"


def card(title: Cell, *parts: Cell, note: Cell = "") -> str:
    """A title, a note, and parts below each other."""
    head = f"<strong>{escaped(title)}</strong>" + (f" <span style='opacity:.7'>{escaped(note)}</span>" if note else "")
    body = "".join(f"<div style='margin-top:6px'>{escaped(part)}</div>" for part in parts if part)
    return f"<div style='margin:4px 0;line-height:1.4'><div>{head}</div>{body}</div>"


def file_card(path: str | os.PathLike[str], *parts: Cell, note: str = "") -> str:
    """The name of a file, with the end of the path of its folder and a note, and parts below each other."""
    folder, name = os.path.split(os.fspath(path))
    return card(name, *parts, note="; ".join(text for text in (f"in {ending(folder)}" if folder else "", note) if text))


def entries_card(title: str, entries: Iterable[tuple[str, Any]]) -> str:
    """A table of names with short texts of their values."""
    return card(title, table((), [(name, described(value)) for name, value in entries]))


def table(head: Sequence[Cell], rows: Iterable[Sequence[Cell]], *, total: int | None = None) -> Markup:
    """A table of at most `ROWS` rows. Numbers are on the right. `total` is the number of all rows, if it is known.

    `head` may be empty.
    """
    listed = list(rows)
    cells = "padding:2px 12px 2px 0;vertical-align:middle;white-space:normal;background:none;"
    edge = f"border:0;border-bottom:1px solid {_FAINT}"

    def row(values: Sequence[Cell], tag: str) -> str:
        parts = (
            f"<{tag} style='{cells}{edge};text-align:{'right' if type(v) in (int, float) else 'left'}'>"
            f"{escaped(v)}</{tag}>"
            for v in values
        )
        return f"<tr style='background:none'>{''.join(parts)}</tr>"

    top = f"<thead>{row(head, 'th')}</thead>" if head else ""
    body = "".join(row(values, "td") for values in listed[:ROWS])
    left = (len(listed) if total is None else total) - min(len(listed), ROWS)
    more = f"<div style='opacity:.7'>… and {left:,} more</div>" if left > 0 else ""
    style = "border-collapse:collapse;margin:0;color:inherit;font-size:inherit"
    return Markup(f"<table style='{style}'>{top}<tbody>{body}</tbody></table>{more}")


def bar(share: float, *, width: int = 140, color: str = _BLUE) -> Markup:
    """A bar of which a share from 0 to 1 is filled."""
    filled = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    return Markup(
        f"<div style='width:{width}px;height:.8em;background:{_FAINT};border-radius:3px'>"
        f"<div style='width:{100 * filled:.1f}%;height:100%;background:{color};border-radius:3px'></div></div>"
    )


def swatch(color: Sequence[int]) -> Markup:
    """A small square of a color (red, green, blue)."""
    red, green, blue = (int(value) for value in color)
    return Markup(
        f"<span style='display:inline-block;width:.9em;height:.9em;border:1px solid {_FAINT};border-radius:2px;"
        f"background:rgb({red},{green},{blue})'></span>"
    )


def image_tag(image: Image.Image, *, side: int = _SIDE, enlarge: int | None = None, width: int | None = None) -> Markup:
    """An image, at most `side` pixels wide and high.

    `width` is the width in the notebook. `enlarge` is the same for a small image whose pixels are cells; their edges
    stay sharp.
    """
    shown = image.convert("RGB")
    content = io.BytesIO()
    if enlarge is None:
        shown.thumbnail((side, side), reducing_gap=2.0)
        shown.save(content, "JPEG", quality=85)
        width, sharp = width or shown.width, ""
    else:
        shown.save(content, "PNG")
        width, sharp = enlarge, ";image-rendering:pixelated"
    data = base64.b64encode(content.getvalue()).decode()
    kind = "jpeg" if enlarge is None else "png"
    return Markup(f"<img alt='' style='width:{width}px;max-width:100%{sharp}' src='data:image/{kind};base64,{data}'>")


def figures(entries: Iterable[tuple[Cell, Cell]]) -> Markup:
    """Images beside each other, with a caption below each."""
    parts = (
        "<figure style='margin:0;display:inline-block;vertical-align:top'>"
        f"{escaped(image)}<figcaption style='max-width:224px;font-size:.9em'>{escaped(caption)}</figcaption></figure>"
        for image, caption in entries
    )
    return Markup(f"<div style='display:flex;flex-wrap:wrap;gap:12px'>{''.join(parts)}</div>")


def lines(*texts: Cell) -> Markup:
    """Texts below each other."""
    return Markup("<br>".join(escaped(text) for text in texts if text))
