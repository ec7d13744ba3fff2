"""Pages of HTML about a collection: contact sheets and the map. One file each, with all in it, that opens offline.

Names of files are text from elsewhere: they are escaped wherever they stand, and the pages allow themselves nothing
from outside.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from hierax.embedding.layout import Layout
    from hierax.embedding.sources import Source

MOST = 1000
"""Pictures on a contact sheet, unless told otherwise: about ten megabytes."""
_SIDE, _SMALL = 176, 80  # pixels of a picture on a sheet, and on the map
_COLUMNS = 16  # pictures side by side, and below each other, in each image that holds those of the map
_QUALITY = 80


@dataclass(frozen=True)
class Entry:
    """A picture of a sheet: where it is, and what is said below it."""

    path: str
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A row of a sheet, under a heading."""

    heading: str
    entries: Sequence[Entry]


# -- pictures -----------------------------------------------------------------------------------------------------


def pictures(folders: Sequence[Path], paths: Iterable[str], *, side: int) -> Iterator[Image.Image | None]:
    """The pictures of rows, in RGB and at most `side` pixels wide and high; None for what cannot be read any more.

    Paths are read as files; where there is none, as the listings of the collections say (members of shards, rows of
    tables, URLs).
    """
    names = list(paths)
    elsewhere = _sources(folders, {name for name in names if not os.path.isfile(name)})
    for name in names:
        yield _picture(name, elsewhere.get(name), side)


def _picture(name: str, source: Source | None, side: int) -> Image.Image | None:
    from hierax.processing import load_image

    try:
        if source is not None and source.window >= 0:
            image = _frame(source)
        else:
            image = load_image(name if source is None else source.read())
    except Exception:  # of any library that reads sources: a page without one picture is still a page
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image


def _frame(source: Source) -> Image.Image:
    """A frame from the beginning of a window of a video."""
    from hierax.embedding.clips import Opened
    from hierax.embedding.sources import MARK

    with contextlib.closing(Opened(source)) as video:
        (shot,) = video.file.frames([Fraction(source.path.rpartition(MARK)[2])])
    return Image.fromarray(np.ascontiguousarray(shot.pixels))


def _sources(folders: Sequence[Path], names: set[str]) -> dict[str, Source]:
    """What the listings of collections say of these paths."""
    from hierax.embedding.listed import read_listing
    from hierax.embedding.sources import listings
    from hierax.embedding.store import shown

    found: dict[str, Source] = {}
    for listing in (path for folder in folders for path in listings(folder)) if names else ():
        for source in read_listing(listing):
            if shown(source.path) in names:
                found[shown(source.path)] = source
    return found


