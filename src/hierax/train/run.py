"""A run: a folder with everything that was decided, written and learnt; started, resumed, finished."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import hierax
from hierax.data.dataset import Dataset
from hierax.data.loader import TrainingLoader
from hierax.data.order import Order
from hierax.data.sources import split_folders
from hierax.data.split import open_splits
from hierax.data.view import EvaluationView, TrainingView
from hierax.locking import LOCK
from hierax.pretrained import Pretrained
from hierax.train.answers import AnswerCache
from hierax.train.distil import Distillation, agreement, same_classes
from hierax.train.loop import Loop, Metrics, Watcher
from hierax.train.notes import plan, remarks
from hierax.train.objective import Finetuning, HogPretraining, Objective, Pretraining, balanced
from hierax.train.panel import Panel
from hierax.train.parallel import World, default_workers, world
from hierax.train.predictions import Inputs, masked_loss, predict
from hierax.train.prepare import Prepared, accumulation, augmentation, fitted_batch, prepare
from hierax.train.recipe import FREE, Recipe
from hierax.train.recipes import DEFAULTS
from hierax.train.recipes import recipe as named_recipe
from hierax.train.state import Checkpoints, taken, write_json
from hierax.train.witness import Witness

Setting = str | os.PathLike[str]


class RunExists(ValueError):
    """The run's folder holds a run that is finished, or one with other settings."""


