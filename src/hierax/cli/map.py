"""`hierax map`: draws a collection as an interactive map."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hierax.cli.collection import add_collection, open_index, page_file, say_written
from hierax.cli.loading import positive
from hierax.collection.page_files import noun
from hierax.console import quantity, say
from hierax.extras import install_line

if TYPE_CHECKING:
    pass

SUMMARY = "draw a collection as a map: one HTML file that opens offline"
EPILOG = """Similar images are close together. If scikit-learn is installed, the map is a t-SNE of 50 principal
components. Otherwise it shows the first two principal components. The size of a page with 5000 points and
2000 images is about 6 MB.
--color-by folder gives each folder a color. --color-by labels.csv reads labels from a table (CSV, TSV) with the
columns "path" and "label". For another column of labels, add its name: --color-by labels.csv:class."""

_MANY = 1000  # with more images than this, a message says that t-SNE takes time


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
    from hierax.collection.drawing import write_map
    from hierax.collection.projection import has_tsne

    index, method = open_index(arguments, page=arguments.output), arguments.method
    count = min(arguments.points, len(index))
    if count > _MANY and method != "pca" and has_tsne():
        say(f"placing {quantity(count, noun(index))} with t-SNE; 5,000 take about a minute")
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
        say(f"placed by two principal components; t-SNE separates images better: {install_line('sklearn')}")
    return 0
