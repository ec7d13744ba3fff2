"""`embed` computes the features of many images, and writes them as shards. An interrupted run can be resumed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from hierax.arguments import path_texts
from hierax.checkpoint.bundled import FEMTO
from hierax.collection.store import MANIFEST, Block, Manifest, arrow, shard_path
from hierax.console import quantity
from hierax.embedding.cluster import on_cluster, ray_package
from hierax.embedding.extractor import POOLED, FeatureExtractor
from hierax.embedding.job import FEW, Job, Step, on_devices
from hierax.embedding.plan import Claim, check_folder, claim_folder, write_plan
from hierax.embedding.processes import prepare_processes
from hierax.embedding.sources import NoSourcesError, absolute_source, check_input, has_at_most, missing_inputs
from hierax.embedding.update import mark_replaced
from hierax.model.pretrained import Pretrained
from hierax.processing import DEFAULT_MAX_PIXELS
from hierax.processing.frames import FIRST_ONLY
from hierax.reprs.text import never_raises
from hierax.stopping import StopSignal

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK, BATCH = 512, 32


@dataclass(frozen=True)
class EmbedReport:
    """The result of a call of `embed`, and the state of the collection.

    Attributes:
        out: the folder of the collection.
        sources: number of sources in all listings.
        done: number of sources for which this call wrote a row or an error.
        rows: number of valid rows in the collection.
        copies: number of these rows that have the same bytes as an earlier row.
        errors: number of sources that cannot be read (`errors.parquet`).
        gone, replaced: number of rows that an update marked as gone or replaced.
        pending: number of sources in blocks that are not done yet: the blocks belong to other shards, or the run was
            stopped.
        seconds: duration of this call, without loading and listing.
        waited: fraction of this time for which the model waited for pixels.
        stopped: whether a signal stopped the call early.
        signal: the number of that signal, such as `signal.SIGTERM`; None if there was no signal.
    """

    out: Path
    sources: int
    done: int
    rows: int
    copies: int
    errors: int
    gone: int
    replaced: int
    pending: int
    seconds: float
    waited: float
    stopped: bool
    signal: int | None = None

    @never_raises
    def __repr__(self) -> str:
        facts = [
            f"{quantity(self.rows, 'row')} of {quantity(self.sources, 'source')}",
            f"{self.images_per_second:.1f} images/s",
        ]
        facts += [f"{getattr(self, name):,} {name}" for name in ("errors", "pending", "gone") if getattr(self, name)]
        return f"EmbedReport({str(self.out)!r}: {', '.join(facts)}{', stopped' if self.stopped else ''})"

    @property
    def images_per_second(self) -> float:
        """Images per second in this call."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def limit(self) -> str:
        """The bottleneck: "decoding" or "model"."""
        return "decoding" if self.waited > 0.2 else "model"

    def to_dict(self) -> dict[str, Any]:
        """The values as a dict that can be written as JSON."""
        return {
            **asdict(self),
            "out": str(self.out),
            "seconds": round(self.seconds, 3),
            "waited": round(self.waited, 3),
            "images_per_second": round(self.images_per_second, 2),
            "limit": self.limit,
        }


@dataclass
class Progress:
    """The progress of a call.

    Attributes:
        done, total: number of sources.
        errors: number of unreadable sources so far.
        seconds: time since the start.
        waited: seconds for which the model waited for pixels so far.
        stopping: whether a signal arrived; the current block of each device is then the last.
    """

    done: int
    total: int
    errors: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    stopping: bool = False


Sources: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"


def begin(sources: Sources, out: str | os.PathLike[str], *, workers: int | None = None, ray: bool = False) -> list[str]:
    """The steps of `embed` that need no model. It checks the sources and packages, and prepares decoding processes,
    which import packages while the model is loaded.

    Returns:
        The sources as absolute paths or URLs.

    Raises:
        ValueError, CollectionError, ImportError: see `embed`.
    """
    arrow()
    if ray:
        ray_package()
    if not os.fspath(out):
        raise ValueError("out is empty; expected a folder")
    folder = Path(out)
    check_folder(folder)
    known = dict.fromkeys(Manifest.read(folder).inputs if (folder / MANIFEST).exists() else ())
    workers = _workers(workers)
    several = path_texts("sources", sources, "expected paths of images, folders, patterns or lists")
    for given in several:
        check_input(given)
    inputs = [absolute_source(given) for given in several]
    for missing in missing_inputs(given for given in inputs if given not in known):
        raise NoSourcesError(missing, "no such file or folder")
    if workers != 0 and not ray and not (workers is None and has_at_most(inputs or list(known), FEW)):
        prepare_processes()
    return inputs


