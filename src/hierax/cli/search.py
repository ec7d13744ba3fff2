"""`hierax search`: finds the images of a collection that are most similar to a query."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.cli.collection import (
    add_approximate,
    add_collection,
    cosine,
    counted,
    noun,
    open_index,
    rows_of,
    ticking,
    way_of,
    write_page,
)
from hierax.cli.inputs import expand
from hierax.cli.loading import MAX_PIXELS, add_device, positive
from hierax.cli.terminal import Tally, say, tell

if TYPE_CHECKING:
    import numpy as np

    from hierax.embedding.index import Folders, Hit, Index
    from hierax.embedding.sources import Source
    from hierax.processing import ImageError

SUMMARY = "find similar images in a collection"
EPILOG = """A QUERY is an image, a folder or pattern of images, or the id or path of a row of the collection.
For a row of the collection, no model is needed, and the row itself is not in the results. An image is embedded
with the model that made the collection. In a collection of videos, a QUERY is a video, and each of its windows
is searched for. A query cannot be text: Hiera has no text encoder.
--json prints one object per query (JSON Lines):
  {"query": "cat.jpg", "hits": [{"id": "5f0c…", "path": "/photos/7.jpg", "score": 0.912345}, …]}
  {"query": "notes.txt", "error": "not an image (PNG, JPEG, WebP, … are read)"}"""


@dataclass(frozen=True)
class Searched:
    """The hits of a query, best first; or the error if its image cannot be read."""

    query: str
    hits: tuple[Hit, ...] = ()
    error: ImageError | None = None


def search(
    folder: Folders | Index,
    queries: str | Path | Sequence[str | Path],
    *,
    top_k: int = 10,
    column: str | None = None,
    threshold: float | None = None,
    approximate: bool | None = None,
    model: str | None = None,
    device: str = "auto",
    max_pixels: int | None = MAX_PIXELS,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[Searched]:
    """The most similar rows for each query. Unreadable queries come first, then the others in the order of the
    queries.

    Args:
        folder: of a collection, several, or a `hierax.Index` that is open.
        queries: ids or paths of rows, else images, folders or patterns; of a collection of videos, videos. A row of the
            collection needs no model, and is not among its own hits.
        top_k: hits per query.
        column: name of the vectors; the first if None.
        threshold: least cosine similarity.
        approximate: see `hierax.Index.search`.
        model: Hub id, folder or file; the one that the collection names if None. Loaded for images only.
        device: that the model runs on.
        max_pixels: images of more pixels cannot be read; None is any number.
        on_progress: is called with the number of images read so far, and of all.

    Raises:
        CollectionError: the model is not the one that made the collection; see also `hierax.Index`.
        ValueError, OSError: see `hierax.load` and `hierax.Index.search`.
    """
    from hierax.embedding.index import Index

    index = folder if isinstance(folder, Index) else Index(folder, column=column)
    queries = [queries] if isinstance(queries, (str, Path)) else queries
    return _search(
        index, [os.fspath(query) for query in queries], top_k=top_k, threshold=threshold, approximate=approximate,
        model=model, device=device, max_pixels=max_pixels, on_progress=on_progress,
    )  # fmt: skip


def _search(
    index: Index, queries: Sequence[str], *, top_k: int, threshold: float | None, approximate: bool | None,
    model: str | None, device: str, max_pixels: int | None, on_progress: Callable[[int, int], object] | None,
) -> list[Searched]:  # fmt: skip
    import numpy as np

    named, problems = _resolved(index, queries)
    results = [Searched(problem.source, error=problem) for problem in problems]
    rows = {name: row for name, row in named.items() if isinstance(row, int)}
    numbers = np.array(list(rows.values()), np.int64)
    vectors, own = index.take(numbers), dict(zip(rows, (row.id for row in index.names(numbers)), strict=True))
    names, sources = list(rows), {name: row for name, row in named.items() if not isinstance(row, int)}
    if sources:
        embedded, read, unread = _embedded(
            index, sources, model=model, device=device, max_pixels=max_pixels, on_progress=on_progress
        )
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


def _resolved(index: Index, queries: Sequence[str]) -> tuple[dict[str, int | Source], list[ImageError]]:
    """For each query, in order, its row or the file to embed; and an error for queries that are neither."""
    from hierax.embedding.sources import Source
    from hierax.embedding.store import MARK, has_windows

    clips = has_windows(index.manifest)
    rows = index.find(name for query in queries for name in (query, _path_of(query)))
    found: dict[str, int | None] = {query: rows.get(query, rows.get(_path_of(query))) for query in queries}
    files = {query: expand([query], clips=clips) for query, row in found.items() if row is None}
    sources = {str(path): Source(os.path.abspath(path)) for paths, _ in files.values() for path in paths}
    if clips:
        sources = _windows(index, sources)
    below = index.find(_path_of(name) for name in sources)
    named: dict[str, int | Source] = {}
    for query, row in found.items():
        if row is not None:
            named[query] = row
            continue
        given = [str(path) for path in files[query][0]]
        chosen = [name for name in sources if name in given or (clips and name.rpartition(MARK)[0] in given)]
        named |= {name: below.get(_path_of(name), sources[name]) for name in chosen}
    return named, [_advised(problem) for _, problems in files.values() for problem in problems]


def _advised(problem: ImageError) -> ImageError:
    """The error for a query that is not a file; it may be text."""
    from hierax.processing import ImageError

    words = (
        problem.problem == "no such file" and not os.path.splitext(problem.source)[1] and os.sep not in problem.source
    )
    if not words:
        return problem
    advice = (
        "queries are image files, or ids or paths of rows; Hiera has no text encoder, so words cannot be searched for"
    )
    return ImageError(problem.source, f"no such file ({advice})")


def _windows(index: Index, videos: dict[str, Source]) -> dict[str, Source]:
    """The windows of videos, by their names with the time."""
    from hierax.embedding.clips import expanded
    from hierax.embedding.store import MARK
    from hierax.processing import Preprocessing
    from hierax.processing.windows import sampling_of

    sampling = sampling_of(Preprocessing.from_dict(index.manifest.preprocessing))
    return {
        f"{name}{MARK}{window.path.rpartition(MARK)[2]}": window
        for name, source in videos.items()
        for window in expanded([source], sampling)
    }


def _path_of(image: str | Path) -> str:
    """The path of a file as rows store it."""
    from hierax.embedding.store import shown

    return shown(os.path.abspath(image))


def _embedded(
    index: Index, sources: dict[str, Source], *, model: str | None, device: str, max_pixels: int | None,
    on_progress: Callable[[int, int], object] | None,
) -> tuple[np.ndarray, list[str], list[Searched]]:  # fmt: skip
    import numpy as np

    from hierax.embedding.index import embed_queries
    from hierax.processing import ImageError

    vectors, problems = embed_queries(
        list(sources.values()), index.manifest, folder=index.folders[0], column=index.column.name, model=model,
        device=device, max_pixels=max_pixels, on_progress=on_progress,
    )  # fmt: skip
    names = {source.path: name for name, source in sources.items()}
    unread = {names[path]: problem for path, problem in problems}
    read = [name for name in sources if name not in unread]
    good: np.ndarray = np.isfinite(vectors).all(1) & (vectors != 0).any(1)
    unread |= {name: "its features are not finite" for name, fine in zip(read, good.tolist(), strict=True) if not fine}
    errors = [Searched(name, error=ImageError(name, problem)) for name, problem in unread.items()]
    return vectors[good], [name for name in read if name not in unread], errors


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
    index, tally = open_index(arguments, page=arguments.html), Tally()
    results = search(
        index,
        arguments.queries,
        top_k=arguments.top_k,
        threshold=arguments.threshold,
        approximate=way_of(arguments, index),
        model=arguments.model,
        device=arguments.device,
        max_pixels=arguments.max_pixels,
        on_progress=ticking(),
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
                say(f"{result.query}: no {noun(index)} is similar enough")
    if arguments.html is not None and tally.done:
        write_page(_sheet(index, results, arguments), arguments.html)
    return tally.exit_code


def as_json(result: Searched) -> dict[str, Any]:
    """The object that `--json` writes for a query."""
    if result.error is not None:
        return {"query": result.query, "error": result.error.problem}
    return {"query": result.query, "hits": [{"id": h.id, "path": h.path, "score": h.score} for h in result.hits]}


def _sheet(index: Index, results: Sequence[Searched], arguments: argparse.Namespace) -> str:
    from hierax.embedding.mapped import Named
    from hierax.embedding.pages import Entry, Section, contact_sheet

    done = [result for result in results if result.error is None]
    of = rows_of(index, [name for r in done for name in (r.query, *(hit.id for hit in r.hits))])
    sections = [
        Section(
            result.query,
            [
                Entry(of.get(result.query) or Named("", os.path.abspath(result.query), ""), "the query"),
                *(Entry(of[hit.id], f"{hit.score:.4f}") for hit in result.hits),
            ],
        )
        for result in done
    ]
    note = f"Best hits first, by cosine similarity of {index.column.name}, in {counted(len(index), noun(index))}."
    title = f"Search in {index.folders[0].name}"
    return contact_sheet(
        index.folders, sections, title=title, note=note, what=noun(index), fetch=arguments.fetch,
        max_pixels=arguments.max_pixels,
    )  # fmt: skip
