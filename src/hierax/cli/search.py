"""`hierax search`: the pictures of a collection that are most like others."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.cli.inputs import expand
from hierax.cli.loading import positive
from hierax.cli.terminal import Tally, UserError, say
from hierax.cli.writing import written

if TYPE_CHECKING:
    import numpy as np

    from hierax.embedding.index import Hit, Index
    from hierax.processing import ImageError

SUMMARY = "find similar images in a collection"
EPILOG = """A QUERY is an image, a folder or pattern of images, or the id or path of a row of the collection.
A row of the collection needs no model, and is not among its own results. An image is embedded by the
model that made the collection. Queries are images: Hiera has no text encoder.
--json writes one object per query and line:
  {"query": "cat.jpg", "hits": [{"id": "5f0c…", "path": "/pictures/7.jpg", "score": 0.912345}, …]}
  {"query": "notes.txt", "error": "not an image (PNG, JPEG, WebP, … are read)"}"""


@dataclass(frozen=True)
class Searched:
    """What was found for a query, best first; or the error that kept its picture from being read."""

    query: str
    hits: tuple[Hit, ...] = ()
    error: ImageError | None = None


def search(
    index: Index,
    queries: Sequence[str],
    *,
    top_k: int = 10,
    threshold: float | None = None,
    approximate: bool | None = None,
    model: str | None = None,
    device: str = "auto",
) -> list[Searched]:
    """The rows of a collection most like each query: first what could not be read, then the others in the order of the
    queries.

    Args:
        index: the collection.
        queries: ids or paths of rows, else pictures, folders or patterns.
        top_k: hits per query.
        threshold: least cosine similarity.
        approximate: see `hierax.Index.search`.
        model: Hub id, folder or file; the one that the collection names if None. Loaded for pictures only.
        device: that the model runs on.

    Raises:
        CollectionError: the model is not the one that made the collection.
        ValueError, OSError: those of `hierax.load` and `hierax.Index.search`.
    """
    import numpy as np

    named, problems = _resolved(index, queries)
    results = [Searched(problem.source, error=problem) for problem in problems]
    rows = {name: row for name, row in named.items() if row is not None}
    numbers = np.array(list(rows.values()), np.int64)
    vectors, own = index.take(numbers), dict(zip(rows, (row.id for row in index.names(numbers)), strict=True))
    names, pictures = list(rows), [Path(name) for name, row in named.items() if row is None]
    if pictures:
        embedded, read, unread = _embedded(index, pictures, model=model, device=device)
        results += unread
        vectors, names = np.concatenate([vectors, embedded]), [*names, *read]
    if not names:
        return results
    found = index.search(vectors, top_k + bool(rows), threshold=threshold, approximate=approximate)
    hits = {
        name: tuple(hit for hit in some if hit.id != own.get(name))[:top_k]
        for name, some in zip(names, found, strict=True)
    }
    return results + [Searched(name, hits[name]) for name in named if name in hits]


def _resolved(index: Index, queries: Sequence[str]) -> tuple[dict[str, int | None], list[ImageError]]:
    """Rows by query, in the order of the queries, None for a picture that is no row; and what is neither."""
    rows = index.find(name for query in queries for name in (query, _path_of(query)))
    found: dict[str, int | None] = {query: rows.get(query, rows.get(_path_of(query))) for query in queries}
    files = {query: expand([query]) for query, row in found.items() if row is None}
    below = index.find(_path_of(path) for paths, _ in files.values() for path in paths)
    named: dict[str, int | None] = {}
    for query, row in found.items():
        named |= {query: row} if row is not None else {str(p): below.get(_path_of(p)) for p in files[query][0]}
    return named, [problem for _, problems in files.values() for problem in problems]


def _path_of(picture: str | Path) -> str:
    """By what path rows call a file."""
    from hierax.embedding.store import shown

    return shown(os.path.abspath(picture))


def _embedded(
    index: Index, pictures: Sequence[Path], *, model: str | None, device: str
) -> tuple[np.ndarray, list[str], list[Searched]]:
    from hierax.embedding.index import embed_queries
    from hierax.processing import ImageError

    vectors, problems = embed_queries(
        pictures, index.manifest, folder=index.folders[0], column=index.column.name, model=model, device=device
    )  # fmt: skip
    unread = {os.fspath(path): problem for path, problem in problems}
    read = [str(path) for path in pictures if str(path) not in unread]
    return vectors, read, [Searched(path, error=ImageError(path, problem)) for path, problem in unread.items()]


# -- what the commands over a collection have in common -----------------------------------------------------------


def add_collection(parser: argparse.ArgumentParser, *, page: str | None) -> None:
    """Declares the collection, `--column`, `--also`; with the name of a `page` also `--json`, `--html`, `--force`."""
    parser.add_argument("collection", metavar="OUT", help="folder that hierax embed wrote")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="DIR",
        help="another collection, made in the same way; may be repeated",
    )
    parser.add_argument("--column", metavar="NAME", help="vectors, such as embedding or stage3 (default: the first)")
    if page is not None:
        parser.add_argument("--json", action="store_true", help="write JSON lines")
        parser.add_argument("--html", metavar="FILE", help=f"also write {page}, one file that opens offline")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def add_approximate(parser: argparse.ArgumentParser) -> None:
    """Declares `--approximate` and `--exact`."""
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--approximate",
        action="store_true",
        help="use faiss; builds or extends its index and prints its recall",
    )
    way.add_argument("--exact", action="store_true", help="search exactly, even if there is an approximate index")


def open_index(arguments: argparse.Namespace, *, page: str | None) -> Index:
    """The collection that arguments name.

    Raises:
        UserError: the page to write exists, and not `--force`; or it is a folder.
        CollectionError: those of `hierax.Index`.
    """
    from hierax.embedding.index import Index

    if page is not None and os.path.isdir(page):  # before the work that it is to show
        raise UserError(f"{page} is a folder; name a file in it, such as {os.path.join(page, 'page.html')}")
    if page is not None and os.path.exists(page) and not arguments.force:
        raise UserError(f"{page} would be replaced; choose another name, or pass --force")
    return Index([arguments.collection, *arguments.also], column=arguments.column)


def way_of(arguments: argparse.Namespace, index: Index) -> bool | None:
    """What `approximate` shall be; builds the index that `--approximate` asks for."""
    if arguments.approximate:
        say(f"approximate index: {index.build(approximate=True)}")
    return True if arguments.approximate else False if arguments.exact else None


def write_page(page: str, path: str) -> None:
    """Writes a page, whole or not at all, and says so."""
    with written(Path(path)) as part:
        part.write_text(page, encoding="utf-8")
    size = len(page.encode())
    say(f"wrote {path} ({size / 1e6:.1f} MB)" if size >= 1e5 else f"wrote {path} ({size / 1e3:.0f} kB)")


def counted(count: int, what: str) -> str:
    """`1 picture`, `2,000 pictures`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def ticking(every: float = 10.0) -> Callable[[int, int], None]:
    """For `on_progress`: says on stderr how far it is, once in so many seconds."""
    last = time.monotonic()

    def tick(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            say(f"{done:,} of {total:,} done")

    return tick


def cosine(text: str) -> float:
    """A number from -1 to 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a cosine similarity, -1 to 1")
    return value


# -- the command --------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_collection(parser, page="a contact sheet")
    parser.add_argument("queries", nargs="+", metavar="QUERY", help="image, folder, pattern, or id or path of a row")
    parser.add_argument("--top-k", type=positive, default=10, metavar="K", help="hits per query (default: 10)")
    parser.add_argument("--threshold", type=cosine, metavar="S", help="minimum cosine similarity of a hit")
    parser.add_argument("--model", metavar="M", help="Hub id, folder or file (default: the one that made OUT)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, mps, …")
    add_approximate(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    index, tally = open_index(arguments, page=arguments.html), Tally()
    results = search(
        index,
        arguments.queries,
        top_k=arguments.top_k,
        threshold=arguments.threshold,
        approximate=way_of(arguments, index),
        model=arguments.model,
        device=arguments.device,
    )
    for result in results:
        tally.add(result.error)
        if arguments.json:
            print(json.dumps(as_json(result)))
        elif result.error is None:
            print(result.query, *(f"  {hit.score:.4f}  {hit.path}" for hit in result.hits), sep="\n", flush=True)
            if not result.hits:
                say(f"{result.query}: no picture is similar enough")
    if arguments.html is not None and tally.done:
        write_page(_sheet(index, results), arguments.html)
    return tally.exit_code


def as_json(result: Searched) -> dict[str, Any]:
    """The object that `--json` writes for a query."""
    if result.error is not None:
        return {"query": result.query, "error": result.error.problem}
    return {"query": result.query, "hits": [{"id": h.id, "path": h.path, "score": h.score} for h in result.hits]}


def _sheet(index: Index, results: Sequence[Searched]) -> str:
    import numpy as np

    from hierax.embedding.pages import Entry, Section, contact_sheet

    found = index.find(result.query for result in results)
    rows = dict(
        zip(found, (named.path for named in index.names(np.array(list(found.values()), np.int64))), strict=True)
    )
    sections = [
        Section(
            result.query,
            [
                Entry(rows.get(result.query, os.path.abspath(result.query)), "the query"),
                *(Entry(hit.path, f"{hit.score:.4f}") for hit in result.hits),
            ],
        )
        for result in results
        if result.error is None
    ]
    note = f"Cosine similarity of {index.column.name}, best first, among {counted(len(index), 'picture')}."
    return contact_sheet(index.folders, sections, title=f"Search in {index.folders[0].name}", note=note)
