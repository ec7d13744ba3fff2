"""A run on one rank: prepares it, trains, and writes its folder."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import hierax
from hierax.atomic import make_folder, name_in_errors
from hierax.data.dataset import Dataset
from hierax.data.loader import TrainingLoader
from hierax.data.order import Order
from hierax.data.segmentation.dataset import palette_of
from hierax.data.split import with_validation
from hierax.data.view import EvaluationView, TrainingView
from hierax.processing.frames import FIRST_ONLY
from hierax.train.adapters import meta_copy
from hierax.train.batches import accumulation_steps, fit_batch
from hierax.train.callback import Metrics
from hierax.train.checkpoints import Checkpoints, locked_folder, write_json
from hierax.train.choice import Choice
from hierax.train.description import DESCRIPTION
from hierax.train.folder import RunExists, delete_run_files, read_previous
from hierax.train.loop import Loop
from hierax.train.modes import mode_of
from hierax.train.objective import Objective
from hierax.train.overlays import OverlaySheet
from hierax.train.parallel import World, default_workers
from hierax.train.pixels import augmentation
from hierax.train.predictions import Inputs
from hierax.train.prepare import PreparedRun, prepare
from hierax.train.progress import explain_failures, explain_memory_errors
from hierax.train.reconstructions import ReconstructionSheet
from hierax.train.request import PathOrHubId, Request
from hierax.train.run_folder import RunRecorder
from hierax.train.settings import Recipe, setting_names
from hierax.train.summary import about_classes, class_counts, plan, remarks, unused_settings
from hierax.train.teacher_cache import TeacherCache


@dataclass(frozen=True)
class _Setup:
    """The data, recipe and model of a run.

    Attributes:
        train, validation: training and validation set.
        recipe: the recipe, with a batch size that the data and the ranks allow.
        note: a sentence on a change of the batch size, or None.
        prepared: the model, and how its inputs are made.
    """

    train: Dataset
    validation: Dataset | None
    recipe: Recipe
    note: str | None
    prepared: PreparedRun


class RankRun:
    """One rank's part of a run."""

    def __init__(
        self, folder: Path, settings: dict[str, Any], recipe: Recipe, world: World, *, overwrite: bool, quiet: bool
    ) -> None:
        self.folder, self.settings, self.recipe, self.world = folder, settings, recipe, world
        self.overwrite, self.quiet = overwrite, quiet or not world.is_main
        self.cache: TeacherCache | None = None

    def train(self, request: Request, data: tuple[Dataset, Dataset | None], chosen: Choice) -> None:
        """Prepares the run, locks its folder, and trains."""
        world = self.world
        with explain_memory_errors():
            setup = world.run_on_all_ranks(lambda: self._setup(request, data, chosen.source))
        recipe, prepared, train, validation = setup.recipe, setup.prepared, setup.train, setup.validation
        if prepared.teacher is not None and request.teacher_cache is not None:
            self.cache = TeacherCache(request.teacher_cache, prepared.teacher.digest)
        order = Order(len(train), recipe.batch_size, recipe.seed, recipe.repeats)
        callback = RunRecorder(
            self.folder, prepared.record, validation=validation, quiet=self.quiet, adapter=prepared.adapter
        )
        loop = self._loop(setup, order, callback)
        torch.manual_seed(recipe.seed + world.rank)  # drop path and dropout differ between ranks
        facts = {"samples": len(train), "held_out": len(validation or ()), "batch": recipe.batch_size}
        self.settings["classes"] = class_counts(train)
        lines = [chosen.reason or None, about_classes(recipe, train, validation), *prepared.notes, setup.note]
        lines += [plan(recipe, order, world, train, validation)]
        lines += remarks(recipe, prepared.model.config, order, train, validation, fresh=self.settings["from"] is None)
        sets = {"validated": validation is not None, "drawn": data[1] is None}
        lines += unused_settings(
            recipe, setting_names(request.settings), train, **sets, taught=prepared.teacher is not None
        )
        with contextlib.ExitStack() as lock:
            world.run_on_main(lambda: self._begin(facts, lock))
            world.run_on_all_ranks(self._check_shared)
            self._run(loop, setup, order, lines)

    def _run(self, loop: Loop, setup: _Setup, order: Order, lines: list[str | None]) -> None:
        """Resumes if there is a checkpoint; trains until the run ends or a signal stops it."""
        world, callback = self.world, loop.callback
        assert isinstance(callback, RunRecorder)
        resumed = loop.resume()

        def start() -> None:
            if mode_of(setup.recipe).targets and setup.validation is not None:
                callback.overlays = OverlaySheet(
                    self.folder,
                    _validation_view(setup),
                    setup.prepared.record,
                    setup.train.classes,
                    palette_of(setup.train),
                )
            if _draws_reconstructions(setup):
                callback.reconstructions = ReconstructionSheet(
                    self.folder, _validation_view(setup), setup.prepared.record
                )
            callback.start(loop, order.steps)
            progress = [*loop.damaged, f"resumed after step {loop.progress.step}" if resumed else None]
            for line in filter(None, [*lines, *progress]):
                callback.log.say(line)

        try:
            world.run_on_main(start)
            FIRST_ONLY.take()  # forget files that were read while the run was prepared
            finished = loop.fit()
            for found in world.all_gather(FIRST_ONLY.take()):  # each rank has read its own share
                FIRST_ONLY.merge(found)
            for line in FIRST_ONLY.lines():
                callback.log.say(line)
            if world.is_main:
                with explain_failures(lambda: "the same command finishes the run"):
                    callback.end(loop.progress, loop.total_steps, finished=finished)
        finally:
            callback.log.close()

    def _setup(self, request: Request, data: tuple[Dataset, Dataset | None], source: PathOrHubId | None) -> _Setup:
        """Training and validation set, the recipe with a batch that fits them and the ranks, and the model."""
        recipe = self.recipe
        train, validation = with_validation(*data, fraction=recipe.validation_fraction, seed=recipe.seed)
        if request.mode.supervised and train.classes and validation is not None:
            _check_validation(train, validation)
        previous = None if self.overwrite else read_previous(self.folder)
        if previous is not None:  # a resumed run keeps its batch size
            recipe = recipe.replace(batch_size=min(recipe.batch_size, previous.get("facts", {}).get("batch", 2**62)))
        recipe, note = fit_batch(recipe, len(train), self.world.size)
        torch.manual_seed(recipe.seed)  # fresh weights are the same on all ranks
        prepared = prepare(recipe, train, source=source, teacher=request.teacher, device=self.world.device)
        return _Setup(train, validation, recipe, note, prepared)

    def _check_shared(self) -> None:
        """Raises `OSError` if this rank does not see the folder, to which all ranks write checkpoints."""
        if not (self.folder / "run.json").exists():
            raise OSError(
                f"{self.folder}: rank {self.world.rank} does not see it; expected a disk that all ranks share"
            )

    def _begin(self, facts: dict[str, Any], lock: contextlib.ExitStack) -> None:
        """Locks the run's folder and writes run.json. If the run is resumed, checks that the data are the same."""
        with name_in_errors(self.folder, self.folder):
            make_folder(self.folder)
        lock.enter_context(locked_folder(self.folder))
        description = self.folder / DESCRIPTION
        if self.overwrite and description.exists():
            delete_run_files(self.folder)
        previous = read_previous(self.folder)
        if previous is not None:
            then = previous.get("facts", facts)
            others = [f"{k} was {then.get(k)}, now {value}" for k, value in facts.items() if then.get(k) != value]
            others += _other_classes(previous.get("classes"), self.settings["classes"])
            if others:
                raise RunExists(f"{self.folder} was started on other data: {'; '.join(others)}")
            if previous["recipe"] != self.settings["recipe"]:
                write_json(description, {**previous, "recipe": self.settings["recipe"]})
            return
        environment = {
            "hierax": hierax.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": str(self.world.device),
            "ranks": self.world.size,
            "parallel": self.world.strategy,
        }
        write_json(description, {**self.settings, "facts": facts, "environment": environment})

    def _loop(self, setup: _Setup, order: Order, callback: RunRecorder) -> Loop:
        world, recipe, prepared, model = self.world, setup.recipe, setup.prepared, setup.prepared.model
        objective_of = mode_of(recipe).objective
        parts = accumulation_steps(recipe, world.size)
        view = _training_view(setup)
        workers = default_workers() if recipe.workers is None else recipe.workers
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable()

        def loader(step: int) -> TrainingLoader:
            return TrainingLoader(
                view,
                order,
                epochs=recipe.epochs,
                distinct=recipe.distinct_epochs,
                start=step,
                rank=world.rank,
                world=world.size,
                parts=parts,
                workers=workers,
                pin=world.device.type == "cuda",
            )

        def objective(on_meta: bool = False) -> Objective:
            one = meta_copy(model, prepared.adapter) if on_meta else model
            made_for = objective_of(recipe, prepared, one, setup.train, self.cache)
            return made_for.double() if recipe.precision == "fp64" else made_for

        return Loop(
            recipe,
            objective().to(world.device),
            world,
            make_meta_objective=lambda: objective(on_meta=True),
            loader=loader,
            steps_per_epoch=order.steps,
            samples=len(setup.train),
            checkpoints=Checkpoints(self.folder, keep=recipe.keep),
            evaluate=None if setup.validation is None else self._evaluator(setup, workers, callback),
            callback=callback,
        )

    def _evaluator(
        self, setup: _Setup, workers: int, callback: RunRecorder
    ) -> Callable[[Objective, Callable[[], bool]], Metrics]:
        inputs = Inputs(_validation_view(setup), setup.prepared.mean, setup.prepared.std)
        batch, score = min(setup.recipe.device_batch_size or 64, 64), mode_of(setup.recipe).evaluate

        def evaluate(objective: Objective, stop: Callable[[], bool]) -> Metrics:
            found = score(objective, inputs, self.world, batch=batch, workers=workers, stop=stop)
            callback.predictions = found.predictions or callback.predictions
            if found.bad and self.world.is_main:
                callback.on_unreadable([f"{name}: {problem}" for name, problem in found.bad])
            return {**found.metrics, "unreadable": float(len(found.bad))} if found.bad else found.metrics

        return evaluate


