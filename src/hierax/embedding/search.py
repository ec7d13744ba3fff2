"""Finds similar images in a collection. A query is a row, an image, or a segment of a video."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hierax.arguments import check_count, path_texts
from hierax.collection.store import Manifest
from hierax.embedding.cards import HitImages
from hierax.notices import notify
from hierax.processing import DEFAULT_MAX_PIXELS
from hierax.processing.inputs import expand
from hierax.reprs.markup import html_repr
from hierax.reprs.text import short_repr

if TYPE_CHECKING:
    from hierax.collection.index import Folders, Hit, Index
    from hierax.collection.source import Source
    from hierax.embedding.extractor import FeatureExtractor
    from hierax.processing import ImageError


def embed_queries(
    paths: Sequence[str | Path | Source],
    manifest: Manifest,
    *,
    folder: Path,
    column: str,
    model: str | None = None,
    device: str = "auto",
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    on_progress: Callable[[int, int], object] | None = None,
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Embeds images, or segments of videos, with the settings of the collection in `folder`.

    Returns:
        float32 `[N, D]` for the images that can be read, in order; and the path and problem of each other image.

    Raises:
        CollectionError: the collection was made by another model; or `model` is None and the collection names no model,
            because it was made by a model object.
        ValueError, OSError: see `hierax.load`.
    """
    from hierax.embedding import extractor as features

    extractor = open_queries(manifest, folder=folder, model=model, device=device, max_pixels=max_pixels)
    try:
        return features.vectors(paths, extractor, column, on_progress=on_progress)
    finally:
        extractor.close()


def open_queries(
    manifest: Manifest,
    *,
    folder: Path,
    model: str | os.PathLike[str] | None = None,
    device: str = "auto",
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    **settings: Any,
) -> FeatureExtractor:
    """The extractor that embeds queries with the settings of the collection in `folder`; see `embed_queries`."""
    from hierax.embedding import extractor as features

    model = model or manifest.named(folder)
    extractor = features.extractor_like(manifest, model, device=device, max_pixels=max_pixels, **settings)
    try:
        made = dataclasses.replace(
            manifest,
            model=extractor.name,
            weights=extractor.weights,
            config=extractor.config.to_dict(),
            preprocessing=extractor.record.to_dict(),
            precision=extractor.precision,
        )
        manifest.check_same(made, folder=folder, advice="queries need the model that made the collection")
    except BaseException:
        extractor.close()
        raise
    return extractor


@short_repr(changed=True)
@dataclass(frozen=True)
class SearchResult:
    """The hits of a query, best first; or the error if the query cannot be read.

    Attributes:
        query: the image, or the id or path of the row, as it was given; with the start of the segment, for videos.
        hits: the rows that are most similar.
        error: why the query cannot be read.
        images: reads the images of the query and the hits, for a notebook.
    """

    query: str
    hits: tuple[Hit, ...] = ()
    error: ImageError | None = None
    images: HitImages | None = field(default=None, compare=False, repr=False)

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.embedding.cards import search_result

        return search_result(self)


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
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[SearchResult]:
    """Finds the most similar rows for each query.

    Returns:
        The results: first the queries that cannot be read, then the others in the order of the queries.

    Args:
        folder: the folder of one or several collections, or a `hierax.Index` that is open.
        queries: ids or paths of rows; otherwise images, folders or patterns (videos for a collection of videos). A row
            of the collection needs no model, and is not among its own hits. A file that has changed since it was
            embedded is embedded again, for this search only.
        top_k: number of hits per query.
        column: name of the column of vectors; None: the first.
        threshold: minimum cosine similarity.
        approximate: see `hierax.Index.search`.
        model: Hub id, folder or file; None: the model that the collection names. It is loaded only for images.
        device: the device of the model.
        max_pixels: larger images are an error; None: no limit.
        on_progress: called with the number of images that were read so far, and the number of all images.

    Raises:
        CollectionError: the collection was made by another model; see also `hierax.Index`.
        ValueError, OSError: see `hierax.load` and `hierax.Index.search`.
    """
    from hierax.collection.index import opened_index

    index = opened_index(folder, column)
    texts = path_texts("queries", queries, "expected ids of rows, or paths of images")
    top_k = check_count("top_k", top_k)
    return _search(
        index,
        texts,
        top_k=top_k,
        threshold=threshold,
        approximate=approximate,
        model=model,
        device=device,
        max_pixels=max_pixels,
        on_progress=on_progress,
    )


def _search(
    index: Index,
    queries: Sequence[str],
    *,
    top_k: int,
    threshold: float | None,
    approximate: bool | None,
    model: str | None,
    device: str,
    max_pixels: int | None,
    on_progress: Callable[[int, int], object] | None,
) -> list[SearchResult]:
    named, problems = _resolve_queries(index, queries)
    results = [SearchResult(problem.source, error=problem) for problem in problems]
    rows = {name: row for name, row in named.items() if isinstance(row, int)}
    numbers = np.array(list(rows.values()), np.int64)
    vectors, own = index.take(numbers), dict(zip(rows, (row.id for row in index.names(numbers)), strict=True))
    names, sources = list(rows), {name: row for name, row in named.items() if not isinstance(row, int)}
    own |= {name: source.id for name, source in sources.items()}  # a changed file still has its former row
    if sources:
        embedded, read, unread = _embed(
            index, sources, model=model, device=device, max_pixels=max_pixels, on_progress=on_progress
        )
        results += unread
        vectors, names = np.concatenate([vectors, embedded]), [*names, *read]
    if not names:
        return results
    found = index.search(vectors, top_k + 1, threshold=threshold, approximate=approximate)
    hits = {
        name: tuple(hit for hit in some if hit.id != own.get(name))[:top_k]
        for name, some in zip(names, found, strict=True)
    }
    images = HitImages(index)
    return results + [SearchResult(name, hits[name], images=images) for name in named if name in hits]


