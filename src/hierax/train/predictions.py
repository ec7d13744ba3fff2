"""Evaluation during and after training: every sample counts once, on any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.data.loader import Batch, evaluation_loader
from hierax.data.view import EvaluationView
from hierax.model.config import HieraConfig
from hierax.model.pretrained import Pretrained
from hierax.processing import Preprocessing
from hierax.reprs.text import short_repr
from hierax.train.objective import Objective
from hierax.train.parallel import World
from hierax.train.progress import Interrupted


@short_repr()
@dataclass
class Predictions:
    """The predictions of a classifier for a dataset, in the dataset's order.

    Attributes:
        indices: int64 `[N]`, numbers of the samples that could be read.
        logits: float32 `[N, classes]` (float64 for a model in float64).
        labels: int64 `[N]`, or float32 `[N, classes]`.
        bad: names and problems of the samples that could not be read.
    """

    indices: Tensor
    logits: Tensor
    labels: Tensor
    bad: list[tuple[str, str]] = field(default_factory=list)

    def top_k_accuracy(self, k: int) -> float:
        """The share of samples whose class is among the `k` most likely ones."""
        best = self.logits.topk(min(k, self.logits.shape[1]), dim=1).indices
        return (best == self.labels[:, None]).any(1).double().mean().item()

    def confusion_matrix(self) -> Tensor:
        """Counts, int64 `[classes, classes]`; rows are true classes, columns are predicted ones."""
        count = self.logits.shape[1]
        return torch.bincount(self.labels * count + self.logits.argmax(1), minlength=count**2).view(count, count)

    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that occur."""
        table = self.confusion_matrix().double()
        count = table.sum(1)
        return (table.diagonal() / count)[count > 0].mean().item()

    def metrics(self) -> dict[str, float]:
        """By name: "loss", "top1", "top5" (of more than five classes) and the mean recall of the classes, "balanced";
        with several labels per sample, "loss" and "mean_average_precision". A higher "score" is better.
        """
        if self.labels.ndim == 2:
            loss = F.binary_cross_entropy_with_logits(self.logits.double(), self.labels.double()).item()
            precision = average_precision(self.logits, self.labels)
            return {"loss": loss, "mean_average_precision": precision, "score": precision}
        loss = F.cross_entropy(self.logits.double(), self.labels).item()
        top1 = self.top_k_accuracy(1)
        top5 = (
            {"top5": self.top_k_accuracy(5)} if self.logits.shape[1] > 5 else {}
        )  # with fewer classes it says nothing
        return {"loss": loss, "top1": top1, **top5, "balanced": self.balanced_accuracy(), "score": top1}


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Mean over classes of the average precision; classes without a positive are left out.

    Samples with the same score count together, because their order is arbitrary.
    """
    scores, order = scores.sort(dim=0, descending=True)
    hits = labels.gather(0, order).double()
    rank = torch.arange(1, len(hits) + 1, dtype=torch.float64)[:, None]
    last = torch.ones_like(scores, dtype=torch.bool)  # of those with its score
    last[:-1] = scores[1:] != scores[:-1]
    place = torch.where(last, torch.arange(len(hits))[:, None], len(hits)).flip(0).cummin(0).values.flip(0)
    positives = hits.sum(0)
    precision = ((hits.cumsum(0) / rank).gather(0, place) * hits).sum(0) / positives.clamp(min=1)
    return precision[positives > 0].mean().item()


class Runnable(Protocol):
    """A classifier that is not a module: `hierax.Engine`, with a checkpoint or an export.

    Attributes:
        task: as in `hierax.load`.
        record: the preprocessing record, or None.
        source: the origin of the weights, or None if it is unknown.
        device: the device on which its outputs are.
    """

    task: str
    config: HieraConfig
    record: Preprocessing | None
    source: str | None
    device: torch.device

    def __call__(self, *, pixel_values: Tensor) -> Any:
        """An output that has `logits` `[B, classes]`."""
        ...


def never_stop() -> bool:
    """The default of `stop`: always False."""
    return False


@dataclass(frozen=True)
class Inputs:
    """A dataset as a model's input: `view`, with the mean and standard deviation of each channel of the data."""

    view: EvaluationView
    mean: Sequence[float]
    std: Sequence[float]