def embed(
    sources: Sources,
    out: str | os.PathLike[str],
    *,
    model: Pretrained | str | os.PathLike[str] | FeatureExtractor = FEMTO,
    layers: str | Sequence[str] = (POOLED,),
    l2: bool = False,
    half: bool = False,
    size: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    update: bool = False,
    list_columns: Mapping[str, str] | None = None,
    shard: tuple[int, int] = (0, 1),
    ray: bool = False,
    device: str | Sequence[str] = "auto",
    precision: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    batch_size: int = BATCH,
    block_size: int = BLOCK,
    on_table: Callable[[pa.Table], object] | None = None,
    on_progress: Callable[[Progress], object] | None = None,
    on_wait: Callable[[str], object] | None = None,
    on_stop: Callable[[], object] | None = None,
) -> EmbedReport:
    """Writes the features of images, or of the segments of videos, into the folder `out`. If an earlier call was
    interrupted, it resumes.

    Every source is listed once, in the order of the first listing. Each block of `block_size` sources becomes a shard
    (`part-*.parquet`: id, path, width, height, hash, status, embedding), which is written completely or not at all. The
    batches are always the same, so the final collection is the same even if a call was killed. Sources that cannot be
    read are listed in `errors.parquet`.
    A video model writes one row for each segment of a video, with `start` and `end` in seconds. The segments follow
    each other. The last segment repeats its last frame if the video is too short.

    Args:
        sources: one or several, see `list_sources`. For an existing collection, the list may be empty; only `update`
            adds other sources.
        out: the folder of the collection, created if missing.
        model: any Hiera model of images or clips, or a source to load one from (`hierax/femto` is a small model that is
            part of hierax). Or a `FeatureExtractor`; then its settings are used.
        layers, l2, size: see `FeatureExtractor`.
        half: write vectors in float16.
        max_pixels: larger images are an error; None: no limit. Later calls do not remember this value.
        update: list the sources again; embed new and changed sources, and mark rows that are gone or replaced.
        list_columns: {"path": name} if the column of paths in lists, or of images in tables, has another name. Updates
            remember it.
        shard: (i, n): compute only every n-th block, starting with block i, for n processes that share `out`.
        ray: work on a Ray cluster whose machines share `out` and the model; see `hierax.embedding.cluster`.
        device: see `hierax.Engine`. Several devices share the blocks; "auto" means all GPUs, if there are any. With a
            `FeatureExtractor`, the first device is that of the extractor.
        precision, backend, threads: see `hierax.Engine`.
        workers: number of decoding processes. None: the number of cores minus one, from 1 to 16. 0: decode in this
            process; None does the same if there are few sources.
        batch_size, block_size: sources per call of the engine, and per shard; fixed for an existing collection.
        on_table: called with the `pyarrow.Table` of each block after it was written. The order is that of the rows,
            unless several devices or machines write.
        on_progress: called after each batch (on a cluster, after each block).
        on_wait: called with the name of the process that this call waits for.
        on_stop: called by the signal handler when a signal requests the end. The current block is finished after it.

    Returns:
        A report on this call and on the collection.

    Raises:
        ValueError: a source matches no file, or a setting is wrong.
        CollectionError: `out` was made with other settings or from other sources, or is damaged; the message names the
            difference.
        ImportError: pyarrow or ray is missing; the message names the extra.
        OSError: `out` cannot be written; shards that were already written are kept.
    """
    _check(shard, batch_size, block_size)
    folder, inputs = Path(out), begin(sources, out, workers=workers, ray=ray)
    workers = _workers(workers)
    owned = not isinstance(model, FeatureExtractor)
    places = ["auto"] if device == "auto" and not owned else devices(device)
    extractor = (
        model
        if isinstance(model, FeatureExtractor)
        else FeatureExtractor(
            model,
            layers=layers,
            l2=l2,
            size=size,
            device=places[0],
            precision=precision,
            backend=backend,
            threads=threads,
            max_pixels=max_pixels,
        )
    )
    try:
        with claim_folder(folder, on_wait) as claim:
            with claim.turn():
                manifest = write_plan(
                    folder,
                    extractor,
                    inputs,
                    update=update,
                    half=half,
                    batch=batch_size,
                    block=block_size,
                    list_columns=list_columns,
                )
            run = _Run(claim, manifest, extractor, others=places[1:], workers=workers, cluster=ray, threads=threads)
            with FIRST_ONLY.report_at_end():
                return run.report(shard, on_table, on_progress, on_stop)
    finally:
        if owned:
            extractor.close()


