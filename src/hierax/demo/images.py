"""The images that are part of hierax: photos for the demonstration, and a gallery for their nearest neighbors.
No bundled model was trained on them. `assets/CREDITS.md` names their authors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

_ASSETS = Path(__file__).parent.parent / "assets"


@dataclass(frozen=True)
class Photo:
    """An image with its name and, in the gallery, its category."""

    name: str
    picture: Image.Image
    label: str = ""


def photos() -> list[Photo]:
    """The photos, about 300 pixels high or wide; the first is the cat."""
    files = [_ASSETS / "cat.jpg", *sorted((_ASSETS / "photos").glob("*.jpg"))]
    return [Photo(file.name, _open(file)) for file in files]


def gallery() -> list[Photo]:
    """Small squares with their categories: the cells of `gallery.jpg`, row by row, as `gallery.json` lists them."""
    listed = json.loads((_ASSETS / "gallery.json").read_text(encoding="utf-8"))
    page, side = _open(_ASSETS / "gallery.jpg"), listed["side"]
    columns = page.width // side
    corners = ((number % columns * side, number // columns * side) for number in range(len(listed["pictures"])))
    return [
        Photo(entry["name"], page.crop((left, top, left + side, top + side)), entry["label"])
        for entry, (left, top) in zip(listed["pictures"], corners, strict=True)
    ]


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
