"""`hierax search`: finds the images of a collection that are most similar to a query."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hierax.cli.collection import add_approximate, add_collection, approximate_setting, cosine, open_index, write_page
from hierax.cli.loading import add_device, positive
from hierax.cli.terminal import Tally
from hierax.collection.page_files import noun, rows_of
from hierax.console import ProgressDisplay, quantity, say, tell

if TYPE_CHECKING:
    from hierax.collection.index import Index
    from hierax.embedding.search import SearchResult

SUMMARY = "find similar images in a collection"
EPILOG = """A QUERY is an image, a folder or pattern of images, or the id or path of a row of the collection.
For a row of the collection, no model is needed, and the row itself is not in the results. An image is embedded
with the model that made the collection. In a collection of videos, a QUERY is a video, and each of its segments
is searched for. A query cannot be text: Hiera has no text encoder.
--json prints one object per query (JSON Lines):
  {"query": "cat.jpg", "hits": [{"id": "5f0c…", "path": "/photos/7.jpg", "score": 0.912345}, …]}
  {"query": "notes.txt", "error": "not an image (PNG, JPEG, WebP, … are read)"}"""


# -- the command --------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_collection(parser, page="a contact sheet")
    parser.add_argument("queries", nargs="+", metavar="QUERY", help="image, folder, pattern, or id or path of a row")
    parser.add_argument(
        "--top-k", type=positive, default=10, metavar="K", help="number of hits per query (default: 10)"
    )
    parser.add_argument("--threshold", type=cosine, metavar="S", help="minimum cosine similarity of a hit")
    parser.add_argument(
        "--model", metavar="M", help="Hub id, folder, file or export (default: the model that made COLLECTION)"
    )
    add_device(parser)
    add_approximate(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.embedding.search import search

    index, tally = open_index(arguments, page=arguments.html), Tally("" if arguments.json else "--json lists all")
    with ProgressDisplay("image") as display:
        results = search(
            index,
            arguments.queries,
            top_k=arguments.top_k,
            threshold=arguments.threshold,
            approximate=approximate_setting(arguments, index),
            model=arguments.model,
            device=arguments.device,
            max_pixels=arguments.max_pixels,
            on_progress=display.update,
        )
    for result in results:
        tally.add(result.error)
        if arguments.json:
            print(json.dumps(as_json(result)))
        elif result.error is None:
            tell(result.query)
            for hit in result.hits:
                tell(f"  {hit.score:.4f}  {hit.path}")
            if not result.hits:
                few = f"the collection has no other {noun(index)}"
                say(f"{result.query}: {few if arguments.threshold is None else f'no {noun(index)} is similar enough'}")
    if arguments.html is not None and tally.done:
        write_page(_sheet(index, results, arguments), arguments.html)
    return tally.end()


def as_json(result: SearchResult) -> dict[str, Any]:
    """The object that `--json` writes for a query."""
    if result.error is not None:
        return {"query": result.query, "error": result.error.problem}
    return {"query": result.query, "hits": [{"id": h.id, "path": h.path, "score": h.score} for h in result.hits]}


def _sheet(index: Index, results: Sequence[SearchResult], arguments: argparse.Namespace) -> str:
    from hierax.collection.mapped import RowInfo
    from hierax.collection.pages import Entry, Section, contact_sheet

    done = [result for result in results if result.error is None]
    of = rows_of(index, [name for r in done for name in (r.query, *(hit.id for hit in r.hits))])
    sections = [
        Section(
            result.query,
            [
                Entry(of.get(result.query) or RowInfo("", os.path.abspath(result.query), ""), "the query"),
                *(Entry(of[hit.id], f"{hit.score:.4f}") for hit in result.hits),
            ],
        )
        for result in done
    ]
    note = f"Best hits first, by cosine similarity of {index.column.name}, in {quantity(len(index), noun(index))}."
    title = f"Search in {index.folders[0].name}"
    return contact_sheet(
        index.folders,
        sections,
        title=title,
        note=note,
        what=noun(index),
        fetch=arguments.fetch,
        max_pixels=arguments.max_pixels,
    )
