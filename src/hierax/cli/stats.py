"""`hierax stats`: counts the images of a dataset, and computes mean and standard deviation of each channel."""

from __future__ import annotations

import argparse
import json
from typing import Any

from hierax.cli.columns import add_columns
from hierax.cli.loading import add_max_pixels, count
from hierax.cli.outputs import add_json
from hierax.cli.terminal import say_unreadable
from hierax.console import ProgressDisplay, tell

SUMMARY = "count the images of a dataset; compute mean and standard deviation of each channel"
EPILOG = """Mean and standard deviation of images are given in gray levels divided by 255. Values of arrays are not
scaled. If DATA has train/ and val/, the training set is read. All images are counted as RGB. The line
`modes` shows how they are stored: transparency is drawn on white, and gray becomes three equal channels.
The line `types` shows other types, such as uint16: 16 bits become 8 bits. A model with one channel is
trained on the values as they are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("data", metavar="DATA", help="folder, list, tar shards, Parquet files, .npy, or hub:ID")
    add_columns(parser, "path", "label")
    add_json(parser)
    add_max_pixels(parser)
    parser.add_argument(
        "--workers", type=count, metavar="N", help="number of processes that decode (default: number of cores)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.data.stats import dataset_statistics

    with ProgressDisplay("sample") as display:
        found = dataset_statistics(
            arguments.data,
            workers=arguments.workers,
            max_pixels=arguments.max_pixels,
            columns=arguments.columns,
            on_progress=display.update,
        )
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        values = found.to_dict()
        as_rgb = " (counted as RGB: see --help)" if set(found.modes) - {"RGB"} else ""
        for name, value in values.items():
            if name != "unreadable" and value not in (None, {}, []):
                tell(f"{name:<10} {_shown(value)}{as_rgb if name == 'modes' else ''}")
    say_unreadable(found.unreadable)
    return 0 if not found.unreadable else 3 if found.readable else 2


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return " ".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
