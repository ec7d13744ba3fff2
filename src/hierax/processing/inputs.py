"""Expands the inputs of a command (files, folders, patterns) to files."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hierax.notices import LeftOut
    from hierax.processing import ImageError

_TABLES = {
    ".csv": "a list",
    ".tsv": "a list",
    ".jsonl": "a list",
    ".parquet": "a list or a table of images",
    ".tar": "a shard",
}
_OTHERS = "hierax embed reads lists, .tar and .parquet files"
_EXPECTED = f"expected files, folders or patterns of images ({_OTHERS})"


def expand(inputs: Sequence[str | Path], *, clips: bool = False) -> tuple[list[Path], list[ImageError]]:
    """Finds the files that the inputs name.

    A folder is searched for images (if there are none, for arrays), or with `clips` for videos; see
    `hierax.processing.paths`. A notice counts files of other kinds. A pattern (`*`, `?`, `[…]`, `**`) is expanded and
    sorted.

    Returns:
        The files, each once, in the order of the inputs; and an error for each input that matches no file. Of images
        and videos together, those of the other kind are errors too.
    """
    from hierax.processing import ImageError

    found: dict[Path, None] = {}
    problems: list[ImageError] = []
    for given in inputs:
        try:
            found |= dict.fromkeys(_matching_files(os.fspath(given), problems, clips=clips))
        except ImageError as error:  # noqa: PERF203  (the other inputs are still used)
            problems.append(error)
        except OSError as error:  # for example, a name that is too long, or a folder that may not be entered
            problems.append(ImageError(os.fspath(given), f"cannot be opened ({error.strerror or error})"))
    return _of_kind(list(found), problems, clips=clips), problems


def _of_kind(files: list[Path], problems: list[ImageError], *, clips: bool) -> list[Path]:
    """The files without videos, or with `clips` without images, if there are others: a video beside images, as a shell
    expands `DCIM/*`, does not stop them. Suffixes tell the kind.
    """
    from hierax.processing import ImageError
    from hierax.processing.paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES

    others = IMAGE_SUFFIXES if clips else VIDEO_SUFFIXES
    right = [path for path in files if path.suffix.lower() not in others]
    if not right or len(right) == len(files):
        return files
    text = "an image, and this model takes clips" if clips else "a video, and this model takes images"
    problems += [ImageError(str(path), text) for path in files if path.suffix.lower() in others]
    return right


def _matching_files(given: str, problems: list[ImageError], *, clips: bool) -> list[Path]:
    from hierax.notices import LeftOut
    from hierax.processing import ImageError
    from hierax.processing.paths import matches, nothing_in

    if not given:
        raise ImageError("''", "an empty name; expected a file, folder or pattern")
    path = Path(given)
    if path.suffix.lower() in _TABLES and path.is_file():
        raise ImageError(given, f"{_TABLES[path.suffix.lower()]}, which this command does not read; {_EXPECTED}")
    if path.is_dir():
        left = LeftOut(given)
        files = _below(path, left, problems, clips=clips)
        if not files:
            _check_no_collection(given)
            also = f" ({_OTHERS})" if any(kind in _TABLES for kind in left.counts) else ""
            raise ImageError(given, nothing_in(left, videos=clips) + also)
        left.tell()
        return files
    if path.exists():
        return [path]
    if "://" in given or not glob.has_magic(given):
        raise ImageError(given, _why_missing(given))
    files: list[Path] = []
    left = LeftOut(given)
    for match in map(Path, matches(given)):
        files += _below(match, left, problems, clips=clips) if match.is_dir() else [match]
    if not files:
        raise ImageError(given, "no file matches this pattern")
    left.tell()
    return files


def _check_no_collection(given: str) -> None:
    from hierax.processing import ImageError
    from hierax.processing.paths import check_no_collection

    try:
        check_no_collection(given)
    except ValueError as error:
        raise ImageError(given, str(error).removeprefix(f"{given}: ")) from None


def _why_missing(given: str) -> str:
    """The reason why there is no such file."""
    if given == "-":
        return "standard input is not read; expected a file, folder or pattern"
    if given.startswith("file://"):
        return f"a URL; expected a path ({given.removeprefix('file://')})"
    if "://" in given:
        return "a URL, which this command does not download; download the file first (hierax embed reads URLs)"
    if given.startswith("~") and os.path.exists(os.path.expanduser(given)):
        return f"no such file; expected {os.path.expanduser(given)} (the shell does not expand ~ inside quotes)"
    if os.path.islink(given):
        return f"no such file; it is a link to {os.readlink(given)}"
    return "no such file"


def _below(folder: Path, left: LeftOut, problems: list[ImageError], *, clips: bool) -> list[Path]:
    from hierax.processing import ImageError
    from hierax.processing.paths import ARRAY_SUFFIXES, IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_files

    def failed(error: OSError) -> None:
        problems.append(ImageError(str(error.filename), f"a folder that cannot be listed ({error.strerror})"))

    suffixes, arrays = (VIDEO_SUFFIXES, ()) if clips else (IMAGE_SUFFIXES, ARRAY_SUFFIXES)
    return sorted(map(Path, find_files(folder, suffixes, otherwise=arrays, left=left, failed=failed)))
