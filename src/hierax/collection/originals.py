"""Reads the images of rows again, for a page or a comparison. The hash must be equal to that of the embedded image.

A collection may come from another person, and its rows may name any file of this machine. So an image is used only if
its bytes have the hash that the row states; nobody can know the hash of a file that they do not have. A file that has
changed does not have that hash either. Nothing is fetched from another machine unless this is requested.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageStat

from hierax.processing import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from hierax.collection.mapped import RowInfo
    from hierax.collection.source import Source

GONE, CHANGED, REMOTE = "the file is missing or cannot be read", "the file has changed", "not fetched; --fetch shows it"
_LONG = 2000  # in animations with more frames than this, the frames are only counted


@dataclass(frozen=True)
class Original:
    """The image of a row, read again.

    Attributes:
        image: the image in RGB; for a segment of a video, its first frame.
        size: size of the file in bytes; 0 if it is unknown.
        shaded: the image on a black background, if it has transparency.
        later: for an animation or a segment, frames from its middle and its end.
        frames: number of frames of an animation; 1 for an image.
        duration: duration of an animation, in milliseconds.
    """

    image: Image.Image
    size: int = 0
    shaded: Image.Image | None = None
    later: tuple[Image.Image, ...] = ()
    frames: int = 1
    duration: int = 0


def originals(
    folders: Sequence[Path],
    rows: Sequence[RowInfo],
    *,
    side: int,
    fetch: bool = False,
    whole: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Iterator[Original | str]:
    """Yields the images of rows, at most `side` pixels wide and high. If an image cannot be shown, yields the reason as
    text.

    Paths are read as files. If there is no such file, the listings of the collection state how to read it (members of
    shards, rows of tables, URLs).

    Args:
        folders: the folders of the collections.
        rows: the rows. A row without an id is a file that the user named; it is not compared with a hash.
        side: maximum width and height in pixels.
        fetch: also read URLs and tables of the Hub.
        whole: also read the later frames, and the image on a black background, for a comparison.
        max_pixels: larger images are not shown; None: no limit.
    """
    # a text with \\x may stand for another name than it says; see path_text
    elsewhere = _sources(folders, [row for row in rows if "\\x" in row.path or not os.path.isfile(row.path)])
    for row in rows:
        yield _read(row, elsewhere.get(row.id or row.path), side=side, fetch=fetch, whole=whole, max_pixels=max_pixels)


def _read(
    row: RowInfo, source: Source | None, *, side: int, fetch: bool, whole: bool, max_pixels: int | None
) -> Original | str:
    from hierax.collection.source import Source

    found = source or Source(row.path)
    if not fetch and _is_remote(found):
        return REMOTE
    original = _read_at(found, row, side=side, whole=whole, max_pixels=max_pixels)
    moved = _moved_member(found) if isinstance(original, str) and found.kind == "tar" else None
    return original if moved is None else _read_at(moved, row, side=side, whole=whole, max_pixels=max_pixels)


def _read_at(source: Source, row: RowInfo, *, side: int, whole: bool, max_pixels: int | None) -> Original | str:
    from hierax.collection.source import as_bytes, content_hash

    try:
        if source.window >= 0:
            return _segment(source, row, side, whole=whole)
        content = as_bytes(source.read(max_pixels=max_pixels))
        if row.id and content_hash(content) != row.hash:
            return CHANGED
        return _image(content, side, whole=whole, max_pixels=max_pixels)
    except Exception:  # libraries raise all kinds of errors; the page is still written without this image
        return GONE


def _moved_member(source: Source) -> Source | None:
    """The source of a member of a shard that was written again, so that its bytes are in another place than the listing
    states; None if it has not moved.
    """
    try:
        facts = os.stat(source.container)
        members = _members(source.container, source.window >= 0, facts.st_size, facts.st_mtime_ns)
    except (OSError, ValueError):
        return None
    place = members.get(source.name.removeprefix(f"{source.container}::"), (source.offset, source.size))
    return None if place == (source.offset, source.size) else replace(source, offset=place[0], size=place[1])


@lru_cache(maxsize=8)
def _members(shard: str, videos: bool, size: int, time: int) -> dict[str, tuple[int, int]]:
    """Offset and size of each image, or each video, of a shard with this size and time."""
    from hierax.data.tar import members_of
    from hierax.notices import LeftOut

    return {member.name: (member.offset, member.size) for member in members_of(Path(shard), LeftOut(""), videos=videos)}


def _is_remote(source: Source) -> bool:
    return source.kind == "url" or source.container.startswith("hub:") or "://" in source.container


def _image(content: bytes, side: int, *, whole: bool, max_pixels: int | None) -> Original:
    from hierax.processing import load_image

    image = load_image(content, max_pixels=max_pixels)  # refuses images that are too large
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
            selected = (frames // 2, frames - 1)
            for number in range(frames):
                file.seek(number)
                duration += int(file.info.get("duration") or 0)
                if number in selected:
                    later.append(file.convert("RGB").resize(image.size))
    return Original(image, len(content), shaded, tuple(later), frames, duration)


def _over_black(file: Image.Image, size: tuple[int, int]) -> Image.Image:
    drawing = file.convert("RGBA").resize(size, Image.Resampling.BOX)
    return Image.alpha_composite(Image.new("RGBA", size, (0, 0, 0, 255)), drawing).convert("RGB")


def _segment(source: Source, row: RowInfo, side: int, *, whole: bool) -> Original | str:
    """Reads frames of a segment of a video."""
    from hierax.collection.source import SourceVideo, file_hash
    from hierax.collection.store import MARK
    from hierax.processing.paths import opened_regular

    if source.kind == "file":
        with opened_regular(source.name):  # a decoder could treat the name as a URL, or could wait for a pipe
            pass
    if row.id and file_hash(source) != row.hash:
        return CHANGED
    start = Fraction(source.path.rpartition(MARK)[2])
    length = Fraction(row.end) - start if row.end is not None else Fraction(0)
    times = [start, start + length / 2, start + length * 9 / 10] if whole and length > 0 else [start]
    with contextlib.closing(SourceVideo(source)) as video:
        images = [Image.fromarray(np.ascontiguousarray(frame.pixels)) for frame in video.file.frames(times)]
    for image in images:
        _shrink(image, side)
    size = os.path.getsize(source.name) if source.kind == "file" else source.size
    return Original(images[0], size, later=tuple(images[1:]), frames=len(images))


def _shrink(image: Image.Image, side: int) -> None:
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)


def is_light(original: Original) -> bool:
    """Whether it is a drawing in light colors on a transparent background, which is clearer on black than on white."""
    if original.shaded is None:
        return False
    over_white, over_black = (sum(ImageStat.Stat(i).stddev) for i in (original.image, original.shaded))
    return over_white < over_black


def _sources(folders: Sequence[Path], rows: Sequence[RowInfo]) -> dict[str, Source]:
    """The sources of these rows by id, or by path if they have none, from the listings of the collections."""
    from hierax.collection.listing import listings, read_listing
    from hierax.collection.store import path_text

    found: dict[str, Source] = {}
    wanted = {row.id or row.path for row in rows}
    strange = any("\\x" in row.path for row in rows)
    only = None if strange else [row.path.encode("utf-8", "surrogateescape") for row in rows]
    for listing in (path for folder in folders for path in listings(folder)) if rows else ():
        for source in read_listing(listing, only=only):
            for key in wanted.intersection((source.id, path_text(source.path))):
                found[key] = source
    return found
