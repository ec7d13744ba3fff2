"""A drawing as SVG: shapes in pixels, colors that follow the light or dark mode of the reader, photos inside."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image

STYLE = """
:root { --paper: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #8c959f; --blue: #0969da;
  --orange: #bc4c00; --fill: #eaeef2 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #131416; --ink: #e6edf3; --soft: #a0a8b1; --line: #6e7681; --blue: #58a6ff;
    --orange: #f0883e; --fill: #262b31 }
}
text { font-family: Helvetica, Arial, sans-serif; font-size: 15px; fill: var(--ink) }
.paper { fill: var(--paper) } .soft { fill: var(--soft) } .bold { font-weight: 600 }
.fill { fill: var(--fill) } .blue { fill: var(--blue) } .orange { fill: var(--orange) }
.line { fill: none; stroke: var(--line); stroke-width: 1 }
.grid { fill: none; stroke: #ffffff; stroke-width: 1; stroke-opacity: 0.75 }
.blue-line { fill: none; stroke: var(--blue); stroke-width: 3 }
.orange-line { fill: none; stroke: var(--orange); stroke-width: 3 }
.thin { fill: none; stroke: var(--orange); stroke-width: 1 }
.veil { fill: var(--paper); fill-opacity: 0.72 }
image { image-rendering: pixelated }
"""


class Drawing:
    """Shapes of one drawing. Every method takes pixels from the left and the top; `kind` is a class of `STYLE`."""

    def __init__(self, width: int, height: int, title: str, *, margin: int = 10) -> None:
        self.size = (width, height)
        self.margin = margin
        self.parts = [f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>"]
        self.rect(-margin, -margin, width + 2 * margin, height + 2 * margin, "paper")

    def rect(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A rectangle."""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="{kind}"/>')

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """A line of text; `y` is its base line."""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>')

    def grid(self, x: float, y: float, size: float, cells: int, kind: str) -> None:
        """A square of cells x cells."""
        step = size / cells
        lines = [f"M{x + i * step:g} {y:g}v{size:g}M{x:g} {y + i * step:g}h{size:g}" for i in range(cells + 1)]
        self.parts.append(f'<path d="{"".join(lines)}" class="{kind}"/>')

    def arrow(self, x: float, y: float, length: float) -> None:
        """An arrow to the right."""
        end = x + length
        self.parts.append(f'<path d="M{x:g} {y:g}H{end - 8:g}" class="line" style="stroke-width: 2"/>')
        self.parts.append(f'<path d="M{end:g} {y:g}l-9 -5v10z" class="soft"/>')

    def image(self, x: float, y: float, width: float, height: float, picture: Image.Image) -> None:
        """An image, stored as JPEG in the drawing."""
        out = io.BytesIO()
        picture.convert("RGB").save(out, "JPEG", quality=85)
        data = base64.b64encode(out.getvalue()).decode()
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.parts.append(f'<image {place} href="data:image/jpeg;base64,{data}"/>')

    def save(self, path: Path) -> None:
        """Writes the drawing; it is as wide as it is drawn, and narrower where a page is."""
        width, height = (length + 2 * self.margin for length in self.size)
        box = f'viewBox="{-self.margin} {-self.margin} {width} {height}" width="{width}" height="{height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
        path.write_text("\n".join([head, *self.parts, "</svg>", ""]), encoding="utf-8")
