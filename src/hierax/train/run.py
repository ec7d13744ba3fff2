"""A run: a folder with everything that was decided, written and learnt; started, resumed, finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierax.data.dataset import Dataset
from hierax.data.loader import TrainingLoader
from hierax.data.order import Order
from hierax.data.split import open_splits
from hierax.data.view import EvaluationView, TrainingView
from hierax.pretrained import Pretrained
from hierax.processing import IMAGENET
from hierax.train.evaluate import predict, reconstruction_loss
from hierax.train.log import RunLog, plot_losses
from hierax.train.loop import Loop
from hierax.train.objective import Finetuning, Objective, Pretraining, balanced
from hierax.train.parallel import World, world
from hierax.train.prepare import Prepared, accumulation, augmentation, fitted_batch, prepare
from hierax.train.recipe import Recipe
from hierax.train.recipes import DEFAULTS
from hierax.train.recipes import recipe as named_recipe
from hierax.train.state import Checkpoints, write_json

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
        "data": str(data),
        "validation": validation and str(validation),
        "from": source and str(source),
        "recipe": chosen.to_dict(),
    }
    run = Path(out)
    with world(device, parallel) as here:
        if here.first:
            _claim(run, settings, overwrite=overwrite)
        here.barrier()
        _Run(run, chosen, here, quiet=quiet or not here.first).train(data, source, validation)
    return run


def _claim(run: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Makes the run's folder, or finds in it a run with the same settings that is not finished.

    Raises:
        RunExists: it holds another run, or a finished one.
    """
    path = run / "run.json"
    if overwrite and path.exists():
        shutil.rmtree(run)
    if path.exists():
        before = json.loads(path.read_text())
        if before.get("finished"):
            raise RunExists(f"{run} holds a finished run; --overwrite starts anew")
        others = list(_differences(before, settings))
        if others:
            raise RunExists(f"{run} was started with other settings: {'; '.join(others)}; --overwrite starts anew")
        return
    if run.exists() and any(run.iterdir()):
        raise RunExists(f"{run} is not empty and holds no run")
    run.mkdir(parents=True, exist_ok=True)
    write_json(path, {**settings, "versions": {"torch": torch.__version__}})


def _differences(before: dict[str, Any], now: dict[str, Any]) -> Any:
    flat = [{**{k: v for k, v in s.items() if k != "recipe"}, **s.get("recipe", {})} for s in (before, now)]
    for key in sorted(set(flat[1])):
        if flat[0].get(key) != flat[1][key]:
            yield f"{key} was {flat[0].get(key)!r}, now {flat[1][key]!r}"


