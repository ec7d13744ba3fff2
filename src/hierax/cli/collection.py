"""Arguments and output of the commands `search`, `duplicates`, `outliers` and `map`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.atomic import atomic_write
from hierax.cli.loading import add_max_pixels
from hierax.cli.outputs import add_json, add_overwrite, output_file
from hierax.cli.terminal import UserError
from hierax.collection.page_files import check_page
from hierax.console import say

if TYPE_CHECKING:
    from hierax.collection.index import Index

page_file = output_file((".html", ".htm"), "a page")


def add_collection(parser: argparse.ArgumentParser, *, page: str | None) -> None:
    """Declares COLLECTION and the shared options. If `page` is given, also `--json` and `--html`; `page` says what."""
    parser.add_argument("collection", metavar="COLLECTION", help="folder that hierax embed wrote")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="DIR",
        help="another collection that was made in the same way; can be repeated",
    )
    parser.add_argument(
        "--column", metavar="NAME", help="column of vectors to use, such as embedding or stage3 (default: the first)"
    )
    if page is not None:
        add_json(parser, lines=True)
        parser.add_argument(
            "--html", type=page_file, metavar="FILE", help=f"also write {page}: one file that opens offline"
        )
    parser.add_argument("--fetch", action="store_true", help="fetch images from URLs and the Hub for the page")
    add_max_pixels(parser)
    add_overwrite(parser)


def add_approximate(parser: argparse.ArgumentParser) -> None:
    """Declares `--approximate` and `--exact`."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--approximate", action="store_true", help="use an index of faiss: build or extend it, and print its recall"
    )
    choice.add_argument("--exact", action="store_true", help="search exactly, even if there is an approximate index")


def open_index(arguments: argparse.Namespace, *, page: Path | None, verified: bool = False) -> Index:
    """The collection that arguments name. With `verified`, images are compared too.

    Raises:
        UserError: `--fetch` would have no effect, the page exists and `--overwrite` is not given, the file is not a
            page, or no row has features to compare.
        CollectionError: see `hierax.Index`.
    """
    from hierax.collection.index import Index

    if arguments.fetch and page is None and not verified:
        raise UserError("--fetch is for the images of a page; add --html FILE, or leave --fetch out")
    if page is not None:  # checked before the long work starts
        check_page(page, overwrite=arguments.overwrite)
    index = Index([arguments.collection, *arguments.also], column=arguments.column)
    if not len(index) and index.left_out():
        raise UserError(f"{arguments.collection}: no row is left to compare")
    return index


def approximate_setting(arguments: argparse.Namespace, index: Index) -> bool | None:
    """The value of `approximate`; builds the index if `--approximate` is given."""
    if arguments.approximate:
        say(f"approximate index: {index.build(approximate=True)}")
    return True if arguments.approximate else False if arguments.exact else None


def write_page(page: str, path: Path) -> None:
    """Writes a page completely or not at all, then writes a line about it to stderr."""
    with atomic_write(path) as part:
        part.write_text(page, encoding="utf-8")
    say_written(path)


def say_written(path: Path) -> None:
    """Writes a line with the name and size of a file that was written."""
    size = path.stat().st_size
    say(f"wrote {path} ({size / 1e6:.1f} MB)" if size >= 1e5 else f"wrote {path} ({size / 1e3:.0f} kB)")


def cosine(text: str) -> float:
    """Parses a number from -1 to 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a cosine similarity, -1 to 1")
    return value


def likeness(text: str) -> float:
    """Parses a number above 0 and at most 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a cosine similarity above 0, up to 1")
    return value
