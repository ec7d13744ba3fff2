"""The progress of a run, the report of a step, and the errors that end a run early."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from hierax.memory import is_out_of_memory

_FULL = "the device's memory is full (a smaller device_batch_size or gradient_checkpointing=true needs less)"

_TOO_LARGE = "there is not enough memory for this model (a smaller image_size or model needs less); nothing was written"


WINDOW = 10
"""Number of steps between entries of the log, whose loss is the mean over as many."""


class TrainingStopped(RuntimeError):
    """The run cannot continue; its last checkpoint is intact."""


class Interrupted(Exception):
    """A signal interrupted an evaluation, which is repeated when the run resumes."""


@dataclass
class Progress:
    """The progress of a run, and its counters.

    Attributes:
        step: steps done; seen: samples seen.
        skipped, skipped_in_row: steps without a finite loss and gradient.
        bad: unreadable samples, by index.
        evaluated: the step of the last evaluation.
        best, best_step: the best validation score and its step; step 0 means that there is none.
        best_loss: the loss at that score; of two evaluations with the same score, the one with the lower loss is
            better.
        waiting: evaluations since the last improvement.
        last, best_metrics: metrics of the last evaluation and of the best one.
        losses: losses of the last steps, at most `WINDOW`.
        seconds: duration of the run with evaluations and checkpoints, without work that is repeated after a kill.
    """

    step: int = 0
    seen: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    bad: dict[int, str] = field(default_factory=dict)
    evaluated: int = 0
    best: float = -math.inf
    best_step: int = 0
    best_loss: float = math.inf
    waiting: int = 0
    last: dict[str, float] = field(default_factory=dict)
    best_metrics: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def add_loss(self, loss: float) -> None:
        """Records the loss of a step."""
        self.losses = [*self.losses, loss][-WINDOW:]

    def evaluate(self, metrics: dict[str, float]) -> bool:
        """Records an evaluation of the weights after `step`; returns whether they are the best so far.

        A higher score is better; if scores are equal, a lower loss. If both are equal, the later weights are kept,
        because they were trained longer, but this does not count as an improvement. NaN is never the best.
        """
        self.evaluated, self.last = self.step, metrics
        score, loss = metrics["score"], metrics.get("loss", 0.0)
        now, before = (score, -loss), (self.best, -self.best_loss)
        number = math.isfinite(score) and math.isfinite(loss)
        self.waiting = 0 if number and now > before else self.waiting + 1
        if not (number and now >= before):
            return False
        self.best, self.best_loss, self.best_step, self.best_metrics = score, loss, self.step, metrics
        return True


def restore_progress(values: Any, step: int) -> Progress:
    """A run's progress from the checkpoint after `step` steps.

    Raises:
        ValueError: the value is not one that a run writes.
    """
    found, fresh = Progress(**values), Progress()
    for name, value in vars(fresh).items():
        own = getattr(found, name)
        kinds = (int, float) if isinstance(value, float) else (type(value),)
        if type(own) not in kinds:
            raise ValueError(f"{name} is {own!r:.60}; expected {type(value).__name__}")
    if found.step != step:
        raise ValueError(f"step is {found.step}; expected {step}")
    return found


@dataclass(frozen=True)
class StepReport:
    """The report of one step.

    Attributes:
        step, epoch: number of steps and epochs after it.
        loss: mean over the batch and all ranks.
        lr, gradient_norm: learning rate, and norm of the gradient before clipping.
        seconds: time since the end of the previous step, including the time of waiting.
        waited: the part of these seconds in which the step waited for data.
        images: number of samples over all ranks.
    """

    step: int
    epoch: float
    loss: float
    lr: float
    gradient_norm: float
    seconds: float
    waited: float
    images: int


@contextlib.contextmanager
def explain_failures(recovery_note: Callable[[], str]) -> Iterator[None]:
    """Turns errors of disks, workers, other ranks and full memory into a `TrainingStopped` of one sentence.

    `recovery_note` returns the part of the message that says from where the run can be resumed.

    Raises:
        TrainingStopped: such an error occurred; the message has the reason.
    """
    try:
        yield
    except CheckpointException as error:  # not an `Exception`; it holds those of the ranks
        first = next(iter(error.failures.values()))[0]
        reason = _reason(str(first)) or f"the checkpoint cannot be written or read: {_system_reason(first) or first}"
        raise TrainingStopped(f"{reason}; {recovery_note()}") from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingStopped(f"{_FULL}; {recovery_note()}") from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise TrainingStopped(f"{where}{error.strerror or error}; {recovery_note()}") from error
    except RuntimeError as error:
        found = _uncompiled(error) or explain_lost_rank(error) or _system_reason(error) or _reason(str(error))
        reason = None if isinstance(error, TrainingStopped) else found
        if reason is None:
            raise
        raise TrainingStopped(f"{reason}; {recovery_note()}") from error


def _uncompiled(error: RuntimeError) -> str | None:
    """A sentence for an error of PyTorch's compiler, whose own text contains the whole input."""
    if any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__):  # importing it takes a second
        line = str(error).strip().splitlines()[0]
        return f"the step cannot be compiled ({line[:200]}); compile=false trains without the compiler"
    return None


def _reason(text: str) -> str | None:
    """A sentence for a `RuntimeError` of PyTorch that can be identified only by its text.

    The error of a killed worker can occur anywhere in the main thread, even while it writes a checkpoint.
    """
    if "DataLoader worker" in text:
        return "a decoding process was killed (is the memory full? workers=0 starts none)"
    if any(word in text for word in ("PytorchStreamWriter", "file write failed", "unexpected pos")):
        return "the checkpoint cannot be written (is the disk full?)"
    return _FULL if is_out_of_memory(RuntimeError(text)) else None


def _system_reason(error: BaseException) -> str | None:
    """The system's error, which PyTorch's writer hides behind its own error; None if there was none."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return f"{found.filename}: {found.strerror}" if found.filename else found.strerror
        found = found.__cause__ or found.__context__
    return None


@contextlib.contextmanager
def explain_memory_errors() -> Iterator[None]:
    """Turns errors of full memory before the first step into a `TrainingStopped` of one sentence.

    Raises:
        TrainingStopped: there is not enough memory for the model.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingStopped(_TOO_LARGE) from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingStopped(_TOO_LARGE) from error


def explain_lost_rank(error: RuntimeError) -> str | None:
    """A sentence for an error that is due to the end of another rank; None for other errors."""
    text = str(error)
    if isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "Gloo", "NCCL", "Connection closed")):
        return f"another rank of the run has ended ({text.splitlines()[0][:200]})"
    return None
