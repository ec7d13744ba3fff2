"""Arguments of `hierax pretrain` and `hierax finetune`, and the recipe that they describe."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.cli.columns import add_columns
from hierax.cli.loading import MAX_PIXELS, add_device, add_max_pixels
from hierax.cli.outputs import add_overwrite
from hierax.cli.terminal import UserError
from hierax.stopping import last_signal

if TYPE_CHECKING:
    from hierax.train.settings import Recipe

SETTINGS = """Without --recipe, the command chooses a recipe that fits the device and the number of samples, and prints
its name. Settings are written key=value: epochs=200 batch_size=128 lr=5e-4 num_channels=4.
`hierax recipes NAME` lists the settings of a recipe. Run the same command again to resume; --resume -o RUN
does the same. RUN/model contains the best weights by validation score, or the last weights (--weights). If it
contains the best, RUN/model-last contains the last. RUN/report.html is a report.
On several GPUs: torchrun --nproc-per-node 8 -m hierax {command} ..."""


def add_run(parser: argparse.ArgumentParser, *, start: str) -> None:
    """Declares the arguments of a run."""
    parser.add_argument(
        "data", nargs="?", metavar="DATA", help="folder, list, tar shards, Parquet files, .npy, or hub:ID"
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="change settings of the recipe")
    parser.add_argument(
        "-o", "--output", dest="out", metavar="RUN", help="output folder of the run, created if missing"
    )
    parser.add_argument("--out", dest="out", help=argparse.SUPPRESS)
    parser.add_argument(
        "--recipe", metavar="NAME", help="name of the recipe (default: chosen by device and number of samples)"
    )
    parser.add_argument(
        "--from",
        "--model",
        dest="source",
        metavar="CKPT",
        help=f"Hub id, folder or file to start from, or scratch (default for images: {start}, part of the package)",
    )
    parser.add_argument(
        "--weights",
        choices=("best", "last"),
        help="which weights RUN/model contains: best or last (default: set by the recipe)",
    )
    parser.add_argument("--config", metavar="JSON", help="repeat the run that this run.json describes")
    parser.add_argument(
        "--validation", metavar="DATA", help="validation data (default: DATA/val, else set by the recipe)"
    )
    add_columns(parser, "path", "label")
    add_device(parser)
    parser.add_argument(
        "--parallel",
        choices=("ddp", "fsdp"),
        default="ddp",
        help="how several processes share the model (default: ddp)",
    )
    add_max_pixels(parser)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="resume the run in RUN; an error if there is none")
    add_overwrite(again)


_OPTIONS = (
    "task",
    "recipe",
    "from",
    "config",
    "validation",
    "device",
    "parallel",
    "teacher",
    "teacher_cache",
    "output",
)
"""Options that users often write as settings."""


@dataclass(frozen=True)
class RunArguments:
    """The request that the arguments describe; see `hierax.train.finetune`. `mode` is that of the recipe, if one is
    named, and `masks` how the run that `--config` names reads masks.
    """

    data: str
    out: str
    recipe: Recipe | str | None
    settings: list[str]
    source: str | None
    validation: str | None
    teacher: str | None
    teacher_cache: str | None
    columns: dict[str, str] | None
    mode: str | None
    masks: dict[str, Any] | None


def data_and_settings(arguments: argparse.Namespace) -> tuple[str | None, list[str]]:
    """DATA, which may come after settings and options, and the settings."""
    settings = list(arguments.settings)
    data = arguments.data
    if data is not None and "=" in data and not Path(data).exists():
        settings.insert(0, data)
        data = None
    if data is None:
        data = next((text for text in settings if "=" not in text or Path(text).exists()), None)
        settings = [text for text in settings if text != data]
    return data, settings


def settings_of_options(arguments: argparse.Namespace) -> list[str]:
    """The settings that options state."""
    settings = [f"weights={arguments.weights}"] if arguments.weights else []
    return settings + ([f"max_pixels={arguments.max_pixels}"] if arguments.max_pixels != MAX_PIXELS else [])


def read_request(arguments: argparse.Namespace) -> RunArguments:
    """Reads the arguments.

    Raises:
        UserError: an argument is missing, or run.json is not valid.
    """
    if not arguments.out:
        raise UserError("-o RUN is missing: the folder for checkpoints, log and model")
    data, settings = data_and_settings(arguments)
    for name, mark, value in (text.partition("=") for text in settings):
        if mark and name in _OPTIONS:
            raise UserError(f"{name} is an option, not a setting: --{name.replace('_', '-')} {value}")
    settings += settings_of_options(arguments)
    if getattr(arguments, "teacher_cache", None) and not (arguments.teacher or arguments.config or arguments.resume):
        raise UserError("--teacher-cache is for --teacher; add --teacher, or leave --teacher-cache out")
    if arguments.resume:
        description = Path(arguments.out, "run.json")
        if not description.exists():
            raise UserError(f"{arguments.out} contains no run to resume")
        if not (arguments.config or arguments.recipe or data):
            arguments.config = str(description)
    if arguments.recipe and arguments.config:
        raise UserError("--recipe and --config are both given; expected only one of them")
    before = _read_config(arguments)
    data = data or before.get("data")
    if not data:
        why = f"{arguments.config} states no data; " if arguments.config else ""
        raise UserError(f"{why}DATA is missing: a folder of images, tar shards, parquet files, a .npy file, or hub:ID")
    recipe = _recipe(arguments, before)
    return RunArguments(
        str(data),
        arguments.out,
        recipe,
        settings,
        _source(arguments, before),
        arguments.validation or before.get("validation"),
        getattr(arguments, "teacher", None) or before.get("teacher"),
        getattr(arguments, "teacher_cache", None) or before.get("teacher_cache"),
        arguments.columns or before.get("columns"),
        _mode(recipe),
        before.get("masks"),
    )


def exit_code(run: str) -> int:
    """The exit code of a run: 0 if it is finished, else 128 plus the number of the signal that stopped it."""
    from hierax.train.folder import read_previous

    number = last_signal()
    finished = number is None or (read_previous(Path(run)) or {}).get("finished")
    return 0 if number is None or finished else 128 + number


def _recipe(arguments: argparse.Namespace, before: dict[str, Any]) -> Recipe | str | None:
    """The recipe of `--config`, or the name given with `--recipe`; None if neither is given."""
    from hierax.train.settings import Recipe

    if not arguments.config:
        return arguments.recipe
    try:
        return Recipe.from_dict(before["recipe"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{arguments.config}: not the description of a run: {error}") from error


def _mode(recipe: Recipe | str | None) -> str | None:
    """The mode of a recipe; None without a recipe."""
    from hierax.train.recipes import recipe as named

    return None if recipe is None else (named(recipe) if isinstance(recipe, str) else recipe).mode


def _source(arguments: argparse.Namespace, before: dict[str, Any]) -> str | None:
    """The checkpoint to start from; None for random weights, "auto" for the default."""
    if arguments.source is not None:
        return None if arguments.source == "scratch" else arguments.source
    return before.get("from", "auto")  # a recipe in a file states no source


def _read_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """The content of the run.json that `--config` names; an empty dict without `--config`.

    Raises:
        ValueError: the file is not a valid run.json.
    """
    if not arguments.config:
        return {}
    from hierax.train.description import read_description, read_object

    path = Path(arguments.config)
    path = path / "run.json" if path.is_dir() else path
    values = read_object(path)
    return read_description(path) if "recipe" in values else {"recipe": values}  # as `hierax recipes NAME` prints it
