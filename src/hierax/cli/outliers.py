"""`hierax outliers`: the pictures of a collection that are like no others."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hierax.cli.loading import positive
from hierax.cli.search import add_collection, open_index, ticking, write_page

SUMMARY = "find unusual images of a collection"
EPILOG = """The score is the mean cosine distance (1 - similarity) to the K most similar images. 0 means equal.
--json writes one object for each image, the most unusual first (JSON lines):
  {"id": "5f0c…", "path": "odd.jpg", "score": 0.731}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_collection(parser, page="a contact sheet")
    parser.add_argument("--count", type=positive, default=100, metavar="N", help="images to show (default: 100)")
    parser.add_argument("--neighbours", type=positive, default=10, metavar="K", help="images compared (default: 10)")
    parser.add_argument(
        "--references",
        type=positive,
        default=50_000,
        metavar="N",
        help="search neighbors among so many images (default: 50000)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.embedding.outliers import outliers
    from hierax.embedding.pages import Entry, Section, contact_sheet

    index = open_index(arguments, page=arguments.html)
    found = outliers(
        index,
        arguments.count,
        k=arguments.neighbours,
        references=arguments.references,
        on_progress=ticking(),
    )
    for row in found:
        print(json.dumps(asdict(row)) if arguments.json else f"{row.score:.4f}  {row.path}")
    if arguments.html is not None:
        section = Section("Farthest first", [Entry(row.path, f"{row.score:.4f}") for row in found])
        note = f"Mean cosine distance of {index.column.name} to the {arguments.neighbours} pictures most like it."
        page = contact_sheet(index.folders, [section], title=f"Outliers in {index.folders[0].name}", note=note)
        write_page(page, arguments.html)
    return 0
