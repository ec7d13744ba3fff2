"""The blocks of a collection. It finds the blocks that are pending, and computes them on one or several devices."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hierax.collection.listing import Listing, listings
from hierax.collection.store import Block, Manifest, Unreadable, path_text, shards, write_shard
from hierax.data.loader import default_decode_workers
from hierax.embedding.decode import Item, Pixels, batches_of, decoder_of
from hierax.embedding.extractor import FeatureExtractor
from hierax.notices import notify
from hierax.processing.frames import FIRST_ONLY

if TYPE_CHECKING:
    import pyarrow as pa

FEW = 256
"""Up to this number of sources, decoding in this process is faster than starting others."""

NOT_FINITE = "the model's features are not finite"


@dataclass
class Step:
    """One step of progress: a batch, or a whole block if batches are not reported.

    Attributes:
        sources: number of sources.
        errors: number of these sources that could not be read.
        waited: seconds for which the model waited for pixels.
        block: the block that this step finished and wrote; None if the block is not finished.
        table: the rows of that block, if available.
    """

    sources: int
    errors: int
    waited: float
    block: Block | None = None
    table: pa.Table | None = None


class Job:
    """The blocks of a collection.

    Args:
        folder: the collection, with its listings.
        manifest: the settings of the collection.
        check: called before each block is written; if it raises an error, the block is not written.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, check: Callable[[], object] | None = None) -> None:
        self.folder, self.manifest, self._check = folder, manifest, check
        self._has_warned = False  # that features are not finite
        self.listings = [Listing.read(path) for path in listings(folder)]

    def blocks(self) -> list[Block]:
        """All blocks, in the order of the rows."""
        size = self.manifest.block
        return [Block(i, n) for i, one in enumerate(self.listings) for n in range(-(-len(one) // size))]

    def sources_in(self, *blocks: Block) -> int:
        """The number of sources of these blocks."""
        size = self.manifest.block
        return sum(min(size, len(self.listings[block.listing]) - block.number * size) for block in blocks)

    def pending(self) -> list[Block]:
        """The blocks that have no shard yet."""
        existing = {path.name for path in shards(self.folder)}
        return [block for block in self.blocks() if block.file not in existing]

    def compute(
        self, blocks: Sequence[Block], extractor: FeatureExtractor, *, stop: threading.Event, workers: int | None = None
    ) -> Generator[Step]:
        """Computes and writes blocks, one after the other. When `stop` is set, it finishes the current block and ends.

        Raises:
            OSError: a shard cannot be written, or a decoding process was killed.
            MemoryError: there is not enough memory.
        """
        parts: list[Pixels] = []
        vectors: list[dict[str, np.ndarray]] = []
        left = 0
        with contextlib.closing(self._batches(blocks, extractor, workers)) as batches:
            for pixels, waited in batches:
                left = left or self.sources_in(pixels.block)
                vectors.append(self._vectors(extractor, pixels))
                parts.append(pixels)
                left -= len(pixels.items)
                step = Step(len(pixels.items), sum(item.error is not None for item in pixels.items), waited)
                if not left:
                    step.block, step.table = pixels.block, self._write(pixels.block, parts, vectors)
                    parts, vectors = [], []
                yield step
                if not left and stop.is_set():
                    return

    def _vectors(self, extractor: FeatureExtractor, pixels: Pixels) -> dict[str, np.ndarray]:
        """The features of a batch, by column. Items with features that are not finite become errors."""
        count, columns = len(pixels.items), self.manifest.columns
        if all(item.error is not None for item in pixels.items):  # no source can be read
            return {column.name: np.zeros((count, column.width), np.float32) for column in columns}
        features = extractor(pixels.pixels)
        if any(len(features[column.name]) != count for column in columns):
            raise MemoryError(f"the model returned results for fewer than {count} images, which were its input")
        with np.errstate(over="ignore"):
            stored = [features[column.name].astype(self.manifest.dtype, copy=False) for column in columns]
        finite = np.logical_and.reduce([np.isfinite(vectors).all(1) for vectors in stored])
        for place in np.flatnonzero(~finite):
            item = pixels.items[place]
            if item.error is None:
                pixels.items[place] = replace(item, error=NOT_FINITE)
                self._say_not_finite(item)
        return features

    def _say_not_finite(self, item: Item) -> None:
        if not self._has_warned:
            self._has_warned = True
            path = path_text(item.source.path)
            notify(f"{NOT_FINITE} for {path}, maybe also for others; they become errors (is the model damaged?)")

    def _batches(
        self, blocks: Sequence[Block], extractor: FeatureExtractor, workers: int | None
    ) -> Generator[tuple[Pixels, float]]:
        """Yields each batch, and the number of seconds for which the model waited for it."""
        if workers is None:
            workers = 0 if self.sources_in(*blocks) <= FEW else default_decode_workers(minimum=1)
        decoder = decoder_of(extractor.record, max_pixels=extractor.max_pixels)
        batches = batches_of(
            blocks,
            decoder,
            self.listings,
            batch=self.manifest.batch,
            block=self.manifest.block,
            workers=workers,
            pin=extractor.engine.device.type == "cuda",
        )
        with contextlib.closing(batches):
            while True:
                before = time.perf_counter()
                pixels = next(batches, None)
                if pixels is None:
                    return
                FIRST_ONLY.merge(pixels.first_only)
                yield pixels, time.perf_counter() - before

    def _write(self, block: Block, parts: Sequence[Pixels], vectors: Sequence[dict[str, np.ndarray]]) -> pa.Table:
        items = [item for part in parts for item in part.items]
        good = np.array([item.error is None for item in items], bool)
        names = ("width", "height", "hash", "start", "end")
        rows: dict[str, list[Any]] = {name: [getattr(i, name) for i in items if i.error is None] for name in names}
        rows["id"] = [item.source.id for item in items if item.error is None]
        rows["path"] = [path_text(item.source.path) for item in items if item.error is None]
        bad = [Unreadable(i.source.id, path_text(i.source.path), i.hash, i.error) for i in items if i.error is not None]
        if self._check is not None:
            self._check()
        vectors_by_column = {
            c.name: np.concatenate([part[c.name] for part in vectors])[good] for c in self.manifest.columns
        }
        return write_shard(self.folder, block, rows, vectors_by_column, bad, manifest=self.manifest)


def on_devices(
    job: Job,
    blocks: Sequence[Block],
    extractors: Sequence[FeatureExtractor],
    *,
    stop: threading.Event,
    workers: int | None = None,
) -> Generator[Step]:
    """Runs `Job.compute` on several devices, with one thread each. After an error, each stops after its
    current block.
    """
    if len(extractors) == 1:
        yield from job.compute(blocks, extractors[0], stop=stop, workers=workers)
        return
    found: queue.Queue[Step | BaseException | None] = queue.Queue(64)
    if workers is None and job.sources_in(*blocks) > FEW:
        workers = default_decode_workers(minimum=1)
    each = workers and max(workers // len(extractors), 1)

    def work(extractor: FeatureExtractor, mine: Sequence[Block]) -> None:
        try:
            for step in job.compute(mine, extractor, stop=stop, workers=each):
                found.put(step)
            found.put(None)
        except BaseException as error:
            stop.set()
            found.put(error)

    shares = [blocks[n :: len(extractors)] for n in range(len(extractors))]
    threads = [threading.Thread(target=work, args=pair) for pair in zip(extractors, shares, strict=True)]
    for thread in threads:
        thread.start()
    failures: list[BaseException] = []
    ended = 0
    try:
        while ended < len(threads):
            step = found.get()
            if isinstance(step, Step):
                yield step
                continue
            ended += 1
            failures += [step] if step is not None else []
    finally:
        if ended < len(threads):  # the caller takes no more results
            stop.set()
        for thread in threads:
            while thread.is_alive():
                _drain(found)
                thread.join(0.05)
    if failures:
        raise failures[0]


def _drain(steps: queue.Queue[Any]) -> None:
    """Empties the queue, so that no thread waits for space in it after the caller has stopped."""
    with contextlib.suppress(queue.Empty):
        while True:
            steps.get_nowait()