def pretrain(
    data: Setting,
    *,
    out: Setting,
    recipe: str | Recipe = DEFAULTS["pretrain"],
    source: Setting | None = None,
    validation: Setting | None = None,
    device: str = "auto",
    parallel: str = "ddp",
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Trains a masked autoencoder on `data` and returns the folder `out`, whose `model/` can be loaded.

    A run that was interrupted goes on where it stopped when it is called again with the same arguments; only the
    recipe's settings that change nothing it learns may be others (`hierax.train.recipe.FREE`), and the ranks.

    Args:
        data: what `hierax.data.open_dataset` takes; labels are not used.
        out: the run's folder.
        recipe: a recipe or the name of one.
        source: a checkpoint to start from; None draws fresh weights.
        validation: data to validate on; None takes `data/val`, or the recipe's share of the data.
        device, parallel: "auto", "cpu", "cuda"; "ddp" or "fsdp" for several ranks.
        overwrite: start anew where `out` holds a run.
        quiet: write nothing to the terminal.

    Raises:
        RunExists: `out` holds a finished run, or one with other settings; lists them.
        ValueError: data or settings that cannot be.
        TrainingStopped: the run cannot go on; its last checkpoint is intact.
    """
    given = _Given(data, source, validation)
    return _train("pretrain", given, out, recipe, device, parallel, overwrite=overwrite, quiet=quiet)


def finetune(
    data: Setting,
    *,
    source: Setting | None,
    out: Setting,
    recipe: str | Recipe = DEFAULTS["finetune"],
    teacher: Setting | None = None,
    teacher_cache: Setting | None = None,
    validation: Setting | None = None,
    device: str = "auto",
    parallel: str = "ddp",
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Trains a classifier on labelled `data`, from the checkpoint or run `source` (None: from scratch).

    With a `teacher` its answers on the very crops and mixes that the model sees are learned too, or, where the data
    has no labels or the recipe's `label_weight` is 0, they alone: then the classes are the teacher's, or, of a teacher
    without logits, a model of features is what is saved (arXiv 2106.05237).

    Args:
        teacher: an `.onnx` file, a `.pt2` file of `torch.export`, or a checkpoint of Hiera; see
            `hierax.train.teacher.open_teacher`.
        teacher_cache: folder in which its answers are kept for other runs, and for epochs that come again
            (`distinct_epochs`).

    The other arguments, result and errors are those of `pretrain`.
    """
    given = _Given(data, source, validation, teacher, teacher_cache)
    return _train("finetune", given, out, recipe, device, parallel, overwrite=overwrite, quiet=quiet)


@dataclass(frozen=True)
class _Given:
    """What a run is made from, as the caller named it."""

    data: Setting
    source: Setting | None
    validation: Setting | None
    teacher: Setting | None = None
    teacher_cache: Setting | None = None


def _train(
    task: str,
    given: _Given,
    out: Setting,
    recipe: str | Recipe,
    device: str,
    parallel: str,
    *,
    overwrite: bool,
    quiet: bool,
) -> Path:
    chosen = recipe if isinstance(recipe, Recipe) else named_recipe(recipe)
    if chosen.task != task:
        raise ValueError(f"recipe {chosen.name} is for {chosen.task}, not for {task}")
    settings = {
        "task": task,
        "data": _located(given.data),
        "validation": given.validation and _located(given.validation),
        "from": given.source and _located(given.source),
        "teacher": given.teacher and _located(given.teacher),
        "recipe": chosen.to_dict(),
    }
    run = Path(out)
    _check_places(run, settings, overwrite=overwrite)
    with world(device, parallel) as here:
        here.on_first(lambda: _check_free(run, settings, overwrite=overwrite))
        share = _Share(run, settings, chosen, here, overwrite=overwrite, quiet=quiet)
        share.train(given)
    return run


def _located(setting: Setting) -> str:
    """What is here, by its whole path, so that it is found from any folder; ids of the Hub as they are."""
    text = os.fspath(setting)
    return os.path.abspath(text) if os.path.exists(text) or any(c in text for c in "*?[{") else text


def _check_places(run: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Raises `ValueError` for a run among its data, where its pictures would be taken for samples, and for one that
    would be overwritten with what it is made from.
    """
    for name in ("data", "validation", "from", "teacher"):
        place = settings[name]
        if not place or not os.path.exists(place):
            continue
        there, here = Path(place).resolve(), run.resolve()
        if overwrite and there.is_relative_to(here):
            raise ValueError(f"{name} is {place}, inside the run {run}, which --overwrite would delete")
        parts = split_folders(there)  # what is beside a training and a validation set is not read
        read = parts if parts and parts[1] else (there,)
        if name not in ("from", "teacher") and any(here.is_relative_to(part) for part in read if part):
            raise ValueError(f"the run {run} lies inside {name}, {place}, and would become part of it")


def _before(run: Path) -> dict[str, Any] | None:
    """What run.json says, if the folder holds one."""
    path = run / "run.json"
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        if isinstance(values["recipe"], dict):
            return values
    except (ValueError, KeyError, TypeError):
        pass
    raise RunExists(f"{path} is damaged; --overwrite starts anew")


def _check_free(run: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Raises `RunExists` unless the folder is new, or its run is unfinished and has the same settings."""
    if overwrite and (run / "run.json").exists():
        return
    before = _before(run)
    if before is None:
        # what a run left that was killed before it had written anything is nothing to keep
        if run.exists() and any(not path.name.startswith((".run.json.", LOCK)) for path in run.iterdir()):
            raise RunExists(f"{run} is not empty and holds no run")
        return
    if before.get("finished"):
        raise RunExists(f"{run} holds a finished run; --overwrite starts anew")
    first = {**before, "recipe": Recipe.from_dict(before["recipe"]).to_dict()}  # with settings that are newer than it
    then, now = ({**{k: v for k, v in s.items() if k != "recipe"}, **s["recipe"]} for s in (first, settings))
    others = [
        f"{key} was {then.get(key)!r}, now {now[key]!r}" for key in sorted(set(now) - FREE) if then.get(key) != now[key]
    ]
    if others:
        raise RunExists(f"{run} was started with other settings: {'; '.join(others)}; --overwrite starts anew")


def _empty(folder: Path) -> None:
    """Deletes what a run's folder holds; run.json last, by which it is known as one that may be deleted."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "run.json"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


class _Share:
    """One process's share of a run."""

    def __init__(
        self, folder: Path, settings: dict[str, Any], recipe: Recipe, here: World, *, overwrite: bool, quiet: bool
    ) -> None:
        self.folder, self.settings, self.recipe, self.here = folder, settings, recipe, here
        self.overwrite, self.quiet = overwrite, quiet or not here.first
        self.cache: AnswerCache | None = None

    def train(self, given: _Given) -> None:
        """Prepares the run, takes its folder, and runs."""
        here = self.here
        train, held, recipe, note, made = here.everywhere(lambda: self._prepared(given))
        if made.teacher is not None and given.teacher_cache is not None:
            self.cache = AnswerCache(given.teacher_cache, made.teacher.digest)
        order = Order(len(train), recipe.batch_size, recipe.seed, recipe.repeats)
        watcher = Witness(self.folder, made.record, quiet=self.quiet)
        loop = self._loop(recipe, made, train, held, order, watcher)
        torch.manual_seed(recipe.seed + here.rank)  # drop path and dropout differ between ranks
        facts = {"samples": len(train), "held_out": len(held or ()), "batch": recipe.batch_size}
        with contextlib.ExitStack() as lock:
            here.on_first(lambda: self._begin(facts, lock))
            here.everywhere(self._check_shared)
            self._run(loop, watcher, made, train, held, order, note)

    def _run(
        self, loop: Loop, watcher: Witness, made: Prepared, train: Dataset, held: Dataset | None, order: Order,
        note: str | None,
    ) -> None:  # fmt: skip
        """Resumes, and runs to the end or to a signal."""
        recipe, here = loop.recipe, self.here
        resumed = loop.resume()

        def start() -> None:
            if recipe.task == "pretrain" and recipe.target != "hog" and held is not None and not held.arrays:
                view = EvaluationView(held, made.record, size=made.model.config.image_size)
                watcher.panel = Panel(self.folder, view, made.record)
            watcher.start(loop, order.steps)
            lines = [*made.notes, note, plan(recipe, order, here, train, held)]
            lines += remarks(recipe, made.model.config, train, held, fresh=self.settings["from"] is None)
            lines += loop.damaged
            lines.append(f"resumed after step {loop.progress.step}" if resumed else None)
            for line in filter(None, lines):
                watcher.log.say(line)

        try:
            here.on_first(start)
            finished = loop.fit()
            if here.first:
                watcher.end(loop.progress, loop.total_steps, finished=finished)
        finally:
            watcher.log.close()

    def _prepared(self, given: _Given) -> tuple[Dataset, Dataset | None, Recipe, str | None, Prepared]:
        """Training and validation set, the recipe for so many samples and ranks with a note, and the model."""
        recipe = self.recipe
        train, held = open_splits(
            given.data,
            fraction=recipe.validation_fraction,
            seed=recipe.seed,
            validation=given.validation,
            labels=recipe.task == "finetune" and (recipe.label_weight > 0 or given.teacher is None),
        )
        if recipe.task == "finetune" and train.classes and held is not None and not held.classes:
            raise ValueError("the data to validate on has no classes; expected those of the training set")
        before = None if self.overwrite else _before(self.folder)
        if before is not None:  # what the batch came to does not change when the run goes on
            recipe = recipe.replace(batch_size=min(recipe.batch_size, before.get("facts", {}).get("batch", 2**62)))
        recipe, note = fitted_batch(recipe, len(train), self.here.size)
        torch.manual_seed(recipe.seed)  # fresh weights are the same on all ranks
        made = prepare(recipe, train, source=given.source, teacher=given.teacher, device=self.here.device)
        return train, held, recipe, note, made

    def _check_shared(self) -> None:
        """All ranks write their share of a checkpoint to one folder."""
        if not (self.folder / "run.json").exists():
            raise OSError(f"{self.folder}: rank {self.here.rank} does not see it; expected a disk that all ranks share")

    def _begin(self, facts: dict[str, Any], lock: contextlib.ExitStack) -> None:
        """Makes the run's folder, or finds that its data are those it was started with; keeps others out of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock.enter_context(taken(self.folder))
        if self.overwrite and (self.folder / "run.json").exists():
            _empty(self.folder)
        before = _before(self.folder)
        if before is not None:
            then = before.get("facts", facts)
            others = [f"{k} was {then.get(k)}, now {value}" for k, value in facts.items() if then.get(k) != value]
            if others:
                raise RunExists(f"{self.folder} was started on other data: {'; '.join(others)}")
            if before["recipe"] != self.settings["recipe"]:
                write_json(self.folder / "run.json", {**before, "recipe": self.settings["recipe"]})
            return
        environment = {
            "hierax": hierax.__version__, "torch": torch.__version__, "python": platform.python_version(),
            "device": str(self.here.device), "ranks": self.here.size, "parallel": self.here.way,
        }  # fmt: skip
        write_json(self.folder / "run.json", {**self.settings, "facts": facts, "environment": environment})

    def _loop(
        self, recipe: Recipe, made: Prepared, train: Dataset, held: Dataset | None, order: Order, watcher: Watcher
    ) -> Loop:
        here, model = self.here, made.model
        parts = accumulation(recipe, here.size)
        seen = augmentation(recipe, model.config, arrays=train.arrays, record=made.record)
        view = TrainingView(train, seen, seed=recipe.seed)
        workers = default_workers() if recipe.workers is None else recipe.workers
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable()

        def loader(step: int) -> TrainingLoader:
            return TrainingLoader(
                view, order, epochs=recipe.epochs, distinct=recipe.distinct_epochs, start=step, rank=here.rank,
                world=here.size, parts=parts, workers=workers, pin=here.device.type == "cuda",
            )  # fmt: skip

        def blank() -> Objective:
            with torch.device("meta"):
                empty = type(model)(model.config)
            return _objective(recipe, made, empty, train, self.cache)

        return Loop(
            recipe,
            _objective(recipe, made, model, train, self.cache).to(here.device),
            here,
            blank=blank,
            loader=loader,
            steps_per_epoch=order.steps,
            samples=len(train),
            checkpoints=Checkpoints(self.folder, keep=recipe.keep),
            evaluate=self._evaluator(recipe, made, held, workers, watcher),
            watcher=watcher,
        )

    def _evaluator(
        self, recipe: Recipe, made: Prepared, held: Dataset | None, workers: int, watcher: Watcher
    ) -> Callable[[Objective, Callable[[], bool]], Metrics] | None:
        if held is None:
            return None
        view = EvaluationView(held, made.record, size=made.model.config.image_size)
        inputs = Inputs(view, made.mean, made.std)
        batch = min(recipe.device_batch_size or 64, 64)

        def evaluate(objective: Objective, stop: Callable[[], bool]) -> Metrics:
            if recipe.task == "pretrain":
                metrics, bad = masked_loss(objective, view, self.here, batch=batch, workers=workers, stop=stop)
            elif isinstance(objective, Distillation) and not objective.labelled:
                metrics, bad = agreement(objective, view, self.here, batch=batch, workers=workers, stop=stop)
            else:
                found = predict(objective.model, inputs, self.here, batch=batch, workers=workers, stop=stop)
                metrics, bad = found.metrics(), found.bad
            if bad and self.here.first:
                watcher.unreadable([f"{name}: {problem}" for name, problem in bad])
            return {**metrics, "unreadable": float(len(bad))} if bad else metrics

        return evaluate


def _objective(
    recipe: Recipe, made: Prepared, model: Pretrained, train: Dataset, cache: AnswerCache | None
) -> Objective:
    kind: type[Pretraining | Finetuning] = Finetuning
    options: dict[str, Any] = {"mean": made.mean, "std": made.std}
    if recipe.task == "pretrain":
        kind = HogPretraining if recipe.target == "hog" else Pretraining
    elif recipe.class_weights == "balanced" and made.labelled:
        labels = train.labels()
        if labels is None:
            raise ValueError("class_weights is 'balanced', but samples have none or several labels")
        options["class_weights"] = balanced(labels, model.config.num_labels)
    if made.teacher is not None:
        kind, own = Distillation, same_classes(model.config, made.teacher)
        options |= {"teacher": made.teacher, "labelled": made.labelled, "own_head": own, "cache": cache}
    objective = kind(model, recipe, **options)
    return objective.double() if recipe.precision == "fp64" else objective