def _data(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


# -- pages --------------------------------------------------------------------------------------------------------

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --paper: #fff; --ink: #18181b; --faded: #64646c; --tile: #dededf; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #18181b; --ink: #f4f4f5; --faded: #a1a1aa; --tile: #3f3f46; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.4 system-ui, sans-serif; }}
h1 {{ font-size: 20px; margin: 0; }}
p {{ color: var(--faded); margin: 4px 0 0; max-width: 75ch; overflow-wrap: anywhere; }}
{style}
</style>
</head>
"""

_SHEET_STYLE = """header, section { padding: 16px 20px 0; }
h2 { font-size: 16px; margin: 8px 0; overflow-wrap: anywhere; }
section { border-top: 1px solid var(--tile); margin-top: 16px; }
.row { display: grid; grid-template-columns: repeat(auto-fill, min(176px, calc(50% - 8px))); gap: 16px; }
figure { margin: 0; min-width: 0; display: grid; grid-row: span 2; grid-template-rows: subgrid; gap: 4px; }
figure > div { display: flex; align-items: flex-end; }
img { display: block; max-width: 100%; height: auto; min-width: 8px; min-height: 8px; outline: 1px solid var(--tile); }
.missing { background: var(--tile); color: var(--faded); width: 100%; aspect-ratio: 4 / 3; padding: 8px;
  font-size: 13px; }
figcaption { font-size: 13px; overflow-wrap: anywhere; }
figcaption span { color: var(--faded); display: block; }"""


def contact_sheet(
    folders: Sequence[Path], sections: Sequence[Section], *, title: str, note: str = "", most: int = MOST
) -> str:
    """A page with a row of pictures for every section, `most` of them at the most; the page says what it leaves out.

    Below each picture is its path, from the folder on that all of them share, which stands in the head. A picture that
    cannot be read any more is a grey tile.
    """
    shown, left = [], most
    for section in sections:
        if left < 1:
            break
        shown.append(Section(section.heading, section.entries[:left]))
        left -= len(shown[-1].entries)
    total, kept = (sum(len(s.entries) for s in some) for some in (sections, shown))
    if kept < total:
        note = f"{note} Shown are the first {kept} of {total} pictures.".strip()
    paths = [entry.path for section in shown for entry in section.entries]
    found, shared = pictures(folders, paths, side=_SIDE), _shared(paths)
    parts = [_HEAD.format(title=_text(title), style=_SHEET_STYLE), "<body>\n"]
    below = f"<p>The files are below {_text(shared)}</p>" if shared else ""
    parts.append(f"<header><h1>{_text(title)}</h1><p>{_text(note)}</p>{below}</header>\n")
    for section in shown:
        parts.append(f'<section><h2>{_text(section.heading)}</h2><div class="row">\n')
        parts += [_figure(entry, next(found), entry.path[len(shared) :]) for entry in section.entries]
        parts.append("</div></section>\n")
    return "".join([*parts, "</body>\n</html>\n"])


def _shared(paths: Sequence[str]) -> str:
    """The folders that all paths begin with; "" where they share none."""
    levels = zip(*(path.split("/")[:-1] for path in paths), strict=False)
    common = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels)]
    return "".join(f"{name}/" for name in common) if any(common) else ""


def _figure(entry: Entry, image: Image.Image | None, path: str) -> str:
    name = _text(path)
    if image is None:
        picture = '<div class="missing">cannot be read any more</div>'
    else:
        picture = f'<img src="{_data(image)}" width="{image.width}" height="{image.height}" alt="{name}">'
    caption = f"<figcaption>{name}<span>{_text(entry.caption)}</span></figcaption>"
    return f'<figure title="{_text(entry.path)}"><div>{picture}</div>{caption}</figure>\n'


def _text(text: str) -> str:
    """Escaped, for content and attributes; what is no valid text is shown as backslashes and numbers."""
    return html.escape(text.encode("utf-8", "backslashreplace").decode("utf-8"))


# -- the map ------------------------------------------------------------------------------------------------------

_MAP_STYLE = """html, body { height: 100%; overflow: hidden; }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; cursor: grab; touch-action: none; }
header { position: absolute; left: 0; top: 0; padding: 12px 16px; max-width: 460px; background: var(--paper);
  border-bottom-right-radius: 8px; }
header p, output { font-size: 13px; }
output { display: block; min-height: 22px; padding-top: 4px; color: var(--faded); }
input { margin-top: 8px; width: 100%; font: inherit; padding: 4px 8px; }
#card { position: absolute; pointer-events: none; background: var(--paper); padding: 8px; border-radius: 8px;
  box-shadow: 0 2px 12px #0006; width: 260px; display: none; font-size: 13px; overflow-wrap: anywhere; }
#card canvas { position: static; display: block; width: 244px; margin-bottom: 6px; }"""

