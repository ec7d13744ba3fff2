"""Finds the files that an input names, and opens files. The rules are the same for every command.

A folder and all its subfolders are searched for files by suffix, in upper or lower case. Files without a suffix, hidden
files and folders (`.name`), folders of systems (`__MACOSX`, `@eaDir`) and collections in subfolders are left out. Links
to files and folders are followed, except links to a folder that is already being searched. Only regular files are read.
A named pipe, socket or device is an error, because reading it could wait forever.
"""

from __future__ import annotations

import contextlib
import glob
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
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
"""The suffixes of images in a folder: all formats that can be read. A file that is named directly may have any suffix.
HEIC and JPEG XL are included if pillow-heif and pillow-jxl-plugin are installed.
"""

ARRAY_SUFFIXES = frozenset([".npy"])
"""The suffixes of arrays, for a folder without images."""

VIDEO_SUFFIXES = frozenset(
    [
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".ts", ".mts"),
        *(".m2t", ".m2ts", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".divx", ".mxf"),
    ]
)
"""The suffixes of videos in a folder."""

_OF_SYSTEMS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__pycache__")
# from archives of macOS, from disks of Synology (thumbnails), from Windows and from Python

_COLLECTION = ("manifest.json", "listings")  # every collection contains these

_NAMES = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class NotRegularError(ValueError):
    """A path is a folder, pipe, socket or device, but a regular file is expected."""


def check_no_collection(folder: str | os.PathLike[str]) -> None:
    """Raises `ValueError` if a folder is the output of `hierax embed`, which contains no images."""
    if _is_collection(folder):
        raise ValueError(
            f"{os.fspath(folder)}: a collection that hierax embed wrote; it contains features, not images; expected "
            "images (hierax search, duplicates, outliers and map read a collection)"
        )


def _is_collection(folder: str | os.PathLike[str]) -> bool:
    return all(os.path.exists(os.path.join(folder, name)) for name in _COLLECTION)


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
    """The suffix in lower case, with its dot; "" if there is none."""
    return os.path.splitext(os.fspath(path))[1].lower()


def find_files(
    folder: str | os.PathLike[str],
    suffixes: Collection[str],
    *,
    otherwise: Collection[str] = (),
    left: LeftOut | None = None,
    failed: Callable[[OSError], None] | None = None,
) -> Iterator[str]:
    """Yields the files in a folder and its subfolders that have one of these suffixes, in the order of `walk`.

    Args:
        folder: the folder.
        suffixes: suffixes in lower case, with their dots.
        otherwise: suffixes of files that are used only if there is no file with one of `suffixes`.
        left: counts the files that are left out.
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
    """Counts a file that is left out, by its suffix, with the package that could read it."""
    suffix = suffix_of(name)
    left.add(suffix or "without a suffix", example=_READERS.get(suffix, ""))


def walk(
    folder: str | os.PathLike[str], *, failed: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yields `folder` and all its subfolders, parents first, each with the sorted names of its visible files. A
    collection in a subfolder is left out: its tables and arrays are features.

    `failed` is called for a folder that cannot be listed; without it, the error is raised.
    """

    def fail(error: OSError) -> None:
        raise error

    top = os.fspath(folder)
    for parent, folders, files in os.walk(top, followlinks=True, onerror=failed or fail):
        folders[:] = sorted(name for name in folders if not _is_left_out(top, parent, name))
        yield parent, sorted(name for name in files if not is_hidden(name))


def _is_left_out(top: str, parent: str, name: str) -> bool:
    return is_hidden(name) or _leads_back(top, parent, name) or _is_collection(os.path.join(parent, name))


def differ_without_folders(names: Iterable[str]) -> bool:
    """Whether names of files, with folders of any system, stay different without their folders."""
    plain = {name.replace("\\", "/") for name in names}
    return len({name.rpartition("/")[2] for name in plain}) == len(plain)


def is_hidden(name: str) -> bool:
    """Whether a name in a folder is hidden, or is the name of a folder that a system creates."""
    return name.startswith(".") or name in _OF_SYSTEMS


def _leads_back(top: str, parent: str, name: str) -> bool:
    """Whether a folder is a link to one of its parents, up to `top`, or to a folder that contains one of these. Two
    links may point to each other.
    """
    path = os.path.join(parent, name)
    if not os.path.islink(path) or not os.path.isdir(path):
        return False
    target = os.path.realpath(path)
    prefix = os.path.join(target, "")
    while True:
        real = os.path.realpath(parent)
        if real == target or real.startswith(prefix):
            return True
        if parent in (top, "", os.sep):
            return False
        parent = os.path.dirname(parent)


def matches(pattern: str) -> list[str]:
    """The files and folders that match a pattern (`*`, `?`, `[…]`, `**`), each once, sorted, without collections.

    `**` matches the folders that `walk` yields, so a link back to a parent does not give a file twice. (`glob` would
    follow such a link many times.) `**` at the end matches all files in these folders.
    """
    pattern = pattern.rstrip("/") if pattern.endswith("/**/") or pattern == "**/" else pattern
    front, mark, rest = f"/{pattern}".partition("/**/" if "/**/" in f"/{pattern}" else "/**")
    if not mark or (mark == "/**" and rest):
        return sorted(path for path in glob.glob(pattern) if not _is_collection(path))
    front = front[1:] if not pattern.startswith("/") else front[1:] or os.sep
    found: set[str] = set()
    for top in glob.glob(front) if front else [os.curdir]:
        if not os.path.isdir(top):
            continue
        for parent, _ in walk(top, failed=lambda _: None):  # a folder that cannot be listed matches nothing, as in glob
            inside = parent.removeprefix(os.curdir).lstrip(os.sep) if not front else parent
            inner = matches(os.path.join(glob.escape(inside), rest or "*"))
            found.update(path for path in inner if not _leads_back(top, *os.path.split(path)))
    return sorted(found)


@contextlib.contextmanager
def opened_regular(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a regular file for reading. Other kinds of files are refused, because reading them could wait forever.

    Raises:
        OSError, ValueError: it cannot be opened, or is not a regular file.
    """
    check_regular(path)  # checked first, because opening a tape rewinds it
    # O_NONBLOCK: if the file has just been replaced by a pipe, opening it does not wait. It has no effect on files.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        _check_regular(os.fstat(handle).st_mode)
        yield file


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises `NotRegularError` if a path is not a regular file, `OSError` if it does not exist or cannot be checked."""
    _check_regular(os.stat(path).st_mode)


def check_named(path: str | os.PathLike[str]) -> None:
    """Like `check_regular`, but the error names the file."""
    try:
        check_regular(path)
    except NotRegularError as error:
        raise NotRegularError(f"{os.fspath(path)}: {error}") from None


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else _NAMES.get(stat.S_IFMT(mode), "something else")
        raise NotRegularError(f"{kind}, not a regular file")


def require_path(value: object, name: str) -> None:
    """Raises a `TypeError` that names the argument if `value` is not the path or id of data."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            f"{name} is a {type(value).__name__}; expected a folder, a file or hub:ID (a model can be trained "
            "on tensors in a loop of your own, as any module of PyTorch)"
        )


def require_data(data: object, validation: object) -> None:
    """`require_path` for the data of a run; it may have no validation set."""
    require_path(data, "data")
    if validation is not None:
        require_path(validation, "validation")
