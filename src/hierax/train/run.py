"""A run: a folder with everything that was decided, written and learnt; started, resumed, finished."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import hierax
from hierax.data.dataset import Dataset
from hierax.data.loader import TrainingLoader
from hierax.data.order import Order
from hierax.data.split import open_splits
from hierax.data.view import EvaluationView, TrainingView
from hierax.pretrained import Pretrained
from hierax.processing import Preprocessing
from hierax.train.evaluate import masked_loss, predict
from hierax.train.log import RunLog, plot_losses
from hierax.train.loop import Loop, Metrics, Watcher
from hierax.train.objective import Finetuning, HogPretraining, Objective, Pretraining, balanced
from hierax.train.panel import Panel, is_due
from hierax.train.parallel import World, world
from hierax.train.prepare import Prepared, accumulation, augmentation, fitted_batch, prepare
from hierax.train.progress import Progress, StepReport
from hierax.train.recipe import Recipe
from hierax.train.recipes import DEFAULTS
from hierax.train.recipes import recipe as named_recipe
from hierax.train.state import Checkpoints, write_json

Setting = str | os.PathLike[str]
_MOST_WORKERS = 16


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

    A run that was interrupted goes on where it stopped when it is called again with the same arguments.

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
    return _train("pretrain", data, out, recipe, source, validation, device, parallel, overwrite, quiet)


def finetune(
    data: Setting,
    *,
    source: Setting | None,
    out: Setting,
    recipe: str | Recipe = DEFAULTS["finetune"],
    validation: Setting | None = None,
    device: str = "auto",
    parallel: str = "ddp",
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Trains a classifier on labelled `data`, from the checkpoint or run `source` (None: from scratch).

    Arguments, result and errors are those of `pretrain`.
    """
    return _train("finetune", data, out, recipe, source, validation, device, parallel, overwrite, quiet)


def _train(
    task: str,
    data: Setting,
    out: Setting,
    recipe: str | Recipe,
    source: Setting | None,
    validation: Setting | None,
    device: str,
    parallel: str,
    overwrite: bool,
    quiet: bool,
) -> Path:
    chosen = recipe if isinstance(recipe, Recipe) else named_recipe(recipe)
    if chosen.task != task:
        raise ValueError(f"recipe {chosen.name} is for {chosen.task}, not for {task}")
    settings = {
        "task": task,
        "data": _located(data),
        "validation": validation and _located(validation),
        "from": source and _located(source),
        "recipe": chosen.to_dict(),
    }
    run = Path(out)
    if overwrite:
        _check_outside(run, settings)
    with world(device, parallel) as here:
        here.on_first(lambda: _check_free(run, settings, overwrite=overwrite))
        share = _Share(run, settings, chosen, here, overwrite=overwrite, quiet=quiet)
        share.train(data, source, validation)
    return run


def _located(setting: Setting) -> str:
    """What is here, by its whole path, so that it is found from any folder; ids of the Hub as they are."""
    text = os.fspath(setting)
    return os.path.abspath(text) if os.path.exists(text) or any(c in text for c in "*?[{") else text


def _check_outside(run: Path, settings: Mapping[str, Any]) -> None:
    for name in ("data", "validation", "from"):
        place = settings[name]
        if place and os.path.exists(place) and Path(place).resolve().is_relative_to(run.resolve()):
            raise ValueError(f"{name} is {place}, inside the run {run}, which --overwrite would delete")


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
        if run.exists() and any(run.iterdir()):
            raise RunExists(f"{run} is not empty and holds no run")
        return
    if before.get("finished"):
        raise RunExists(f"{run} holds a finished run; --overwrite starts anew")
    then, now = ({**{k: v for k, v in s.items() if k != "recipe"}, **s["recipe"]} for s in (before, settings))
    others = [f"{key} was {then.get(key)!r}, now {now[key]!r}" for key in sorted(now) if then.get(key) != now[key]]
    if others:
        raise RunExists(f"{run} was started with other settings: {'; '.join(others)}; --overwrite starts anew")


