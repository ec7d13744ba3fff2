"""The blocks of a collection: which are done, and how one or several devices compute the others."""

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
"""Up to this number of sources, decoding here is faster than starting processes."""

NOT_FINITE = "the model's features are not finite"


@dataclass
class Step:
    """One step of progress: a batch, or a whole block if batches are not reported.

    Attributes:
        sources, errors: how many, and how many of them could not be read.
        waited: seconds in which the model waited for pixels.
        block: the block that this step finished and wrote. table: its rows, if available.
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
        manifest: how it is made.
        check: called before each block is written; raises an error to prevent that.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, check: Callable[[], object] | None = None) -> None:
        self.folder, self.manifest, self._check = folder, manifest, check
        self._told = False  # that features are not finite
        self.listings = [Listing.read(path) for path in listings(folder)]

    def blocks(self) -> list[Block]:
        """All blocks, in the order of the rows."""
        size = self.manifest.block
        return [Block(i, n) for i, one in enumerate(self.listings) for n in range(-(-len(one) // size))]

    def sources_in(self, *blocks: Block) -> int:
        """How many sources these blocks have."""
        size = self.manifest.block
        return sum(min(size, len(self.listings[block.listing]) - block.number * size) for block in blocks)

    def pending(self) -> list[Block]:
        """Blocks without a shard."""
        there = {path.name for path in shards(self.folder)}
        return [block for block in self.blocks() if block.file not in there]

    def compute(
        self, blocks: Sequence[Block], extractor: FeatureExtractor, *, stop: threading.Event, workers: int | None = None
    ) -> Generator[Step]:
        """Computes and writes blocks, one after the other; after `stop` is set, ends with the current block.

        Raises:
            OSError: the shard cannot be written, or a process that decodes was killed.
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
        """Features of a batch, by column; items whose features are not finite are marked as such."""
        count, columns = len(pixels.items), self.manifest.columns
        if all(item.error is not None for item in pixels.items):  # nothing to compute on
            return {column.name: np.zeros((count, column.width), np.float32) for column in columns}
        found = extractor(pixels.pixels)
        if any(len(found[column.name]) != count for column in columns):
            raise MemoryError(f"the model answered for fewer than the {count} images that it was given")
        with np.errstate(over="ignore"):
            kept = [found[column.name].astype(self.manifest.dtype, copy=False) for column in columns]
        finite = np.logical_and.reduce([np.isfinite(vectors).all(1) for vectors in kept])
        for place in np.flatnonzero(~finite):
            item = pixels.items[place]
            if item.error is None:
                pixels.items[place] = replace(item, error=NOT_FINITE)
                self._say_not_finite(item)
        return found

    def _say_not_finite(self, item: Item) -> None:
        if not self._told:
            self._told = True
            path = path_text(item.source.path)
            notify(f"{NOT_FINITE} for {path}, and maybe others; they are errors, not rows (is the model damaged?)")

    def _batches(
        self, blocks: Sequence[Block], extractor: FeatureExtractor, workers: int | None
    ) -> Generator[tuple[Pixels, float]]:
        """Yields each batch, and the seconds for which the model waited for it."""
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
                found = next(batches, None)
                if found is None:
                    return
                FIRST_ONLY.merge(found.first_only)
                yield found, time.perf_counter() - before

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
        whole = {c.name: np.concatenate([part[c.name] for part in vectors])[good] for c in self.manifest.columns}
        return write_shard(self.folder, block, rows, whole, bad, manifest=self.manifest)


def on_devices(
    job: Job,
    blocks: Sequence[Block],
    extractors: Sequence[FeatureExtractor],
    *,
    stop: threading.Event,
    workers: int | None = None,
) -> Generator[Step]:
    """`Job.compute` on several devices, a thread for each. An error of one ends all after their current blocks."""
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
        if ended < len(threads):  # nobody takes what they find any more
            stop.set()
        for thread in threads:
            while thread.is_alive():
                _drain(found)
                thread.join(0.05)
    if failures:
        raise failures[0]


def _drain(steps: queue.Queue[Any]) -> None:
    """Releases threads that wait for space in the queue when nobody takes their results."""
    with contextlib.suppress(queue.Empty):
        while True:
            steps.get_nowait()
