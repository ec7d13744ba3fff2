"""The loop: steps, checkpoints, evaluation; it stops when told to and goes on where it stopped."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from hierax.data.loader import Batch, TrainingLoader
from hierax.data.view import Unreadable
from hierax.pretrained import Pretrained
from hierax.train.groups import learning_rate, optimizer, set_lr
from hierax.train.objective import Objective
from hierax.train.parallel import World, full
from hierax.train.recipe import Recipe
from hierax.train.state import Checkpoints, load_rank, rng_state, save_rank, set_rng_state

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingStopped(RuntimeError):
    """A run that cannot go on; its last checkpoint is intact."""


@dataclass
class Progress:
    """Where a run is, and what is counted along it.

    Attributes:
        step: steps done; seen: samples seen.
        skipped, skipped_in_row: steps without a finite loss and gradient.
        bad: what could not be read, by index.
        best, best_step: the best validation metric and when it was reached.
        waiting: evaluations since then.
    """

    step: int = 0
    seen: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    bad: dict[int, str] = field(default_factory=dict)
    best: float = -math.inf
    best_step: int = 0
    waiting: int = 0


@dataclass(frozen=True)
class StepReport:
    """What one step did."""

    step: int
    epoch: float
    loss: float
    lr: float
    gradient_norm: float
    seconds: float
    waited: float
    images: int


class Average:
    """An exponential average of a model's parameters, in their own precision."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes the parameters in."""
        for name, parameter in model.named_parameters():
            self.values[name].lerp_(parameter.detach(), 1 - self.decay)


