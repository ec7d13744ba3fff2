"""Search in a large collection: time and anonymous memory of exact search, recall and time through faiss.

    python benchmarks/search.py --rows 1000000 --width 768 --folder /tmp/collection

The vectors lie in 2000 clusters of unequal size, in 40 families; each cluster spreads in 32 directions of its own.
Queries are drawn from the same clusters and are no rows of the collection. Memory is `RssAnon` of /proc/self/status
(Linux), looked at every 20 milliseconds: what the process holds itself, without pages of mapped files, which the system
may drop at any time. Each step runs in a process of its own. Needs twice the size of the vectors on the disk, and a
quarter of it for faiss.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hierax.collection.index import Index
from hierax.collection.store import Block, Column, Manifest, source_id, write_shard

BLOCK = 4096
FAMILIES, CLUSTERS, DIRECTIONS = 40, 2000, 32
APART, SPREAD = (
    0.6,
    0.8,
)  # of clusters in a family, and of vectors in a cluster, where families are at a distance of 1.4


class Clusters:
    """Vectors `[count, width]` in clusters; any block of them can be had by its seed."""

    def __init__(self, width: int) -> None:
        generator = np.random.default_rng(0)
        families = generator.standard_normal((FAMILIES, width), dtype=np.float32) / width**0.5
        apart = APART * generator.standard_normal((CLUSTERS, width), dtype=np.float32) / width**0.5
        self._centers = families[np.arange(CLUSTERS) % FAMILIES] + apart
        self._share = generator.dirichlet(np.full(CLUSTERS, 1.5))
        self._directions = generator.standard_normal((CLUSTERS, DIRECTIONS, width), dtype=np.float32) / width**0.5

    def draw(self, count: int, seed: int) -> np.ndarray:
        """float32 `[count, width]`, the same for the same seed."""
        generator = np.random.default_rng([1, seed])
        which = np.sort(generator.choice(CLUSTERS, count, p=self._share))
        steps = generator.standard_normal((count, DIRECTIONS), dtype=np.float32) * SPREAD / DIRECTIONS**0.5
        vectors = self._centers[which]
        for cluster in np.unique(which):
            rows = which == cluster
            vectors[rows] += steps[rows] @ self._directions[cluster]
        return generator.permutation(vectors)


def make(folder: Path, rows: int, width: int) -> dict[str, object]:
    """Writes the collection."""
    clusters, start = Clusters(width), time.perf_counter()
    columns = (Column("embedding", "pooled", (width,), "mean"),)
    manifest = Manifest(
        "made up", "0", {}, {}, columns, False, "float32", "fp32", BLOCK, 32, (), "2026-01-01", "0"
    )  # fmt: skip
    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, rows, BLOCK)):
        count = min(BLOCK, rows - first)
        paths = [f"/pictures/{first + i:09}.jpg" for i in range(count)]
        ids = [source_id(path) for path in paths]
        named = {"id": ids, "path": paths, "width": [500] * count, "height": [375] * count, "hash": ids}
        write_shard(folder, Block(0, number), named, {"embedding": clusters.draw(count, number)}, [], manifest=manifest)
    manifest.write(folder)
    return {"seconds": time.perf_counter() - start}


@contextlib.contextmanager
def watched() -> Iterator[list[float]]:
    """The most anonymous memory so far, in megabytes, as the only entry of a list."""
    peak, done = [0.0], threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            status = Path("/proc/self/status").read_text()
            held = next(line for line in status.splitlines() if line.startswith("RssAnon"))
            peak[0] = max(peak[0], int(held.split()[1]) / 1024)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def exact(folder: Path, rows: int, width: int) -> dict[str, object]:
    """Opens the collection, which maps its vectors the first time, and searches it exactly."""
    found: dict[str, object] = {}
    queries = Clusters(width).draw(256, 10**6)
    with watched() as peak:
        start = time.perf_counter()
        index = Index(folder)
        found["open_seconds"] = time.perf_counter() - start
        assert len(index) == rows
        for count in (1, 32, 256):
            times = []
            for _ in range(3 if count < 256 else 1):
                start = time.perf_counter()
                index.search(queries[:count], 10)
                times.append(time.perf_counter() - start)
            found[f"seconds_for_{count}"] = float(np.median(times))
        found["anonymous_mb"] = peak[0]
    return found


def build(folder: Path, rows: int, width: int) -> dict[str, object]:
    """Makes the approximate index."""
    with watched() as peak:
        start = time.perf_counter()
        report = Index(folder).build(approximate=True)
        return {"seconds": time.perf_counter() - start, "anonymous_mb": peak[0], "report": str(report)}


def approximate(folder: Path, rows: int, width: int) -> dict[str, object]:
    """Searches by it, and compares with exact search, for queries that are no rows."""
    queries = Clusters(width).draw(256, 10**6)
    with watched() as peak:
        index = Index(folder)
        index.search(queries[:1], 10, approximate=True)
        times, found = [], []
        for query in queries:  # one by one: together they would find each other's
            start = time.perf_counter()
            found += index.search(query[None], 10, approximate=True)
            times.append(time.perf_counter() - start)
        memory = peak[0]
    truth = index.search(queries, 10, approximate=False)
    same = sum(len({h.id for h in a} & {h.id for h in b}) for a, b in zip(found, truth, strict=True))
    return {"recall": same / (10 * len(queries)), "median_seconds": float(np.median(times)), "anonymous_mb": memory}


STEPS = {"make": make, "exact": exact, "again": exact, "build": build, "approximate": approximate}


def main() -> None:
    """Runs the steps and prints what they measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--folder", type=Path, required=True, help="a folder that is not there yet; deleted at the end")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(STEPS[arguments.step](arguments.folder, arguments.rows, arguments.width)))
        return
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} is there already")
    try:
        for step in STEPS:
            command = [sys.executable, __file__, *sys.argv[1:], "--step", step]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            print(step, done.stdout.strip(), flush=True)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
