"""What `hierax pretrain` and `hierax finetune` share: arguments, and the recipe that they make."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.cli.terminal import UserError

if TYPE_CHECKING:
    from hierax.train.recipe import Recipe

SETTINGS = """Settings are key=value, such as epochs=200 batch_size=128 lr=5e-4 num_channels=4; hierax recipes NAME
lists those of a recipe. To resume a run that was interrupted, run the same command again, or
--resume -o RUN.
On several GPUs: torchrun --nproc-per-node 8 -m hierax {command} ..."""


def add_run(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Declares what a run takes."""
    parser.add_argument("data", nargs="?", metavar="DATA", help="folder, tar shards, parquet files, .npy, or hub:ID")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="change settings of the recipe")
    parser.add_argument("-o", "--out", metavar="RUN", help="the run's folder")
    parser.add_argument("--recipe", metavar="NAME", help=f"which recipe (default: {default})")
    parser.add_argument("--config", metavar="JSON", help="repeat the run that this run.json describes")
    parser.add_argument("--validation", metavar="DATA", help="data to validate on")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, …")
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp", help="with several ranks (default: ddp)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="resume RUN, or fail if there is none")
    again.add_argument("--overwrite", action="store_true", help="replace the run in RUN")


def decided(
    arguments: argparse.Namespace, *, default: str
) -> tuple[str, str, Recipe, str | None, str | None, str | None]:
    """Data, folder, recipe, source, validation and teacher that the arguments stand for.

    Raises:
        UserError: one of them is missing; a run.json that is none.
        ValueError: unknown recipes and settings.
    """
    from hierax.train.recipe import Recipe
    from hierax.train.recipes import recipe as named

    if not arguments.out:
        raise UserError("-o RUN is missing: the folder for checkpoints, log and model")
    settings = list(arguments.settings)
    data = arguments.data
    if data is not None and "=" in data and not Path(data).exists():
        settings.insert(0, data)
        data = None
    if data is None:  # it may stand after settings and options
        data = next((text for text in settings if "=" not in text or Path(text).exists()), None)
        settings = [text for text in settings if text != data]
    if arguments.resume:
        description = Path(arguments.out, "run.json")
        if not description.exists():
            raise UserError(f"{arguments.out} holds no run to go on with")
        if not (arguments.config or arguments.recipe or data):
            arguments.config = str(description)
    before = _described(arguments)
    if arguments.config:
        try:
            chosen = Recipe.from_dict(before["recipe"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{arguments.config}: not the description of a run: {error}") from error
        if arguments.recipe:
            raise UserError("--recipe and --config are both given; expected one of them")
    else:
        chosen = named(arguments.recipe or default)
    data = data or before.get("data")
    if not data:
        raise UserError("DATA is missing: a folder of pictures, tar shards, parquet files, a .npy file, or hub:ID")
    source = getattr(arguments, "source", None) or before.get("from")
    validation = arguments.validation or before.get("validation")
    teacher = getattr(arguments, "teacher", None) or before.get("teacher")
    return str(data), arguments.out, chosen.overridden(settings), source, validation, teacher


def _described(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the run.json says that `--config` names; nothing without one.

    Raises:
        UserError: it is none.
    """
    if not arguments.config:
        return {}
    path = Path(arguments.config)
    try:
        values = json.loads((path / "run.json" if path.is_dir() else path).read_text())
        return values if "recipe" in values else {"recipe": values}  # as `hierax recipes NAME` prints it
    except (ValueError, TypeError) as error:
        raise UserError(f"{arguments.config}: not the description of a run: {error}") from error
