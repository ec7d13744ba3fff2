"""`hierax bench`: measures how fast engines are on this machine, and compares them with published implementations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.atomic import atomic_write
from hierax.checkpoint.bundled import FEMTO
from hierax.cli.loading import add_batch_size, add_max_pixels, add_threads, positive
from hierax.cli.outputs import add_json, add_overwrite, check_output, output_file
from hierax.console import ProgressDisplay, say

if TYPE_CHECKING:
    from hierax.benchmark import BenchReport, Cell

SUMMARY = "measure speed and memory of engines on the CPU of this machine"
EPILOG = """The command measures an engine for each precision and backend, and the eager model of hierax. With --against
it also measures the other implementations that are installed. All run in turn in one process. Lists are
separated by commas. A variant such as hiera_tiny_224 gets random weights, because speed does not depend on
them. Without --calibration, int8 is calibrated on crops of one photo. This is enough to measure speed, but
not for use. In Python: hierax.bench.

  hierax bench --batch-size 1,8,32 --against all -o bench.json --plot bench.png"""
_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add = parser.add_argument
    add("--model", default=[FEMTO], type=comma_list, metavar="M", help=f"variants, Hub ids, folders or files (default: {FEMTO}, part of the package)")  # noqa: E501  # fmt: skip
    add("--size", type=comma_list, metavar="PIXELS", help="448 or 320x448, rows x columns (default: the model's size)")
    add_batch_size(parser, shown="1,8", type=numbers, default=[1, 8], former="--batch")
    add(
        "--precision",
        type=comma_list,
        metavar="P",
        help="fp32, bf16, int8 (default: fp32, and bf16 if it is fast here)",
    )
    add(
        "--backend",
        default=["auto"],
        type=comma_list,
        metavar="B",
        help="auto (default), torch, compile, openvino or onnxruntime",
    )
    add(
        "--against",
        default=[],
        type=comma_list,
        metavar="L",
        help="transformers, timm, official, or all (those that are installed)",
    )
    add("--against-precision", default="auto", metavar="P", help="precision of the others: fp32, bf16 or auto (default: that of the engine; fp32 for int8)")  # noqa: E501  # fmt: skip
    add("--seconds", type=float, default=20.0, help="minimum seconds for each model, size and batch (default: 20)")
    add("--rounds", type=positive, default=10, help="minimum number of calls of each implementation (default: 10)")
    add_threads(parser)
    add("--calibration", metavar="DIR", help="images for the calibration of int8 (default: crops of one photo)")
    add_max_pixels(parser)
    add("--no-memory", action="store_true", help="do not measure peak memory (it needs one process per implementation)")
    _add_outputs(parser)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--markdown", action="store_true", help="print the tables in Markdown")
    add_json(parser)
    add(
        "-o",
        "--output",
        type=output_file((".json",), "a JSON file"),
        metavar="FILE",
        help="output file (.json) for all numbers",
    )
    add("--plot", type=Path, metavar="FILE", help="draw throughput: .png, .svg or .pdf (needs matplotlib)")
    add_overwrite(parser)


def comma_list(text: str) -> list[str]:
    """Parses a list that is separated by commas, for argparse."""
    entries = [entry.strip() for entry in text.split(",")]
    if not all(entries):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list separated by commas")
    return entries


def numbers(text: str) -> list[int]:
    """Parses whole numbers above 0 that are separated by commas, for argparse."""
    return [positive(entry) for entry in comma_list(text)]


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    _write(_measure(arguments), arguments)
    return 0


def _measure(arguments: argparse.Namespace) -> BenchReport:
    """Measures, if the results can be written."""
    from hierax.benchmark import bench
    from hierax.benchmark.plot import check_plot

    if arguments.plot:
        check_plot(arguments.plot)
    for path in filter(None, (arguments.output, arguments.plot)):
        check_output(path, overwrite=arguments.overwrite)
    with ProgressDisplay() as display:
        return bench(
            arguments.model,
            sizes=arguments.size,
            batches=arguments.batch_size,
            precisions=arguments.precision,
            backends=arguments.backend,
            against=arguments.against,
            against_precision=arguments.against_precision,
            seconds=arguments.seconds,
            rounds=arguments.rounds,
            threads=arguments.threads,
            memory=not arguments.no_memory,
            calibration=arguments.calibration,
            max_pixels=arguments.max_pixels,
            progress=display.step,
        )


def _write(report: BenchReport, arguments: argparse.Namespace) -> None:
    """Prints the report, and writes the files that are asked for."""
    from hierax.benchmark.plot import plot
    from hierax.benchmark.tables import markdown

    if arguments.output:
        with atomic_write(arguments.output) as part:
            part.write_text(report.to_json() + "\n", encoding="utf-8")
    if arguments.plot:
        with atomic_write(arguments.plot) as part:
            plot(report, part)
    if arguments.json:
        print(report.to_json())
    elif arguments.markdown:
        for line in markdown(report):
            print(line)
    else:
        show(report)
    for path in (arguments.output, arguments.plot):
        if path:
            say(f"wrote {path}")


def show(report: BenchReport) -> None:
    """Prints an explanation of the columns, then one table per cell."""
    from rich.console import Console

    from hierax.benchmark.tables import columns_explained, legend

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _WIDTH
    packages = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    console.print(f"{report.machine}\n{packages}", markup=False)
    console.print()
    for line in columns_explained(report):
        console.print(line, style="dim", markup=False)
    for cell in report.cells:
        console.print(f"\n[bold]{cell.title}[/bold]")
        for line in legend(cell):
            console.print(f"  {line}", style="dim", markup=False)
        console.print(table(cell))


def table(cell: Cell) -> object:
    """The table of a cell, as an object of rich."""
    from rich.table import Table

    from hierax.benchmark.tables import COLUMNS, row

    result = Table(box=None, padding=(0, 0, 0, 2), header_style="")
    for name in COLUMNS:
        result.add_column(name, justify="left" if name in ("contender", "", "against") else "right", no_wrap=True)
    for timing in cell.timings:
        result.add_row(*row(timing), style="" if timing.contender.library == "hierax" else "dim")
    return result
