"""Turns the inputs of a command (files, folders, patterns) into paths of images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hierax.cli.terminal import Tally

if TYPE_CHECKING:
    from hierax.processing import ImageError


def add_images(parser: argparse.ArgumentParser, *, clips: bool = False) -> None:
    """Declares the positional argument for images, or for images and `clips`."""
    name = "FILE" if clips else "IMAGE"
    parser.add_argument("images", nargs="+", metavar=name, help="file, folder (with its subfolders) or pattern")


def tally_of(problems: Iterable[ImageError], *, as_json: bool) -> Tally:
    """A tally with the inputs that are not there or are not images; with `as_json`, it writes an object for each."""
    tally = Tally("" if as_json else "--json lists all")
    for problem in problems:
        tally.add(problem)
        if as_json:
            print(json.dumps({"path": problem.source, "error": problem.problem}), flush=True)
    return tally
