"""Draws a collection as a map in one HTML file."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.atomic import atomic_write
from hierax.collection.page_files import check_page, noun, rows_of
from hierax.collection.store import MARK
from hierax.processing.decode import DEFAULT_MAX_PIXELS

_NOT_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f]")

if TYPE_CHECKING:
    from hierax.collection.index import Folders, Index
    from hierax.collection.mapped import RowInfo
    from hierax.collection.projection import Layout, Method


def write_map(
    folder: Folders | Index,
    output: str | Path,
    *,
    column: str | None = None,
    points: int = 5000,
    thumbnails: int = 2000,
    method: Method = "auto",
    color_by: str | None = None,
    fetch: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    overwrite: bool = False,
) -> Layout:
    """Writes the map of a collection: one HTML file that opens offline.

    Args:
        folder: the folder of one or several collections, or a `hierax.Index` that is open.
        output: path of the file (`.html`).
        column: name of the column of vectors; None: the first.
        points, method: see `hierax.collection.projection.layout`. t-SNE takes about a minute for 5,000 points.
        thumbnails: number of points that are drawn as images; the others are dots.
        color_by: "folder", or a table of labels: `FILE` or `FILE:COLUMN`.
        fetch: also read images from URLs and the Hub.
        max_pixels: larger images are not shown; None: no limit.
        overwrite: replace an existing page. Other kinds of files are never replaced.

    Returns:
        The positions of the points.

    Raises:
        CollectionError: see `hierax.Index`.
        ValueError: the table cannot be used; or the output exists, or is not a page.
    """
    from hierax.collection.index import opened_index
    from hierax.collection.pages import map_page
    from hierax.collection.projection import COMPONENTS, layout

    path = Path(output)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path} is not the name of a page; expected .html")
    check_page(path, overwrite=overwrite)
    index = opened_index(folder, column)
    what, table = noun(index), None if color_by in (None, "folder") else table_of(str(color_by))
    places = layout(index, points=points, method=method)
    of = rows_of(index, [point.id for point in places.points])
    rows = [of[point.id] for point in places.points]
    axes = f"t-SNE of {COMPONENTS} principal components" if places.method == "tsne" else "two principal components"
    title, note = (
        f"Map of {index.folders[0].name}",
        f"Similar {what}s are close together ({axes} of {index.column.name}).",
    )
    labels = [] if color_by is None else _labels(rows, table)
    if table is not None and rows and not any(labels):
        raise ValueError(
            f"{color_by} contains no path of {index.folders[0]}, such as {rows[0].path}; paths in a table are relative "
            "to its folder"
        )
    page = map_page(
        index.folders,
        places,
        rows,
        title=title,
        note=note,
        what=what,
        thumbnails=thumbnails,
        labels=labels,
        fetch=fetch,
        max_pixels=max_pixels,
    )
    with atomic_write(path) as part:
        part.write_text(page, encoding="utf-8")
    return places


def table_of(given: str) -> dict[str, str]:
    """Labels by absolute path, from a table `FILE` or `FILE:COLUMN`. Paths are relative to the folder of the table.

    Raises:
        ValueError: the table cannot be read, or has no such column.
    """
    file, _, column = (given, "", "label") if os.path.exists(given) else given.rpartition(":")
    if not os.path.isfile(file):
        raise ValueError(f"{file or given}: no such file; expected 'folder', or a CSV file with paths and labels")
    folder = os.path.dirname(os.path.abspath(file))
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            rows = csv.DictReader(stream, delimiter="\t" if file.lower().endswith(".tsv") else ",")
            names = rows.fieldnames or ()
            if any(_NOT_TEXT.search(name) for name in names):
                raise ValueError(f"{file}: not a table; expected a .csv or .tsv file in UTF-8")
            for name in ("path", column):
                if name not in names:
                    raise ValueError(f"{file}: no column {name!r}; there are: {', '.join(names) or 'none'}")
            return {os.path.abspath(os.path.join(folder, row["path"] or "")): row[column] or "" for row in rows}
    except csv.Error as error:
        raise ValueError(f"{file}: {error}") from None


def _labels(rows: Sequence[RowInfo], table: dict[str, str] | None) -> list[str]:
    if table is None:
        return [os.path.basename(os.path.dirname(row.path)) for row in rows]
    videos = [row.path if row.start is None else row.path.rpartition(MARK)[0] for row in rows]  # of segments
    return [table.get(row.path) or table.get(video, "") for row, video in zip(rows, videos, strict=True)]
