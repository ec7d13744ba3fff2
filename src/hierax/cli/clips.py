"""The argument that sets the number of views of a video."""

from __future__ import annotations

import argparse


def view_counts(text: str) -> tuple[int, int]:
    """Parses `5x3` (clips x crops of each clip), for argparse."""
    clips, mark, crops = text.lower().replace("×", "x").partition("x")
    if not (mark and clips.isdecimal() and crops.isdecimal() and int(clips) and int(crops)):
        raise argparse.ArgumentTypeError(f"{text!r} is not CLIPSxCROPS, such as 5x3")
    return int(clips), int(crops)


def add_views(parser: argparse.ArgumentParser) -> None:
    """Declares `--views`, which `classify` and `evaluate` take."""
    parser.add_argument(
        "--views",
        type=view_counts,
        default=(1, 1),
        metavar="TxS",
        help="for videos: clips x crops of each clip, such as 5x3 (default: 1x1)",
    )