def _check_validation(train: Dataset, validation: Dataset) -> None:
    """Raises `ValueError` unless the validation set has labels of the same kind as the training set."""
    if not validation.classes:
        raise ValueError(
            "the data to validate on has no classes; expected those of the training set (pass the folder of the "
            "training set alone to validate on a part of it)"
        )
    single = [data.labels() is not None for data in (train, validation)]
    if single[0] != single[1]:
        kinds = {True: "one label", False: "a list of labels"}
        raise ValueError(
            f"each sample to train on has {kinds[single[0]]}, and each to validate on {kinds[single[1]]}; expected the "
            "same kind"
        )


def _training_view(setup: _Setup) -> TrainingView:
    recipe, prepared = setup.recipe, setup.prepared
    seen = augmentation(recipe, prepared.model.config, arrays=setup.train.arrays, record=prepared.record)
    return TrainingView(setup.train, seen, seed=recipe.seed)


def _validation_view(setup: _Setup) -> EvaluationView:
    assert setup.validation is not None
    size = setup.prepared.model.config.image_size
    return EvaluationView(setup.validation, setup.prepared.record, size=size, max_pixels=setup.recipe.max_pixels)


def _draws_reconstructions(setup: _Setup) -> bool:
    """Whether the run draws reconstructions: it predicts pixels, of images, and there is a validation set."""
    recipe = setup.recipe
    pixels = mode_of(recipe).masked and recipe.target != "hog"
    return pixels and setup.validation is not None and setup.prepared.record.do_rescale


def _other_classes(then: dict[str, int] | None, now: dict[str, int] | None) -> list[str]:
    """A sentence on how the classes differ from those at the start of the run; empty if they are equal or unknown."""
    if not then or now is None or then == now:
        return []
    name = next(iter([name for name in {**then, **now} if then.get(name) != now.get(name)]), None)
    if name is None:
        return [f"the classes were {', '.join(then)}, now {', '.join(now)}"]
    counts = ["not there" if found.get(name) is None else f"{found[name]:,} samples" for found in (then, now)]
    return [f"class {name} was {counts[0]}, now {counts[1]}"]
