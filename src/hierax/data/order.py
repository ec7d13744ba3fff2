"""Which samples make which step: a function of seed, epoch and step alone, for any number of ranks and workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# What random numbers are for; each purpose has streams of its own. 2 mixes batches, in hierax.train.
AUGMENT, MASK, ORDER, SPLIT = 0, 1, 3, 4


def stream(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """A source of random numbers of its own for each seed, purpose and place (up to three numbers).

    The place is a counter of Philox, whose lowest word runs: streams cannot overlap, and making one takes no hashing.
    """
    key = np.array([seed % (1 << 64), purpose], np.uint64)
    counter = np.array([0, *place, *[0] * (3 - len(place))], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


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

    def random(self, seed: int, purpose: int = AUGMENT) -> np.random.Generator:
        """The source of this sample's random numbers; another `purpose` gives another stream."""
        return stream(seed, purpose, self.index, self.epoch, self.repeat)


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
            raise ValueError("the dataset is empty; expected at least one sample")
        if self.repeats < 1 or self.batch < 1 or self.batch % self.repeats:
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
        return stream(self.seed, ORDER, epoch).permutation(self.samples)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[list[Draw]]:
        """The global batches of an epoch, from its step `start` on."""
        each = self.batch // self.repeats
        rows = self.permutation(epoch)[: self.steps * each].reshape(self.steps, each)
        for row in rows[start:]:
            yield [Draw(index, epoch, repeat) for repeat in range(self.repeats) for index in row.tolist()]


def share(batch: list[Draw], *, rank: int, world: int, parts: int) -> list[list[Draw]]:
    """What one of `world` ranks takes of a global batch, in `parts` of equal size that are accumulated.

    The whole batch is cut into `parts` first, each of which all ranks share: so an accumulated step of one rank and a
    step of several see the same samples together.

    Raises:
        ValueError: the batch cannot be shared out evenly.
    """
    if len(batch) % (world * parts):
        raise ValueError(f"a batch of {len(batch)} cannot be divided among {world} rank(s) in {parts} part(s)")
    size = len(batch) // (world * parts)
    return [batch[(part * world + rank) * size :][:size] for part in range(parts)]


def evaluation_share(samples: int, *, rank: int, world: int) -> range:
    """The samples that a rank evaluates: every one exactly once over all ranks."""
    return range(rank, samples, world)
