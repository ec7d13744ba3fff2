"""Starts a run of detection, or resumes it, and writes its folder."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import hierax
from hierax.atomic import make_folder, name_in_errors
from hierax.checkpoint.bundled import FEMTO
from hierax.console import quantity, say
from hierax.detection.build import Detector, build_detector, check_packages, config_of, detector_folder, task_of
from hierax.detection.continued import with_head_of
from hierax.detection.dataset import DetectionDataset
from hierax.detection.recipes import FEW_HELD, RESUMABLE, TASKS, DetectionRecipe, choose, resolve
from hierax.detection.recipes import recipe as named
from hierax.detection.sources import open_detection_splits
from hierax.devices import find_device
from hierax.folders import atomic_folder
from hierax.notices import notify
from hierax.processing.paths import require_data
from hierax.stopping import StopSignal
from hierax.train.checkpoints import locked_folder, write_json
from hierax.train.description import DESCRIPTION, DamagedRun, read_object
from hierax.train.folder import RunExists, absolute_source, check_folder, check_places, delete_run_files
from hierax.train.log import RunLog
from hierax.train.progress import explain_failures, explain_memory_errors
from hierax.train.setting_values import assignments_of

PathOrHubId = str | os.PathLike[str]
_OTHER = "choose another folder with -o (--overwrite would replace the run)"


def finetune_detection(
    data: PathOrHubId,
    *,
    out: PathOrHubId,
    task: str = "detect",
    source: PathOrHubId | None = FEMTO,
    recipe: str | DetectionRecipe | None = None,
    settings: Sequence[str] | Mapping[str, Any] = (),
    validation: PathOrHubId | None = None,
    device: str = "auto",
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Trains a model of detection or of instances on annotated images, and returns the folder `out`.

    `out/model` is opened by `AutoModelForObjectDetection` of transformers (instances:
    `AutoModelForUniversalSegmentation`) and by `hierax detect`. Called again with the same arguments, an interrupted
    run resumes where it stopped. A finished run is left unchanged.

    Args:
        data: see `open_detection_splits`.
        out: the run's folder.
        task: "detect" learns boxes, "instances" boxes and masks.
        source: a checkpoint of any format for the backbone, or a run of the same task, whose head is used too; None
            starts from random weights.
        recipe: a recipe or the name of one; None takes one that fits the device.
        settings: other values for settings of the recipe: `["key=value"]`, or `{"key": value}`.
        validation: images to evaluate on; None takes the validation set of `data`, or a share of its images.
        device: "auto", "cpu", "cuda" or "mps".
        overwrite: whether to delete a run that `out` contains.
        quiet: whether to write nothing to the terminal.

    Raises:
        RunExists: `out` contains another run, or files that are not a run's.
        ValueError: data or settings are not possible.
        MissingPackage: a package of the extra `dense` is missing.
        TrainingStopped: the run cannot continue; its last checkpoint is intact.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; expected {' or '.join(TASKS)}")
    require_data(data, validation)
    check_packages(f"--task {task}")
    place, run = _one_device(device), Path(out)
    given = assignments_of(settings)
    base = recipe if isinstance(recipe, DetectionRecipe) else None if recipe is None else named(recipe, task)
    wanted = (base or choose(task, device=place.type)).override(given)
    continued = None if source is None else detector_folder(source)
    if continued is not None and task_of(continued) == task:
        wanted = with_head_of(continued, config_of(continued), wanted, given)
    places = {"data": os.fspath(data), "validation": _text(validation), "from": _text(source)}
    check_places(run, places, overwrite=overwrite)
    check_folder(run, overwrite=True)  # whether it is the folder of a run; of which kind is read next
    previous = None if overwrite else _previous(run)
    stated = {
        "mode": task,
        **{name: None if text is None else absolute_source(text) for name, text in places.items()},
        "recipe": wanted.to_dict(),
    }
    if previous is not None:
        _check_same(run, previous, stated)
        if previous.get("finished"):
            if not quiet:
                say(f"{run} is already finished: {_sentence(previous.get('result') or {})}")
            return run
    train, held = open_detection_splits(
        data, validation=validation, fraction=wanted.validation_fraction, seed=wanted.seed, masks=task == "instances"
    )
    if held is not None and not held.objects:
        notify(f"{held.name}: {quantity(len(held), 'image')} to validate on, but no objects; the run is not measured")
        held = None
    most = max(sum(not one.crowd for one in image.objects) for image in train.images)
    final = resolve(wanted, images=len(train), held=len(held or ()), device=place.type, most_objects=most)
    if final.queries is not None and most > final.queries:
        notify(
            f"an image has {most} objects, but the model has {final.queries} queries and finds no more than that; "
            f"queries={most} or more finds all"
        )
    facts = {"images": len(train), "objects": train.objects, "held_out": len(held or ()), "steps": final.steps}
    if previous is not None and previous.get("facts") != facts:
        then = previous.get("facts")
        raise RunExists(f"{run}: the data has changed since the run began (was {then}, now {facts}); {_OTHER}")
    if not quiet:
        _say_plan(final, train, held)
    torch.manual_seed(final.seed)
    with explain_memory_errors():
        detector, notes = build_detector(final, train.classes, train.category_ids, source)
    with name_in_errors(run, run):
        make_folder(run)
    with locked_folder(run):
        if overwrite and (run / DESCRIPTION).exists():
            delete_run_files(run)
        environment = {"hierax": hierax.__version__, "torch": torch.__version__, "python": platform.python_version()}
        if previous is None:
            write_json(run / DESCRIPTION, {**stated, "facts": facts, "environment": environment})
            for note in notes if not quiet else ():
                say(note)
        _train(run, detector, final, train, held, device=place, quiet=quiet)
    return run


def _train(
    run: Path,
    detector: Detector,
    recipe: DetectionRecipe,
    train: DetectionDataset,
    held: DetectionDataset | None,
    *,
    device: torch.device,
    quiet: bool,
) -> None:
    from hierax.detection.build import quiet_transformers
    from hierax.detection.steps import DetectionTrainer, last_whole, write_model

    assert recipe.steps is not None
    log, stop = RunLog(run, total=recipe.steps, quiet=quiet, evaluated=_evaluated(recipe, held)), StopSignal(
        lambda: None if quiet else os.write(2, b"\nhierax: stopping after this step; Ctrl-C again ends at once\n")
    )  # fmt: skip
    found = last_whole(run / "checkpoints")
    note = "the same command resumes the run from its last checkpoint"
    with quiet_transformers(), stop.handle(), explain_failures(lambda: note):
        trainer = DetectionTrainer(run, detector, recipe, train, held, device=device, log=log, stop=stop)
        start = 0 if found is None else found[1]
        log.start(start, start)
        if found is not None:
            trainer.best = found[2]
            log.say(f"resumes after step {start} of {recipe.steps}")
        try:
            if found is None or start < recipe.steps:
                trainer.resume(None if found is None else found[0])
            else:
                trainer.restore(found[0])
            if trainer.state.global_step < recipe.steps:
                step = trainer.state.global_step
                log.say(f"stopped after step {step} of {recipe.steps}; the same command resumes it")
                return
            if trainer.last is None and held is not None:  # it was killed after its last checkpoint
                trainer.last = trainer.measured()
            _finish(run, detector, recipe, trainer, log, write_model)
        finally:
            log.close()


def _finish(run: Path, detector: Detector, recipe: DetectionRecipe, trainer: Any, log: RunLog, write: Any) -> None:
    """Writes model/ and the result."""
    kept = "best" if recipe.weights == "best" and trainer.best is not None and (run / "best").is_dir() else "last"
    write(detector, run / ("model-last" if kept == "best" else "model"))
    if kept == "best":  # copied, because a run that is killed now repeats all of this
        with atomic_folder(run / "model", lambda: None) as part:
            shutil.copytree(run / "best", part, dirs_exist_ok=True)
    last = None if trainer.last is None else trainer.last.to_dict()
    best = None if trainer.best is None else {"AP": trainer.best[0], "step": trainer.best[1]}
    result = {
        "steps": recipe.steps,
        "weights": kept,
        "best": best,
        "last": last,
        "unreadable": len(trainer.unreadable),
        "images_per_second": round(log.images / log.seconds, 2) if log.seconds else None,
    }
    description = read_object(run / DESCRIPTION)
    write_json(run / DESCRIPTION, {**description, "finished": True, "result": result})
    shutil.rmtree(run / "best", ignore_errors=True)
    log.say(_sentence(result))
    speed = "" if result["images_per_second"] is None else f" ({result['images_per_second']} images/s)"
    log.say(f"done: {run / 'model'}{speed}")


def _evaluated(recipe: DetectionRecipe, held: DetectionDataset | None) -> float:
    """Evaluated images per training sample."""
    return len(held or ()) / ((recipe.evaluate_every or 1) * recipe.batch_size)


def _sentence(result: Mapping[str, Any]) -> str:
    """A sentence about the weights that a finished run has saved."""
    best, last = result.get("best") or {}, result.get("last") or {}
    if result.get("weights") == "best" and best:
        return f"model: step {best['step']} of {result['steps']}, AP {best['AP']:.3f}, the best of the evaluations"
    score = f", AP {last['AP']:.3f} on {quantity(last['images'], 'image')}" if last.get("AP") is not None else ""
    return f"model: step {result.get('steps')} of {result.get('steps')}{score}, the last weights"


def _say_plan(recipe: DetectionRecipe, train: DetectionDataset, held: DetectionDataset | None) -> None:
    passes = (recipe.steps or 0) * recipe.batch_size / len(train)
    validation = f"{quantity(len(held), 'image')} to validate on" if held else "no validation set"
    say(
        f"{quantity(len(train), 'image')}, {quantity(train.objects, 'object')}, "
        f"{quantity(len(train.classes), 'class')}; {validation}"
    )
    say(
        f"recipe {recipe.name}: {recipe.head}, {recipe.image_size} pixels, {recipe.queries} queries, "
        f"{quantity(recipe.steps or 0, 'step')} of {quantity(recipe.batch_size, 'image')} ({passes:.3g} passes) "
        "(--recipe NAME and key=value change it)"
    )
    if held is not None and len(held) < FEW_HELD:
        say("model/ gets the last weights, because there are too few validation images to choose the best")


def _one_device(device: str) -> torch.device:
    place = find_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("a run of detection uses one process; expected the command without torchrun")
    if place.type == "cuda" and place.index not in (None, 0):
        raise ValueError(
            f"device is {device!r}; expected cuda (CUDA_VISIBLE_DEVICES={place.index} before the command chooses it)"
        )
    return place


def _text(value: PathOrHubId | None) -> str | None:
    return None if value is None else os.fspath(value)


def _previous(run: Path) -> dict[str, Any] | None:
    """The content of run.json of the same kind of run; None if the folder is new."""
    path = run / DESCRIPTION
    if not path.exists():
        return None
    try:
        values = read_object(path)
    except DamagedRun as error:
        raise RunExists(f"{error}; {_OTHER}") from None
    if values.get("mode") not in TASKS or not isinstance(values.get("recipe"), dict):
        raise RunExists(f"{run} holds a run of another kind, not of detection; {_OTHER}")
    return values


def _check_same(run: Path, previous: Mapping[str, Any], stated: Mapping[str, Any]) -> None:
    """Raises `RunExists` if the run in the folder has other settings than requested; names all of them."""
    try:
        recipe = DetectionRecipe.from_dict(previous["recipe"])
    except (ValueError, TypeError) as error:
        raise RunExists(f"{run / DESCRIPTION} is damaged: recipe: {error}; {_OTHER}") from None
    then = {**recipe.to_dict(), **{k: previous.get(k) for k in _SOURCES}}
    now = {**stated["recipe"], **{k: stated.get(k) for k in _SOURCES}}
    others = [
        f"{key} was {then.get(key)!r}, now {now[key]!r}"
        for key in sorted(now)
        if key not in RESUMABLE and then.get(key) != now[key]
    ]
    if others:
        raise RunExists(f"{run} holds a run with other settings: {'; '.join(others)}; {_OTHER}")


_SOURCES = ("mode", "data", "validation", "from")
