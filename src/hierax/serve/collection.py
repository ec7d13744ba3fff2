"""The collection that a server searches: it is read again when it grows, and its images are shown by their ids."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hierax.collection.index import Hit, Index
from hierax.collection.mapped import RowInfo
from hierax.collection.store import MANIFEST, CollectionError, has_windows, shards
from hierax.embedding.search import open_queries
from hierax.serve.engines import public_name
from hierax.serve.errors import Refusal, refuse

if TYPE_CHECKING:
    from hierax.embedding.extractor import FeatureExtractor
    from hierax.serve.engines import Models

_REFRESH = 5.0
"""Seconds after which the folder is looked at again."""
_JOBS = 4
"""Long computations that wait at most."""
_THUMBNAILS = 64_000_000
"""Bytes of thumbnails that are kept."""
T = TypeVar("T")
_log = logging.getLogger("hierax.serve")


class State:
    """A collection as its folder was at one time.

    Attributes:
        index: its rows that can be searched.
        stamp: the names, sizes and times of its files.
    """

    def __init__(self, folders: Sequence[Path], stamp: Any) -> None:
        self.index, self.stamp = Index(folders), stamp
        self.answers: dict[Any, asyncio.Future[Any]] = {}

    @cached_property
    def _ids(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids in order, and their rows."""
        ids = [name for shard in self.index.shards for name in shard.columns()[0]]
        array = np.array(ids or [""])
        order = np.argsort(array, kind="stable")
        return array[order], order

    def row_of(self, name: str) -> int | None:
        """The number of the row with an id; None if there is none."""
        ids, order = self._ids
        place = int(np.searchsorted(ids, name))
        found = len(self.index) and place < len(ids) and ids[place] == name
        return int(order[place]) if found else None


