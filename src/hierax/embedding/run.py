"""`embed`: many pictures in, shards of features out; what is interrupted goes on, and nothing is there twice."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hierax
from hierax.embedding.decode import Decoder, Pixels, batches_of, prepare_processes
from hierax.embedding.features import POOLED, FeatureExtractor
from hierax.embedding.sources import Listing, list_sources, listing_path, listings, located
from hierax.embedding.store import MANIFEST, Block, CollectionError, Manifest, Unreadable, arrow, shards, write_shard
from hierax.embedding.update import changed_sources, settle
from hierax.pretrained import Pretrained

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger("hierax.embedding")
BLOCK, BATCH = 512, 32
_MOST_WORKERS = 16
_FEW = 256  # sources that are decoded sooner than processes for them have started


@dataclass(frozen=True)
class EmbedReport:
    """What a call of `embed` did, and what the collection holds.

    Attributes:
        out: the collection.
        sources: in all listings.
        done: sources of which this call made rows or errors.
        rows: that stand in the collection.
        errors: sources that cannot be read (`errors.parquet`).
        gone, replaced: rows that an update marked so.
        pending: sources whose blocks are not done yet: other shares', or the run was stopped.
        seconds: of this call, without loading and listing.
        waited: share of them without pixels to compute on.
        stopped: whether a signal ended it early.
    """

    out: Path
    sources: int
    done: int
    rows: int
    errors: int
    gone: int
    replaced: int
    pending: int
    seconds: float
    waited: float
    stopped: bool

    @property
    def images_per_second(self) -> float:
        """Speed of this call."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def limit(self) -> str:
        """What limited the speed: "decoding" or "the model"."""
        return "decoding" if self.waited > 0.2 else "the model"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            **asdict(self), "out": str(self.out), "images_per_second": round(self.images_per_second, 2),
            "limit": self.limit,
        }  # fmt: skip


@dataclass
class Progress:
    """Where a call is.

    Attributes:
        done, total: sources.
        errors: that could not be read so far.
        seconds, waited: so far.
    """

    done: int
    total: int
    errors: int = 0
    seconds: float = 0.0
    waited: float = 0.0


