"""`hierax stats`: counts the images of a dataset, and computes mean and standard deviation of each channel."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from hierax.cli.columns import add_columns
from hierax.cli.loading import add_max_pixels, count
from hierax.cli.masks import add_masks, mask_options
from hierax.cli.outputs import add_json
from hierax.cli.terminal import UserError, say_unreadable
from hierax.console import ProgressDisplay, tell

SUMMARY = "count images, or pixels of classes; mean and standard deviation of each channel"
EPILOG = """Mean and standard deviation of images are given in gray levels divided by 255. Values of arrays are not
scaled. If DATA has train/ and val/, the training set is read. All images are counted as RGB. The line
`modes` shows how they are stored: transparency is drawn on white, and gray becomes three equal channels.
The line `types` shows other types, such as uint16: 16 bits become 8 bits. A model with one channel is
trained on the values as they are.
--task segment reads images and masks, and counts the pixels of each class, the images with pixels of it, and
the images without any. `ignored` is the share of pixels without a class (255). --columns label=NAME names the
column of masks."""

TASKS = ("classify", "segment")
"""The choices of `--task`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("data", metavar="DATA", help="folder, list, tar shards, Parquet files, .npy, or hub:ID")
    parser.add_argument(
        "--task",
        choices=TASKS,
        default="classify",
        help="what has classes: images (classify, the default), or pixels (segment: images and masks)",
    )
    add_masks(parser)
    add_columns(parser, "path", "label")
    add_json(parser)
    add_max_pixels(parser)
    parser.add_argument(
        "--workers", type=count, metavar="N", help="number of processes that decode (default: number of cores)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    return _segment(arguments) if arguments.task == "segment" else _classify(arguments)


def _classify(arguments: argparse.Namespace) -> int:
    from hierax.data.stats import dataset_statistics

    given = next((name for name, value in mask_options(arguments).items() if value), None)
    if given is not None:
        raise UserError(f"--{given.replace('_', '-')} is for --task segment; leave it out, or add --task segment")
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
        as_rgb = " (counted as RGB: see --help)" if set(found.modes) - {"RGB"} else ""
        _tell(found.to_dict(), {"modes": as_rgb})
    say_unreadable(found.unreadable)
    return 0 if not found.unreadable else 3 if found.readable else 2


def _segment(arguments: argparse.Namespace) -> int:
    from hierax.data.segmentation.stats import segmentation_statistics

    with ProgressDisplay("image") as display:
        found = segmentation_statistics(
            arguments.data,
            workers=arguments.workers,
            max_pixels=arguments.max_pixels,
            columns=arguments.columns,
            on_progress=display.update,
            **mask_options(arguments),
        )
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        values = found.to_dict()
        pixels, share, images = (values.pop(name) for name in ("pixels", "share", "images"))
        longest = max(map(len, ("class", *pixels)))
        _tell({name: values.pop(name) for name in ("samples", "readable", "validation")}, {}, width=14)
        tell(f"{'class':<{longest}}  {'pixels':>14}  {'share':>7}  {'images':>7}")
        for name, number in pixels.items():
            tell(f"{name:<{longest}}  {number:>14,}  {share[name]:>7.2%}  {images[name]:>7,}")
        _tell({**values, "ignored": f"{found.ignored:.2%}"}, {}, width=14)
    say_unreadable(found.unreadable)
    return 0 if not found.unreadable else 3 if found.readable else 2


def _tell(values: Mapping[str, Any], notes: Mapping[str, str], *, width: int = 10) -> None:
    """Prints a line for each value, with a note after it."""
    for name, value in values.items():
        if name != "unreadable" and value not in (None, {}, []):
            tell(f"{name:<{width}} {_shown(value)}{notes.get(name, '')}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return " ".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
