"""Computes the blocks of a collection on a Ray cluster. Each actor has its own engine, and writes its shards itself."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hierax.collection.store import Block, CollectionError, Manifest
from hierax.embedding.extractor import FeatureExtractor
from hierax.embedding.job import Job, Step
from hierax.embedding.processes import prepare_processes
from hierax.extras import require
from hierax.processing.frames import FIRST_ONLY


def ray_package() -> Any:
    """The package Ray, with its module `ray.data`.

    Raises:
        ImportError: the package is missing; the message names the extra.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_BACKEND_LOG_LEVEL", "fatal"
    )  # actors that are lost start again; Ray would print a long text about each
    require("work on a cluster", "ray")
    import ray
    import ray.data

    return ray


class BlockWorker:
    """An actor with one engine. It computes one block after the other, and writes them into the shared folder.

    Args:
        folder: the collection; it must have this path on every machine.
        manifest: the manifest that the folder must contain.
        extractor: computes the features; it is loaded again on the machine of the actor.
        workers: number of processes that decode.
    """

    def __init__(self, folder: Path, manifest: Manifest, extractor: FeatureExtractor, workers: int) -> None:
        if workers:
            prepare_processes()
        if not folder.is_dir():
            raise CollectionError(
                f"{folder}: the folder does not exist on machine {os.uname().nodename}; a cluster needs a folder "
                "that all its machines share"
            )
        Manifest.read(folder).check_same(manifest, folder=folder)
        self.job, self.extractor, self.workers = Job(folder, manifest), extractor, workers

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Computes and writes one block. If an actor is lost, its block is computed again and replaces the
        same shard.
        """
        block = Block(int(row["listing"]), int(row["number"]))
        FIRST_ONLY.take()  # the earlier entries were already reported
        steps = list(self.job.compute([block], self.extractor, stop=threading.Event(), workers=self.workers))
        sums = {name: sum(getattr(step, name) for step in steps) for name in ("sources", "errors", "waited")}
        return {**row, **sums, "first_only": json.dumps(FIRST_ONLY.take())}


def on_cluster(
    job: Job,
    blocks: Sequence[Block],
    extractor: FeatureExtractor,
    *,
    stop: threading.Event,
    threads: int,
    workers: int | None = None,
) -> Iterator[Step]:
    """Runs `Job.compute` on a cluster, with one actor for each GPU. Without GPUs, there is one for every `threads`
    cores.

    The cluster is the one to which this process is connected, or the one that `RAY_ADDRESS` names, or this machine. An
    actor that is lost is started again and repeats its block. If all processors are of the same kind, the vectors are
    equal to the last bit to those of one machine.

    Raises:
        CollectionError: the folder of the collection does not exist on a machine. Other errors of an actor are raised
            too.
    """
    package = ray_package()
    starts_ray = not package.is_initialized()
    if starts_ray:
        package.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    try:
        _quiet(package)
        resources = package.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        most = gpus or max(cores // threads, 1)
        each = max(cores // gpus, 1) if gpus else min(threads, cores)
        if workers is None:
            workers = max(each - 1, 1)
        rows = [{"listing": block.listing, "number": block.number} for block in blocks]
        done = package.data.from_items(rows, override_num_blocks=len(rows)).map(
            BlockWorker,
            fn_constructor_args=(job.folder, job.manifest, extractor, workers),
            compute=package.data.ActorPoolStrategy(min_size=1, max_size=min(most, len(rows))),
            num_cpus=each,
            num_gpus=1 if gpus else 0,
        )
        for row in done.iter_rows():
            FIRST_ONLY.merge(json.loads(row["first_only"]))
            yield Step(row["sources"], row["errors"], row["waited"], Block(row["listing"], row["number"]))
            if stop.is_set():
                return
    except package.exceptions.RayError as error:
        raise _cause(error) from None
    finally:
        if starts_ray:
            package.shutdown()


def _quiet(package: Any) -> None:
    """Turns off the progress bars and messages of Ray; hierax shows the progress itself."""
    package.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _cause(error: BaseException) -> BaseException:
    """The error that an actor raised, without the wrapper of Ray. An error of Ray itself is cut to its last line."""
    seen: BaseException | None = error
    while seen is not None:
        inner = getattr(seen, "cause", None) or seen.__cause__
        if inner is None:
            break
        seen = inner
    if isinstance(seen, (ValueError, OSError, ImportError)):
        return seen
    return OSError(
        f"the Ray cluster: {str(error).strip().splitlines()[-1]}; written shards are kept; the same call resumes"
    )
