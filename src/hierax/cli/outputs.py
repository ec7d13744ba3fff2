"""Arguments of commands that write files: the names of files and folders, `--json` and `--overwrite`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from hierax.atomic import check_writable
from hierax.cli.terminal import UserError


def output_file(suffixes: Sequence[str], what: str) -> Callable[[str], Path]:
    """A function that checks the name of a file with one of these suffixes, for argparse."""

    def file(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r} is not the name of {what} ({', '.join(suffixes)})")
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r} is a folder; expected a file to write")
        return path

    return file


def output_folder(text: str) -> str:
    """Checks the name of a folder, for argparse. The folder may exist. Names that look like files are refused."""
    known = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".npz", ".npy", ".csv", ".json", ".jsonl", ".parquet", ".html")
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a file; expected a folder to write to")
    if path.suffix.lower() in known and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is the name of a file; expected a folder to write to")
    return text


def add_output_folder(parser: argparse.ArgumentParser) -> None:
    """Declares `-o DIR`, which is required, in the same way for every command that writes files for each input."""
    parser.add_argument(
        "-o", "--output", required=True, type=output_folder, metavar="DIR", help="output folder, created if missing"
    )


def check_output(path: Path, *, overwrite: bool) -> None:
    """Checks that the result can be written to `path`, before the work starts.

    Raises:
        UserError: the file exists, and `overwrite` is False.
        OSError: the file cannot be written.
    """
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path} would be replaced; choose another name, or pass --overwrite")
    check_writable(path)


def add_json(parser: argparse.ArgumentParser, *, lines: bool = False) -> None:
    """Declares `--json`: one object for all results, or with `lines` one object per line."""
    what = "the results as JSON Lines: one object per line" if lines else "the result as one JSON object"
    parser.add_argument("--json", action="store_true", help=f"print {what}")


def add_overwrite(parser: argparse._ActionsContainer) -> None:
    """Declares `--overwrite` and its former name `--force`, in the same way for every command that writes."""
    parser.add_argument("--overwrite", action="store_true", help="replace existing output")
    parser.add_argument("--force", dest="overwrite", action="store_true", help=argparse.SUPPRESS)
