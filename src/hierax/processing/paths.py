"""The files that an input stands for, and how a file is opened: one rule for every command.

A folder and all its subfolders are searched for files by suffix, in upper or lower case. Files without a suffix are
left out. Hidden files and folders (`.name`) are left out, and those of systems (`__MACOSX`, `@eaDir`). Links to files
and to folders are followed, but not back to a folder that is being searched. Only regular files are read: a named pipe,
socket or device is an error, not a wait.
"""

from __future__ import annotations

import contextlib
import glob
import os
import stat
from collections.abc import Callable, Collection, Iterator
from typing import BinaryIO

from hierax.extras import install_line, is_installed
from hierax.notices import LeftOut

_OPTIONAL = {"pillow_heif": (".heic", ".heif", ".hif"), "pillow_jxl": (".jxl",)}
_READERS: dict[str, str] = {
    suffix: install_line(module) for module, suffixes in _OPTIONAL.items() for suffix in suffixes
}

IMAGE_SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".avif", ".avifs", ".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".ppm", ".pgm"),
        *(".pbm", ".pnm", ".pfm", ".qoi", ".ico", ".psd", ".dds", ".sgi", ".rgb", ".rgba", ".bw", ".ras", ".sun"),
        *(suffix for module, suffixes in _OPTIONAL.items() if is_installed(module) for suffix in suffixes),
    ]
)
"""Suffixes of images in a folder: all formats that can be read. A file that is named directly is tried with any suffix.
HEIC and JPEG XL are among them where pillow-heif and pillow-jxl-plugin are installed.
"""

ARRAY_SUFFIXES = frozenset([".npy"])
"""Suffixes of arrays, for a folder without images."""

VIDEO_SUFFIXES = frozenset(
    [
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".ts", ".mts"),
        *(".m2t", ".m2ts", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".divx", ".mxf"),
    ]
)
"""Suffixes of videos in a folder."""

_OF_SYSTEMS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__pycache__")
# of macOS' archives, Synology's disks (thumbnails of each image), Windows and Python

_COLLECTION = ("manifest.json", "listings")  # in each collection

_NAMES = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class NotRegularError(ValueError):
    """A folder, pipe, socket or device where a file is expected."""


def check_no_collection(folder: str | os.PathLike[str]) -> None:
    """Raises `ValueError` for a folder that `hierax embed` made, which has no images."""
    if all(os.path.exists(os.path.join(folder, name)) for name in _COLLECTION):
        raise ValueError(
            f"{os.fspath(folder)}: a collection that hierax embed made, which holds features and no images; expected "
            "the images (hierax search, duplicates, outliers and map read a collection)"
        )


def nothing_in(
    left: LeftOut | None = None, *, place: str = "this folder", videos: bool = False, others: str = ""
) -> str:
    """What is wrong with a folder, or another `place`, without images or without `videos`: the same for each command.

    Args:
        left: the files that were not taken.
        others: what else is read there.
    """
    wanted, formats = ("videos", "MP4, WebM, MKV") if videos else ("images", "PNG, JPEG, WebP")
    also = f", and no {others}" if others else ""
    rest = f"; {left.summary()}" if left is not None and left.counts else ""
    return f"no {wanted} in {place} ({formats}, … are read){also}{rest}"


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The suffix in lower case, with its dot; "" for none."""
    return os.path.splitext(os.fspath(path))[1].lower()


def find_files(
    folder: str | os.PathLike[str],
    suffixes: Collection[str],
    *,
    otherwise: Collection[str] = (),
    left: LeftOut | None = None,
    failed: Callable[[OSError], None] | None = None,
) -> Iterator[str]:
    """The files below a folder with one of these suffixes, in the order of `walk`.

    Args:
        otherwise: suffixes of files that are used only if there is no file of `suffixes`.
        left: counts the files that are not taken.
        failed: called for each folder that cannot be listed; without it, the first error is raised.
    """
    second: list[str] = []
    found = False
    for parent, names in walk(folder, failed=failed):
        for name in names:
            suffix = suffix_of(name)
            if suffix in suffixes:
                found = True
                yield os.path.join(parent, name)
            elif suffix in otherwise:
                second.append(os.path.join(parent, name))
            elif left is not None:
                count_left_out(left, name)
    if not found:
        yield from second
    elif left is not None:
        for path in second:
            count_left_out(left, path)


def count_left_out(left: LeftOut, name: str) -> None:
    """Counts a skipped file by its suffix, with the package that could read it."""
    suffix = suffix_of(name)
    left.add(suffix or "without a suffix", example=_READERS.get(suffix, ""))


def walk(
    folder: str | os.PathLike[str], *, failed: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """`folder` and each folder below it, parents first, with the names of its visible files, sorted by name.

    `failed` is called for a folder that cannot be listed; without it, the error is raised, because no folder may be
    missed.
    """

    def fail(error: OSError) -> None:
        raise error

    top = os.fspath(folder)
    for parent, folders, files in os.walk(top, followlinks=True, onerror=failed or fail):
        folders[:] = sorted(name for name in folders if not is_hidden(name) and not _leads_back(top, parent, name))
        yield parent, sorted(name for name in files if not is_hidden(name))


def is_hidden(name: str) -> bool:
    """Whether a name in a folder is hidden, or of a folder that a system makes beside a person's files."""
    return name.startswith(".") or name in _OF_SYSTEMS


