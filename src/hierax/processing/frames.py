"""Files with several images, of which only the first is read, and the notices about them.

Every command and function reads the first frame of an animation (GIF, APNG, WebP, AVIF) and the first page of a TIFF.
A page that is a smaller version or a mask of the first page does not count. A command that reads many files reports
once how many of them have several images, with one example.
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
    """Records the files of which only the first frame or page was read in this process. It is thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, dict[str, None]] = {}

    def add(self, kind: str, *names: str) -> None:
        """Records files, each once."""
        with self._lock:
            self._names.setdefault(kind, {}).update(dict.fromkeys(names))

    def take(self) -> dict[str, list[str]]:
        """Returns the recorded files by kind, and clears the record. A worker process sends the result to
        its parent.
        """
        with self._lock:
            names_by_kind, self._names = self._names, {}
        return {kind: list(names) for kind, names in names_by_kind.items()}

    def merge(self, names_by_kind: Mapping[str, list[str]]) -> None:
        """Adds the files that another process recorded."""
        for kind, names in names_by_kind.items():
            self.add(kind, *names)

    def lines(self) -> list[str]:
        """The notices, such as `3 animations, such as cat.gif: only the first frame of each is read`. Clears the
        record.
        """
        notices = []
        for kind, names in sorted(self.take().items()):
            one, several = _FILES[kind]
            if len(names) == 1:
                notices.append(f"{names[0]} is {one}: only its first {kind} is read")
            elif names:
                notices.append(f"{len(names):,} {several}, such as {names[0]}: only the first {kind} of each is read")
        return notices

    @contextlib.contextmanager
    def report_at_end(
        self, *, gather: Callable[[_Names], list[_Names]] | None = None, here: bool = True
    ) -> Iterator[None]:
        """Records files inside the `with` block, and warns about them at its end, unless an error occurs.

        Args:
            gather: returns the records of all ranks, if several ranks read the files.
            here: whether this process warns; only one of several ranks does.
        """
        self.take()
        yield
        if gather is not None:
            for names in gather(self.take()):
                self.merge(names)
        for line in self.lines():
            if here:
                notify(line)


FIRST_ONLY = FirstOnly()


def note_frames(image: Image.Image, stream: BinaryIO, *, name: str) -> None:
    """Records an image if its header states several frames. The image was opened from `stream` and is not
    loaded yet.
    """
    if image.format == "GIF":
        animated = _is_animated_gif(stream)
    else:
        animated = image.format in _ANIMATED and getattr(image, "is_animated", False)
    if animated:
        FIRST_ONLY.add(FRAMES, name)


def _is_animated_gif(stream: BinaryIO) -> bool:
    """Whether a GIF has several frames. It opens the bytes again, because searching the second frame leaves
    the first.
    """
    place = stream.tell()
    stream.seek(0)
    try:
        return GifImagePlugin.GifImageFile(stream).is_animated
    except Exception:
        return False
    finally:
        stream.seek(place)
