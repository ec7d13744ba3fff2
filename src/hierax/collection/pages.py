"""HTML pages about a collection: contact sheets and the map. Each page is one complete file that opens offline.

Names of files may come from another person, so they are always escaped. The security policy of a page allows nothing
from outside, and only the script and the style of the page itself, identified by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from hierax.collection.originals import Original, originals
from hierax.collection.store import MARK
from hierax.notices import printable, valid_text
from hierax.processing import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from hierax.collection.mapped import RowInfo
    from hierax.collection.projection import Layout

MOST = 1000
"""Default maximum number of images on a contact sheet: about fifteen megabytes."""
_LARGE, _SIDE, _SMALL = 640, 320, 80  # pixels of an image on a short sheet, on a long one, and on the map
_SHORT = 150  # maximum number of images of a short sheet
_COLUMNS = 16  # number of columns, and of rows, of each image that contains thumbnails of the map
_QUALITY = 80
_COLORS = (
    "#4263eb",
    "#f08c00",
    "#2f9e44",
    "#e03131",
    "#9c36b5",
    "#0c8599",
    "#e8590c",
    "#66a80f",
    "#c2255c",
    "#1098ad",
    "#8d6e4f",
)
_OTHER = "#868e96"
_UNLISTED = ' disabled title="a list of paths cannot hold a name with a line break"'
_BREAK = re.compile(r"[\r\n]")


@dataclass(frozen=True)
class Entry:
    """An image on a sheet: its row and its caption. A row without an id is a file that the user named."""

    row: RowInfo
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A row of images on a sheet, with a heading. If they are `copies`, the page has a button to mark all but the
    largest.
    """

    heading: str
    entries: Sequence[Entry]
    copies: bool = False


