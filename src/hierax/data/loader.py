"""Batches for the training loop. Worker processes decode in advance; the order depends only on seed, epoch and step."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hierax.data.order import Order, SampleKey, evaluation_indices, split_batch
from hierax.data.view import EvaluationView, Example, MicroBatch, TrainingView, Unreadable
from hierax.devices import available_cores
from hierax.processing.frames import FIRST_ONLY
from hierax.reprs.text import short_repr
from hierax.sockets import shorten_socket_folder
from hierax.stopping import SIGNALS

_MAX_WORKERS = 16


@short_repr()
@dataclass
class Batch:
    """A micro-batch: the samples that one rank computes in one call of the model.

    Attributes:
        pixels: uint8 `[B, C, H, W]`, or float32 `[B, C, *size]` for arrays.
        labels: int64 `[B]`, float32 `[B, classes]`, or None.
        noise: float32 `[B, units]`, or None.
        indices: int64 `[B]`, numbers of the samples in the dataset.
        bad: samples that could not be read; in training, the next sample of the part or of the dataset replaces each.
        first_only: files of which only the first frame or page was read; see `FirstOnly.take`.
        targets: int64 `[B, H, W]`, the class of each pixel, 255 for none; None for data that is not for segmentation.
    """

    pixels: Tensor
    labels: Tensor | None
    noise: Tensor | None
    indices: Tensor
    bad: list[Unreadable] = field(default_factory=list)
    first_only: dict[str, list[str]] = field(default_factory=dict)
    targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory. The loader of PyTorch calls this."""
        labels, noise, targets = (t if t is None else t.pin_memory() for t in (self.labels, self.noise, self.targets))
        return Batch(self.pixels.pin_memory(), labels, noise, self.indices, self.bad, self.first_only, targets)


def _stack_examples(examples: Sequence[Example], bad: list[Unreadable]) -> Batch:
    first = examples[0]
    labels = None
    if first.label is not None:
        kind = np.float32 if isinstance(first.label, np.ndarray) else np.int64
        labels = torch.from_numpy(np.stack([np.asarray(s.label, kind) for s in examples]))
    noise = (
        None if first.noise is None else torch.from_numpy(np.stack([s.noise for s in examples if s.noise is not None]))
    )
    targets = None
    if first.target is not None:
        _check_sizes(examples)
        targets = torch.from_numpy(np.stack([s.target for s in examples if s.target is not None])).long()
    pixels = torch.from_numpy(np.stack([s.pixels for s in examples]))
    indices = torch.tensor([s.index for s in examples])
    return Batch(pixels, labels, noise, indices, bad, FIRST_ONLY.take(), targets)


def _check_sizes(examples: Sequence[Example]) -> None:
    """Raises `ValueError` if targets differ in size, as those of whole images do."""
    sizes = {s.target.shape for s in examples if s.target is not None}
    if len(sizes) > 1:
        raise ValueError(f"a batch of {len(examples)} images with masks of {len(sizes)} sizes; expected batch=1")


def collate_training(part: MicroBatch) -> Batch | list[Unreadable]:
    """A batch of full size, or a list of the unreadable samples if they could not be replaced."""
    return _stack_examples(part.examples, part.bad) if part.examples else part.bad


def collate_evaluation(items: list[Example | Unreadable]) -> Batch | list[Unreadable]:
    """A batch of the readable samples, or a list of the unreadable samples if there are no others."""
    bad = [item for item in items if isinstance(item, Unreadable)]
    good = [item for item in items if isinstance(item, Example)]
    return _stack_examples(good, bad) if good else bad


class _MicroBatchSampler:
    """A batch sampler that yields the keys of each micro-batch of a rank, starting at step `start`."""

    def __init__(
        self, order: Order, *, epochs: int, distinct: int, start: int, rank: int, world: int, parts: int
    ) -> None:
        self.order, self.epochs, self.distinct, self.start = order, epochs, distinct, start
        self.rank, self.world, self.parts = rank, world, parts

    def __iter__(self) -> Iterator[list[SampleKey]]:
        first, skip = divmod(self.start, self.order.steps)
        for epoch in range(first, self.epochs):
            for batch in self.order.batches(epoch % self.distinct, start=skip if epoch == first else 0):
                yield from split_batch(batch, rank=self.rank, world=self.world, parts=self.parts)

    def __len__(self) -> int:
        return (self.epochs * self.order.steps - self.start) * self.parts


class TrainingLoader:
    """Yields the micro-batches of each step, starting at step `start`, and measures how long the loop waits for them.

    Args:
        view, order: the samples, and their order.
        epochs: number of epochs.
        distinct: number of epochs after which the micro-batches repeat; None: never.
        start: first step.
        rank, world: number of this rank, and of all ranks.
        parts: micro-batches per step.
        workers: number of decoding processes.
        pin: whether to use page-locked memory.

    Attributes:
        waited: total seconds spent in `next`.
    """

    def __init__(
        self,
        view: TrainingView,
        order: Order,
        *,
        epochs: int,
        distinct: int | None = None,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
        workers: int = 0,
        pin: bool = False,
    ) -> None:
        steps: Any = _MicroBatchSampler(
            order, epochs=epochs, distinct=distinct or epochs, start=start, rank=rank, world=world, parts=parts
        )
        self._loader = _loader(view, steps, collate_training, workers, pin)
        self.parts, self.waited = parts, 0.0

    def __iter__(self) -> Iterator[list[Batch]]:
        parts = iter(self._loader)
        while True:
            started = time.perf_counter()
            step: list[Batch] = []
            for _ in range(self.parts):
                batch = next(parts, None)
                if batch is None:
                    return
                if not isinstance(batch, Batch):
                    raise ValueError(
                        f"none of {len(batch)} samples could be read (those of a batch, and those to replace them); "
                        f"the first: {batch[0].name}: {batch[0].problem}"
                    )
                FIRST_ONLY.merge(batch.first_only)
                step.append(batch)
            self.waited += time.perf_counter() - started
            yield step


def evaluation_loader(
    view: EvaluationView, *, batch: int, rank: int = 0, world: int = 1, workers: int = 0, pin: bool = False
) -> Iterator[Batch | list[Unreadable]]:
    """Yields the batches of the samples of one rank, each sample once: a `Batch`, or a list of unreadable samples.

    Ranks take samples in turn, so that the numbers of their samples differ by at most one.

    Raises:
        ValueError: `batch` is not above 0.
    """
    if batch < 1:
        raise ValueError(f"batch_size is {batch}; expected a whole number above 0")
    mine = evaluation_indices(len(view.dataset), rank=rank, world=world)
    batches: Any = [mine[i : i + batch] for i in range(0, len(mine), batch)]
    for part in _loader(view, batches, collate_evaluation, workers, pin):
        if isinstance(part, Batch):
            FIRST_ONLY.merge(part.first_only)
        yield part


def _loader(view: Any, batches: Any, collate: Any, workers: int, pin: bool) -> DataLoader[Any]:
    if workers:
        shorten_socket_folder()
    return DataLoader(
        view,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_loop,
        generator=torch.Generator(),  # the loop's random numbers must not depend on the number of loaders
    )


def _leave_signals_to_the_loop(_: int) -> None:
    """Makes a worker ignore stop signals. A signal is sent to all processes of a run, but the loop still needs the
    workers to finish its step. Workers end when the loader ends them, or when the loader has ended.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def default_decode_workers(*, processes: int = 1, minimum: int = 0) -> int:
    """The number of decoding processes for each of `processes` that compute: the number of cores per process minus one,
    at most 16.
    """
    return min(max(available_cores() // processes - 1, minimum), _MAX_WORKERS)
