"""Which samples make which step: a function of seed, epoch and step alone, for any number of ranks and workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draw:
    """One sample of one step: what all its random numbers are keyed by.

    Attributes:
        index: number of the sample in the dataset.
        epoch: the epoch, from 0.
        repeat: which of several augmented copies in the same step this is.
    """

    index: int
    epoch: int
    repeat: int = 0

    def random(self, seed: int, purpose: int = 0) -> np.random.Generator:
        """The source of this sample's random numbers; another `purpose` gives another stream."""
        key = (seed & 0xFFFFFFFF) << 32 | (self.epoch & 0xFFFF) << 16 | (self.repeat & 0xFF) << 8 | (purpose & 0xFF)
        return np.random.Generator(np.random.Philox(key=np.array([key, self.index], dtype=np.uint64)))


@dataclass(frozen=True)
class Order:
    """The order of a training set: each epoch is one permutation, cut into global batches.

    The tail that is short of a batch is dropped; as the permutation is another in each epoch, so are the samples.
    With `repeats` above 1, a batch holds that many augmented copies of each of its samples.

    Attributes:
        samples: size of the dataset.
        batch: images per step over all ranks, copies included.
        seed: of the permutations.
        repeats: augmented copies of a sample in a batch.

    Raises:
        ValueError: no sample, or a batch that is not a multiple of the repeats, or larger than the dataset.
    """

    samples: int
    batch: int
    seed: int
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError("the dataset is empty; at least one sample is expected")
        if self.batch < 1 or self.batch % self.repeats:
            raise ValueError(
                f"batch_size is {self.batch}; expected a multiple of the repeated sampling, {self.repeats}"
            )
        if self.batch // self.repeats > self.samples:
            raise ValueError(
                f"batch_size is {self.batch}, of {self.samples} samples taken {self.repeats} time(s) each: "
                "no epoch would hold a whole batch"
            )

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.samples * self.repeats // self.batch

    @property
    def dropped(self) -> int:
        """Samples per epoch that no step takes."""
        return self.samples - self.steps * self.batch // self.repeats

    def permutation(self, epoch: int) -> np.ndarray:
        """The dataset's indices in the order of an epoch."""
        return np.random.Generator(np.random.Philox(key=np.array([self.seed, epoch], np.uint64))).permutation(
            self.samples
        )

    def epoch(self, epoch: int) -> list[list[Draw]]:
        """The global batches of an epoch."""
        each = self.batch // self.repeats
        order = self.permutation(epoch)[: self.steps * each].reshape(self.steps, each)
        return [[Draw(int(i), epoch, repeat) for repeat in range(self.repeats) for i in row] for row in order]


def share(batch: list[Draw], *, rank: int, world: int, parts: int) -> list[list[Draw]]:
    """What one of `world` ranks takes of a global batch, in `parts` of equal size that are accumulated.

    The whole batch is cut into `parts` first, each of which all ranks share: so an accumulated step of one rank and a
    step of several see the same samples together.

    Raises:
        ValueError: the batch cannot be shared out evenly.
    """
    if len(batch) % (world * parts):
        raise ValueError(f"a batch of {len(batch)} cannot be shared by {world} rank(s) in {parts} part(s)")
    size = len(batch) // (world * parts)
    return [batch[(part * world + rank) * size :][:size] for part in range(parts)]


def evaluation_share(samples: int, *, rank: int, world: int) -> range:
    """The samples that a rank evaluates: every one exactly once over all ranks."""
    return range(rank, samples, world)
