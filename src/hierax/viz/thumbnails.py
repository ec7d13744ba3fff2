"""Small images for notebooks: of files, and of animations."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.processing import load_image
from hierax.reprs.markup import Markup, image_tag

if TYPE_CHECKING:
    from PIL import Image

_MOST_PIXELS = 50_000_000
"""Larger images are not read for a thumbnail, because this would take seconds."""
_MOST_BYTES = 280_000  # of an animation
_FRAMES = 16  # of an animation


def file_tag(path: str | Path, *, side: int = 320) -> Markup:
    """An image file as HTML; a gray box with the reason if it is missing, is not an image, or is too large."""
    try:
        return image_tag(load_image(path, max_pixels=_MOST_PIXELS), side=side)
    except Exception:  # libraries raise all kinds of errors for damaged files
        return Markup("<span style='opacity:.7'>(the image cannot be shown)</span>")


def moving_tag(frames: Sequence[Image.Image], *, seconds: float, side: int = 480) -> Markup:
    """Frames as a moving image that is repeated; only the first frame if that would be too large."""
    from PIL import Image

    every = -(-len(frames) // _FRAMES)
    shown = [frame.convert("RGB") for frame in frames[::every]]
    for frame in shown:
        frame.thumbnail((side, side), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    milliseconds = max(round(1000 * seconds * every), 20)
    shown[0].save(content, "GIF", save_all=True, append_images=shown[1:], duration=milliseconds, loop=0)
    if content.tell() > _MOST_BYTES:
        return image_tag(shown[0], side=side)
    data = base64.b64encode(content.getvalue()).decode()
    return Markup(f"<img alt='' style='max-width:100%' src='data:image/gif;base64,{data}'>")
