"""Files that hold several images, of which the first is read: the rule, and who tells of it.

Of an animation (GIF, APNG, WebP, AVIF) the first frame is read, of a TIFF of several pages the first page: everywhere,
by every command and function. Pages that are a smaller version or a mask of the first one are no pages of their own.
What reads many files says once how many of them are such, with a name.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from PIL import GifImagePlugin, Image

from hierax.notices import notify

FRAMES, PAGES = "frame", "page"
_ANIMATED = ("PNG", "WEBP", "AVIF")
_FILES = {FRAMES: ("an animation", "animations"), PAGES: ("a TIFF of several pages", "TIFFs of several pages")}


class FirstOnly:
    """The files of which only the first frame or page was read in this process; several threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, dict[str, None]] = {}

    def add(self, kind: str, *names: str) -> None:
        """Notes files, each once."""
        with self._lock:
            self._names.setdefault(kind, {}).update(dict.fromkeys(names))

    def take(self) -> dict[str, list[str]]:
        """What was noted since the last time, by kind; a process that reads for another sends it this."""
        with self._lock:
            taken, self._names = self._names, {}
        return {kind: list(names) for kind, names in taken.items()}

    def merge(self, taken: Mapping[str, list[str]]) -> None:
        """Notes what another process took."""
        for kind, names in taken.items():
            self.add(kind, *names)

    def lines(self) -> list[str]:
        """`3 animations, such as cat.gif: only the first frame of each is read`; takes what was noted."""
        found = []
        for kind, names in sorted(self.take().items()):
            one, several = _FILES[kind]
            if len(names) == 1:
                found.append(f"{names[0]} is {one}: only its first {kind} is read")
            elif names:
                found.append(f"{len(names):,} {several}, such as {names[0]}: only the first {kind} of each is read")
        return found

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Notes from here on, and warns at the end of what was noted, if that is reached."""
        self.take()
        yield
        for line in self.lines():
            notify(line)


FIRST_ONLY = FirstOnly()


def note_frames(image: Image.Image, stream: BinaryIO, *, name: str) -> None:
    """Notes an image, open from `stream` and not loaded, whose header says that it is one of several frames."""
    if image.format == "GIF":
        found = _several_in_gif(stream)
    else:
        found = image.format in _ANIMATED and getattr(image, "is_animated", False)
    if found:
        FIRST_ONLY.add(FRAMES, name)


def _several_in_gif(stream: BinaryIO) -> bool:
    """By another reader of the same bytes: to find the second frame it leaves the first, and it may be damaged."""
    place = stream.tell()
    stream.seek(0)
    try:
        return GifImagePlugin.GifImageFile(stream).is_animated
    except Exception:
        return False
    finally:
        stream.seek(place)