def _asset(name: str) -> str:
    return (files("hierax") / "assets" / "pages" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _page(title: str, body: str, *, style: str, script: str) -> str:
    """A complete page, with a style and a script from the assets after those that all pages share."""
    style, script = _asset("page.css") + _asset(style), _asset("page.js") + _asset(script)
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy"\n content="{policy}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{_safe_name(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}",
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def _data(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _text(text: str) -> str:
    """Escapes text for HTML content and attributes. Invalid characters become backslash escapes."""
    return html.escape(valid_text(text))


def _safe_name(name: str) -> str:
    """A name as safe HTML text: characters that break the line or change the writing direction are escaped."""
    return _text(printable(name))


# -- contact sheets -----------------------------------------------------------------------------------------------


def contact_sheet(
    folders: Sequence[Path],
    sections: Sequence[Section],
    *,
    title: str,
    note: str = "",
    what: str = "image",
    most: int = MOST,
    fetch: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> str:
    """A page with a row of images for every section, with at most `most` images. The page states how many it omits.

    Below each image are its path, its size in pixels and its size in bytes. The path is relative to the common folder
    of all images, which the header states. A user can enlarge images, mark them, and save the paths of marked images as
    a list. An image that can no longer be read, or has changed, is a gray tile with the reason.

    Args:
        folders: the folders of the collections.
        sections: the sections, in order.
        title, note: heading of the page, and a text below it.
        what: the noun for a row: "image" or "segment".
        most: maximum number of images.
        fetch: also read images from URLs and the Hub.
        max_pixels: larger images are not shown; None: no limit.
    """
    shown, left = [], most
    for section in sections:
        if left < 1:
            break
        shown.append(replace(section, entries=section.entries[:left]))
        left -= len(shown[-1].entries)
    total, count = (sum(len(s.entries) for s in group) for group in (sections, shown))
    if count < total:
        note = f"{note} Only the first {count} of {total} {what}s are shown.".strip()
    rows = [entry.row for section in shown for entry in section.entries]
    found = originals(folders, rows, side=_LARGE if count <= _SHORT else _SIDE, fetch=fetch, max_pixels=max_pixels)
    shared = _common_folder([row.path for row in rows])
    below = f"<p>All files are in {_safe_name(shared)}</p>" if shared else ""
    parts = [f"<header><h1>{_safe_name(title)}</h1><p>{_safe_name(note)}</p>{below}</header>\n"]
    for section in shown:
        kind = ' class="copies"' if section.copies else ""
        parts.append(f'<section{kind}><h2>{_safe_name(section.heading)}</h2><div class="row">\n')
        parts += [_figure(entry, next(found), entry.row.path[len(shared) :]) for entry in section.entries]
        parts.append("</div></section>\n")
    some = any(section.copies for section in shown)
    copies = '<button class="text copies">Mark all but the largest of each group</button>' if some else ""
    parts.append(
        f'<footer><output></output>{copies}<button class="text some save">Save the list of paths</button>'
        '<button class="text some clear">Unmark all</button></footer>\n'
        '<dialog aria-label="Enlarged image"><img alt=""><p></p><div class="tools">'
        '<button class="text before">previous</button><button class="text after">next</button>'
        '<button class="text copy">copy path</button>'
        '<a hidden target="_blank" rel="noreferrer">open the file</a><button class="text close">close</button></div>'
        "</dialog>\n"
    )
    return _page(title, "".join(parts), style="sheet.css", script="sheet.js")


def _common_folder(paths: Sequence[str]) -> str:
    """The folders with which all paths begin; "" if there are none."""
    levels = zip(*(path.split("/")[:-1] for path in paths), strict=False)
    common = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels)]
    return "".join(f"{name}/" for name in common) if any(common) else ""


def _figure(entry: Entry, found: Original | str, path: str) -> str:
    name, row, size, facts = _safe_name(path), entry.row, 0, []
    if isinstance(found, str):
        image = f'<div class="missing">{_safe_name(found)}</div>'
    else:
        size = found.size
        image = (
            f'<button class="open" aria-label="enlarge {name}"><img src="{_data(found.image)}" '
            f'width="{found.image.width}" height="{found.image.height}" alt="{name}"></button>'
        )
    if row.width and row.height:
        facts.append(f"{row.width} x {row.height} px")
    if size:
        facts.append(f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB")
    address = _address(row)
    here = f' data-file="{_text(address)}"' if address else ""
    data = f'data-path="{_text(row.path)}" data-pixels="{row.width * row.height}" data-bytes="{size}"{here}'
    caption = "".join(f"<span>{_safe_name(text)}</span>" for text in (entry.caption, ", ".join(facts)) if text)
    listed = _UNLISTED if _BREAK.search(row.path) else ""
    mark = f'<label class="mark"><input type="checkbox" aria-label="mark {name}"{listed}>mark</label>'
    copy = f'<button class="text copy" aria-label="copy the path of {name}">copy path</button>'
    return (
        f'<figure title="{_safe_name(row.path)}" {data}><div>{image}</div><figcaption><bdi>{name}</bdi>{caption}'
        f'<span class="tools">{mark}{copy}</span></figcaption></figure>\n'
    )


def _address(row: RowInfo) -> str:
    """The `file://` address of a row, if it is a file of this machine; otherwise ""."""
    file = row.path.rpartition(MARK)[0] if row.start is not None else row.path
    return Path(file).as_uri() if os.path.isabs(file) and os.path.isfile(file) else ""


# -- the map ------------------------------------------------------------------------------------------------------


def map_page(
    folders: Sequence[Path],
    layout: Layout,
    rows: Sequence[RowInfo],
    *,
    title: str,
    note: str = "",
    what: str = "image",
    thumbnails: int = 2000,
    labels: Sequence[str] = (),
    fetch: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> str:
    """A page with the points of a layout.

    A user can drag the map, zoom it with the wheel or two fingers, and see the image and the path under the pointer.
    Points are selected by a click or a box, and their paths can be saved as a list.

    `thumbnails` points, evenly spaced, are drawn as images (about three kilobytes each). The others are dots, and so
    are images that can no longer be read. The page states this.

    Args:
        folders: the folders of the collections.
        layout: the positions of the points.
        rows: the rows of the points.
        thumbnails: maximum number of points that are drawn as images.
        labels: one label per point, which sets its color; "" for no label. The eleven most frequent labels have their
            own color.
        title, note, what, fetch, max_pixels: see `contact_sheet`.
    """
    count = len(layout.points)
    chosen = sorted({i * count // min(thumbnails, count) for i in range(min(thumbnails, count))}) if thumbnails else []
    found = originals(folders, [rows[i] for i in chosen], side=_SMALL, fetch=fetch, max_pixels=max_pixels)
    images = {i: one.image for i, one in zip(chosen, found, strict=True) if not isinstance(one, str)}
    notes = [note, *_map_notes(layout, what, images=len(images), unread=len(chosen) - len(images))]
    body = _map_body(title, " ".join(filter(None, notes)), _map_data(layout, rows, labels, images))
    return _page(title, body, style="map.css", script="map.js")


def _map_notes(layout: Layout, what: str, *, images: int, unread: int) -> list[str]:
    """Sentences on which points the map shows and how, and how to use it."""
    count = len(layout.points)
    points = f"{layout.rows} {what}s"
    if count < layout.rows:
        points = f"{count} of {layout.rows} {what}s, evenly sampled"
    notes = [points + (f"; {images} are drawn as images, the others as dots." if images < count else ".")]
    if unread:
        notes.append(f"Files that cannot be read or have changed are dots: {unread}.")
    notes.append(
        "Drag to move. Use the wheel or pinch to zoom. Double-click to show all. Keys: arrows, +, -, 0. "
        "Click to select an image, or drag with Shift to select several."
    )
    return notes


def _map_data(
    layout: Layout, rows: Sequence[RowInfo], labels: Sequence[str], images: Mapping[int, Image.Image]
) -> dict[str, Any]:
    """The values that `map.js` reads; `images` by the number of their point."""
    groups = [name for name, _ in Counter(label for label in labels if label).most_common(len(_COLORS))]
    numbers = {name: number for number, name in enumerate(groups)}
    places = {i: place for place, i in enumerate(images)}
    data: dict[str, Any] = {
        "x": [p.x for p in layout.points],
        "y": [p.y for p in layout.points],
        "names": [p.path for p in layout.points],
        "shown": {i: printable(p.path) for i, p in enumerate(layout.points) if printable(p.path) != p.path},
        "files": [_address(row) for row in rows],
        "labels": [numbers.get(label, len(groups)) for label in labels],
        "groups": [printable(name) for name in groups],
        "colors": [*_COLORS[: len(groups)], _OTHER],
        "thumbs": [places.get(i, -1) for i in range(len(layout.points))],
        "sizes": [image.size for image in images.values()],
        "sheets": _sheets(list(images.values())),
        "side": _SMALL,
        "columns": _COLUMNS,
    }
    if groups and len(groups) in data["labels"]:
        data["groups"].append("other")
    return data


def _map_body(title: str, note: str, data: Mapping[str, Any]) -> str:
    # json escapes all characters except ASCII, and "<" is escaped here. So no path can end the element.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return "".join(
        [
            '<canvas id="map" tabindex="0" role="img" '
            'aria-label="Map: arrow keys move it, + and - zoom, 0 shows all"></canvas>\n',
            f"<header><h1>{_safe_name(title)}</h1><p>{_safe_name(note)}</p>",
            '<input type="search" placeholder="Find: part of a path" aria-label="Find: part of a path">',
            '<output></output><div id="legend"></div><div id="chosen"><span></span>'
            '<button class="text copy">Copy paths</button><button class="text save">Save the list of paths</button>'
            '<button class="text clear">Clear</button>'
            '<a hidden target="_blank" rel="noreferrer">open the file</a></div>'
            "</header>\n",
            '<div id="card"><canvas></canvas><div></div></div>\n',
            f'<script type="application/json" id="data">{text}</script>\n',
        ]
    )


def _sheets(images: Sequence[Image.Image]) -> list[str]:
    """Joins the thumbnails into a few large images, because browsers are slow with thousands of small images."""
    each, sheets = _COLUMNS * _COLUMNS, []
    for start in range(0, len(images), each):
        some = images[start : start + each]
        sheet = Image.new("RGB", (_COLUMNS * _SMALL, math.ceil(len(some) / _COLUMNS) * _SMALL), (255, 255, 255))
        for place, image in enumerate(some):
            sheet.paste(image, (place % _COLUMNS * _SMALL, place // _COLUMNS * _SMALL))
        sheets.append(_data(sheet))
    return sheets