class _Run:
    """The part of a job that one call computes, and its results."""

    def __init__(
        self,
        claim: Claim,
        manifest: Manifest,
        extractor: FeatureExtractor,
        *,
        others: Sequence[str],
        workers: int | None,
        cluster: bool,
        threads: int | None,
    ) -> None:
        self.claim, self.job = claim, Job(claim.folder, manifest, check=claim.check)
        self.extractor, self.others, self.workers = extractor, others, workers
        self.cluster, self.threads = cluster, threads

    def report(
        self,
        shard: tuple[int, int],
        on_table: Callable[[pa.Table], object] | None,
        on_progress: Callable[[Progress], object] | None,
        on_stop: Callable[[], object] | None,
    ) -> EmbedReport:
        """Computes the pending blocks of this shard."""
        job = self.job
        pending = set(job.pending())
        mine = [block for n, block in enumerate(job.blocks()) if block in pending and n % shard[1] == shard[0]]
        progress = Progress(0, job.sources_in(*mine))
        done, start = 0, time.perf_counter()
        stop = StopSignal(on_stop or (lambda: None))
        with stop.handle(), contextlib.closing(self._steps(mine, stop)) as steps:
            for step in steps:
                progress.done += step.sources
                progress.errors += step.errors
                progress.waited += step.waited
                progress.seconds, progress.stopping = time.perf_counter() - start, stop.is_set()
                if on_progress is not None:
                    on_progress(progress)
                if step.block is not None:
                    done += job.sources_in(step.block)
                    if on_table is not None:
                        written = shard_path(job.folder, step.block)
                        on_table(arrow().parquet.read_table(written) if step.table is None else step.table)
        seconds = time.perf_counter() - start
        self.claim.check()
        with self.claim.turn():
            left = job.pending()
            counts = mark_replaced(job.folder, job.manifest, job.listings, finished=not left)
            self.claim.remove_leftovers()
        return EmbedReport(
            job.folder,
            sum(map(len, job.listings)),
            done,
            **counts,
            pending=job.sources_in(*left),
            seconds=seconds,
            waited=progress.waited / max(seconds, 1e-9),
            stopped=stop.is_set(),
            signal=stop.number,
        )

    def _steps(self, blocks: Sequence[Block], stop: threading.Event) -> Generator[Step]:
        """Computes these blocks on the devices or the cluster of this call."""
        if not blocks:
            return
        if self.cluster:
            threads = self.threads or torch.get_num_threads()
            yield from on_cluster(self.job, blocks, self.extractor, stop=stop, threads=threads, workers=self.workers)
            return
        with contextlib.ExitStack() as stack:
            others = [
                stack.enter_context(contextlib.closing(self.extractor.clone(device=place)))
                for place in self.others[: len(blocks) - 1]
            ]
            yield from on_devices(self.job, blocks, [self.extractor, *others], stop=stop, workers=self.workers)


def devices(given: str | Sequence[str]) -> list[str]:
    """The requested devices as a list; "auto" means all GPUs if there are several."""
    if given == "auto" and torch.cuda.device_count() > 1:
        return [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    return [given] if isinstance(given, str) else list(given) or ["auto"]


def _check(shard: tuple[int, int], batch: int, block: int) -> None:
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard is {shard[0]}/{shard[1]}; expected i/n with i from 0 to n - 1")
    if batch < 1 or block < 1 or block % batch:
        raise ValueError(
            f"block_size is {block} and batch_size is {batch}; expected a block_size that is a multiple of batch_size, "
            "both above 0"
        )


def _workers(given: int | None) -> int | None:
    """The number of decoding processes. A daemon, such as a process of `multiprocessing.Pool`, cannot start any.

    Raises:
        ValueError: the number is negative, or above 0 in a daemon.
    """
    if given is not None and given < 0:
        raise ValueError(f"workers is {given}; expected 0 or more")
    if not multiprocessing.current_process().daemon:
        return given
    if given:
        raise ValueError(f"workers is {given}, but this process is a daemon and cannot start processes; expected 0")
    return 0
