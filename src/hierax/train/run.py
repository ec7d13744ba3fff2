"""Starts a run, or resumes it: checks the request and decides its settings. `rank_run` does the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hierax.console import say
from hierax.train.folder import check_folder, check_places, check_settings, read_previous
from hierax.train.modes import MODES
from hierax.train.parallel import open_world
from hierax.train.rank_run import RankRun
from hierax.train.request import AUTO, PathOrHubId, Request, finished_message, open_data, resolve_choice
from hierax.train.settings import Recipe


def pretrain(
    data: PathOrHubId,
    *,
    out: PathOrHubId,
    recipe: str | Recipe | None = None,
    settings: Sequence[str] = (),
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
        settings: other values for it, as `"key=value"`.
        source: a checkpoint to start from; None starts from random weights. "auto" is `hierax/femto.mae` where neither
            a recipe nor an architecture is named and the data are images, else random weights.
        validation: data to validate on; None takes `data/val`, or the recipe's share of the data.
        columns: names of columns in lists and tables, see `hierax.data.open_dataset`; None where a run resumes takes
            those it was started with.
        device, parallel: "auto", "cpu", "cuda"; "ddp" or "fsdp" for several ranks.
        overwrite: start from the beginning where `out` holds a run, which is deleted.
        quiet: whether to write nothing to the terminal.

    Raises:
        RunExists: `out` holds a run with other settings, which are listed, or something else.
        ValueError: impossible data or settings.
        TrainingStopped: the run cannot continue; its last checkpoint is intact.
    """
    request = Request(MODES["pretrain"], data, source, validation, recipe, settings, columns=columns)
    return train(request, Path(out), device=device, parallel=parallel, overwrite=overwrite, quiet=quiet)


def finetune(
    data: PathOrHubId,
    *,
    out: PathOrHubId,
    source: PathOrHubId | None = AUTO,
    recipe: str | Recipe | None = None,
    settings: Sequence[str] = (),
    teacher: PathOrHubId | None = None,
    teacher_cache: PathOrHubId | None = None,
    validation: PathOrHubId | None = None,
    columns: Mapping[str, str] | None = None,
    device: str = "auto",
    parallel: str = "ddp",
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Trains a classifier on labeled `data`, from the checkpoint or run `source`.

    With a `teacher` its answers on the very crops and mixes that the model sees are learned too, or, where the data
    has no labels or the recipe's `label_weight` is 0, they alone: then the classes are the teacher's, or, of a teacher
    without logits, a model of features is what is saved (arXiv 2106.05237).

    Args:
        source: a checkpoint or run; None starts from random weights. "auto" is `hierax/femto` for images, unless an
            architecture is named.
        teacher: an `.onnx` file, a `.pt2` file of `torch.export`, or a checkpoint of Hiera; see
            `hierax.train.teacher.open_teacher`.
        teacher_cache: folder in which its answers are kept for other runs, and for epochs that come again
            (`distinct_epochs`).

    The other arguments, result and errors are those of `pretrain`.
    """
    request = Request(MODES["finetune"], data, source, validation, recipe, settings, teacher, teacher_cache, columns)
    return train(request, Path(out), device=device, parallel=parallel, overwrite=overwrite, quiet=quiet)


def train(
    request: Request,
    run: Path,
    *,
    device: str = "auto",
    parallel: str = "ddp",
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Runs what is requested, in any mode; see `pretrain`."""
    base = request.base
    first = request.overridden(base)  # bad settings are an error before anything is read
    check_places(run, request.places(None if request.source == AUTO else request.source), overwrite=overwrite)
    with open_world(device, parallel) as world:
        world.run_on_main(lambda: check_folder(run, overwrite=overwrite))
        previous = None if overwrite else world.all_gather(world.run_on_all_ranks(lambda: read_previous(run)))[0]
        if previous is not None and request.columns is None:
            request = replace(request, columns=previous.get("columns"))
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
        rank_run = RankRun(run, settings, recipe, world, overwrite=overwrite, quiet=quiet)
        rank_run.train(request, data or world.run_on_all_ranks(lambda: open_data(request, recipe)), chosen)
    return run
