"""Checks the files of pages, and finds the rows that a page shows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.atomic import check_writable

if TYPE_CHECKING:
    from hierax.collection.index import Index
    from hierax.collection.mapped import RowInfo


def check_page(page: Path, *, overwrite: bool) -> None:
    """Raises `ValueError` if the page cannot be written to this path. A page never replaces another kind of file."""
    check_writable(page)
    if not os.path.lexists(page):
        return
    if not overwrite:
        raise ValueError(f"{page} would be replaced; choose another name, or pass --overwrite")
    if page.is_symlink() or not page.is_file() or not _is_page(page):
        raise ValueError(f"{page} is not an HTML page; only pages are overwritten; choose another name")


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(200).lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return not start or start.startswith((b"<!doctype html", b"<html"))


def noun(index: Index) -> str:
    """The noun for the rows of a collection: "image" or "segment"."""
    from hierax.collection.store import has_windows

    return "segment" if has_windows(index.manifest) else "image"


def rows_of(index: Index, names: Sequence[str]) -> dict[str, RowInfo]:
    """The rows, by their id or path. Names that are not in the collection are left out."""
    import numpy as np

    found = index.find(names)
    return dict(zip(found, index.names(np.array(list(found.values()), np.int64)), strict=True))