@torch.no_grad()
def predict(
    model: Pretrained | Runnable,
    inputs: Inputs,
    world: World,
    *,
    batch: int = 32,
    workers: int = 0,
    stop: Callable[[], bool] = never_stop,
    on_progress: Callable[[int, int], object] | None = None,
) -> Predictions:
    """The classifier's logits of all samples, gathered on every rank. `on_progress` gets the number of samples done so
    far, and of all.

    Raises:
        ValueError: no sample can be read, or a label is not among the model's classes.
        Interrupted: `stop` returned True on one of the ranks.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    def classify(part: Batch) -> None:
        if part.labels is None:
            raise ValueError("the data has no labels; the evaluation of a classifier needs labeled samples")
        found.append((part.indices, _logits(model, part.pixels, inputs).cpu(), part.labels))

    problems = run_on_samples(
        classify, inputs.view, world, batch=batch, workers=workers, stop=stop, on_progress=on_progress
    )
    everyone = [entry for entries in world.all_gather(found) for entry in entries]
    indices, logits, labels = (torch.cat(tensors) for tensors in zip(*everyone, strict=True))
    classes = logits.shape[1]
    most = int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]
    if most > classes:
        raise ValueError(f"the data has labels up to {most - 1}; expected 0 to {classes - 1}, of the model's classes")
    order = indices.argsort()
    return Predictions(indices[order], logits[order], labels[order], problems)


def _logits(model: Pretrained | Runnable, pixels: Tensor, inputs: Inputs) -> Tensor:
    """Logits `[B, classes]`; of samples with several views, those of the mean probabilities."""

    def of(part: Tensor) -> Tensor:
        logits = model(pixel_values=normalize(part, model, inputs.mean, inputs.std)).logits
        return logits if logits.dtype == torch.float64 else logits.float()

    if inputs.view.views == (1, 1):
        return of(pixels)
    logits = torch.stack([of(view) for view in pixels.unbind(1)], 1)
    if model.config.problem_type == "multi_label_classification":
        return logits.sigmoid().mean(1).logit(eps=1e-12)
    return logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])


@torch.no_grad()
def masked_loss(
    objective: Objective,
    view: EvaluationView,
    world: World,
    *,
    batch: int = 32,
    workers: int = 0,
    stop: Callable[[], bool] = never_stop,
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """The loss of masked image modeling over a dataset, and names and problems of the unreadable samples. The mask of a
    sample depends on its number only.

    Raises:
        ValueError: no sample can be read.
        Interrupted: `stop` returned True on one of the ranks.
    """
    sums = [0.0, 0.0]

    def measure(part: Batch) -> None:
        noise = fixed_noise(objective, part.indices)
        loss = objective(objective.normalize(part.pixels.to(noise.device)), noise)
        sums[0] += loss.item() * len(part)
        sums[1] += len(part)

    problems = run_on_samples(measure, view, world, batch=batch, workers=workers, stop=stop)
    total, samples = world.all_reduce_sum(*sums)
    return {"loss": total / samples, "score": -total / samples}, problems


def fixed_noise(objective: Objective, indices: Tensor) -> Tensor:
    """Noise `[B, units]` on the model's device; it gives each sample its own mask."""
    units = torch.Size(objective.config.unit_grid(objective.config.image_size)).numel()
    draws = [torch.rand(units, generator=torch.Generator().manual_seed(int(i))) for i in indices]
    return torch.stack(draws).to(objective.model.device)


def run_on_samples(
    measure: Callable[[Batch], None],
    view: EvaluationView,
    world: World,
    *,
    batch: int,
    workers: int,
    stop: Callable[[], bool],
    on_progress: Callable[[int, int], object] | None = None,
) -> list[tuple[str, str]]:
    """Calls `measure` with this rank's batches; returns names and problems of the unreadable samples of all ranks.

    Raises:
        ValueError: no sample can be read.
        Interrupted: `stop` returned True on one of the ranks.
    """
    bad: list[tuple[str, str]] = []

    def own() -> int:
        readable = 0
        parts = evaluation_loader(view, batch=batch, rank=world.rank, world=world.size, workers=workers)
        for part in count_samples(parts, len(view.dataset), on_progress, ranks=world.size):
            if stop():
                break
            bad.extend(unreadable_samples(part))
            if isinstance(part, Batch):
                measure(part)
                readable += len(part)
        return readable

    readable = world.run_on_all_ranks(own)
    if stop is not never_stop and world.all_reduce_sum(float(stop()))[0]:
        raise Interrupted
    problems = [entry for entries in world.all_gather(bad) for entry in entries]
    if not world.all_reduce_sum(float(readable))[0]:
        first = f"; the first: {': '.join(problems[0])}" if problems else ""
        raise ValueError(f"none of the {len(problems)} samples can be read{first}")
    return problems


def count_samples(
    parts: Iterable[Any], total: int, on_progress: Callable[[int, int], object] | None, *, ranks: int = 1
) -> Iterator[Any]:
    """The batches; `on_progress` gets the number of samples that all ranks have done, as if all were equally fast."""
    done = 0
    for part in parts:
        yield part
        done += len(unreadable_samples(part)) + (len(part) if isinstance(part, Batch) else 0)
        if on_progress is not None:
            on_progress(min(done * ranks, total), total)


def unreadable_samples(part: Any) -> list[tuple[str, str]]:
    """Names and problems of the unreadable samples of a batch."""
    return [(item.name, item.problem) for item in (part.bad if isinstance(part, Batch) else part)]


class _OnDevice(Protocol):
    @property
    def device(self) -> torch.device: ...


def normalize(pixels: Tensor, model: _OnDevice, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalized pixels on the model's device, in float64 for a model in float64, else in float32."""
    double = isinstance(model, Pretrained) and model.dtype == torch.float64
    kind: Any = torch.float64 if double else torch.float32
    shape = (1, -1, *[1] * (pixels.ndim - 2))
    center, spread = (torch.tensor(values, dtype=kind, device=model.device).view(shape) for values in (mean, std))
    return (pixels.to(model.device, kind) - center) / spread
