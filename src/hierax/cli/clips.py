"""The argument for the number of views of a video."""

from __future__ import annotations

import argparse


def view_counts(text: str) -> tuple[int, int]:
    """Windows x crops, for argparse."""
    windows, mark, crops = text.lower().replace("×", "x").partition("x")
    if not (mark and windows.isdecimal() and crops.isdecimal() and int(windows) and int(crops)):
        raise argparse.ArgumentTypeError(f"{text!r} is not WINDOWSxCROPS, such as 5x3")
    return int(windows), int(crops)
