"""`hierax map`: draws a collection as an interactive map."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.atomic import atomic_write
from hierax.cli.collection import (
    add_collection,
    check_page,
    counted,
    noun,
    open_index,
    page_file,
    rows_of,
    say_written,
)
from hierax.cli.loading import MAX_PIXELS, positive
from hierax.cli.terminal import UserError, say
from hierax.extras import install_line

if TYPE_CHECKING:
    from hierax.embedding.index import Folders, Index
    from hierax.embedding.layout import Layout, Method
    from hierax.embedding.mapped import Named

SUMMARY = "draw a collection as a map: one HTML file that opens offline"
EPILOG = """Similar images are close together. If scikit-learn is installed, the map is a t-SNE of 50 principal
components. Otherwise it shows the first two principal components. A page of 5000 points with 2000 images has
about 6 MB.
--color-by folder gives each folder a color. --color-by labels.csv reads labels from a table (CSV, TSV) with the
columns "path" and "label". For another column of labels, add its name: --color-by labels.csv:class."""

_MANY = 1000  # from this number of images on, a line says that the layout takes time


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
    max_pixels: int | None = MAX_PIXELS,
    overwrite: bool = False,
) -> Layout:
    """Writes the map of a collection, one HTML file that opens offline, and returns the positions of its points.

    Args:
        folder: of a collection, several, or a `hierax.Index` that is open.
        output: the file, `.html`.
        column: name of the vectors; the first if None.
        points, method: see `hierax.embedding.layout.layout`; t-SNE takes about a minute for 5,000 points.
        thumbnails: points that are drawn as images; the others are dots.
        color_by: "folder", or a table of labels, `FILE` or `FILE:COLUMN`.
        fetch: read images from URLs and the Hub too.
        max_pixels: images of more pixels are not shown; None is any number.
        overwrite: replace a page that exists; files of other kinds are never replaced.

    Raises:
        CollectionError: see `hierax.Index`.
        ValueError: the table cannot be used; the output exists, or is not a page.
    """
    from hierax.embedding.index import Index
    from hierax.embedding.layout import COMPONENTS, layout
    from hierax.embedding.pages import map_page

    try:
        path = page_file(os.fspath(output))
        check_page(path, overwrite=overwrite)
    except (UserError, argparse.ArgumentTypeError) as error:
        raise ValueError(str(error)) from None
    index = folder if isinstance(folder, Index) else Index(folder, column=column)
    what, table = noun(index), {} if color_by in (None, "folder") else table_of(str(color_by))
    places = layout(index, points=points, method=method)
    of = rows_of(index, [point.id for point in places.points])
    rows = [of[point.id] for point in places.points]
    way = f"t-SNE of {COMPONENTS} principal components" if places.method == "tsne" else "two principal components"
    title, note = (
        f"Map of {index.folders[0].name}",
        f"Similar {what}s are close together ({way} of {index.column.name}).",
    )
    labels = [] if color_by is None else _labels(rows, table)
    if color_by is not None and not any(labels):
        raise ValueError(f"{color_by} has a label for no {what} of {index.folders[0]}; expected their paths")
    page = map_page(
        index.folders, places, rows, title=title, note=note, what=what, thumbnails=thumbnails, labels=labels,
        fetch=fetch, max_pixels=max_pixels,
    )  # fmt: skip
    with atomic_write(path) as part:
        part.write_text(page, encoding="utf-8")
    return places


def table_of(given: str) -> dict[str, str]:
    """Labels by absolute path, from a table `FILE` or `FILE:COLUMN`. Its paths are relative to the folder of the
    table.

    Raises:
        ValueError: the table cannot be read, or has no such column.
    """
    file, _, column = (given, "", "label") if os.path.exists(given) else given.rpartition(":")
    if not os.path.isfile(file):
        raise ValueError(f"{file or given}: no such file; --color-by takes folder, or a CSV file with paths and labels")
    folder = os.path.dirname(os.path.abspath(file))
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
            rows = csv.DictReader(opened, delimiter="\t" if file.lower().endswith(".tsv") else ",")
            names = rows.fieldnames or ()
            for name in ("path", column):
                if name not in names:
                    raise ValueError(f"{file}: no column {name!r}; there are: {', '.join(names) or 'none'}")
            return {os.path.abspath(os.path.join(folder, row["path"] or "")): row[column] or "" for row in rows}
    except csv.Error as error:
        raise ValueError(f"{file}: {error}") from None


def _labels(rows: Sequence[Named], table: dict[str, str]) -> list[str]:
    if table:
        return [table.get(row.path, "") for row in rows]
    return [os.path.basename(os.path.dirname(row.path)) for row in rows]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_collection(parser, page=None)
    parser.add_argument("-o", "--output", type=page_file, required=True, metavar="FILE", help="output page (.html)")
    parser.add_argument(
        "--points", type=positive, default=5000, metavar="N", help="maximum number of points (default: 5000)"
    )
    parser.add_argument(
        "--thumbnails",
        type=positive,
        default=2000,
        metavar="N",
        help="maximum number of points drawn as images (default: 2000)",
    )
    parser.add_argument(
        "--method",
        choices=("auto", "tsne", "pca"),
        default="auto",
        help="how to place the points (default: auto, see below)",
    )
    parser.add_argument("--color-by", metavar="WHAT", help="'folder', or a table of labels (see below)")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.embedding.layout import has_tsne

    index, method = open_index(arguments, page=arguments.output), arguments.method
    count = min(arguments.points, len(index))
    if count > _MANY and method != "pca" and has_tsne():
        say(f"laying out {counted(count, noun(index))}, which takes t-SNE about a minute for 5,000")
    places = write_map(
        index,
        arguments.output,
        points=arguments.points,
        thumbnails=arguments.thumbnails,
        method=method,
        color_by=arguments.color_by,
        fetch=arguments.fetch,
        max_pixels=arguments.max_pixels,
        overwrite=arguments.overwrite,
    )
    say_written(arguments.output)
    if method == "auto" and places.method == "pca" and not has_tsne():
        say(f"drawn by two principal components; t-SNE, which separates images better: {install_line('sklearn')}")
    return 0
