"""Folders of images that contain a list of labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hierax.data.file_lists import FileList, open_list
from hierax.data.list_rows import EmptyList, NoPathColumn, check_columns, read_rows
from hierax.notices import notify
from hierax.processing.paths import IMAGE_SUFFIXES, find_files

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of the list in a folder of images, as in the Hugging Face libraries. Its columns are file_name, label and
others.
"""


def metadata_of(folder: Path, columns: Mapping[str, str] | None = None) -> Path | None:
    """The list of files and labels in a folder of images; None if there is none, or it has no labels.

    Raises:
        ValueError: the list is damaged, or lacks one of the `columns`.
    """
    for path in (folder / name for name in METADATA):
        if path.is_file():
            try:
                _, first = next(read_rows(path, columns))
            except NoPathColumn:
                continue
            except EmptyList:
                first = {}
            if "label" in first or check_columns(columns):
                return path
    return None


def open_metadata(path: Path, columns: Mapping[str, str] | None = None) -> FileList:
    """The files that a list in their folder names. A `Notice` states that the list is used, and how many images it
    lacks.
    """
    found = open_list(path, columns=columns)
    named = {os.path.normpath(entry) for entry in found.paths}
    images = () if found.videos else find_files(path.parent, IMAGE_SUFFIXES)
    left = sum(os.path.normpath(image) not in named for image in images)
    rest = f"; {left:,} other {'image in the folder is' if left == 1 else 'images in the folder are'} not used"
    notify(f"{path.parent}: files and labels are read from {path.name}{rest if left else ''}")
    return found
