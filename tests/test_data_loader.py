"""Batches: in what order, of how many samples, with which labels, on any number of ranks and workers."""

import os
import signal
from typing import Any

import numpy as np
import pytest
import torch

from hierax.data import Augmentation, Batch, EvaluationView, Order, TrainingLoader, TrainingView, evaluation_loader
from hierax.processing import Preprocessing
from samples import Listed, encoded, picture

GOOD = [encoded(picture(seed=seed)) for seed in range(12)]
AUGMENTATION = Augmentation((16, 16), mask_units=4, rand_augment=(9.0, 0.5))


def training(contents: list[Any] = GOOD, labels: list[Any] | None = None, **options: Any) -> TrainingLoader:
    view = TrainingView(Listed(contents, labels), AUGMENTATION, seed=3)
    order = Order(len(contents), options.pop("batch", 4), 5, options.pop("repeats", 1))
    return TrainingLoader(view, order, **{"epochs": 2, **options})


def evaluation(contents: list[Any], labels: list[Any] | None = None, **options: Any) -> list[Any]:
    record = Preprocessing().replace(size=24, crop_size=16)
    view = EvaluationView(Listed(contents, labels), record, size=(16, 16))
    return list(evaluation_loader(view, **{"batch": 4, **options}))


def same(a: Batch, b: Batch) -> bool:
    pairs = ((a.pixels, b.pixels), (a.noise, b.noise), (a.indices, b.indices))
    return all(x is not None and y is not None and torch.equal(x, y) for x, y in pairs)


def joined(batches: list[Batch]) -> list[int]:
    return torch.cat([batch.indices for batch in batches]).tolist()


# -- training ---------------------------------------------------------------------------------------------------------


def test_a_step_is_its_parts() -> None:
    steps = list(training(parts=2))
    assert [len(step) for step in steps] == [2] * 6
    batch = steps[0][0]
    assert (batch.pixels.dtype, batch.pixels.shape, len(batch)) == (torch.uint8, (2, 3, 16, 16), 2)
    assert batch.noise is not None
    assert (batch.noise.dtype, batch.noise.shape) == (torch.float32, (2, 4))
    assert batch.indices.dtype == torch.int64
    assert batch.labels is None
    assert batch.bad == []


def test_an_epoch_takes_every_sample_once() -> None:
    steps = [batch for (batch,) in training()]
    assert sorted(joined(steps[:3])) == sorted(joined(steps[3:])) == list(range(12))
    assert joined(steps[:3]) != joined(steps[3:])


@pytest.mark.parametrize("start", [0, 2, 3, 4, 6])
def test_a_start_in_the_middle_gives_the_rest(start: int) -> None:
    whole = list(training(parts=2))
    rest = list(training(parts=2, start=start))
    assert len(rest) == len(whole) - start
    for ours, theirs in zip(rest, whole[start:], strict=True):
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))


def test_ranks_and_parts_see_the_step_of_one_rank_together() -> None:
    whole = [batch for (batch,) in training()]
    for world, parts in ((2, 1), (1, 2), (2, 2), (4, 1)):
        ranks = [list(training(rank=rank, world=world, parts=parts)) for rank in range(world)]
        for number, one in enumerate(whole):
            pieces = [ranks[rank][number][part] for part in range(parts) for rank in range(world)]
            assert torch.equal(torch.cat([piece.pixels for piece in pieces]), one.pixels)
            assert joined(pieces) == one.indices.tolist()


def test_workers_change_nothing_and_outlive_the_signal_that_stops_a_run() -> None:
    """One test for both, as processes take long to start."""
    alone = [batch for (batch,) in training(labels=list(range(12)), epochs=4)]
    loader = training(labels=list(range(12)), epochs=4, workers=2)
    processes: list[Any] = []
    started = loader._loader._get_iterator
    loader._loader._get_iterator = lambda: processes.append(started()) or processes[0]  # type: ignore[method-assign]
    together = []
    for (batch,) in loader:
        if len(together) == 1:  # one batch of each worker: both have started
            for worker in processes[0]._workers:
                os.kill(worker.pid, signal.SIGTERM)
                os.kill(worker.pid, signal.SIGINT)
        together.append(batch)
    assert len(together) == len(alone) == 12
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))
    assert loader.waited > 0


def test_loading_leaves_the_random_numbers_of_the_loop_alone() -> None:
    torch.manual_seed(1)
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    list(training())
    evaluation(GOOD)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpys).all()  # type: ignore[index]


def test_a_bad_sample_is_replaced_and_listed_and_batches_stay_full() -> None:
    contents = [*GOOD[:10], b"bad", b"bad"]
    steps = [batch for (batch,) in training(contents, epochs=1)]
    assert [len(batch) for batch in steps] == [4, 4, 4]
    assert sorted(item.index for batch in steps for item in batch.bad) == [10, 11]
    assert {10, 11}.isdisjoint(joined(steps))
    for batch in steps:
        assert len(set(batch.indices.tolist())) == 4 - len(batch.bad)


def test_parts_of_one_sample_survive_a_bad_one() -> None:
    steps = list(training([*GOOD[:3], b"bad"], parts=4, epochs=1))
    assert [len(step) for step in steps] == [4]
    assert [item.name for batch in steps[0] for item in batch.bad] == ["s3"]


def test_a_dataset_of_which_nothing_can_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"none of \d+ samples could be read.*the first: s\d: not an image"):
        next(iter(training([b"bad"] * 4)))


def test_repeats_are_seen_otherwise_but_are_the_same_sample() -> None:
    ((batch,), *_) = training(repeats=2)
    first, second = batch.indices.chunk(2)
    assert torch.equal(first, second)
    assert not torch.equal(*batch.pixels.chunk(2))


@pytest.mark.parametrize("several", [False, True])
def test_labels_are_numbers_or_shares(several: bool) -> None:
    labels = [np.eye(12, dtype=np.float32)[i] if several else i for i in range(12)]
    for batch in (next(iter(training(labels=labels)))[0], evaluation(GOOD, labels)[0]):
        assert batch.labels is not None
        numbers = batch.labels.argmax(1) if several else batch.labels
        assert batch.labels.dtype == (torch.float32 if several else torch.int64)
        assert torch.equal(numbers, batch.indices)


# -- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 11])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_counts_every_sample_once_over_all_ranks(count: int, world: int) -> None:
    batches = [batch for rank in range(world) for batch in evaluation(GOOD[:count], rank=rank, world=world)]
    assert sorted(joined(batches)) == list(range(count))


def test_evaluation_replaces_nothing() -> None:
    batches = evaluation([*GOOD[:3], b"bad", GOOD[4], b"bad", b"bad", b"bad", b"bad"])
    assert [len(batch) for batch in batches] == [3, 1, 1]
    assert joined(batches[:2]) == [0, 1, 2, 4]
    assert [item.index for batch in batches[:2] for item in batch.bad] == [3, 5, 6, 7]
    assert [item.index for item in batches[2]] == [8]  # a batch of which nothing is left is what was bad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is locked for a GPU")
def test_locked_batches_are_the_same() -> None:
    batch = next(iter(training(labels=list(range(12)))))[0]
    locked = batch.pin_memory()
    assert locked.pixels.is_pinned()
    assert same(batch, locked)
