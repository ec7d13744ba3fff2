"""`hierax outliers`: finds unusual images in a collection."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hierax.cli.collection import add_collection, likeness, open_index, write_page
from hierax.cli.loading import positive
from hierax.collection.page_files import noun, rows_of
from hierax.console import ProgressDisplay, quantity, say, tell

SUMMARY = "find unusual images of a collection"
EPILOG = """The score is the mean cosine distance (1 - similarity) to the K most similar images. A score of 0 means
that they are equal. If several outliers are near copies of each other, only the first is listed, with the number of
copies.
--json prints one object per image (JSON Lines), the most unusual image first:
  {"id": "5f0c…", "path": "odd.jpg", "score": 0.731, "copies": 0}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_collection(parser, page="a contact sheet")
    parser.add_argument(
        "--count", type=positive, default=100, metavar="N", help="number of images to show (default: 100)"
    )
    parser.add_argument(
        "--neighbors",
        type=positive,
        default=10,
        metavar="K",
        help="number of nearest neighbors of each image (default: 10)",
    )
    parser.add_argument("--neighbours", dest="neighbors", type=positive, default=10, help=argparse.SUPPRESS)
    parser.add_argument(
        "--references",
        type=positive,
        default=50_000,
        metavar="N",
        help="maximum number of images among which neighbors are searched (default: 50000)",
    )
    parser.add_argument(
        "--alike",
        type=likeness,
        default=0.95,
        metavar="S",
        help="minimum cosine similarity of near copies (default: 0.95)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.collection.outliers import outliers
    from hierax.collection.pages import Entry, Section, contact_sheet

    index = open_index(arguments, page=arguments.html)
    with ProgressDisplay("row") as display:
        found = outliers(
            index,
            arguments.count,
            k=arguments.neighbors,
            references=arguments.references,
            alike=arguments.alike,
            on_progress=display.update,
        )
    if not found:
        say(f"the collection has {quantity(len(index), noun(index))}; an outlier needs others to compare with")
    for row in found:
        if arguments.json:
            print(json.dumps(asdict(row)))
        else:
            tell(f"{row.score:.4f}  {row.path}{f'  (near copies: {row.copies})' if row.copies else ''}")
    if arguments.html is not None:
        of = rows_of(index, [row.id for row in found])
        more = {row.id: f", near copies: {row.copies}" if row.copies else "" for row in found}
        section = Section(
            "Largest distance first", [Entry(of[row.id], f"{row.score:.4f}{more[row.id]}") for row in found]
        )
        near = f"the {arguments.neighbors} nearest {noun(index)}s"
        note = f"The number is the mean cosine distance of {index.column.name} to {near}."
        title = f"Outliers in {index.folders[0].name}"
        page = contact_sheet(
            index.folders,
            [section],
            title=title,
            note=note,
            what=noun(index),
            fetch=arguments.fetch,
            max_pixels=arguments.max_pixels,
        )
        write_page(page, arguments.html)
    return 0
