"""Starts a run, or resumes it: checks the request and decides its settings. `rank_run` does the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hierax.console import say
from hierax.train.adapters import check_adapter
from hierax.train.folder import check_folder, check_places, check_settings, read_previous
from hierax.train.modes import MODES, Mode
from hierax.train.parallel import open_world
from hierax.train.rank_run import RankRun
from hierax.train.request import (
    AUTO,
    Classes,
    Colors,
    MaskOptions,
    PathOrHubId,
    Request,
    finished_message,
    open_data,
    resolve_choice,
)
from hierax.train.setting_values import assignments_of
from hierax.train.settings import Recipe


def pretrain(
    data: PathOrHubId,
    *,
    out: PathOrHubId,
    recipe: str | Recipe | None = None,
    settings: Sequence[str] | Mapping[str, Any] = (),
    source: PathOrHubId | None = AUTO,
    validation: PathOrHubId | None = None,
    columns: Mapping[str, str] | None = None,
    device: str = "auto",
    parallel: str = "ddp",
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Trains a masked autoencoder on `data` and returns the folder `out`, whose `model/` can be loaded.

    Called again with the same arguments, an interrupted run resumes where it stopped. Only the number of ranks and
    settings that do not change what is learned (`hierax.train.settings.RESUMABLE_SETTINGS`) may differ. A finished run
    is left unchanged.

    Args:
        data: what `hierax.data.open_dataset` takes; labels are not used.
        out: the run's folder.
        recipe: a recipe or the name of one; None takes one that fits the machine and the number of samples.
        settings: other values for settings of the recipe: `["key=value"]`, or `{"key": value}`.
        source: a checkpoint to start from; None starts from random weights. "auto" is `hierax/femto.mae` where neither
            a recipe nor an architecture is named and the data are images, else random weights.
        validation: data to validate on; None takes `data/val`, or the recipe's share of the data.
        columns: names of columns in lists and tables, see `hierax.data.open_dataset`; if a run is resumed, None takes
            those from its start.
        device, parallel: "auto", "cpu", "cuda"; "ddp" or "fsdp" for several ranks.
        overwrite: whether to delete a run that `out` contains, and to start from the beginning.
        quiet: whether to write nothing to the terminal.

    Raises:
        RunExists: `out` contains a run with other settings, which the message lists, or files that are not a run's.
        ValueError: data or settings are not possible.
        TrainingStopped: the run cannot continue; its last checkpoint is intact.
    """
    request = Request(MODES["pretrain"], data, source, validation, recipe, assignments_of(settings), columns=columns)
    return train(request, Path(out), device=device, parallel=parallel, overwrite=overwrite, quiet=quiet)


TASKS: Mapping[str, str] = {"classify": "finetune", "segment": "segment"}
"""The tasks of `finetune`, and the mode of each."""


def finetune(
    data: PathOrHubId,
    *,
    out: PathOrHubId,
    task: str = "classify",
    source: PathOrHubId | None = AUTO,
    recipe: str | Recipe | None = None,
    settings: Sequence[str] | Mapping[str, Any] = (),
    teacher: PathOrHubId | None = None,
    teacher_cache: PathOrHubId | None = None,
    validation: PathOrHubId | None = None,
    columns: Mapping[str, str] | None = None,
    classes: Classes | None = None,
    reduce_labels: bool = False,
    colors: Colors | None = None,
    device: str = "auto",
    parallel: str = "ddp",
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Trains a classifier on labeled `data`, or a segmentation model on images with masks, from the checkpoint or run
    `source`.

    With a `teacher`, the model also learns the teacher's outputs for the same crops and mixes that the model gets
    (arXiv 2106.05237). If the data has no labels or the recipe's `label_weight` is 0, it learns only these. Then its
    classes are those of the teacher; if the teacher has no logits, a model of features is saved.

    Args:
        task: "classify" learns a class for each image, "segment" a class for each pixel.
        source: a checkpoint or run; None starts from random weights. "auto" is `hierax/femto` for images, unless an
            architecture is named.
        teacher: an `.onnx` file, a `.pt2` file of `torch.export`, or a checkpoint of Hiera; see
            `hierax.train.teacher.open_teacher`.
        teacher_cache: folder that keeps the teacher's outputs for other runs and for repeated epochs
            (`distinct_epochs`). If a run is resumed, None takes the one from its start.
        classes, reduce_labels, colors: for "segment", how masks are read; see `hierax.data.open_segmentation`. If a run
            is resumed and none of them is given, those from its start.

    The other arguments, result and errors are those of `pretrain`.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; expected {', '.join(TASKS)}")
    mode = MODES[TASKS[task]]
    masks = MaskOptions.of(classes=classes, reduce_labels=reduce_labels, colors=colors)
    _check_options(mode, masks=masks, teacher=teacher)
    given = assignments_of(settings)
    request = Request(mode, data, source, validation, recipe, given, teacher, teacher_cache, columns, masks)
    return train(request, Path(out), device=device, parallel=parallel, overwrite=overwrite, quiet=quiet)


def _check_options(mode: Mode, *, masks: MaskOptions | None, teacher: PathOrHubId | None) -> None:
    """Raises `ValueError` if an option has no meaning for the mode."""
    if masks is not None and not mode.targets:
        name = next(name for name, value in masks.to_dict().items() if value)
        raise ValueError(f"{name} is for the task segment; expected none")
    if teacher is not None and mode.targets:
        raise ValueError(f"teacher is {str(teacher)!r}, but segmentation learns from masks alone; expected none")


def train(
    request: Request,
    run: Path,
    *,
    device: str = "auto",
    parallel: str = "ddp",
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Executes a request of any mode and returns the run's folder; see `pretrain`."""
    base = request.base
    first = request.overridden(base)  # wrong settings are an error before any data are read
    check_adapter(first, request.source)
    check_places(run, request.places(None if request.source == AUTO else request.source), overwrite=overwrite)
    with open_world(device, parallel) as world:
        world.run_on_main(lambda: check_folder(run, overwrite=overwrite))
        previous = None if overwrite else world.all_gather(world.run_on_all_ranks(lambda: read_previous(run)))[0]
        request = request if previous is None else request.resumed(previous)
        data = None if previous else world.run_on_all_ranks(lambda: open_data(request, first))
        chosen = world.run_on_all_ranks(lambda: resolve_choice(request, base, previous, data, world))
        recipe = request.overridden(chosen.recipe)
        settings = request.description(chosen.source, recipe)
        if previous is not None:
            world.run_on_all_ranks(lambda: check_settings(run, previous, settings))
            if previous.get("finished"):
                if world.is_main and not quiet:
                    say(finished_message(run, previous))
                return run
        if base is None:
            settings["chosen"] = chosen.recipe.to_dict()
        if request.teacher_cache is not None:
            settings["teacher_cache"] = os.path.abspath(request.teacher_cache)
        rank_run = RankRun(run, settings, recipe, world, overwrite=overwrite, quiet=quiet)
        rank_run.train(request, data or world.run_on_all_ranks(lambda: open_data(request, recipe)), chosen)
    return run
