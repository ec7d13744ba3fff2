"""Updates a collection: finds new and changed sources, and marks rows that are no longer valid."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hierax.collection.checked import read_table
from hierax.collection.listing import Listing, listings
from hierax.collection.source import Source, as_bytes, content_hash, file_hash
from hierax.collection.store import (
    GONE,
    MANIFEST,
    MARK,
    OK,
    REPLACED,
    Block,
    CollectionError,
    Manifest,
    hashes_of,
    mark,
    read_texts,
    schema,
    shard_path,
    shards,
    source_id,
    write_errors,
)
from hierax.embedding.sources import NoSourcesError, missing_inputs

_READERS = 8  # number of files that are hashed at the same time
_CHUNK = 4096


def inputs_left(folder: Path, manifest: Manifest) -> list[str]:
    """The inputs of a collection, without images that no longer exist. The update marks the rows of these images."""
    gone = set(missing_inputs(manifest.inputs, patterns=True))
    listed = {source.id for path in listings(folder) for source in Listing.read(path)} if gone else set()
    return [given for given in manifest.inputs if given not in gone or source_id(given) not in listed]


def changed_sources(folder: Path, manifest: Manifest, sources: Iterable[Source]) -> list[Source]:
    """Finds the sources that are new to the collection, or whose bytes have changed. Rows of sources that are not in
    `sources` are marked as gone, unless they are in a folder that cannot be opened. Sources that are listed but not
    done yet stay in their block.

    Raises:
        CollectionError: a shard is damaged. Or an input of the collection no longer matches anything. For example, a
            folder was moved, or a disk is not mounted. No row has been marked.
    """
    known, wanted = dict[str, str](), schema(manifest)
    waiting = {s.id for number, path in enumerate(listings(folder)) for s in _waiting(folder, manifest, number, path)}
    for shard in shards(folder):
        read_table(shard, wanted, wanted.names)  # also the vectors, so that a damaged column is named
        known |= hashes_of(shard)
    seen, found, closed = set[str](), list[Source](), list[str]()
    with ThreadPoolExecutor(_READERS) as pool, _advice(folder):
        for chunk in _chunks(sources):
            seen.update(source.id for source in chunk)
            closed += [source.path for source in chunk if source.kind == "file" and os.path.isdir(source.path)]
            old = [source for source in chunk if source.id in known]
            files = {source.name: source for source in old}  # one window of each video, so that the video is read once
            digests = dict(zip(files, pool.map(digest_of, files.values()), strict=True))
            changed = [s for s in chunk if s.id not in known or digests[s.name] != known[s.id]]
            found += [source for source in changed if source.id not in waiting]
    seen |= _below(closed, folder)
    gone = dict.fromkeys(known.keys() - seen, GONE)
    if gone:
        for shard in shards(folder):
            mark(shard, gone, manifest=manifest)
    return found


def _below(closed: Sequence[str], folder: Path) -> set[str]:
    """The ids of the sources of a collection that are in these folders."""
    starts = tuple(os.path.join(place, "") for place in closed)
    sources = (source for path in listings(folder) for source in Listing.read(path)) if starts else ()
    return {source.id for source in sources if source.path.startswith(starts)}


@contextlib.contextmanager
def _advice(folder: Path) -> Iterator[None]:
    """Adds advice to the error for an input that no longer matches anything."""
    try:
        yield
    except NoSourcesError as error:
        if error.given not in Manifest.read(folder).inputs:  # a new input
            raise
        place = folder / MANIFEST
        raise CollectionError(
            f'{error}; restore it, or delete it from "inputs" in {place}, which marks its rows as gone'
        ) from None


def _waiting(folder: Path, manifest: Manifest, number: int, path: Path) -> Iterator[Source]:
    """Yields the sources of a listing that are in blocks without a shard."""
    listing = Listing.read(path)
    for start in range(0, len(listing), manifest.block):
        if not shard_path(folder, Block(number, start // manifest.block)).exists():
            yield from (listing[i] for i in range(start, min(start + manifest.block, len(listing))))


def _chunks(sources: Iterable[Source]) -> Iterable[list[Source]]:
    chunk: list[Source] = []
    for source in sources:
        chunk.append(source)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def digest_of(source: Source) -> str:
    """The hash of the bytes of a source; "" if it cannot be read."""
    try:
        return file_hash(source) if source.window >= 0 else content_hash(as_bytes(source.read(max_pixels=None)))
    except Exception:  # for example, an unreadable source: when its block is computed, the reason is stored
        return ""


def mark_replaced(folder: Path, manifest: Manifest, listed: Sequence[Listing], *, finished: bool) -> dict[str, int]:
    """If all blocks are done, marks rows that a later listing has replaced. Then writes `errors.parquet`.

    Returns:
        The number of valid rows, of copies among them (see `EmbedReport`), of errors, of rows that are gone, and of
        rows that were replaced.
    """
    last: dict[str, int] = {}
    if finished:
        for number, listing in enumerate(listed[1:], start=1):
            last |= dict.fromkeys((source.id for source in listing), number)
    counts: Counter[str] = Counter()
    contents: list[np.ndarray] = [np.zeros(0, np.int64)]
    for shard in shards(folder):
        number = int(shard.name.split("-")[1])
        later = {name: REPLACED for name, at in last.items() if at > number}
        if later:
            mark(shard, later, manifest=manifest)
        paths, hashes, statuses = read_texts(shard, "path", "hash", "status")
        counts.update(statuses)
        contents.append(np.fromiter(_contents(paths, hashes, statuses), np.int64))
    errors = write_errors(folder)
    several = np.concatenate(contents)
    copies = len(several) - len(np.unique(several))
    return {"rows": counts[OK], "copies": copies, "errors": errors, "gone": counts[GONE], "replaced": counts[REPLACED]}


def _contents(paths: Sequence[str], hashes: Sequence[str], statuses: Sequence[str]) -> Iterator[int]:
    """Yields a 64-bit hash of the content of each valid row: the bytes of its file, and for a segment also its time.
    Ten million rows need 80 MB.
    """
    for path, digest, status in zip(paths, hashes, statuses, strict=True):
        if status == OK and digest:
            yield hash((digest, path.rpartition(MARK)[2] if MARK in path else ""))
