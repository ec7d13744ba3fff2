"""Arguments of commands that load a model, and the message about the license of its weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.checkpoint.bundled import FEMTO
from hierax.console import say

if TYPE_CHECKING:
    from hierax.predict.predictor import Predictor


MAX_PIXELS = 178_956_970  # a copy of hierax.processing.DEFAULT_MAX_PIXELS: importing it would import numpy for --help


def positive(text: str) -> int:
    """Parses a whole number above 0, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def count(text: str) -> int:
    """Parses a whole number, 0 or more, for argparse."""
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def seed(text: str) -> int:
    """Parses a seed of random numbers, for argparse."""
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed; expected a whole number from 0 to {(1 << 32) - 1:,}")
    return int(text)


def pixel_size(text: str) -> int | tuple[int, ...]:
    """Parses `448` or `320x448` (rows x columns), for argparse."""
    sides = text.lower().replace("×", "x").split("x")
    if not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; expected 448, or 320x448 (rows x columns)")
    return int(text) if len(sides) == 1 else tuple(int(side) for side in sides)


def add_model(parser: argparse.ArgumentParser, *, default: str = FEMTO) -> None:
    """Declares `--model`, `--size`, `--device`, `--precision`, `--backend` and `--batch-size`."""
    parser.add_argument(
        "--model",
        default=default,
        metavar="M",
        help=f"Hub id, folder, file or export (default: {default}, part of the package)",
    )
    add_size(parser)
    add_device(parser)
    add_precision(parser)
    add_max_pixels(parser)
    add_batch_size(parser, shown="1 on a CPU, else 32")


def add_size(parser: argparse.ArgumentParser) -> None:
    """Declares `--size`, in the same way for every command with a model that takes any size."""
    parser.add_argument(
        "--size", type=pixel_size, metavar="PIXELS", help="448 or 320x448, rows x columns (default: the model's size)"
    )


def add_device(parser: argparse.ArgumentParser, *, several: str = "") -> None:
    """Declares `--device`, in the same way for every command that runs a model. `several` is added to the help."""
    parser.add_argument(
        "--device", default="auto", metavar="D", help=f"auto (default), cpu, cuda, cuda:1, mps{several}"
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Declares `--precision` and `--backend`, in the same way for every command that runs an engine."""
    add = parser.add_argument
    add("--precision", default="auto", metavar="P", help="auto (default), fp32, bf16, fp16 or int8")
    add("--backend", default="auto", metavar="B", help="auto (default), torch, compile, openvino or onnxruntime")


def add_batch_size(
    parser: argparse._ActionsContainer,
    *,
    shown: str,
    type: Callable[[str], Any] = positive,
    default: Any = None,
    former: str = "",
) -> None:
    """Declares `--batch-size`. `shown` is the default as text; `former` is an old name, which still works."""
    help = f"images per call of the model (default: {shown})"
    parser.add_argument("--batch-size", type=type, default=default, metavar="N", help=help)
    if former:
        parser.add_argument(former, dest="batch_size", type=type, default=default, help=argparse.SUPPRESS)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Declares `--threads`."""
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="number of CPU threads (default: PyTorch's number)"
    )


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """Declares `--max-pixels`, in the same way for every command that reads images."""
    parser.add_argument(
        "--max-pixels",
        type=positive,
        default=MAX_PIXELS,
        metavar="N",
        help=f"refuse images of more than N pixels (default: {MAX_PIXELS})",
    )


def engine_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of the arguments of `add_model`, as arguments of `open_predictor`."""
    return {
        name: getattr(arguments, name)
        for name in ("size", "device", "precision", "backend", "batch_size", "max_pixels")
    }


def say_model(source: str, opened: Predictor) -> None:
    """Writes the license of the weights, and the precision, backend and device of the engine."""
    line = license_line(source, opened.license)
    say(f"{line}; {opened.how}" if line else f"{source}: {opened.how}")


def say_license(source: str | Path, license: str | None) -> None:
    """Writes the license of the weights; writes nothing for weights that the user has trained."""
    if line := license_line(source, license):
        say(line)


def license_line(source: str | Path, license: str | None) -> str:
    """One line about the license of the weights; "" for the folder of a run, since its weights belong to the user."""
    if license is None:
        return "" if is_own(source) else f"{source}: the checkpoint states no license for its weights"
    allowed = " (not for commercial use)" if "-NC" in license.upper() else ""
    return f"{source}: weights under {license}{allowed}"


def is_own(source: str | Path) -> bool:
    """Whether a source is a local folder that training wrote: a run, or the model in a run."""
    folder = Path(source)
    return any((place / "run.json").is_file() for place in (folder, *list(folder.absolute().parents)[:2]))
