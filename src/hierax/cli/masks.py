"""The options that say how masks are read, which are the same for all commands on data for segmentation."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
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
    """The color of each class in a file: a line name,red,green,blue for each."""
    try:
        rows = list(csv.reader(Path(text).read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise argparse.ArgumentTypeError(f"{text} is not a file of colors: {error}") from None
    found: dict[str, tuple[int, int, int]] = {}
    for number, row in enumerate(rows, start=1):
        values = [value.strip() for value in row[1:]]
        if not row or (number == 1 and values == ["red", "green", "blue"]):
            continue
        if len(values) != 3 or not all(value.isdecimal() and int(value) <= 255 for value in values):
            raise argparse.ArgumentTypeError(f"{text}, line {number}: expected name,red,green,blue, from 0 to 255 each")
        if row[0].strip() in found:
            raise argparse.ArgumentTypeError(f"{text}, line {number}: the class {row[0].strip()!r} has a color already")
        red, green, blue = map(int, values)
        found[row[0].strip()] = (red, green, blue)
    if not found:
        raise argparse.ArgumentTypeError(f"{text} has no colors; expected a line name,red,green,blue for each class")
    return found


def _classes(text: str) -> tuple[str, ...]:
    """The names in a file, one per line, or in a text with commas."""
    path = Path(text)
    try:
        names = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} is not a file of names: {error}") from None
    found = tuple(name.strip() for name in names if name.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} has no names; expected names with commas, or a file of names")
    return found
