"""What the commands finetune, evaluate and detect do with boxes and instances."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.checkpoint.bundled import FEMTO
from hierax.cli.train import data_and_settings, settings_of_options
from hierax.console import ProgressDisplay, quantity, say, tell
from hierax.stopping import last_signal

if TYPE_CHECKING:
    from hierax.detection.evaluate import DetectionEvaluation
    from hierax.detection.recipes import DetectionRecipe

_OF_OTHERS = ("teacher", "teacher_cache", "columns", "classes", "reduce_labels", "colors")


def implied_task(arguments: argparse.Namespace) -> str | None:
    """The task that the recipe of `hierax finetune` names, or the run that is resumed or repeated; None if it is none
    of detection.
    """
    from hierax.detection.recipes import RECIPES, TASKS
    from hierax.train.description import DESCRIPTION, DamagedRun, read_object

    if arguments.recipe in RECIPES:
        return RECIPES[arguments.recipe]().task
    path = Path(arguments.config or arguments.out or "")
    file = path / DESCRIPTION if path.is_dir() else path
    if not (arguments.config or arguments.resume) or not file.is_file():
        return None
    try:
        mode = read_object(file).get("mode")
    except DamagedRun:
        return None
    return mode if mode in TASKS else None


def run_finetune(arguments: argparse.Namespace, task: str) -> int:
    """`hierax finetune --task detect` or `--task instances`; returns the exit code.

    Raises:
        ValueError: an argument is missing or does not fit the task.
        TrainingStopped: the run cannot continue.
    """
    from hierax.detection.run import finetune_detection
    from hierax.train.description import DESCRIPTION, read_object

    for name in _OF_OTHERS:
        if getattr(arguments, name, None):
            raise ValueError(f"--{name.replace('_', '-')} is not for --task {task}; leave it out")
    if arguments.parallel != "ddp":
        raise ValueError(f"--parallel {arguments.parallel} is not for --task {task}, which uses one process")
    if not arguments.out:
        raise ValueError("-o RUN is missing: the folder for checkpoints, log and model")
    data, settings = data_and_settings(arguments)
    settings += settings_of_options(arguments)
    if arguments.resume and not Path(arguments.out, DESCRIPTION).exists():
        raise ValueError(f"{arguments.out} contains no run to resume")
    if arguments.recipe and arguments.config:
        raise ValueError("--recipe and --config are both given; expected only one of them")
    before: dict[str, Any] = {}
    if arguments.config or (arguments.resume and not (data or arguments.recipe)):
        before = _description(Path(arguments.config or arguments.out), task)
    data = data or before.get("data")
    if not data:
        raise ValueError("DATA is missing: a COCO file, a folder with COCO files, a data.yaml, or images/ and labels/")
    source = arguments.source or (before.get("from", FEMTO) if before else FEMTO)
    recipe: str | DetectionRecipe | None = arguments.recipe
    if before:
        recipe = _recipe(before, arguments.config or arguments.out)
    run = finetune_detection(
        data,
        out=arguments.out,
        task=task,
        source=None if source == "scratch" or (before and source is None) else source,
        recipe=recipe,
        settings=settings,
        validation=arguments.validation or before.get("validation"),
        device=arguments.device,
        overwrite=arguments.overwrite,
    )
    number = last_signal()
    return 0 if number is None or read_object(run / DESCRIPTION).get("finished") else 128 + number


def _recipe(described: dict[str, Any], path: str) -> DetectionRecipe:
    """The recipe in a run.json."""
    from hierax.detection.recipes import DetectionRecipe

    try:
        return DetectionRecipe.from_dict(described["recipe"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the description of a run: {error}") from None


def _description(path: Path, task: str) -> dict[str, Any]:
    """The content of a run.json of this task."""
    from hierax.train.description import DESCRIPTION, read_object

    file = path / DESCRIPTION if path.is_dir() else path
    try:
        values = read_object(file)
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file; expected the run.json of a run") from None
    if values.get("mode") != task or not isinstance(values.get("recipe"), dict):
        raise ValueError(f"{file}: not the description of a run of --task {task}")
    return values


def run_evaluate(arguments: argparse.Namespace, folder: Path) -> list[tuple[str, str]]:
    """`hierax evaluate` of a model of detection; returns names and problems of what cannot be read.

    Args:
        folder: the folder of the model, see `hierax.detection.build.detector_folder`.
    """
    from hierax.detection.evaluate import evaluate_detection

    for name in ("probe", "train", "confusion", "columns", "classes", "reduce_labels", "colors", "workers"):
        value = getattr(arguments, name, None)
        if value is not None and value is not False:  # --workers 0 is given, too
            raise ValueError(f"--{name.replace('_', '-')} does not work with a model of detection; leave it out")
    if arguments.views != (1, 1):
        raise ValueError("--views does not work with a model of detection; leave it out")
    if arguments.weights == "last" and (folder.parent / "model-last").is_dir():
        folder = folder.parent / "model-last"
    with ProgressDisplay("image") as display:
        found = evaluate_detection(
            arguments.data,
            model=folder,
            device=arguments.device,
            batch_size=arguments.batch_size,
            max_pixels=arguments.max_pixels,
            on_progress=display.update,
        )
    if found.note:
        say(found.note)
    if arguments.json:
        print(json.dumps(found.to_dict()))
    else:
        _show(found)
    return found.unreadable


def _show(found: DetectionEvaluation) -> None:
    tell(f"{'masks' if found.masks else 'boxes'} of {quantity(found.images, 'image')}")
    for names in (("AP", "AP50", "AP75"), ("APs", "APm", "APl"), ("AR1", "AR10", "AR100"), ("ARs", "ARm", "ARl")):
        tell("   ".join(f"{name:<5} {_number(found.numbers[name])}" for name in names))
    width = max(len(entry["label"]) for entry in found.per_class)
    for entry in found.per_class:
        tell(f"  {entry['label']:<{width}}  AP {_number(entry['AP'])}  {entry['objects']:>6} objects")


def _number(value: float | None) -> str:
    return "    -" if value is None else f"{value:.3f}"