_MAP_SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("map"), pen = canvas.getContext("2d"), card = document.getElementById("card");
const view = { x: 0.5, y: 0.5, zoom: 1 }, held = new Map();
const sheets = data.sheets.map(source => Object.assign(new Image(), { onload: draw, src: source }));
const sheet = i => sheets[Math.floor(data.thumbs[i] / data.columns ** 2)];
let found = null, hovered = -1, waiting = false, moved = 0;
const header = document.querySelector("header"), input = document.querySelector("input");
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name);
let free = null;
function measure() {  // what the header leaves free, beside or below it: x, y, width, height
  const w = canvas.clientWidth, h = canvas.clientHeight, left = header.offsetWidth, top = header.offsetHeight;
  free = Math.min(w - left, h) > Math.min(w, h - top) ? [left, 0, w - left, h] : [0, top, w, h - top];
}
const centre = () => [free[0] + free[2] / 2, free[1] + free[3] / 2];
const scale = () => 0.86 * Math.max(100, Math.min(free[2], free[3])) * view.zoom;
const place = i => [centre()[0] + (data.x[i] - view.x) * scale(), centre()[1] + (data.y[i] - view.y) * scale()];
const tile = () => Math.max(20, Math.min(data.side, 26 * Math.sqrt(view.zoom)));
function paint(target, i, x, y, side) {
  const t = data.thumbs[i], [w, h] = data.sizes[t], cell = t % (data.columns * data.columns);
  const longest = Math.max(w, h), dw = side * w / longest, dh = side * h / longest;
  target.drawImage(sheet(i), (cell % data.columns) * data.side,
    Math.floor(cell / data.columns) * data.side, w, h, x - dw / 2, y - dh / 2, dw, dh);
  return [dw, dh];
}
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawNow(); });
}
function drawNow() {
  const ratio = window.devicePixelRatio || 1, side = tile();
  const [ink, faded, edge] = ["--ink", "--faded", "--tile"].map(colour);
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  measure();
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  for (let i = 0; i < data.x.length; i++) {
    const [x, y] = place(i);
    if (x < -side || y < -side || x > canvas.clientWidth + side || y > canvas.clientHeight + side) continue;
    pen.globalAlpha = found && !found.has(i) ? 0.1 : 1;
    if (data.thumbs[i] >= 0 && sheet(i).complete) {
      const [w, h] = paint(pen, i, x, y, side);
      pen.strokeStyle = edge; pen.lineWidth = 1; pen.strokeRect(x - w / 2, y - h / 2, w, h);
    } else { pen.fillStyle = faded; pen.beginPath(); pen.arc(x, y, 2.5, 0, 7); pen.fill(); }
  }
  pen.globalAlpha = 1;
  if (hovered >= 0) {
    const [x, y] = place(hovered);
    pen.strokeStyle = ink; pen.lineWidth = 2;
    if (data.thumbs[hovered] >= 0) {
      const [w, h] = paint(pen, hovered, x, y, side);
      pen.strokeRect(x - w / 2 - 1, y - h / 2 - 1, w + 2, h + 2);
    } else { pen.beginPath(); pen.arc(x, y, 5, 0, 7); pen.stroke(); }
  }
}
function hover(event) {
  let best = -1, least = Math.max(12, tile() * 0.7) ** 2;
  for (let i = 0; i < data.x.length; i++) {
    const [x, y] = place(i), d = (x - event.clientX) ** 2 + (y - event.clientY) ** 2;
    if (d <= least) { least = d; best = i; }
  }
  if (best !== hovered) { hovered = best; draw(); }
  show(event);
}
function show(event) {
  card.style.display = hovered < 0 ? "none" : "block";
  if (hovered < 0) return;
  const big = card.querySelector("canvas"), t = data.thumbs[hovered], ratio = window.devicePixelRatio || 1;
  big.style.display = t < 0 ? "none" : "block";
  if (t >= 0) {
    const [w, h] = data.sizes[t], high = Math.round(244 * Math.min(1, h / w)), wide = 244;
    big.width = wide * ratio; big.height = high * ratio; big.style.height = high + "px";
    const pencil = big.getContext("2d");
    pencil.scale(ratio, ratio);
    paint(pencil, hovered, wide / 2, high / 2, h > w ? high : Math.max(wide * Math.min(1, w / h), high));
  }
  card.querySelector("div").textContent = data.names[hovered];
  const left = event.clientX + 16, top = event.clientY + 16;
  card.style.left = (left + 260 > innerWidth ? Math.max(0, event.clientX - 276) : left) + "px";
  card.style.top = Math.max(0, Math.min(top, innerHeight - card.offsetHeight - 8)) + "px";
}
function zoom(factor, x, y) {
  const before = scale(), next = Math.max(0.5, Math.min(200, view.zoom * factor));
  const dx = x - centre()[0], dy = y - centre()[1];
  view.zoom = next;
  view.x += dx / before - dx / scale(); view.y += dy / before - dy / scale();
  draw();
}
canvas.addEventListener("wheel", e => { e.preventDefault(); zoom(Math.exp(-e.deltaY / 400), e.clientX, e.clientY); },
  { passive: false });
function leave() { hovered = -1; card.style.display = "none"; draw(); }
canvas.addEventListener("pointerdown", e => { held.set(e.pointerId, [e.clientX, e.clientY]); moved = 0;
  canvas.setPointerCapture(e.pointerId); });