class _Share:
    """One process's share of a run."""

    def __init__(
        self, folder: Path, settings: dict[str, Any], recipe: Recipe, here: World, *, overwrite: bool, quiet: bool
    ) -> None:
        self.folder, self.settings, self.recipe, self.here = folder, settings, recipe, here
        self.overwrite, self.quiet = overwrite, quiet or not here.first

    def train(self, data: Setting, source: Setting | None, validation: Setting | None) -> None:
        """Prepares, resumes and runs to the end or to a signal."""
        recipe, here = self.recipe, self.here
        train, held = open_splits(data, fraction=recipe.validation_fraction, seed=recipe.seed, validation=validation)
        recipe, note = fitted_batch(recipe, len(train), here.size)
        torch.manual_seed(recipe.seed)  # fresh weights are the same on all ranks
        made = prepare(recipe, train, source=source)
        order = Order(len(train), recipe.batch_size, recipe.seed, recipe.repeats)
        watcher = _Witness(self.folder, made.record, quiet=self.quiet)
        loop = self._loop(recipe, made, train, held, order, watcher)
        torch.manual_seed(recipe.seed + here.rank)  # drop path and dropout differ between ranks
        facts = {"samples": len(train), "held_out": len(held or ()), "batch": recipe.batch_size}
        here.on_first(lambda: self._begin(facts))
        resumed = loop.resume()
        if here.first:
            if recipe.task == "pretrain" and recipe.target != "hog" and held is not None and not held.arrays:
                view = EvaluationView(held, made.record, size=made.model.config.image_size)
                watcher.panel = Panel(self.folder, view, made.record)
            watcher.start(loop, order.steps)
            lines = [*made.notes, note, self._plan(recipe, order, train, held), _warning(recipe)]
            lines.append(f"resumed after step {loop.progress.step}" if resumed else None)
            for line in filter(None, lines):
                watcher.log.say(line)
        try:
            finished = loop.fit()
            if here.first:
                watcher.end(loop.progress, loop.total_steps, finished=finished)
        finally:
            watcher.log.close()

    def _begin(self, facts: dict[str, Any]) -> None:
        """Makes the run's folder, or finds that its data are those it was started with."""
        if self.overwrite and (self.folder / "run.json").exists():
            shutil.rmtree(self.folder)
        before = _before(self.folder)
        if before is not None:
            then = before.get("facts", facts)
            others = [f"{k} was {then.get(k)}, now {value}" for k, value in facts.items() if then.get(k) != value]
            if others:
                raise RunExists(f"{self.folder} was started on other data: {'; '.join(others)}")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {
            "hierax": hierax.__version__, "torch": torch.__version__, "python": platform.python_version(),
            "device": str(self.here.device), "ranks": self.here.size, "parallel": self.here.way,
        }  # fmt: skip
        write_json(self.folder / "run.json", {**self.settings, "facts": facts, "environment": environment})

    def _plan(self, recipe: Recipe, order: Order, train: Dataset, held: Dataset | None) -> str:
        parts, size = accumulation(recipe, self.here.size), self.here.size
        each = recipe.batch_size // size // parts
        lines = f"{len(train):,} samples, {order.steps} steps of {recipe.batch_size} per epoch, {recipe.epochs} epochs"
        shared = f" = {size} rank(s) x {parts} part(s) x {each}" if size * parts > 1 else ""
        dropped = f"; {order.dropped} samples sit out each epoch" if order.dropped else ""
        check = f"; {len(held):,} to validate on" if held is not None else ""
        return (
            f"{lines}{shared}{dropped}{check}; peak lr {recipe.peak_lr:.3g}, {recipe.precision} on {self.here.device}"
        )

    def _loop(
        self, recipe: Recipe, made: Prepared, train: Dataset, held: Dataset | None, order: Order, watcher: Watcher
    ) -> Loop:
        here, model = self.here, made.model
        parts = accumulation(recipe, here.size)
        view = TrainingView(train, augmentation(recipe, model.config), seed=recipe.seed)
        workers = _workers() if recipe.workers is None else recipe.workers
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable()

        def loader(step: int) -> TrainingLoader:
            return TrainingLoader(
                view, order, epochs=recipe.epochs, start=step, rank=here.rank, world=here.size, parts=parts,
                workers=workers, pin=here.device.type == "cuda",
            )  # fmt: skip

        def blank() -> Objective:
            with torch.device("meta"):
                empty = type(model)(model.config)
            return _objective(recipe, made, empty, train)

        return Loop(
            recipe,
            _objective(recipe, made, model, train).to(here.device),
            here,
            blank=blank,
            loader=loader,
            steps_per_epoch=order.steps,
            samples=len(train),
            checkpoints=Checkpoints(self.folder, keep=recipe.keep),
            evaluate=self._evaluator(recipe, made, held, workers),
            watcher=watcher,
        )

    def _evaluator(
        self, recipe: Recipe, made: Prepared, held: Dataset | None, workers: int
    ) -> Callable[[Objective, Callable[[], bool]], Metrics] | None:
        if held is None:
            return None
        view = EvaluationView(held, made.record, size=made.model.config.image_size)
        batch = min(recipe.device_batch_size or 64, 64)

        def evaluate(objective: Objective, stop: Callable[[], bool]) -> Metrics:
            if recipe.task == "pretrain":
                return masked_loss(objective, view, self.here, batch=batch, workers=workers, stop=stop)
            found = predict(
                objective.model, view, self.here, mean=made.mean, std=made.std, batch=batch, workers=workers, stop=stop
            )
            return found.metrics()

        return evaluate