class Collection:
    """An open collection.

    Args:
        folder: a folder that `hierax embed` wrote, or several.
        models: the models of the server. If none of them made the collection, the model that it names is opened.

    Raises:
        CollectionError: it is damaged, or holds no images, or its model cannot be opened.
    """

    def __init__(self, folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], models: Models) -> None:
        folders = [folder] if isinstance(folder, (str, os.PathLike)) else folder
        self.folders = [Path(one) for one in folders]
        self.max_pixels = models.settings.max_pixels
        self.state = State(self.folders, _stamp(self.folders))
        if has_windows(self.state.index.manifest):
            raise CollectionError(f"{self.folders[0]} holds segments of videos; expected a collection of images")
        self.extractor = self._open_queries(models)
        self._looked = time.monotonic()
        self._tried: Any = None
        self._lock = threading.Lock()
        self._jobs = ThreadPoolExecutor(1, thread_name_prefix="hierax-collection")
        self._thumbnails: OrderedDict[Any, bytes] = OrderedDict()
        self._kept = 0

    def _open_queries(self, models: Models) -> FeatureExtractor:
        """The extractor of queries: of the main model if it made the collection, else of the model that it names."""
        manifest, settings = self.state.index.manifest, models.settings
        options: dict[str, Any] = {
            "folder": self.folders[0],
            "device": settings.device,
            "backend": settings.backend,
            "threads": settings.threads,
            "max_pixels": settings.max_pixels,
        }
        found: FeatureExtractor | None = None
        if models.checkpoint is not None and models.checkpoint.config.to_dict() == manifest.config:
            try:
                found = open_queries(manifest, model=models.source, **options)
            except ValueError as error:
                _log.info("%s did not make the collection: %s", models.source, error)
        found = found or open_queries(manifest, **options)
        found.engine.warm_up()
        return found

    def current(self, *, after: State | None = None) -> State:
        """The collection as it is now. The folder is looked at every few seconds; while it is read again, and if it
        cannot be read, the answers are those of before.

        Args:
            after: a state whose files have changed; then the folder is looked at in any case.
        """
        if after is None and time.monotonic() - self._looked < _REFRESH:
            return self.state
        if not self._lock.acquire(blocking=after is not None):
            return self.state
        try:
            if after is None or self.state is after:
                self._read_again()
        except (ValueError, OSError) as error:  # it is being written, or another model has made it again
            _log.warning("the collection cannot be read again: %s", error)
        finally:
            self._looked = time.monotonic()
            self._lock.release()
        return self.state

    def _read_again(self) -> None:
        """Raises `CollectionError` if the rows cannot be compared with queries of the model that is open."""
        stamp = _stamp(self.folders)
        if stamp in (self.state.stamp, self._tried):
            return
        self._tried = stamp
        found, manifest = State(self.folders, stamp), self.state.index.manifest
        manifest.check_same(found.index.manifest, folder=self.folders[0], advice="start the server again")
        self.state = found

    def _asked(self, compute: Callable[[State], T]) -> T:
        """What is computed of the collection as it is now.

        Raises:
            Refusal: its files have changed, and cannot be read now (503).
        """
        state = self.current()
        with contextlib.suppress(CollectionError, OSError):  # its files have changed since they were looked at
            return compute(state)
        try:
            return compute(self.current(after=state))
        except (CollectionError, OSError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> Refusal:
        """The refusal if the files have changed; they are looked at again soon."""
        _log.warning("the collection cannot be read: %s", error)
        self._looked = -math.inf
        return refuse("not_ready", "the collection is being changed, or cannot be read", retry_after=5)

    def describe(self) -> dict[str, Any]:
        """Its name, its number of rows and folders, its columns, and the model that made it."""
        index = self.current().index
        return {
            "count": len(index),
            "name": public_name(self.folders[0].absolute()),
            "columns": [{"name": c.name, "layer": c.layer, "shape": list(c.shape)} for c in index.manifest.columns],
            "model": public_name(index.manifest.model),
            "folders": len(self.folders),
        }

    @property
    def model(self) -> str:
        """The name of the model that made the collection."""
        return public_name(self.state.index.manifest.model)

    def search(self, vectors: np.ndarray, k: int) -> list[tuple[Hit, ...]]:
        """The `k` rows that are most similar to each vector of `[Q, D]`."""
        return self._asked(lambda state: [tuple(hits) for hits in state.index.search(vectors, k)])

    def search_row(self, name: str, k: int) -> tuple[RowInfo, tuple[Hit, ...]]:
        """A row, and the `k` others that are most similar to it.

        Raises:
            Refusal: there is no row with this id (404).
        """

        def found(state: State) -> tuple[RowInfo, tuple[Hit, ...]]:
            row = self._row(state, name)
            (info,) = state.index.names(np.array([row]))
            (hits,) = state.index.search(state.index.take(np.array([row])), k + 1)
            return info, tuple(hit for hit in hits if hit.id != info.id)[:k]

        return self._asked(found)

    def rows(self, offset: int, limit: int) -> dict[str, Any]:
        """The rows from `offset` on, at most `limit`."""

        def found(state: State) -> dict[str, Any]:
            count = len(state.index)
            numbers = np.arange(min(offset, count), min(offset + limit, count))
            return {"offset": offset, "count": count, "rows": _named(state.index, numbers)}

        return self._asked(found)

    def row(self, name: str) -> dict[str, Any]:
        """The row with an id, as `rows` gives it.

        Raises:
            Refusal: there is none (404).
        """

        def found(state: State) -> dict[str, Any]:
            number = self._row(state, name)
            return {"offset": number, "count": len(state.index), "rows": _named(state.index, np.array([number]))}

        return self._asked(found)

    def _row(self, state: State, name: str) -> int:
        found = state.row_of(name)
        if found is None:
            raise refuse("not_found", f"the collection has no row with the id {name[:60]!r}", field="id")
        return found

    def thumbnail(self, name: str, side: int) -> bytes:
        """The image of a row as a JPEG, at most `side` pixels wide and high.

        Raises:
            Refusal: there is no row with this id, or its image cannot be shown any more (404).
        """
        from hierax.collection.originals import originals

        (info,) = self._asked(lambda state: state.index.names(np.array([self._row(state, name)])))
        key = (info.id, info.hash, side)
        with self._lock:
            if (kept := self._thumbnails.get(key)) is not None:
                self._thumbnails.move_to_end(key)
                return kept
        (found,) = originals(self.folders, [info], side=side, max_pixels=self.max_pixels)
        if isinstance(found, str):
            raise refuse("not_found", f"the image of {info.id} cannot be shown: {found}", field="id")
        buffer = io.BytesIO()
        found.image.save(buffer, "JPEG", quality=82)
        content = buffer.getvalue()
        with self._lock:
            if key not in self._thumbnails:
                self._thumbnails[key] = content
                self._kept += len(content)
            while self._kept > _THUMBNAILS:
                self._kept -= len(self._thumbnails.popitem(last=False)[1])
        return content

    def duplicates(self, state: State, threshold: float, groups: int) -> dict[str, Any]:
        """At most `groups` groups of rows that show the same image."""
        from hierax.collection.duplicates import duplicates

        found = duplicates(state.index, threshold=threshold, max_pixels=self.max_pixels)[:groups]
        listed = [
            [{"id": m.id, "name": _file(m.path), "score": m.score, "exact": m.exact} for m in group.members]
            for group in found
        ]
        return {"threshold": threshold, "groups": listed}

    def map(self, state: State, points: int) -> dict[str, Any]:
        """The places of at most `points` rows in two dimensions."""
        from hierax.collection.projection import layout

        found = layout(state.index, points=points)
        listed = [{"id": point.id, "x": point.x, "y": point.y} for point in found.points]
        return {"points": listed, "count": found.rows, "method": found.method}

    async def long(self, compute: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        """The answer of a long computation, which is done once for each state of the collection. It continues if the
        client leaves or its deadline passes: then the next one finds it done.

        Raises:
            Refusal: too many wait (429), or the files have changed (503).
        """
        state = await asyncio.to_thread(self.current)
        key = (compute.__name__, *arguments)
        if key not in state.answers:
            waiting = [one for one in state.answers.values() if not one.done()]
            if len(waiting) >= _JOBS:
                raise refuse("busy", "the collection is being computed; try again later", retry_after=10)
            for old in [name for name, one in state.answers.items() if one.done()][: max(len(state.answers) - 15, 0)]:
                del state.answers[old]
            loop = asyncio.get_running_loop()
            state.answers[key] = asyncio.ensure_future(loop.run_in_executor(self._jobs, compute, state, *arguments))
        answer = state.answers[key]
        try:
            return await asyncio.shield(answer)
        except (CollectionError, OSError) as error:
            raise self._unreadable(error) from error
        finally:
            if answer.done() and (answer.cancelled() or answer.exception() is not None):
                state.answers.pop(key, None)

    def close(self) -> None:
        """Releases the engine."""
        self._jobs.shutdown(wait=False, cancel_futures=True)
        self.extractor.close()


def _stamp(folders: Sequence[Path]) -> Any:
    """What changes when rows are added, replaced or removed."""
    files = [path for folder in folders for path in (folder / MANIFEST, *shards(folder))]
    facts = [(path, path.stat()) for path in files if path.exists()]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in facts]


def _named(index: Index, numbers: np.ndarray) -> list[dict[str, Any]]:
    rows = index.names(numbers)
    return [{"id": row.id, "name": _file(row.path), "width": row.width, "height": row.height} for row in rows]


def _file(path: str) -> str:
    """The name of a file, or of a member of a shard."""
    return PurePath(path.rpartition("::")[2]).name or path


def hit_fields(hit: Hit) -> dict[str, Any]:
    """A hit in an answer."""
    return {"id": hit.id, "name": _file(hit.path), "path": hit.path, "score": hit.score}
