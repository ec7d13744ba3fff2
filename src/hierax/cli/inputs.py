"""Turns the inputs of a command (files, folders, patterns) into paths of images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def add_images(parser: argparse.ArgumentParser, *, clips: bool = False) -> None:
    """Declares the positional argument for images, or for images and `clips`."""
    name = "FILE" if clips else "IMAGE"
    parser.add_argument("images", nargs="+", metavar=name, help="file, folder (with its subfolders) or pattern")