def embed(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    model: Pretrained | str | os.PathLike[str] | FeatureExtractor,
    layers: Sequence[str] = (POOLED,),
    l2: bool = False,
    half: bool = False,
    size: int | None = None,
    update: bool = False,
    shard: tuple[int, int] = (0, 1),
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    batch_size: int = BATCH,
    block_size: int = BLOCK,
    on_table: Callable[[pa.Table], object] | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> EmbedReport:
    """Writes the features of pictures into the folder `out`, and goes on where an earlier call was interrupted.

    Every source is listed once, in the order of the first listing. Blocks of `block_size` sources become shards
    (`part-*.parquet`: id, path, width, height, hash, status, embedding), whole or not at all, always in the same
    batches: whenever a call was killed, the collection ends the same. What cannot be read is in `errors.parquet`.

    Args:
        sources: see `list_sources`; of a collection that exists they may be left out, and only `update` adds others.
        out: made if missing.
        model: any Hiera model of pictures, a source to load one from, or a `FeatureExtractor`, whose settings count.
        layers, l2, size: see `FeatureExtractor`.
        half: write vectors in float16.
        update: list again; embed what is new or whose bytes have changed, mark what is gone or replaced.
        shard: (i, n): do every n-th block only, from the i-th on, for n processes that share `out`.
        device, precision, backend, threads: see `hierax.Engine`.
        workers: processes that decode; None is one per core but one, at least one, at most 16; 0 decodes here, as
            None does where sources are few.
        batch_size, block_size: sources per call of the engine, per shard; an existing collection keeps its own.
        on_table: called with the `pyarrow.Table` of each block after it was written.
        on_progress: called after each batch.

    Returns:
        What was done.

    Raises:
        ValueError: sources that stand for nothing; bad settings.
        CollectionError: `out` was made in another way or of other sources, or is damaged; names what differs.
        ImportError: pyarrow is missing; names the extra.
        OSError: `out` cannot be written; what was written before stays.
    """
    arrow()
    _check(shard, batch_size, block_size)
    folder = Path(out)
    _check_folder(folder)
    if workers != 0:
        prepare_processes()
    owned = not isinstance(model, FeatureExtractor)
    extractor = model if isinstance(model, FeatureExtractor) else FeatureExtractor(
        model, layers=layers, l2=l2, size=size, device=device, precision=precision, backend=backend, threads=threads
    )  # fmt: skip
    try:
        inputs = [located(os.fspath(source)) for source in sources]
        manifest = _manifest(folder, extractor, inputs, half=half, batch=batch_size, block=block_size)
        others = [given for given in inputs if given not in manifest.inputs]
        if others and not update:
            raise CollectionError(f"{folder} is of other sources than {others[0]}; update adds it (--update)")
        if others:
            manifest = replace(manifest, inputs=(*manifest.inputs, *others))
        _list(folder, manifest, update=update)
        job = _Job(folder, manifest, extractor, workers=workers)
        return job.run(shard, on_table, on_progress)
    finally:
        if owned:
            extractor.close()


def _check(shard: tuple[int, int], batch: int, block: int) -> None:
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard is {shard[0]}/{shard[1]}; expected i/n with i from 0 to n - 1")
    if batch < 1 or block < 1 or block % batch:
        raise ValueError(f"block_size is {block} and batch_size {batch}; expected a multiple of it, both above 0")


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise CollectionError(f"{folder} is a file; expected a folder")
    if folder.is_dir() and not (folder / MANIFEST).exists() and any(folder.iterdir()):
        raise CollectionError(f"{folder} is not empty and holds no collection ({MANIFEST} is missing)")


def _manifest(
    folder: Path, extractor: FeatureExtractor, inputs: Sequence[str], *, half: bool, batch: int, block: int
) -> Manifest:
    """The collection's, made if there is none.

    Raises:
        CollectionError: it is of other weights or settings.
    """
    before = Manifest.read(folder) if (folder / MANIFEST).exists() else None
    manifest = Manifest(
        model=extractor.name,
        weights=extractor.weights,
        config=extractor.config.to_dict(),
        preprocessing=extractor.record.to_dict(),
        columns=extractor.columns,
        l2=extractor.l2,
        dtype="float16" if half else "float32",
        precision=extractor.precision,
        block=before.block if before else block,
        batch=before.batch if before else batch,
        inputs=before.inputs if before else tuple(inputs),
        created=before.created if before else datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=before.version if before else hierax.__version__,
    )
    if before is not None:
        before.check_same(manifest, folder=folder)
        return before
    if not inputs:
        raise ValueError(f"{folder} is a new collection; expected sources for it")
    return manifest


def _list(folder: Path, manifest: Manifest, *, update: bool) -> None:
    """Has manifest and listings written; what is wrong with sources is said before."""
    if not listings(folder):
        listing = Listing(list_sources(manifest.inputs))
        folder.mkdir(parents=True, exist_ok=True)
        manifest.write(folder)
        listing.write(listing_path(folder, 0))
    elif update:
        found = changed_sources(folder, manifest, list_sources(manifest.inputs))
        manifest.write(folder)
        if found:
            Listing(found).write(listing_path(folder, len(listings(folder))))


class _Job:
    """Blocks of a collection, computed one after the other."""

    def __init__(self, folder: Path, manifest: Manifest, extractor: FeatureExtractor, *, workers: int | None) -> None:
        self.folder, self.manifest, self.extractor, self.workers = folder, manifest, extractor, workers
        self.listings = [Listing.read(path) for path in listings(folder)]
        self.decoder = Decoder(extractor.record)

    def blocks(self) -> list[Block]:
        """All blocks, in the order of the rows."""
        size = self.manifest.block
        return [Block(i, n) for i, one in enumerate(self.listings) for n in range(-(-len(one) // size))]

    def sources_in(self, block: Block) -> int:
        """How many sources a block has."""
        return min(self.manifest.block, len(self.listings[block.listing]) - block.number * self.manifest.block)

    def pending(self) -> list[Block]:
        """Blocks without a shard."""
        there = {path.name for path in shards(self.folder)}
        return [block for block in self.blocks() if block.file not in there]

    def run(
        self, shard: tuple[int, int], on_table: Callable[[pa.Table], object] | None,
        on_progress: Callable[[Progress], object] | None,
    ) -> EmbedReport:  # fmt: skip
        """Does this share's blocks that are not done."""
        pending = set(self.pending())
        mine = [block for n, block in enumerate(self.blocks()) if block in pending and n % shard[1] == shard[0]]
        progress = Progress(0, sum(map(self.sources_in, mine)))
        start = time.perf_counter()
        with _stopping() as stop:
            done = self._embed(mine, progress, start, stop, on_table, on_progress) if mine else 0
        seconds = time.perf_counter() - start
        left = self.pending()
        counts = settle(self.folder, self.manifest, self.listings, finished=not left)
        return EmbedReport(
            self.folder, sum(map(len, self.listings)), done, **counts, pending=sum(map(self.sources_in, left)),
            seconds=seconds, waited=progress.waited / max(seconds, 1e-9), stopped=stop.is_set(),
        )  # fmt: skip

    def _embed(
        self, blocks: Sequence[Block], progress: Progress, start: float, stop: threading.Event,
        on_table: Callable[[pa.Table], object] | None, on_progress: Callable[[Progress], object] | None,
    ) -> int:  # fmt: skip
        """Computes and writes blocks; returns how many sources were done."""
        done, parts, vectors = 0, [], []
        for pixels in self._batches(blocks, progress):
            vectors.append(self.extractor(pixels.pixels))
            parts.append(pixels)
            progress.done += len(pixels.items)
            progress.errors += sum(item.error is not None for item in pixels.items)
            progress.seconds = time.perf_counter() - start
            if on_progress is not None:
                on_progress(progress)
            if sum(len(part.items) for part in parts) < self.sources_in(pixels.block):
                continue
            table = self._write(pixels.block, parts, vectors)
            done += self.sources_in(pixels.block)
            parts, vectors = [], []
            if on_table is not None:
                on_table(table)
            if stop.is_set():
                break
        return done

    def _batches(self, blocks: Sequence[Block], progress: Progress) -> Iterator[Pixels]:
        """Batches, with the time that they were waited for."""
        manifest = self.manifest
        few = sum(map(self.sources_in, blocks)) <= _FEW
        workers = self.workers if self.workers is not None else 0 if few else _workers()
        batches = batches_of(
            blocks, self.decoder, self.listings, batch=manifest.batch, block=manifest.block, workers=workers,
            pin=self.extractor.engine.device.type == "cuda",
        )  # fmt: skip
        while True:
            before = time.perf_counter()
            try:
                found = next(batches, None)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise OSError(
                    "a process that decodes was killed (is the memory full? fewer workers need less); what was written "
                    "stays, the same call goes on"
                ) from error
            if found is None:
                return
            progress.waited += time.perf_counter() - before
            yield found

    def _write(self, block: Block, parts: Sequence[Pixels], vectors: Sequence[dict[str, np.ndarray]]) -> pa.Table:
        items = [item for part in parts for item in part.items]
        good = np.array([item.error is None for item in items], bool)
        names = ("width", "height", "hash")
        rows: dict[str, list[Any]] = {name: [getattr(i, name) for i in items if i.error is None] for name in names}
        rows["id"] = [item.source.id for item in items if item.error is None]
        rows["path"] = [shown(item.source.path) for item in items if item.error is None]
        bad = [Unreadable(i.source.id, shown(i.source.path), i.hash, i.error) for i in items if i.error is not None]
        whole = {c.name: np.concatenate([part[c.name] for part in vectors])[good] for c in self.manifest.columns}
        return write_shard(self.folder, block, rows, whole, bad, manifest=self.manifest)


def shown(path: str) -> str:
    """A path as text; file names need not be valid, what is not is shown as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """What SIGINT and SIGTERM set: the block is finished first; a second SIGINT ends the run at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _: object) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _workers() -> int:
    allowed = getattr(os, "sched_getaffinity", None)  # of Linux alone
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return min(max(cores - 1, 1), _MOST_WORKERS)
