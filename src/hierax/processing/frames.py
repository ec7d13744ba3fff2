"""Files with several images, of which only the first is read: the rule, and the notices about it.

Every command and function reads the first frame of an animation (GIF, APNG, WebP, AVIF) and the first page of a TIFF.
Pages that are a smaller version or a mask of the first page do not count as pages. A command that reads many files says
once how many have several images, with the name of one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, TypeAlias

from PIL import GifImagePlugin, Image

from hierax.notices import notify

FRAMES, PAGES = "frame", "page"
_ANIMATED = ("PNG", "WEBP", "AVIF")
_FILES = {FRAMES: ("an animation", "animations"), PAGES: ("a TIFF of several pages", "TIFFs of several pages")}
_Names: TypeAlias = "dict[str, list[str]]"


class FirstOnly:
    """The files of which only the first frame or page was read in this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, dict[str, None]] = {}

    def add(self, kind: str, *names: str) -> None:
        """Notes files, each once."""
        with self._lock:
            self._names.setdefault(kind, {}).update(dict.fromkeys(names))

    def take(self) -> dict[str, list[str]]:
        """The files noted since the last call, by kind; a worker process sends this to its parent."""
        with self._lock:
            taken, self._names = self._names, {}
        return {kind: list(names) for kind, names in taken.items()}

    def merge(self, taken: Mapping[str, list[str]]) -> None:
        """Adds the files that another process noted."""
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
    def report_at_end(
        self, *, gather: Callable[[_Names], list[_Names]] | None = None, here: bool = True
    ) -> Iterator[None]:
        """Notes files in this context, and warns about them at its end, unless an error ends it.

        Args:
            gather: of several ranks, each of which has read a share: gives the notes of all of them.
            here: whether this process warns; of several ranks, one does.
        """
        self.take()
        yield
        if gather is not None:
            for taken in gather(self.take()):
                self.merge(taken)
        for line in self.lines():
            if here:
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
