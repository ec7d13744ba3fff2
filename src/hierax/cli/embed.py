"""`hierax embed`: writes the features of many images, or of the segments of videos."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from hierax.checkpoint.bundled import FEMTO
from hierax.cli.columns import add_columns
from hierax.cli.loading import (
    add_batch_size,
    add_device,
    add_max_pixels,
    add_precision,
    add_threads,
    count,
    positive,
    say_license,
)
from hierax.cli.outputs import add_json, output_folder
from hierax.cli.terminal import UserError
from hierax.console import ProgressDisplay, quantity, say, tell

if TYPE_CHECKING:
    from pathlib import Path

    from hierax.collection.store import Manifest
    from hierax.embedding import FeatureExtractor
    from hierax.embedding.run import EmbedReport, Progress

SUMMARY = "write the features of many images or videos into a folder; can be resumed"
EPILOG = """A SOURCE is a file, a folder (with its subfolders), a pattern, a list, a .tar shard, a table with images
(.parquet, hub:ID) or a URL (http, https, and s3://… with fsspec). A list is a .txt file with one path per line,
or a .csv, .jsonl or .parquet file with a column such as path, file, image, video or url. Paths in a list are relative
to its folder.
OUT/data/ contains one row per image: id, path, width, height, hash, status, embedding. OUT/errors.parquet lists
the images that could not be read. Run the same command again to resume. You can then omit SOURCE and --model.
--update embeds new and changed images, marks deleted images, and tries images again that could not be read because of
--max-pixels, a missing package or a server.
A video model embeds videos (extra `video`): one row for each segment of about two seconds, with start and end.

  hierax embed photos/ -o features --model facebook/hiera-tiny-224-in1k-hf
  hierax embed -o features --update            # new, changed and deleted images
  hierax embed photos/ -o features --model … --shard 3/8    # the fourth of eight processes that write to OUT"""
CHANGES = "added, changed or deleted files"
_UNITS = {"image": "images", "segment": "segments"}
_REASONS = 4  # number of reasons to show for unreadable images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _add_features(parser)
    _add_work(parser)
    add_json(parser)


def _add_features(parser: argparse.ArgumentParser) -> None:
    """What is embedded, into what."""
    add = parser.add_argument
    add("sources", nargs="*", metavar="SOURCE", help="file, folder, pattern, list, shard, table or URL")
    add(
        "-o",
        "--output",
        required=True,
        type=output_folder,
        metavar="OUT",
        help="output folder of the collection, created if missing",
    )
    add(
        "--model",
        metavar="M",
        help=f"Hub id, folder, file or export (default: the model of OUT, else {FEMTO}, part of the package)",
    )
    add(
        "--layer",
        action="append",
        metavar="L",
        help="pooled (default), stage1 … stage4, or stage3_map; can be repeated",
    )
    add("--l2", action="store_true", help="normalize vectors to length 1")
    add("--half", action="store_true", help="write float16, not float32")
    add("--size", type=positive, metavar="PIXELS", help="448: side of the square input (default: the model's size)")
    add_max_pixels(parser)
    add("--update", action="store_true", help="embed new and changed images, mark deleted images")
    add_columns(parser, "path")


def _add_work(parser: argparse.ArgumentParser) -> None:
    """Who does the work."""
    add = parser.add_argument
    add(
        "--shard",
        type=_shard,
        default=(0, 1),
        metavar="I/N",
        help="only every N-th block, starting with block I; the first block is 0",
    )
    add("--ray", action="store_true", help="work on a Ray cluster (RAY_ADDRESS, or this machine) that shares OUT")
    add_device(parser, several="; several: cuda:0,cuda:2 (auto uses all GPUs)")
    add_precision(parser)
    add_threads(parser)
    add(
        "--workers",
        type=count,
        metavar="N",
        help="number of processes that decode (default: number of cores minus 1; 0: none)",
    )
    add_batch_size(parser, shown="32, or 4 segments of videos")


def _shard(text: str) -> tuple[int, int]:
    """Parses `3/8`, for argparse."""
    first, slash, second = text.partition("/")
    if not slash or not first.isdecimal() or not second.isdecimal() or int(first) >= int(second):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1")
    return int(first), int(second)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from pathlib import Path

    from hierax.collection.store import MANIFEST, Manifest
    from hierax.embedding import embed
    from hierax.embedding.run import begin, devices

    folder = Path(arguments.output)
    begin(arguments.sources, folder, workers=arguments.workers, ray=arguments.ray)
    before = Manifest.read(folder) if (folder / MANIFEST).exists() else None
    gone = _count_gone(folder) if before and arguments.update else 0
    model = arguments.model or (before.named(folder) if before else FEMTO)
    if before is None and not arguments.sources:
        raise UserError(f"{folder} is a new collection; expected SOURCE, the images to embed")
    places = devices("auto" if arguments.device == "auto" else arguments.device.split(","))
    extractor = _extractor(arguments, model, before, device=places[0])
    _say_model(model, extractor)
    unit = "image" if extractor.record.num_frames is None else "segment"
    batch = arguments.batch_size or (32 if unit == "image" else 4)
    if before and arguments.batch_size not in (None, before.batch):
        say(f"--batch-size is not used: {folder} was started with {before.batch}, and every batch must be the same")
    heading = f"{extractor.precision}, {extractor.engine.backend}"
    # Ray prints the messages of its workers to stdout, where only results belong
    aside = contextlib.redirect_stdout(sys.stderr) if arguments.ray else contextlib.nullcontext()
    with contextlib.closing(extractor), ProgressDisplay(unit) as display, aside:
        report = embed(
            arguments.sources,
            folder,
            model=extractor,
            half=arguments.half or bool(before and before.dtype == "float16"),
            update=arguments.update,
            list_columns=arguments.columns,
            shard=arguments.shard,
            workers=arguments.workers,
            ray=arguments.ray,
            device=places,
            threads=arguments.threads,
            batch_size=batch,
            block_size=batch * 16,
            on_progress=_follow(display, unit, heading),
            on_stop=lambda: _say_stop(unit),
            on_wait=lambda owner: say(f"{owner} is writing the contents of {folder}; waiting for it"),
        )
    return _tell(report, unit, arguments, gone=report.gone - gone)


def _count_gone(folder: Path) -> int:
    """The number of rows of a collection that updates have marked as gone."""
    from hierax.collection.store import GONE, read_texts, shards

    return sum(read_texts(shard, "status")[0].count(GONE) for shard in shards(folder))


def _extractor(arguments: argparse.Namespace, model: str, before: Manifest | None, *, device: str) -> FeatureExtractor:
    """The extractor that the options describe; missing options are taken from an existing collection."""
    from hierax.embedding import FeatureExtractor
    from hierax.embedding.extractor import extractor_like

    given = {"layers": arguments.layer, "l2": arguments.l2}
    given["precision"] = arguments.precision if arguments.precision != "auto" else None
    settings = {name: value for name, value in given.items() if value}
    settings |= {"device": device, "backend": arguments.backend, "threads": arguments.threads}
    settings |= {"max_pixels": arguments.max_pixels}
    if before is None:
        return FeatureExtractor(model, size=arguments.size, **settings)
    return extractor_like(before, model, size=arguments.size, **settings)


def _say_model(model: str, extractor: FeatureExtractor) -> None:
    """Says what a user must know about the model."""
    say_license(model, extractor.license)
    if extractor.untrained_norm and "pooled" in extractor.layers:
        what = "this is the encoder of an MAE; its last norm was not trained"
        if extractor.of_segmentation:
            what = "a segmentation model has no norm at its end, and was trained to tell pixels apart, not images"
        elif extractor.config.is_windowed:
            what = "an encoder of SAM 2 has no norm at its end"
        better = "classifier" if extractor.of_segmentation else "fine-tuned model"
        say(f"{model}: {what}. A {better} may be better")


def _tell(report: EmbedReport, unit: str, arguments: argparse.Namespace, *, gone: int) -> int:
    """Writes the result; returns the exit code. `gone` is the number of rows that this update has marked as gone."""
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        marked = [
            f"{count:,} {name}" for name, count in (("gone", report.gone), ("replaced", report.replaced)) if count
        ]
        shown = f" ({', '.join(marked)})" if marked else ""
        tell(f"{quantity(report.rows, 'row')} in {report.out}{shown}")
    if report.done:
        speed = f"{report.images_per_second:.1f} {_UNITS[unit]}/s, bottleneck: {report.limit}"
        say(f"{quantity(report.done, unit)}, {speed}")
    if report.copies and report.done:
        rows = "row is a copy" if report.copies == 1 else "rows are copies"
        say(f"{report.copies:,} {rows} (the same bytes as another row); hierax duplicates {report.out} lists them")
    if report.errors:
        say(f"{report.errors:,} cannot be read, see {report.out / 'errors.parquet'}: {_reasons(report)}")
    left = quantity(report.pending, unit)
    if report.stopped and report.pending:
        say(f"stopped; {left} left; run the same command again to resume")
        return 128 + (report.signal or signal.SIGINT)
    if report.pending:
        say(f"{left} left, for other shards")
    elif not report.done:
        nothing = f"{quantity(gone, unit)} marked as gone; no other changes" if gone else "no changes"
        say(nothing if arguments.update else f"already complete; use --update to pick up {CHANGES}")
    return 0 if not report.errors else 3 if report.rows else 2


def _reasons(report: EmbedReport) -> str:
    """The reasons why images cannot be read, the most frequent first."""
    from hierax.collection.store import ERRORS, arrow

    errors = arrow().parquet.read_table(report.out / ERRORS, columns=["error"]).column("error").to_pylist()
    counts = Counter(re.split(" \\(|; ", error)[0] for error in errors).most_common()  # without details of one image
    reasons = [f"{reason} ({count:,})" for reason, count in counts[:_REASONS]]
    others = sum(count for _, count in counts[_REASONS:])
    return ", ".join([*reasons, f"other reasons ({others:,})"] if others else reasons)


def _say_stop(unit: str) -> None:
    """Says that the run stops. It writes to the file descriptor, since a signal may interrupt a write to the buffer."""
    with contextlib.suppress(OSError):
        os.write(2, f"\nhierax: finishing the current {unit}s, then stopping; Ctrl-C again stops at once\n".encode())


def _follow(display: ProgressDisplay, unit: str, heading: str) -> Callable[[Progress], None]:
    """Shows the progress of a run with its speed, and the number of sources that cannot be read."""

    def follow(progress: Progress) -> None:
        speed = f"{progress.done / max(progress.seconds, 1e-9):.0f} {_UNITS[unit]}/s"
        unread = f" · {progress.errors:,} unreadable" if progress.errors else ""
        display.update(progress.done, progress.total, f"{speed}{unread} · {heading}")

    return follow