canvas.addEventListener("pointerup", e => { held.delete(e.pointerId); if (moved < 8) hover(e); });  // a finger's tap
canvas.addEventListener("pointercancel", e => held.delete(e.pointerId));
canvas.addEventListener("pointerleave", e => { if (e.pointerType === "mouse") leave(); });
canvas.addEventListener("pointermove", e => {
  const was = held.get(e.pointerId);
  if (!was) { hover(e); return; }
  moved += Math.hypot(e.clientX - was[0], e.clientY - was[1]);
  if (moved >= 8) leave();
  const other = [...held].find(([id]) => id !== e.pointerId);
  if (other) {
    const [ox, oy] = other[1], reach = Math.hypot(was[0] - ox, was[1] - oy) || 1;
    zoom(Math.hypot(e.clientX - ox, e.clientY - oy) / reach, ox, oy);
  } else { view.x -= (e.clientX - was[0]) / scale(); view.y -= (e.clientY - was[1]) / scale(); draw(); }
  held.set(e.pointerId, [e.clientX, e.clientY]);
});
canvas.addEventListener("dblclick", () => { view.x = view.y = 0.5; view.zoom = 1; draw(); });
input.addEventListener("input", () => {
  const words = input.value.toLowerCase();
  found = words ? new Set(data.names.flatMap((n, i) => n.toLowerCase().includes(words) ? [i] : [])) : null;
  document.querySelector("output").textContent = found ? `${found.size} of ${data.names.length} have it` : "";
  draw();
});
window.addEventListener("resize", draw);
drawNow();
"""


def map_page(folders: Sequence[Path], layout: Layout, *, title: str, note: str = "", thumbnails: int = 2000) -> str:
    """A page with the points of a layout: dragged, zoomed by wheel or fingers, picture and path under the pointer.

    `thumbnails` points, taken at even distances, have their picture (about three kilobytes each), the others, and those
    that cannot be read any more, are dots. The page says so.
    """
    count = len(layout.points)
    chosen = sorted({i * count // min(thumbnails, count) for i in range(min(thumbnails, count))}) if thumbnails else []
    thumbs, sizes, images = [-1] * count, [], []
    for i, image in zip(chosen, pictures(folders, [layout.points[i].path for i in chosen], side=_SMALL), strict=True):
        if image is not None:
            thumbs[i] = len(images)
            sizes.append(image.size)
            images.append(image)
    said = [note, f"{layout.rows} pictures"]
    if count < layout.rows:
        said[-1] = f"{count} of {layout.rows} pictures, at even distances"
    said[-1] += f"; {len(images)} are drawn, the others are dots" if len(images) < count else ""
    unread = len(chosen) - len(images)
    said[-1] += f", {unread} of them because they cannot be read any more." if unread else "."
    said.append("Drag to move, turn the wheel or pinch to zoom, double-click for all.")
    data = {
        "x": [p.x for p in layout.points],
        "y": [p.y for p in layout.points],
        "names": [p.path for p in layout.points],
        "thumbs": thumbs, "sizes": sizes, "sheets": _sheets(images), "side": _SMALL, "columns": _COLUMNS,
    }  # fmt: skip
    # All but ASCII is escaped by json, and "<" here: nothing in a path can end the element.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return "".join([
        _HEAD.format(title=_text(title), style=_MAP_STYLE),
        '<body>\n<canvas id="map"></canvas>\n',
        f"<header><h1>{_text(title)}</h1><p>{_text(' '.join(part for part in said if part))}</p>",
        '<input type="search" placeholder="Find: part of a path" aria-label="Find: part of a path">',
        "<output></output></header>\n",
        '<div id="card"><canvas></canvas><div></div></div>\n',
        f'<script type="application/json" id="data">{text}</script>\n<script>{_MAP_SCRIPT}</script>\n',
        "</body>\n</html>\n",
    ])  # fmt: skip


def _sheets(images: Sequence[Image.Image]) -> list[str]:
    """The pictures in large ones, side by side: a browser holds ten of these better than thousands of small ones."""
    each, sheets = _COLUMNS * _COLUMNS, []
    for start in range(0, len(images), each):
        some = images[start : start + each]
        sheet = Image.new("RGB", (_COLUMNS * _SMALL, math.ceil(len(some) / _COLUMNS) * _SMALL), (255, 255, 255))
        for place, image in enumerate(some):
            sheet.paste(image, (place % _COLUMNS * _SMALL, place // _COLUMNS * _SMALL))
        sheets.append(_data(sheet))
    return sheets
