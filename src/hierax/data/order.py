"""The samples of each step. They depend only on seed, epoch and step, for any number of ranks and workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hierax.reprs.text import short_repr

# Purposes of random numbers; each purpose has its own streams. 2 is for mixing of batches, in hierax.train.
AUGMENT, MASK, ORDER, SPLIT = 0, 1, 3, 4


def random_stream(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """A separate random generator for each seed, purpose and place (up to three numbers).

    The place is stored in the upper words of the counter of Philox, and only the lowest word counts. So streams never
    overlap.
    """
    key = np.array([seed % (1 << 64), purpose], np.uint64)
    counter = np.array([0, *place, *[0] * (3 - len(place))], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@short_repr()
@dataclass(frozen=True)
class SampleKey:
    """The key of one sample in one step. It determines all random numbers of that sample.

    Attributes:
        index: number of the sample in the dataset.
        epoch: the epoch, from 0.
        repeat: number of this copy among the augmented copies of the sample in the step.
    """

    index: int
    epoch: int
    repeat: int = 0

    def random(self, seed: int, purpose: int = AUGMENT) -> np.random.Generator:
        """The generator of this sample's random numbers; another `purpose` gives another stream."""
        return random_stream(seed, purpose, self.index, self.epoch, self.repeat)


Draw = SampleKey
"""The former name of `SampleKey`."""


@short_repr()
@dataclass(frozen=True)
class Order:
    """The order of a training set: each epoch is one permutation, cut into global batches.

    An incomplete last batch is dropped; the dropped samples differ from epoch to epoch. If `repeats` is above 1, a
    batch contains this number of augmented copies of each of its samples.

    Attributes:
        samples: size of the dataset.
        batch: images per step over all ranks, copies included.
        seed: seed of the permutations.
        repeats: augmented copies of a sample in a batch.

    Raises:
        ValueError: the dataset is empty, or the batch is not a multiple of the repeats or is larger than the dataset.
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
                f"batch_size is {self.batch}, but an epoch has {self.samples} samples with {self.repeats} copies each; "
                "expected at most this number"
            )

    @property
    def steps(self) -> int:
        """The number of steps per epoch."""
        return self.samples * self.repeats // self.batch

    @property
    def dropped(self) -> int:
        """The number of samples per epoch that no step uses."""
        return self.samples - self.steps * self.batch // self.repeats

    def permutation(self, epoch: int) -> np.ndarray:
        """The dataset's indices in the order of an epoch."""
        return random_stream(self.seed, ORDER, epoch).permutation(self.samples)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[list[SampleKey]]:
        """Yields the global batches of an epoch, starting at its step `start`."""
        each = self.batch // self.repeats
        rows = self.permutation(epoch)[: self.steps * each].reshape(self.steps, each)
        for row in rows[start:]:
            yield [SampleKey(index, epoch, repeat) for repeat in range(self.repeats) for index in row.tolist()]


def split_batch(batch: list[SampleKey], *, rank: int, world: int, parts: int) -> list[list[SampleKey]]:
    """The samples of one of `world` ranks in a global batch, as `parts` micro-batches of equal size.

    The batch is first cut into `parts`, and the ranks divide each of them. So a micro-batch has the same samples for
    any number of ranks.

    Raises:
        ValueError: the batch cannot be divided evenly.
    """
    if len(batch) % (world * parts):
        raise ValueError(
            f"a batch of {len(batch)} cannot be divided among {world} × {parts} micro-batches (world × parts)"
        )
    size = len(batch) // (world * parts)
    return [batch[(part * world + rank) * size :][:size] for part in range(parts)]


def evaluation_indices(samples: int, *, rank: int, world: int) -> range:
    """The samples that a rank evaluates. Together, all ranks evaluate every sample exactly once."""
    return range(rank, samples, world)
