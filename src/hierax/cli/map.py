"""`hierax map`: a collection as a map to look around in."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hierax.cli.loading import positive
from hierax.cli.search import add_collection, counted, open_index, write_page
from hierax.cli.terminal import say
from hierax.extras import install_line

if TYPE_CHECKING:
    from hierax.embedding.index import Index
    from hierax.embedding.layout import Method

SUMMARY = "draw a collection as a map: one HTML file that opens offline"
EPILOG = """Similar images are close together. tsne lays out 50 principal components and needs scikit-learn. pca uses
the first two components. auto is tsne if scikit-learn is installed, else pca. A page of 5000 points with
2000 thumbnails has about six megabytes."""

_MANY = 1000  # pictures whose layout is waited for


def write_map(
    index: Index, output: str, *, points: int = 5000, thumbnails: int = 2000, method: Method = "auto"
) -> None:
    """Writes the map of a collection, one HTML file.

    Args:
        index: the collection.
        output: the file.
        points, method: see `hierax.embedding.layout.layout`.
        thumbnails: points that are drawn as pictures; the others are dots.
    """
    from hierax.embedding.layout import COMPONENTS, has_tsne, layout
    from hierax.embedding.pages import map_page

    count = min(points, len(index))
    if count > _MANY and method != "pca" and has_tsne():
        say(f"laying out {counted(count, 'picture')}, which takes t-SNE about a minute for 5,000")
    places = layout(index, points=points, method=method)
    way = f"t-SNE of {COMPONENTS} principal components" if places.method == "tsne" else "two principal components"
    title, note = f"Map of {index.folders[0].name}", f"Near is alike, by {way} of {index.column.name}."
    write_page(map_page(index.folders, places, title=title, note=note, thumbnails=thumbnails), output)
    if method == "auto" and places.method == "pca" and not has_tsne():
        say(f"drawn by two principal components; t-SNE, which parts pictures better: {install_line('sklearn')}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_collection(parser, page=None)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the HTML file to write")
    parser.add_argument("--points", type=positive, default=5000, metavar="N", help="maximum of points (default: 5000)")
    parser.add_argument(
        "--thumbnails",
        type=positive,
        default=2000,
        metavar="N",
        help="points drawn as thumbnails (default: 2000)",
    )
    parser.add_argument("--method", choices=("auto", "tsne", "pca"), default="auto", help="see below (default: auto)")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    index = open_index(arguments, page=arguments.output)
    write_map(
        index,
        arguments.output,
        points=arguments.points,
        thumbnails=arguments.thumbnails,
        method=arguments.method,
    )
    return 0
