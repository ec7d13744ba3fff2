"""The option `--columns`, which is the same for all commands that read lists."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence


def add_columns(parser: argparse.ArgumentParser, *kinds: str) -> None:
    """Declares `--columns` for these kinds of columns."""
    several = len(kinds) > 1
    parser.add_argument(
        "--columns",
        type=_columns(kinds),
        metavar="path=NAME,label=NAME" if several else "path=NAME",
        help="names of the columns of files (or images) and classes in lists, parquet files and hub:ID, if they are "
        "not usual names such as path, file and label"
        if several
        else "name of the column of paths (or images) in lists, parquet files and hub:ID, if it is not a usual name "
        "such as path, file, url or image",
    )


def _columns(kinds: Sequence[str]) -> Callable[[str], dict[str, str]]:
    """A function that parses `path=foto` or `path=foto,label=art`, for argparse."""

    def read(text: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for part in text.split(",") if len(kinds) > 1 else [text]:  # a name may contain a comma
            kind, equals, name = part.partition("=")
            if equals and kind.strip() in kinds and name and kind.strip() not in found:
                found[kind.strip()] = name
            elif found and not equals:
                last = list(found)[-1]
                found[last] = f"{found[last]},{part}"
            else:
                expected = " or ".join(f"{kind}=NAME" for kind in kinds)
                raise argparse.ArgumentTypeError(f"{text!r} is not {expected}, with the name of a column")
        return found

    return read
