"""The options that say how masks are read, which are the same for all commands on data for segmentation."""

from __future__ import annotations

import argparse
import os
from typing import Any


def add_masks(parser: argparse.ArgumentParser) -> None:
    """Declares `--classes`, `--reduce-labels` and `--colors`."""
    parser.add_argument(
        "--classes",
        type=_classes,
        metavar="NAMES",
        help="segmentation: names of the classes by their numbers, with commas, or a file with a name per line",
    )
    parser.add_argument(
        "--reduce-labels",
        action="store_true",
        help="segmentation: 0 in a mask means no class, and 1 is the first class, as in ADE20K",
    )
    parser.add_argument(
        "--colors",
        type=_colors,
        metavar="FILE",
        help="segmentation: a file with a line name,red,green,blue per class, for masks in color",
    )


def mask_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of the options, as arguments of functions."""
    return {name: getattr(arguments, name) for name in ("classes", "reduce_labels", "colors")}


def _colors(text: str) -> dict[str, tuple[int, int, int]]:
    """The color of each class in a file."""
    from hierax.data.segmentation.class_tables import read_colors

    try:
        return read_colors(text)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _classes(text: str) -> tuple[str, ...]:
    """The names in a file, or in a text with commas."""
    from hierax.data.segmentation.class_tables import read_class_names

    try:
        names = read_class_names(text) if os.path.isfile(text) else tuple(text.split(","))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    found = tuple(name.strip() for name in names if name.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} has no names; expected names with commas, or a file of names")
    return found