def _leads_back(top: str, parent: str, name: str) -> bool:
    """Whether a folder is a link to one on the way to it from `top`, or above one: two may lead to each other."""
    path = os.path.join(parent, name)
    if not os.path.islink(path) or not os.path.isdir(path):
        return False
    there = os.path.realpath(path)
    below = os.path.join(there, "")
    while True:
        here = os.path.realpath(parent)
        if here == there or here.startswith(below):
            return True
        if parent in (top, "", os.sep):
            return False
        parent = os.path.dirname(parent)


def matches(pattern: str) -> list[str]:
    """The files and folders that a pattern (`*`, `?`, `[…]`, `**`) stands for, each once, sorted.

    `**` stands for the folders of `walk`, so a link that leads back does not give a file twice. (`glob` follows such a
    link until the system refuses.) `**` at the end stands for all files in them.
    """
    pattern = pattern.rstrip("/") if pattern.endswith("/**/") or pattern == "**/" else pattern
    front, mark, rest = f"/{pattern}".partition("/**/" if "/**/" in f"/{pattern}" else "/**")
    if not mark or (mark == "/**" and rest):
        return sorted(glob.glob(pattern))
    front = front[1:] if not pattern.startswith("/") else front[1:] or os.sep
    found: set[str] = set()
    for top in glob.glob(front) if front else [os.curdir]:
        if not os.path.isdir(top):
            continue
        for parent, _ in walk(top, failed=lambda _: None):  # as with glob, what is closed matches nothing
            inside = parent.removeprefix(os.curdir).lstrip(os.sep) if not front else parent
            inner = matches(os.path.join(glob.escape(inside), rest or "*"))
            found.update(path for path in inner if not _leads_back(top, *os.path.split(path)))
    return sorted(found)


@contextlib.contextmanager
def opened_regular(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file to read. Other than regular files might make the reader wait, or never end.

    Raises:
        OSError, ValueError: it cannot be opened, or is not a regular file.
    """
    check_regular(path)  # before it is opened: that alone rewinds a tape
    # Without a writer a pipe would be waited for, should it have come in between; of files the flag means nothing.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        _check_regular(os.fstat(handle).st_mode)
        yield file


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises `NotRegularError` if it is not a regular file, OSError if it cannot be inspected."""
    _check_regular(os.stat(path).st_mode)


def check_named(path: str | os.PathLike[str]) -> None:
    """As `check_regular`; the error names the file, which is never opened and so never waited for."""
    try:
        check_regular(path)
    except NotRegularError as error:
        raise NotRegularError(f"{os.fspath(path)}: {error}") from None


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else _NAMES.get(stat.S_IFMT(mode), "something else")
        raise NotRegularError(f"{kind}, not a regular file")
