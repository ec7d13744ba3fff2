"""`hierax embed`: the features of many pictures."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from hierax.cli.loading import licence_line, named, positive
from hierax.cli.terminal import UserError, say

if TYPE_CHECKING:
    from hierax.embedding.run import EmbedReport, Progress

SUMMARY = "write the features of many pictures; goes on where it was interrupted"
EXAMPLE = "facebook/hiera-tiny-224-in1k-hf"
EPILOG = """SOURCES are files, folders (searched to their depths), patterns, lists (.txt; .csv or .parquet with a
column of paths), .tar shards, tables with images (.parquet, hub:ID) or URLs (s3://…, what fsspec opens).
OUT/data/ then holds one row per picture: id, path, width, height, hash, status, embedding. What cannot be read is in
OUT/errors.parquet. The same line again goes on where it stopped; SOURCES and --model may then be left out.

  hierax embed photos/ -o features --model facebook/hiera-tiny-224-in1k-hf
  hierax embed -o features --update            # only what is new or has changed; marks what is gone
  hierax embed photos/ -o features --model … --shard 3/8    # the fourth of eight processes that share OUT"""
_EVERY = 30.0  # seconds between lines where stderr is no terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add = parser.add_argument
    add("sources", nargs="*", metavar="SOURCE", help="file, folder, pattern, list, shard, table or URL")
    add("-o", "--output", required=True, metavar="OUT", help="folder of the collection, made if missing")
    add("--model", metavar="M", help=f"Hub id, folder or file, such as {EXAMPLE} (default: that of OUT)")
    add(
        "--layer",
        action="append",
        metavar="L",
        help="pooled (default), stage1 … stage4, or stage3_map; may be repeated",
    )
    add("--l2", action="store_true", help="vectors of length 1")
    add("--half", action="store_true", help="write float16")
    add("--size", type=positive, metavar="PIXELS", help="side of the square the model sees (default: its own)")
    add("--update", action="store_true", help="embed what is new or has changed, mark what is gone")
    add("--shard", type=_shard, default=(0, 1), metavar="I/N", help="every N-th block only, from the I-th (from 0) on")
    add("--ray", action="store_true", help="work on a Ray cluster (RAY_ADDRESS, or this machine) that shares OUT")
    add("--device", default="auto", metavar="D", help="auto (default: all GPUs), cpu, cuda:0,cuda:2, …")
    add("--precision", default="auto", metavar="P", help="auto (default), fp32, bf16, fp16 or int8")
    add("--backend", default="auto", metavar="B", help="auto (default), torch, openvino or onnxruntime")
    add("--threads", type=positive, metavar="N", help="of the CPU (default: PyTorch's number)")
    add("--workers", type=int, metavar="N", help="processes that decode (default: one per core but one)")
    add("--batch-size", type=positive, default=32, metavar="N", help="pictures per call (default: 32)")
    add("--json", action="store_true", help="write one JSON object")


def _shard(text: str) -> tuple[int, int]:
    """`3/8`, for argparse."""
    first, slash, second = text.partition("/")
    if not slash or not first.isdecimal() or not second.isdecimal() or int(first) >= int(second):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1")
    return int(first), int(second)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from pathlib import Path

    from hierax.embedding import FeatureExtractor, embed
    from hierax.embedding.cluster import ray_package
    from hierax.embedding.decode import prepare_processes
    from hierax.embedding.run import devices
    from hierax.embedding.store import MANIFEST, Manifest, arrow

    arrow()
    folder = Path(arguments.output)
    before = Manifest.read(folder) if (folder / MANIFEST).exists() else None
    model = named(arguments.model or (before and before.named(folder)), example=EXAMPLE)
    if before is None and not arguments.sources:
        raise UserError(f"{folder} is a new collection; name the pictures to embed")
    if arguments.ray:
        ray_package()  # says what is missing before the model is loaded
    elif arguments.workers != 0:
        prepare_processes()  # they import while it is
    places = devices("auto" if arguments.device == "auto" else arguments.device.split(","))
    layers = arguments.layer or ([c.layer for c in before.columns] if before else ["pooled"])
    extractor = FeatureExtractor(
        model, layers=layers, l2=arguments.l2 or bool(before and before.l2), size=arguments.size,
        device=places[0], precision=arguments.precision, backend=arguments.backend, threads=arguments.threads,
    )  # fmt: skip
    say(licence_line(model, extractor.license))
    if extractor.untrained_norm and "pooled" in layers:
        say(f"{model}: a MAE's encoder, whose last norm was never trained; a fine-tuned model may serve better")
    half = arguments.half or bool(before and before.dtype == "float16")
    heading = f"{extractor.name} ({extractor.precision}, {extractor.engine.backend})"
    # Ray prints what it has to say of workers where results belong
    aside = contextlib.redirect_stdout(sys.stderr) if arguments.ray else contextlib.nullcontext()
    with contextlib.closing(extractor), _follow(heading) as follow, aside:
        report = embed(
            arguments.sources, folder, model=extractor, half=half,
            update=arguments.update, shard=arguments.shard, workers=arguments.workers, ray=arguments.ray,
            device=places, threads=arguments.threads,
            batch_size=arguments.batch_size, block_size=arguments.batch_size * 16, on_progress=follow,
        )  # fmt: skip
    return _tell(report, as_json=arguments.json)


def _tell(report: EmbedReport, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        marked = [
            f"{count:,} {name}" for name, count in (("gone", report.gone), ("replaced", report.replaced)) if count
        ]
        shown = f" ({', '.join(marked)})" if marked else ""
        print(f"{report.rows:,} rows in {report.out}{shown}")
    if report.done:
        say(f"{report.done:,} pictures, {report.images_per_second:.1f} images/s, limited by {report.limit}")
    if report.errors:
        say(f"{report.errors:,} cannot be read: {report.out / 'errors.parquet'}")
    if report.stopped:
        say(f"stopped; {report.pending:,} pictures are left, the same command goes on")
        return 130
    if report.pending:
        say(f"{report.pending:,} pictures are left to other shards")
    return 0 if not report.errors else 3 if report.rows else 2


@contextlib.contextmanager
def _follow(heading: str) -> Iterator[Callable[[Progress], None]]:
    """What shows where a run is: a bar on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        told = [time.monotonic()]

        def line(progress: Progress) -> None:
            if time.monotonic() - told[0] >= _EVERY:
                told[0] = time.monotonic()
                say(f"{progress.done:,} of {progress.total:,} {_numbers(progress)}")

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns: Any = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"embedding with {heading}", total=None, numbers="")

        def show(progress: Progress) -> None:
            text = f"embedding {progress.total:,} pictures with {heading}"
            bar.update(
                task, description=text, total=progress.total, completed=progress.done, numbers=_numbers(progress)
            )

        yield show


def _numbers(progress: Progress) -> str:
    speed = progress.done / max(progress.seconds, 1e-9)
    unreadable = f"  {progress.errors:,} unreadable" if progress.errors else ""
    left = (progress.total - progress.done) / max(speed, 1e-9)
    rest = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
    return f"{speed:.0f} img/s  {rest} left{unreadable}"
