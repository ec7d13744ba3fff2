"""The training loop: steps, checkpoints, evaluation. It stops on a signal and resumes from the last checkpoint.

A run, in the order in which things happen: `request.py` reads what was asked and opens the data. `modes.py` says what a
run of this mode needs. `choice.py` chooses a recipe if none is named; `recipes.py` has the recipes, and `settings.py`
checks their values. `batches.py` fits the batch to the data. `prepare.py` makes the model (`starting_model.py`), the
preprocessing and the augmentation (`pixels.py`), and the teacher (`teacher.py`), and checks the labels (`labels.py`).
`run.py` makes the folder of the run (`folder.py`, `run_folder.py`) and this loop.

In each step the loader (`data/loader.py`) gives a batch, in an order that can be repeated (`data/order.py`). The
objective (`objective.py`, `segmentation.py`, `distillation.py`, `hog.py`) computes the loss, the optimizer
(`optimizer.py`) changes the weights, and the moving average (`ema.py`) follows them. Several processes share the work
through `parallel.py`.

After some steps the held-out samples are evaluated (`predictions.py`, or for masks `segmentation.py`),
`reconstructions.py`, `overlays.py` and `plots.py` draw, and
`checkpoints.py` saves everything that a resumed run needs. At the end `report.py` writes the report.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from hierax.data.loader import Batch, TrainingLoader
from hierax.memory import freed_memory_kept
from hierax.model.pretrained import Pretrained
from hierax.stopping import StopSignal
from hierax.train.callback import Callback, Metrics
from hierax.train.checkpoints import Checkpoints, DamagedCheckpoint, rng_state, set_rng_state
from hierax.train.ema import AveragedWeights
from hierax.train.modes import mode_of
from hierax.train.objective import Objective
from hierax.train.optimizer import build_optimizer, learning_rate, set_lr
from hierax.train.parallel import World, full_tensor
from hierax.train.progress import Interrupted, Progress, StepReport, TrainingStopped, explain_failures, restore_progress
from hierax.train.settings import Recipe

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SAVE_AFTER = 1800.0  # maximum seconds between checkpoints, if epochs are long


class Loop:
    """The state of a run in memory.

    Args:
        make_meta_objective: makes a second objective, with a model on the meta device. The weights for evaluation and
            export are loaded into it, so that sharding and compilation do not concern it.
        loader: makes the loader for all steps from a given step on.
        samples: size of the dataset.
        checkpoints: the folder of checkpoints; None saves none.
        evaluate: called on all ranks with an objective and a function that says whether to stop; returns metrics, of
            which a higher "score" is better, or raises `Interrupted`.
        callback: receives the events of the loop; None ignores them.
    """

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        world: World,
        *,
        make_meta_objective: Callable[[], Objective],
        loader: Callable[[int], TrainingLoader],
        steps_per_epoch: int,
        samples: int,
        checkpoints: Checkpoints | None,
        evaluate: Callable[[Objective, Callable[[], bool]], Metrics] | None = None,
        callback: Callback | None = None,
    ) -> None:
        if recipe.precision == "fp16" and world.is_sharded:
            raise ValueError("precision is 'fp16', which does not work with fsdp; expected bf16 or fp32")
        half_on_cpu = recipe.precision in _AUTOCAST and world.device.type == "cpu"
        if recipe.compile and half_on_cpu and mode_of(recipe).masked:
            # the biases of the fusion share a gradient, which the C++ code of inductor stores twice with one name
            raise ValueError(
                f"compile=true with precision={recipe.precision}: PyTorch cannot compile this pretraining for a CPU; "
                "expected compile=false or precision=fp32"
            )
        self.recipe, self.objective, self.world = recipe, objective, world
        self.make_meta_objective = make_meta_objective
        self.loader, self.steps_per_epoch, self.samples = loader, steps_per_epoch, samples
        self.checkpoints, self.evaluate, self.callback = checkpoints, evaluate, callback or Callback()
        self.model: Pretrained = objective.model
        self.wrapped = world.wrap(objective, compile=recipe.compile)
        self.optimizer = build_optimizer(self.model, recipe)
        self.ema = AveragedWeights(self.model, recipe.ema) if recipe.ema else None
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.precision == "fp16")  # pyright: ignore
        self._distinct = (recipe.distinct_epochs or recipe.epochs) * steps_per_epoch  # steps until mixing repeats
        self.progress, self.stop = Progress(), StopSignal(self._stopping)
        self._step_seconds: float | None = None
        self.damaged: list[str] = []  # what `resume` found
        self._saved_at = self._counted_at = time.monotonic()
        # kept here, because a checkpoint may appear on the disk of other machines only later
        self._saved: int | None = None  # the step of the last checkpoint

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.recipe.epochs * self.steps_per_epoch

    def fit(self) -> bool:
        """Runs to the end, or until SIGTERM or SIGINT; returns whether the end was reached.

        Raises:
            TrainingStopped: too many steps without a finite loss, too many samples that cannot be read, or a fault of
                disk, memory, workers or other ranks.
        """
        self._counted_at = time.monotonic()
        kept = freed_memory_kept() if self.world.device.type == "cpu" else contextlib.nullcontext()
        with self.stop.handle(), explain_failures(self._recovery_note), kept:
            finished = self._run()
            if finished:
                self._finish()
            self._count_seconds()
            return finished

    def _stopping(self) -> None:
        if self.world.is_main:
            self.callback.on_stop_signal(self._step_seconds)

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self._counted_at
        self._counted_at = now

    def _recovery_note(self) -> str:
        steps = self.checkpoints.steps() if self.checkpoints else []
        return f"the run can resume after step {steps[-1]}" if steps else "there is no checkpoint yet to resume from"

    def _run(self) -> bool:
        """Runs all steps; False if the run was told to stop."""
        progress = self.progress
        self.objective.train()
        if self._is_evaluation_due() and progress.evaluated != progress.step and not self._evaluate():
            return False  # the run ended between a checkpoint and its evaluation, and now again
        if self._patience_is_over():
            return True
        loader = self.loader(progress.step)
        steps = iter(loader)
        while True:
            started, waited = time.perf_counter(), loader.waited
            parts, stop, late = self._next_micro_batches(steps)
            if parts is None:
                return True
            if stop or (late and not progress.skipped_in_row):
                self.save()
            if stop:
                return False
            report = self._step(parts, started, loader.waited - waited)
            self._step_seconds = report.seconds
            if self.world.is_main:
                self.callback.on_step(report)
            if not self._after_step():
                return False
            if self._patience_is_over():
                return True

    def _next_micro_batches(self, steps: Iterator[list[Batch]]) -> tuple[list[Batch] | None, bool, bool]:
        """The micro-batches of the next step (None after the last step), whether a rank was told to stop, and whether
        the last checkpoint is too old.

        If loading fails on one rank, its error is raised on all.
        """
        parts: list[Batch] | None = None
        error: Exception | None = None
        try:
            parts = next(steps, None)
        except ValueError as caught:
            error = TrainingStopped(f"{caught}; {self._recovery_note()}")
        except Exception as caught:
            error = caught
        late = self.world.is_main and time.monotonic() - self._saved_at > _SAVE_AFTER
        mine = (error is not None, self.stop(), late and self.recipe.checkpoint_every is None)
        failed, stop, due = self.world.all_reduce_sum(*map(float, mine))
        if failed:
            self.world.run_on_all_ranks(lambda: _raise(error))
        return parts, bool(stop), bool(due)

    def _step(self, parts: list[Batch], started: float, waited: float) -> StepReport:
        recipe, progress, world = self.recipe, self.progress, self.world
        lr = learning_rate(recipe, progress.step, self.steps_per_epoch)
        set_lr(self.optimizer, lr)
        loss = torch.zeros((), device=world.device)
        for number, batch in enumerate(parts):
            # numbered over all ranks, so that mixing does not depend on the number of ranks
            key = (progress.step % self._distinct, number * world.size + world.rank)
            inputs = self.objective.prepare_inputs(batch, world.device, key=key)
            with world.accumulating(self.wrapped, last=number == len(parts) - 1):
                with self._autocast():
                    part = self.wrapped(*inputs) / len(parts)
                self.scaler.scale(part).backward()
            loss = loss + part.detach()
        self.scaler.unscale_(self.optimizer)
        norm = float(full_tensor(nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad or math.inf)))
        own, bad = float(loss), [item for batch in parts for item in batch.bad]
        lost = 0.0 if math.isfinite(own) and math.isfinite(norm) else 1.0
        summed, count, lost, unreadable = world.all_reduce_sum(own, float(sum(map(len, parts))), lost, float(len(bad)))
        self._apply(finite=not lost)
        progress.step += 1
        progress.seen += int(count)
        progress.add_loss(summed / world.size)
        if unreadable:
            self._count_bad([(item.index, f"{item.name}: {item.problem}") for item in bad])
        return StepReport(
            progress.step,
            progress.step / self.steps_per_epoch,
            progress.losses[-1],
            lr,
            norm,
            time.perf_counter() - started,
            waited,
            int(count),
        )

    def _apply(self, *, finite: bool) -> None:
        """Takes the optimizer's step if loss and gradients are finite on all ranks; otherwise the step is skipped."""
        progress = self.progress
        if finite:
            self.scaler.step(self.optimizer)
            progress.skipped_in_row = 0
            if self.ema is not None:
                self.ema.update(self.model, progress.step)
        else:
            progress.skipped += 1
            progress.skipped_in_row += 1
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if progress.skipped_in_row > self.recipe.max_skipped:
            raise TrainingStopped(
                f"{progress.skipped_in_row} steps in a row had no finite loss and gradient; {self._recovery_note()}"
            )

    def _count_bad(self, found: list[tuple[int, str]]) -> None:
        bad = self.progress.bad
        everyone = {index: text for entries in self.world.all_gather(found) for index, text in entries}
        new = {index: text for index, text in everyone.items() if index not in bad}
        bad.update(new)
        if new and self.world.is_main:
            self.callback.on_unreadable(list(new.values()))
        if len(bad) > self.recipe.max_bad * self.samples:
            raise TrainingStopped(
                f"{len(bad)} of {self.samples} samples could not be read, more than max_bad={self.recipe.max_bad:g} "
                f"allows; the first: {next(iter(bad.values()))}; {self._recovery_note()}"
            )

    def _autocast(self) -> Any:
        dtype = _AUTOCAST.get(self.recipe.precision)
        return torch.autocast(self.world.device.type, dtype) if dtype else contextlib.nullcontext()

    def _is_evaluation_due(self) -> bool:
        """Whether an evaluation is due after the finished steps."""
        epoch, inside = divmod(self.progress.step, self.steps_per_epoch)
        due = epoch % self.recipe.evaluate_every == 0 or self.progress.step == self.total_steps
        return self.evaluate is not None and self.progress.step > 0 and inside == 0 and due

    def _patience_is_over(self) -> bool:
        return self.recipe.patience is not None and self.progress.waiting >= self.recipe.patience

    def _after_step(self) -> bool:
        """Saves and evaluates if due; returns whether the run continues.

        A checkpoint is written before its evaluation: a run that is resumed from it evaluates first. While steps are
        skipped, no checkpoint is written, so that the earlier ones stay.
        """
        progress, every = self.progress, self.recipe.checkpoint_every
        evaluating = self._is_evaluation_due()
        due = evaluating or progress.step % (every or self.steps_per_epoch) == 0
        if due and not progress.skipped_in_row:
            self.save()
        return not evaluating or self._evaluate()

    def _evaluate(self) -> bool:
        """Evaluates the weights; False if a signal interrupted it."""
        assert self.evaluate is not None
        progress = self.progress
        try:
            if self.world.all_reduce_sum(float(self.stop()))[0]:
                raise Interrupted
            objective = self._evaluation_objective()
            with torch.no_grad(), self._autocast():
                metrics = self.evaluate(objective, self.stop)
        except Interrupted:
            self.save()
            return False
        metrics = self.world.all_gather(metrics)[
            0
        ]  # other processors round differently, but all ranks must decide the same
        better = progress.evaluate(metrics)
        if better and self.recipe.weights == "best":
            self.world.run_on_main(lambda: self._save_model(objective))
        self.world.run_on_main(lambda: self.callback.on_evaluation(progress.step, metrics, better, objective))
        return True

    def _evaluation_objective(self) -> Objective:
        """A separate objective in eval mode, with the averaged weights if these are kept. All ranks must call this."""
        objective = self.make_meta_objective()
        objective.model.load_state_dict(self.weights(), assign=True)
        return objective.to(self.world.device).eval()

    def weights(self) -> dict[str, Tensor]:
        """The full weights for evaluation. All ranks must call this."""
        averaged = self.ema.values if self.ema is not None else {}
        return {name: full_tensor(tensor) for name, tensor in {**self.model.state_dict(), **averaged}.items()}

    def _finish(self) -> None:
        best = self.recipe.weights == "best" and self.progress.best_step > 0
        objective = self._evaluation_objective()  # the last weights; they are the result if there is no validation
        self.world.run_on_main(lambda: self._save_model(objective, last=best))
        self.save()

    def _save_model(self, objective: Objective, *, last: bool = False) -> None:
        self.callback.save_model(objective.model_to_save(), last=last)
        if self.recipe.adapter is not None:
            self.callback.save_adapter(objective.model.state_dict(), last=last)

    def _shared(self) -> dict[str, Any]:
        """The state that all ranks save together."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer),
        }
        if self.ema is not None:
            state["average"] = self.ema.values
        return state

    def save(self) -> None:
        """Writes a checkpoint, unless this step has one or no step was taken yet."""
        progress = self.progress
        if self.checkpoints is None or progress.step == self._saved or not self.optimizer.state:
            return
        self._count_seconds()
        own = {"rng": rng_state(), "progress": vars(progress), "scaler": self.scaler.state_dict()}
        self.checkpoints.save(progress.step, self._shared(), own, world=self.world, best=progress.best_step)
        self._saved, self._saved_at = progress.step, time.monotonic()

    def resume(self) -> bool:
        """Loads the last checkpoint that is not damaged; False if there is no checkpoint.

        Damaged checkpoints are renamed and listed in `damaged`.

        Raises:
            TrainingStopped: no checkpoint can be read.
        """
        with explain_failures(lambda: "the checkpoints are untouched"):
            step = self._last_intact_checkpoint()
            if self.checkpoints is None or step is None:
                return False
            state = self._shared()
            try:
                own, same_world = self.checkpoints.load(step, state, world=self.world)
            except CheckpointException as error:
                reason = next(iter(error.failures.values()))[0]
                text = f"{self.checkpoints.path(step)} does not fit the model of this run: {reason}"
                raise TrainingStopped(text) from error
        try:
            set_optimizer_state_dict(self.model, self.optimizer, optim_state_dict=state["optimizer"])
            if same_world:  # otherwise, drop path and dropout get other random numbers
                set_rng_state(own["rng"])
            self.progress = restore_progress(own["progress"], step)
            self.scaler.load_state_dict(own["scaler"])
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise TrainingStopped(f"{self.checkpoints.path(step)} is not as a run writes it: {error}") from error
        self._saved = self.progress.step
        return True

    def _last_intact_checkpoint(self) -> int | None:
        """The step of the last checkpoint that is not damaged; None if there are no checkpoints."""
        checkpoints, world = self.checkpoints, self.world
        steps = world.all_gather(checkpoints.steps() if checkpoints else [])[0]
        if checkpoints is None or not steps:
            return None
        found: dict[int, str] = {}
        for step in reversed(steps):
            try:
                checkpoints.check(step, world=world)
            except DamagedCheckpoint as error:
                found[step] = str(error)
                continue
            for damaged, reason in found.items():
                world.run_on_main(lambda damaged=damaged: checkpoints.put_aside(damaged))
                self.damaged.append(f"{reason}; the run resumes from the checkpoint before, of step {step}")
            return step
        first = next(iter(found.values()))
        raise TrainingStopped(f"no checkpoint in {checkpoints.folder} is complete: {first}; choose another folder")


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error