def _objective(recipe: Recipe, made: Prepared, model: Pretrained, train: Dataset) -> Objective:
    kind: type[Pretraining | Finetuning] = Finetuning
    options: dict[str, Any] = {"mean": made.mean, "std": made.std}
    if recipe.task == "pretrain":
        kind = HogPretraining if recipe.target == "hog" else Pretraining
    elif recipe.class_weights == "balanced":
        labels = train.labels()
        if labels is None:
            raise ValueError("class_weights is 'balanced', but samples have none or several labels")
        options["class_weights"] = balanced(labels, model.config.num_labels)
    objective = kind(model, recipe, **options)
    return objective.double() if recipe.precision == "fp64" else objective


def _workers() -> int:
    """Processes that decode beside each rank: the cores there are for it but one."""
    cores = len(os.sched_getaffinity(0)) if platform.system() == "Linux" else os.cpu_count() or 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(cores // ranks - 1, 0), _MOST_WORKERS)


def _warning(recipe: Recipe) -> str | None:
    if recipe.warmup_epochs < recipe.epochs:
        return None
    return (
        f"warmup_epochs is {recipe.warmup_epochs:g} of {recipe.epochs} epochs: the learning rate never gets to its peak"
    )


class _Witness(Watcher):
    """Writes a run's folder, on the first rank."""

    def __init__(self, folder: Path, record: Preprocessing, *, quiet: bool) -> None:
        self.folder, self.record, self.quiet = folder, record, quiet
        self.panel: Panel | None = None
        self.steps_per_epoch, self.epochs = 1, 1
        self.log = RunLog(folder, total=0, quiet=quiet)

    def start(self, loop: Loop, steps_per_epoch: int) -> None:
        """Goes on with the log after what is done."""
        self.steps_per_epoch, self.epochs = steps_per_epoch, loop.recipe.epochs
        self.log = RunLog(self.folder, total=loop.total_steps, quiet=self.quiet)
        self.log.start(loop.progress.step, loop.progress.evaluated)

    def step(self, report: StepReport) -> None:
        """See `Watcher`."""
        self.log.step(report)

    def evaluated(self, step: int, metrics: Metrics, better: bool, objective: Objective) -> None:
        """See `Watcher`."""
        self.log.evaluated(step, metrics, better)
        if self.panel is not None and is_due(step // self.steps_per_epoch, self.epochs):
            self.panel.draw(objective, step)

    def export(self, model: Pretrained) -> None:
        """Writes `model/`, in float32."""
        with torch.device("meta"):
            plain = type(model)(model.config)
        plain.load_state_dict({name: t.float().cpu() for name, t in model.state_dict().items()}, assign=True)
        plain.preprocessing = self.record
        plain.save_pretrained(self.folder / "model")

    def end(self, progress: Progress, total: int, *, finished: bool) -> None:
        """Says how the run ended, and marks it finished if it did."""
        log, folder = self.log, self.folder
        if progress.bad:
            (folder / "unreadable.txt").write_text("".join(f"{text}\n" for text in progress.bad.values()))
            log.say(f"{len(progress.bad)} samples could not be read: {folder / 'unreadable.txt'}")
        if not finished:
            log.say(f"stopped after step {progress.step} of {total}; the same command goes on from there")
            return
        drawn = plot_losses(folder)
        result = {
            "steps": progress.step,
            "best": progress.best if progress.best_step else None,
            "best_step": progress.best_step or None,
            "skipped": progress.skipped,
            "unreadable": len(progress.bad),
            "images_per_second": round(log.images / log.seconds, 2) if log.seconds else None,
            "waited": round(log.waited / log.seconds, 4) if log.seconds else None,
        }
        values = json.loads((folder / "run.json").read_text())
        write_json(folder / "run.json", {**values, "finished": True, "result": result})
        early = f" after {progress.step} of {total} steps, without a better score" if progress.step < total else ""
        waited = 100 * (result["waited"] or 0)
        speed = f"{result['images_per_second']} images/s, {waited:.1f} % of the time waiting for data"
        plot = "" if drawn else "; loss.png needs the extra: hierax[train]"
        log.say(f"done{early}: {folder / 'model'} ({speed}){plot}")
