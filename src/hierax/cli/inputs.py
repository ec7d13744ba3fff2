"""From what was typed (files, folders, patterns) to pictures, and from pictures to names for what is made of them."""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hierax.processing import ImageError


def add_images(parser: argparse.ArgumentParser, *, clips: bool = False) -> None:
    """Declares the positional argument for pictures, or for pictures and `clips`."""
    name = "FILE" if clips else "IMAGE"
    parser.add_argument("images", nargs="+", metavar=name, help="file, folder (searched to its depths) or pattern")


def expand(inputs: Sequence[str | Path], *, clips: bool = False) -> tuple[list[Path], list[ImageError]]:
    """The files that inputs stand for, each once, in the order of the inputs, and what stands for none.

    A folder is searched to its depths for files with the suffix of a picture, or of a video if `clips`, sorted; hidden
    ones are left out. A pattern (`*`, `?`, `[…]`, `**`) that no shell has expanded is expanded, sorted.
    """
    from hierax.processing import ImageError

    found: dict[Path, None] = {}
    problems: list[ImageError] = []
    for given in inputs:
        try:
            found |= dict.fromkeys(_files(os.fspath(given), clips=clips))
        except ImageError as error:  # noqa: PERF203  (each input stands for itself)
            problems.append(error)
    return list(found), problems


def _files(given: str, *, clips: bool) -> list[Path]:
    from hierax.processing import ImageError

    path = Path(given)
    if path.is_dir():
        files = sorted(_below(path, clips=clips))
        if not files:
            wanted = "videos in this folder (MP4, WebM, MKV" if clips else "pictures in this folder (PNG, JPEG, WebP"
            raise ImageError(given, f"no {wanted}, … are read)")
        return files
    if path.exists():
        return [path]
    if not glob.has_magic(given):
        raise ImageError(given, "no such file")
    matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]
    files = [file for match in matches for file in (sorted(_below(match, clips=clips)) if match.is_dir() else [match])]
    if not files:
        raise ImageError(given, "no file matches this pattern")
    return files


def _below(folder: Path, *, clips: bool) -> Iterator[Path]:
    from hierax.processing.decode import IMAGE_SUFFIXES, VIDEO_SUFFIXES

    suffixes = VIDEO_SUFFIXES if clips else IMAGE_SUFFIXES
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield Path(parent, name)