def _shared(act: Callable[..., Any], state: dict[str, Any], folder: Path, *, alone: bool) -> None:
    """Saves or loads what all ranks hold together."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # a single process is meant
        act(state, checkpoint_id=folder / "shared", no_dist=alone)


class Loop:
    """Everything that a run holds in memory.

    `evaluate` is called on all ranks and returns metrics of which "score" is to be as high as possible; `report` is
    called on all ranks after each step; `export` writes the model's folder, on the first rank.
    """

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        world: World,
        *,
        loader: Callable[[int], TrainingLoader],
        steps_per_epoch: int,
        samples: int,
        checkpoints: Checkpoints | None,
        evaluate: Callable[[Pretrained], dict[str, float]] | None = None,
        report: Callable[[StepReport], None] = lambda _: None,
        evaluated: Callable[[int, dict[str, float], bool], None] = lambda *_: None,
        export: Callable[[dict[str, Tensor]], None] | None = None,
    ) -> None:
        self.recipe, self.objective, self.world = recipe, objective, world
        self.loader, self.steps_per_epoch, self.samples = loader, steps_per_epoch, samples
        self.checkpoints, self.evaluate, self.report = checkpoints, evaluate, report
        self.evaluated, self.export = evaluated, export
        self.model: Pretrained = objective.model  # type: ignore[assignment]
        if recipe.compile:
            objective.compile(fullgraph=True)
        self.wrapped = world.wrap(objective)
        self.optimizer = optimizer(self.model, recipe)
        self.average = Average(self.model, recipe.ema) if recipe.ema else None
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.precision == "fp16")  # pyright: ignore
        self.progress = Progress()
        self._stop = threading.Event()

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.recipe.epochs * self.steps_per_epoch

    def fit(self) -> bool:
        """Runs to the end, or until SIGTERM or SIGINT; returns whether the end was reached.

        Raises:
            TrainingStopped: too many steps without a finite loss, or too many samples that cannot be read.
        """
        self.objective.train()
        loader = self.loader(self.progress.step)
        with self._signals():
            started, waited = time.perf_counter(), 0.0
            for parts in loader:
                report = self._step(parts, started, loader.waited - waited)
                started, waited = time.perf_counter(), loader.waited
                self.report(report)
                if self._after_step(parts):
                    return False
                if self.progress.waiting > (self.recipe.patience or math.inf):
                    break
        self._finish()
        return True

    def _step(self, parts: list[Batch], started: float, waited: float) -> StepReport:
        recipe, progress = self.recipe, self.progress
        lr = learning_rate(recipe, progress.step, self.steps_per_epoch)
        set_lr(self.optimizer, lr)
        loss = torch.zeros((), device=self.world.device)
        for number, batch in enumerate(parts):
            inputs = self.objective.prepared(batch, self.world.device, key=(progress.step, number, self.world.rank))
            with self.world.accumulating(self.wrapped, last=number == len(parts) - 1):
                with self._autocast():
                    part = self.wrapped(*inputs) / len(parts)
                self.scaler.scale(part).backward()
            loss = loss + part.detach()
        self.scaler.unscale_(self.optimizer)
        norm = full(nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad or math.inf))
        values = (float(loss), float(norm), float(len(parts) * len(parts[0])))
        mean, count = self.world.total(values[0], values[2])
        finite = not self.world.total(0.0 if math.isfinite(values[0]) and math.isfinite(values[1]) else 1.0)[0]
        self._apply(finite)
        progress.step += 1
        progress.seen += int(count)
        return StepReport(
            progress.step, progress.step / self.steps_per_epoch, mean / self.world.size, lr, values[1],
            time.perf_counter() - started, waited, int(count),
        )  # fmt: skip

    def _apply(self, finite: bool) -> None:
        """Takes the optimizer's step if loss and gradients are finite on all ranks, else counts it as skipped."""
        progress = self.progress
        if finite:
            self.scaler.step(self.optimizer)
            progress.skipped_in_row = 0
            if self.average is not None:
                self.average.update(self.model)
        else:
            progress.skipped += 1
            progress.skipped_in_row += 1
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if progress.skipped_in_row > self.recipe.max_skipped:
            raise TrainingStopped(
                f"{progress.skipped_in_row} steps in a row had no finite loss and gradient; the last checkpoint is kept"
            )

    def _autocast(self) -> Any:
        dtype = _AUTOCAST.get(self.recipe.precision)
        return torch.autocast(self.world.device.type, dtype) if dtype else contextlib.nullcontext()

    def _after_step(self, parts: list[Batch]) -> bool:
        """Counts what was bad, evaluates and saves when it is time; returns whether the run was told to stop."""
        progress, recipe = self.progress, self.recipe
        self._count_bad([item for batch in parts for item in batch.bad])
        epoch, inside = divmod(progress.step, self.steps_per_epoch)
        ended = inside == 0
        last = progress.step == self.total_steps
        if ended and self.evaluate is not None and (epoch % recipe.evaluate_every == 0 or last):
            self._evaluate()
        every = recipe.checkpoint_every
        stop = bool(self.world.total(float(self._stop.is_set()))[0])
        if stop or (progress.step % every == 0 if every else ended):
            self.save()
        return stop and not last

    def _count_bad(self, found: list[Unreadable]) -> None:
        everywhere = (
            self.world.gathered([(b.index, f"{b.name}: {b.problem}") for b in found]) if self._may_be_bad(found) else []
        )
        for index, text in (entry for entries in everywhere for entry in entries):
            self.progress.bad.setdefault(index, text)
        if len(self.progress.bad) > self.recipe.max_bad * self.samples:
            first = next(iter(self.progress.bad.values()))
            raise TrainingStopped(
                f"{len(self.progress.bad)} of {self.samples} samples could not be read, more than "
                f"max_bad={self.recipe.max_bad:g} allows; the first: {first}"
            )

    def _may_be_bad(self, found: list[Unreadable]) -> bool:
        return bool(self.world.total(float(len(found)))[0])

    def _evaluate(self) -> None:
        assert self.evaluate is not None
        with self._averaged():
            self.objective.eval()
            metrics = self.evaluate(self.model)
            self.world.reshard(self.model)
            self.objective.train()
            better = metrics["score"] > self.progress.best
            if better:
                self.progress.best, self.progress.best_step, self.progress.waiting = (
                    metrics["score"], self.progress.step, 0,
                )  # fmt: skip
                self._export()
            else:
                self.progress.waiting += 1
        self.evaluated(self.progress.step, metrics, better)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the model has its averaged weights, where these are kept."""
        if self.average is None:
            yield
            return
        own = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(self.average.values[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    parameter.copy_(own[name])

    def weights(self) -> dict[str, Tensor]:
        """The model's weights, whole, on the CPU; a call of all ranks."""
        return {name: full(tensor.detach()).cpu().clone() for name, tensor in self.model.state_dict().items()}

    def _export(self) -> None:
        weights = self.weights()
        if self.export is not None and self.world.first:
            self.export(weights)
        self.world.barrier()

    def _finish(self) -> None:
        if self.evaluate is None:
            with self._averaged():
                self._export()
        self.save()

    def _sharded(self) -> dict[str, Any]:
        """What all ranks save together."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer),
        }
        if self.average is not None:
            state["average"] = self.average.values
        return state

    def save(self) -> Path | None:
        """Writes a checkpoint; returns its folder."""
        if self.checkpoints is None:
            return None
        step, alone = self.progress.step, self.world.size == 1
        if self.world.first:
            self.checkpoints.begin(step)
        self.world.barrier()
        part = self.checkpoints.folder / f".part-{step}"
        _shared(state_dict_saver.save, self._sharded(), part, alone=alone)
        own = {"rng": rng_state(), "progress": vars(self.progress), "scaler": self.scaler.state_dict()}
        save_rank(part, own, self.world.rank)
        self.world.barrier()
        path = self.checkpoints.path(step)
        if self.world.first:
            path = self.checkpoints.commit(step)
        self.world.barrier()
        return path

    def resume(self) -> bool:
        """Goes back to the last checkpoint; False if there is none."""
        steps = self.checkpoints.steps() if self.checkpoints else []
        if not steps:
            return False
        assert self.checkpoints is not None
        path, state = self.checkpoints.path(steps[-1]), self._sharded()
        _shared(state_dict_loader.load, state, path, alone=self.world.size == 1)
        set_optimizer_state_dict(self.model, self.optimizer, optim_state_dict=state["optimizer"])
        # another world size has ranks without a file: they draw other random numbers from here on, and no more
        own = load_rank(path, self.world.rank) or load_rank(path, 0)
        assert own is not None
        if len(list(path.glob("rank-*.pt"))) == self.world.size:
            set_rng_state(own["rng"])
        self.progress = Progress(**own["progress"])
        self.scaler.load_state_dict(own["scaler"])
        return True

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Inside, SIGTERM and SIGINT end the run after the step, with a checkpoint; a second SIGINT at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, _: object) -> None:
            if self._stop.is_set() and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop.set()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
