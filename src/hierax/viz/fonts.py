"""Finds a font for a text: Pillow's own font, or a font of this system that has all of its characters."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

from PIL import ImageFont

from hierax.home import home
from hierax.notices import notify, printable

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_MISSING = "\U0010ffff"  # a character that no font has; it is drawn like every missing character
_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
_UNUSUAL = ("bold", "italic", "oblique", "mono", "serif", "condensed", "narrow", "light", "thin", "black", "math")
_USUAL = ("sans", "regular", "gothic", "hei", "cjk", "unicode", "symbol", "emoji")
_MOST_FONTS = 400  # that are looked at
_MOST = 20  # names in a notice
_POINTS = 20  # for the comparison of characters


def load_font(text: str, points: int) -> Font:
    """The font of `points` to draw a text in that `drawable` returned."""
    place = find_font(text)
    return ImageFont.truetype(place, points) if place else ImageFont.load_default(size=points)


@lru_cache(4096)
def find_font(text: str) -> str | None:
    """The file of a font that has all characters of a text: "" is Pillow's own font, None is no font."""
    wanted = sorted({c for c in text if not c.isascii() and not _invisible(c)}, reverse=True)  # rare characters first
    for place in ["", *_fonts()] if wanted else [""]:
        if all(_has(place, character) for character in wanted):
            return place
    return None


def drawable(text: str) -> str:
    """The text itself if a font of this system has its characters. Otherwise accents are dropped, and the other
    characters outside ASCII become question marks.
    """
    text = _normal(text)
    if find_font(text) is not None:
        return text
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return bare.encode("ascii", "replace").decode("ascii")


def drawable_names(names: Sequence[str], *, kind: str = "image", first: int = 1) -> list[str]:
    """The names of files or classes for a drawing. Those whose characters no font has become `image 3`, by their place
    in the list, and one notice says which.
    """
    plain = [printable(name) for name in names]
    shown = [drawable(name) for name in plain]
    lost = [place for place, name in enumerate(plain) if shown[place].count("?") != name.count("?")]
    for place in lost:
        shown[place] = f"{kind} {place + first}"
    if lost:
        listed = ", ".join(f"{shown[place]} is {plain[place]}" for place in lost[:_MOST])
        more = f", and {len(lost) - _MOST:,} more" if len(lost) > _MOST else ""
        notify(f"no font of this system has all characters of these names, so numbers are drawn: {listed}{more}")
    return shown


def plot_font(text: str) -> dict[str, Any]:
    """Arguments for a text of matplotlib: a font that has characters which matplotlib's own font may not have."""
    place = find_font(_normal(text))
    if not place:
        return {}
    from matplotlib.font_manager import FontProperties

    return {"fontproperties": FontProperties(fname=place)}


def _normal(text: str) -> str:
    """The text with composed characters, without emoji selectors, which some fonts draw, and without bytes that are not
    text.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c for c in unicodedata.normalize("NFC", text) if c not in "\ufe0e\ufe0f")


@lru_cache(1 << 18)
def _has(place: str, character: str) -> bool:
    try:
        font, missing = _open(place)
        return _draw(font, character) != missing
    except (OSError, ValueError):  # a damaged font, or one of fixed sizes
        return False


@lru_cache(_MOST_FONTS)
def _open(place: str) -> tuple[Font, tuple[tuple[int, ...], bytes]]:
    """A font, and how it draws characters that it does not have."""
    basic = ImageFont.Layout.BASIC
    font = ImageFont.truetype(place, _POINTS, layout_engine=basic) if place else ImageFont.load_default(size=_POINTS)
    return font, _draw(font, _MISSING)


def _invisible(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf")


def _draw(font: Font, character: str) -> tuple[tuple[int, ...], bytes]:
    mask = cast("Any", font.getmask(character))
    return tuple(mask.size), bytes(mask)


@cache
def _fonts() -> list[str]:
    """All fonts of this system, upright ones of normal weight first."""
    found = [
        os.path.join(folder, name)
        for place in _folders()
        for folder, _, names in os.walk(place)
        for name in names
        if name.lower().endswith(_SUFFIXES)
    ]

    def order(place: str) -> tuple[int, str]:
        name = os.path.basename(place).lower()
        unusual = sum(word in name for word in _UNUSUAL)
        return 2 * unusual + all(word not in name for word in _USUAL), name

    return sorted(found, key=order)[:_MOST_FONTS]


def _folders() -> list[Path]:
    """The folders of this system's fonts."""
    own = home()
    if sys.platform == "win32":
        windows = Path(os.environ.get("WINDIR", r"C:\Windows"))
        return [windows / "Fonts", own / "AppData" / "Local" / "Microsoft" / "Windows" / "Fonts"]
    if sys.platform == "darwin":
        return [own / "Library" / "Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    mine = os.environ.get("XDG_DATA_HOME") or str(own / ".local" / "share")
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [own / ".fonts", *(Path(place, "fonts") for place in [mine, *shared.split(":")])]