class _Run:
    """One process's share of a run."""

    def __init__(self, folder: Path, recipe: Recipe, here: World, *, quiet: bool) -> None:
        self.folder, self.recipe, self.here, self.quiet = folder, recipe, here, quiet

    def train(self, data: Setting, source: Setting | None, validation: Setting | None) -> None:
        """Prepares, resumes and runs to the end or to a signal."""
        recipe, here = self.recipe, self.here
        train, held = open_splits(data, fraction=recipe.validation_fraction, seed=recipe.seed, validation=validation)
        recipe, note = fitted_batch(recipe, len(train), here.size)
        torch.manual_seed(recipe.seed)  # fresh weights are the same on all ranks
        made = prepare(recipe, train, source=source)
        torch.manual_seed(recipe.seed + here.rank)  # drop path and dropout are not
        order = Order(len(train), recipe.batch_size, recipe.seed, recipe.repeats)
        loop = self._loop(recipe, made, train, held, order)
        log = RunLog(self.folder, total=loop.total_steps, quiet=self.quiet) if here.first else None
        resumed = loop.resume()
        if log is not None:
            log.start(loop.progress.step)
            for line in (
                *made.notes,
                note,
                self._plan(recipe, order, train, held),
                resumed and f"resumed after step {loop.progress.step}",
            ):
                if line:
                    log.say(line)
            loop.report, loop.evaluated = log.step, log.evaluated
        try:
            finished = loop.fit()
        finally:
            if log is not None:
                log.close()
        if here.first:
            self._end(loop, log, finished=finished)

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

    def _loop(self, recipe: Recipe, made: Prepared, train: Dataset, held: Dataset | None, order: Order) -> Loop:
        here, model = self.here, made.model
        parts = accumulation(recipe, here.size)
        view = TrainingView(train, augmentation(recipe, model.config), seed=recipe.seed)
        workers = recipe.workers if recipe.workers is not None else max((os.cpu_count() or 1) - 1, 0)
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        objective = self._objective(recipe, made, train).to(here.device)
        if recipe.precision == "fp64":
            objective = objective.double()

        def loader(step: int) -> TrainingLoader:
            return TrainingLoader(
                view, order, epochs=recipe.epochs, start=step, rank=here.rank, world=here.size, parts=parts,
                workers=workers, pin=here.device.type == "cuda",
            )  # fmt: skip

        return Loop(
            recipe,
            objective,
            here,
            loader=loader,
            steps_per_epoch=order.steps,
            samples=len(train),
            checkpoints=Checkpoints(self.folder, keep=recipe.keep),
            evaluate=self._evaluator(recipe, made, held, workers),
            export=lambda weights: self._export(made, weights),
        )

    def _objective(self, recipe: Recipe, made: Prepared, train: Dataset) -> Objective:
        if recipe.task == "pretrain":
            return Pretraining(made.model, recipe, mean=made.mean, std=made.std)
        weights, labels = None, train.labels()
        if recipe.class_weights == "balanced":
            if labels is None:
                raise ValueError("class_weights is 'balanced', but samples have none or several labels")
            weights = balanced(labels, made.model.config.num_labels)
        return Finetuning(made.model, recipe, mean=made.mean, std=made.std, class_weights=weights)

    def _evaluator(
        self, recipe: Recipe, made: Prepared, held: Dataset | None, workers: int
    ) -> Callable[[Pretrained], dict[str, float]] | None:
        if held is None:
            return None
        size = made.model.config.image_size
        view = EvaluationView(held, made.record or IMAGENET.replace(**_channels(made)), size=size)
        options: dict[str, Any] = {
            "mean": made.mean, "std": made.std, "workers": workers,
            "batch": min(recipe.device_batch_size or 64, 64),
        }  # fmt: skip
        if recipe.task == "pretrain":
            return lambda model: reconstruction_loss(model, view, self.here, **options)
        return lambda model: predict(model, view, self.here, **options).metrics()

    def _export(self, made: Prepared, weights: dict[str, Tensor]) -> None:
        """Writes `model/` with these weights, in float32."""
        with torch.device("meta"):
            plain = type(made.model)(made.model.config)
        plain.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in weights.items()}, assign=True)
        plain.preprocessing = made.record
        plain.save_pretrained(self.folder / "model")

    def _end(self, loop: Loop, log: RunLog | None, *, finished: bool) -> None:
        assert log is not None
        progress = loop.progress
        if progress.bad:
            lines = [f"{text}\n" for text in progress.bad.values()]
            (self.folder / "unreadable.txt").write_text("".join(lines))
            print_to = f"{len(progress.bad)} samples could not be read: {self.folder / 'unreadable.txt'}"
            log.say(print_to)
        if not finished:
            log.say(f"stopped after step {progress.step} of {loop.total_steps}; the same command goes on from there")
            return
        drawn = plot_losses(self.folder)
        path = self.folder / "run.json"
        result = {
            "steps": progress.step,
            "best": progress.best if progress.best_step else None,
            "best_step": progress.best_step or None,
            "skipped": progress.skipped,
            "unreadable": len(progress.bad),
            "images_per_second": round(log.images / log.seconds, 2) if log.seconds else None,
            "waited": round(log.waited / log.seconds, 4) if log.seconds else None,
        }
        write_json(path, {**json.loads(path.read_text()), "finished": True, "result": result})
        waited = 100 * (result["waited"] or 0)
        speed = f"{result['images_per_second']} images/s, {waited:.1f} % of the time waiting for data"
        log.say(
            f"done: {self.folder / 'model'} ({speed}){'' if drawn else '; loss.png needs the extra: hierax[train]'}"
        )


def _channels(made: Prepared) -> dict[str, Sequence[float]]:
    count = made.model.config.num_channels
    return {"image_mean": (0.5,) * count, "image_std": (0.5,) * count}
