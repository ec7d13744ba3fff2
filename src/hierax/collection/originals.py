"""Reads the images of rows again, for a page or a comparison. The hash must be that of the embedded image.

A collection may come from somebody else, and its rows may name any file of this machine. So an image is taken only if
its bytes have the hash that the row states, which nobody can state of a file that they do not have; and nothing is
fetched from another machine unless that is asked for. A file that has changed since does not have that hash either.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageStat

from hierax.processing import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from hierax.collection.mapped import Named
    from hierax.collection.source import Source

GONE, CHANGED, REMOTE = "the file is missing or cannot be read", "the file has changed", "not fetched; --fetch shows it"
_LONG = 2000  # frames of an animation that are counted but not looked at


@dataclass(frozen=True)
class Original:
    """The image of a row, read again.

    Attributes:
        image: in RGB; of a window of a video the frame that it begins with.
        size: of the file, in bytes; 0 where it is unknown.
        shaded: the image with its transparency over black, if it has any.
        later: of an animation or a window, frames from its middle and its end.
        frames: of an animation; 1 of an image.
        duration: of an animation, in milliseconds.
    """

    image: Image.Image
    size: int = 0
    shaded: Image.Image | None = None
    later: tuple[Image.Image, ...] = ()
    frames: int = 1
    duration: int = 0


def originals(
    folders: Sequence[Path],
    rows: Sequence[Named],
    *,
    side: int,
    fetch: bool = False,
    whole: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Iterator[Original | str]:
    """The images of rows, at most `side` pixels wide and high; for an image that cannot be shown, the reason as text.

    Paths are read as files. If there is no such file, the collection's listings say how to read it (members of
    shards, rows of tables, URLs).

    Args:
        rows: what has no id is a file that a person named, and is not compared with a hash.
        fetch: read URLs and tables of the Hub too.
        whole: also read what a comparison needs besides the first frame over white.
        max_pixels: images of more pixels are not shown; None is any number.
    """
    elsewhere = _sources(folders, {row.path for row in rows if not os.path.isfile(row.path)})
    for row in rows:
        yield _read(row, elsewhere.get(row.path), side=side, fetch=fetch, whole=whole, max_pixels=max_pixels)


def _read(
    row: Named, source: Source | None, *, side: int, fetch: bool, whole: bool, max_pixels: int | None
) -> Original | str:
    from hierax.collection.source import Source, as_bytes, content_hash

    try:
        found = source or Source(row.path)
        if not fetch and _is_remote(found):
            return REMOTE
        if found.window >= 0:
            return _window(found, row, side, whole=whole)
        content = as_bytes(found.read(max_pixels=max_pixels))
        if row.id and content_hash(content) != row.hash:
            return CHANGED
        return _image(content, side, whole=whole, max_pixels=max_pixels)
    except Exception:  # of any library that reads sources: a page without one image is still a page
        return GONE


def _is_remote(source: Source) -> bool:
    return source.kind == "url" or source.container.startswith("hub:") or "://" in source.container


def _image(content: bytes, side: int, *, whole: bool, max_pixels: int | None) -> Original:
    from hierax.processing import load_image

    image = load_image(content, max_pixels=max_pixels)  # says no to what is too large
    _shrink(image, side)
    if not whole:
        return Original(image, len(content))
    with Image.open(io.BytesIO(content)) as file:
        frames = getattr(file, "n_frames", 1)
        shaded = None
        if file.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in file.info:
            shaded = _over_black(file, image.size)
        duration, later = 0, []
        if 1 < frames <= _LONG:
            chosen = (frames // 2, frames - 1)
            for number in range(frames):
                file.seek(number)
                duration += int(file.info.get("duration") or 0)
                if number in chosen:
                    later.append(file.convert("RGB").resize(image.size))
    return Original(image, len(content), shaded, tuple(later), frames, duration)


def _over_black(file: Image.Image, size: tuple[int, int]) -> Image.Image:
    drawing = file.convert("RGBA").resize(size, Image.Resampling.BOX)
    return Image.alpha_composite(Image.new("RGBA", size, (0, 0, 0, 255)), drawing).convert("RGB")


def _window(source: Source, row: Named, side: int, *, whole: bool) -> Original | str:
    """Reads frames of a window of a video."""
    from hierax.collection.source import Opened, file_hash
    from hierax.collection.store import MARK
    from hierax.processing.paths import opened_regular

    if source.kind == "file":
        with opened_regular(source.name):  # a decoder would take it for a URL, or wait for a pipe
            pass
    if row.id and file_hash(source) != row.hash:
        return CHANGED
    start = Fraction(source.path.rpartition(MARK)[2])
    length = Fraction(row.end) - start if row.end is not None else Fraction(0)
    times = [start, start + length / 2, start + length * 9 / 10] if whole and length > 0 else [start]
    with contextlib.closing(Opened(source)) as video:
        images = [Image.fromarray(np.ascontiguousarray(shot.pixels)) for shot in video.file.frames(times)]
    for image in images:
        _shrink(image, side)
    size = os.path.getsize(source.name) if source.kind == "file" else source.size
    return Original(images[0], size, later=tuple(images[1:]), frames=len(images))


def _shrink(image: Image.Image, side: int) -> None:
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)


def is_light(original: Original) -> bool:
    """Whether it is a drawing in light colors on a transparent ground: over white there is less to see than over
    black.
    """
    if original.shaded is None:
        return False
    over_white, over_black = (sum(ImageStat.Stat(i).stddev) for i in (original.image, original.shaded))
    return over_white < over_black


def _sources(folders: Sequence[Path], names: set[str]) -> dict[str, Source]:
    """The sources in the collections' listings with these paths."""
    from hierax.collection.listing import listings, read_listing
    from hierax.collection.store import path_text

    found: dict[str, Source] = {}
    for listing in (path for folder in folders for path in listings(folder)) if names else ():
        for source in read_listing(listing):
            if path_text(source.path) in names:
                found[path_text(source.path)] = source
    return found