def _resolve_queries(index: Index, queries: Sequence[str]) -> tuple[dict[str, int | Source], list[ImageError]]:
    """For each query, in order: its row, or the source to embed. Also the errors of queries that are neither."""
    from hierax.collection.source import Source
    from hierax.collection.store import MARK, has_windows

    clips = has_windows(index.manifest)
    rows = index.find(name for query in queries for name in (query, _path_of(query)))
    found: dict[str, int | None] = {query: rows.get(query, rows.get(_path_of(query))) for query in queries}
    named_files = {query: row for query, row in found.items() if row is not None and os.path.isfile(query)}
    found |= dict.fromkeys(_changed(index, named_files))
    files = {query: expand([query], clips=clips) for query, row in found.items() if row is None}
    sources = {str(path): Source(os.path.abspath(path)) for paths, _ in files.values() for path in paths}
    if clips:
        sources = _windows(index, sources)
    below = index.find(_path_of(name) for name in sources)
    again = _changed(index, below)
    below = {path: row for path, row in below.items() if path not in again}
    if again:
        one, many = again[0], f"{len(again):,} files, such as {again[0]}, have changed since they were embedded"
        notify(f"{one} has changed since it was embedded" if len(again) == 1 else many)
    parts: dict[str, list[str]] = {}  # the names of each file: its own, or those of its segments
    for name in sources:
        parts.setdefault(name.rpartition(MARK)[0] if clips else name, []).append(name)
    named: dict[str, int | Source] = {}
    for query, row in found.items():
        if row is not None:
            named[query] = row
            continue
        chosen = [name for path in files[query][0] for name in parts.get(str(path), ())]
        named |= {name: below.get(_path_of(name), sources[name]) for name in chosen}
    return named, [_add_advice(problem) for _, problems in files.values() for problem in problems]


def _changed(index: Index, rows: dict[str, int]) -> list[str]:
    """The paths, among the names of rows, whose files no longer have the bytes that were embedded. If a file cannot be
    read, its row is used as it is.
    """
    from hierax.collection.source import Source
    from hierax.collection.store import MARK
    from hierax.embedding.update import digest_of

    found = []
    for name, info in zip(rows, index.names(np.array(list(rows.values()), np.int64)), strict=True):
        window = -1 if info.start is None else 0
        if os.path.isfile(name if window < 0 else name.rpartition(MARK)[0]):
            digest = digest_of(Source(os.path.abspath(name), window=window))
            found += [name] if digest not in ("", info.hash) else []
    return found


def _add_advice(problem: ImageError) -> ImageError:
    """Adds advice to the error for a query that is not a file and looks like text."""
    from hierax.processing import ImageError

    looks_like_text = (
        problem.problem == "no such file" and not os.path.splitext(problem.source)[1] and os.sep not in problem.source
    )
    if not looks_like_text:
        return problem
    advice = "a query is an image file, or the id or path of a row; it cannot be text: Hiera has no text encoder"
    return ImageError(problem.source, f"no such file ({advice})")


def _windows(index: Index, videos: dict[str, Source]) -> dict[str, Source]:
    """The segments of videos; a name is the path of the video with the time."""
    from hierax.collection.store import MARK
    from hierax.embedding.clips import expand_windows
    from hierax.processing import Preprocessing
    from hierax.processing.sampling import sampling_of

    sampling = sampling_of(Preprocessing.from_dict(index.manifest.preprocessing))
    return {
        f"{name}{MARK}{window.path.rpartition(MARK)[2]}": window
        for name, source in videos.items()
        for window in expand_windows([source], sampling)
    }


def _path_of(image: str | Path) -> str:
    """The path of a file as rows store it."""
    from hierax.collection.store import path_text

    return path_text(os.path.abspath(image))


def _embed(
    index: Index,
    sources: dict[str, Source],
    *,
    model: str | None,
    device: str,
    max_pixels: int | None,
    on_progress: Callable[[int, int], object] | None,
) -> tuple[np.ndarray, list[str], list[SearchResult]]:
    from hierax.processing import ImageError

    vectors, problems = embed_queries(
        list(sources.values()),
        index.manifest,
        folder=index.folders[0],
        column=index.column.name,
        model=model,
        device=device,
        max_pixels=max_pixels,
        on_progress=on_progress,
    )
    unreadable = dict(problems)  # by path; several queries may name one file
    unread = {name: unreadable[source.path] for name, source in sources.items() if source.path in unreadable}
    read = [name for name in sources if name not in unread]
    good: np.ndarray = np.isfinite(vectors).all(1) & (vectors != 0).any(1)
    unread |= {name: "its features are not finite" for name, fine in zip(read, good.tolist(), strict=True) if not fine}
    errors = [SearchResult(name, error=ImageError(name, problem)) for name, problem in unread.items()]
    return vectors[good], [name for name in read if name not in unread], errors
