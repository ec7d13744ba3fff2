"""Which samples make which step, and where random numbers come from."""

import numpy as np
import pytest

from hierax.data.order import AUGMENT, MASK, Order, SampleKey, evaluation_indices, random_stream, split_batch
from small import fresh_seed


def indices(batches: list[list[SampleKey]]) -> list[int]:
    return [draw.index for batch in batches for draw in batch]


def test_an_epoch_takes_no_sample_twice() -> None:
    order = Order(103, 10, fresh_seed())
    taken = indices(list(order.batches(0)))
    assert len(taken) == len(set(taken)) == order.steps * 10 == 100
    assert set(taken) <= set(range(103))


def test_the_tail_that_is_dropped_is_another_in_each_epoch() -> None:
    order = Order(103, 10, 0)
    dropped = [set(range(103)) - set(indices(list(order.batches(epoch)))) for epoch in range(5)]
    assert all(len(tail) == order.dropped == 3 for tail in dropped)
    assert len(set().union(*dropped)) > 3


def test_an_epoch_is_the_same_whenever_it_is_asked_for() -> None:
    seed = fresh_seed()
    first, again = (list(Order(50, 8, seed).batches(epoch)) for epoch in (3, 3))
    assert first == again
    assert indices(first) != indices(list(Order(50, 8, seed).batches(4)))
    assert indices(first) != indices(list(Order(50, 8, seed + 1).batches(3)))


def test_an_epoch_from_some_step_on_is_the_rest_of_it() -> None:
    order = Order(50, 8, 1)
    assert list(order.batches(2, start=4)) == list(order.batches(2))[4:]
    assert list(order.batches(2, start=order.steps)) == []


def test_a_batch_smaller_than_the_dataset_by_one_is_one_step() -> None:
    assert Order(9, 8, 0).steps == 1
    assert Order(9, 8, 0).dropped == 1


def test_repeats_are_copies_of_the_same_samples_in_the_same_batch() -> None:
    order = Order(10, 8, 0, repeats=2)
    assert order.steps == 2
    for batch in order.batches(1):
        assert [d.index for d in batch[:4]] == [d.index for d in batch[4:]]
        assert {d.repeat for d in batch[:4]} == {0}
        assert {d.repeat for d in batch[4:]} == {1}
        assert len({d.index for d in batch}) == 4


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("parts", [1, 3])
def test_ranks_and_parts_share_a_batch_out_completely(world: int, parts: int) -> None:
    (batch, *_) = Order(100, 24, 0).batches(0)
    shares = [split_batch(batch, rank=rank, world=world, parts=parts) for rank in range(world)]
    assert [len(part) for one in shares for part in one] == [24 // world // parts] * world * parts
    together = [draw for part in range(parts) for one in shares for draw in one[part]]
    assert together == batch


def test_accumulating_and_sharing_see_the_same_samples_together() -> None:
    (batch, *_) = Order(100, 24, 0).batches(0)
    alone = split_batch(batch, rank=0, world=1, parts=2)
    pair = [split_batch(batch, rank=rank, world=2, parts=2) for rank in range(2)]
    assert [pair[0][part] + pair[1][part] for part in range(2)] == alone


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    (batch, *_) = Order(100, 10, 0).batches(0)
    with pytest.raises(ValueError, match=r"a batch of 10 cannot be divided among 2 × 3 micro-batches"):
        split_batch(batch, rank=0, world=2, parts=3)


@pytest.mark.parametrize("samples", [0, 1, 7, 16])
@pytest.mark.parametrize("world", [1, 3, 8])
def test_evaluation_counts_every_sample_once_on_any_number_of_ranks(samples: int, world: int) -> None:
    shares = [evaluation_indices(samples, rank=rank, world=world) for rank in range(world)]
    assert sorted(i for one in shares for i in one) == list(range(samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((0, 1, 0), "the dataset is empty"),
        ((10, 0, 0), "batch_size is 0"),
        ((10, 3, 0, 2), "expected a multiple of the repeated sampling, 2"),
        ((10, 4, 0, 0), "repeated sampling, 0"),
        ((10, 11, 0), "expected at most this number"),
        ((10, 22, 0, 2), "expected at most this number"),
    ],
)
def test_an_order_that_cannot_be_is_refused(arguments: tuple[int, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Order(*arguments)


def test_streams_are_apart_for_every_seed_purpose_and_place() -> None:
    places = [
        (seed, purpose, a, b, c)
        for seed in (0, 1, 1 << 40, -1)
        for purpose in (AUGMENT, MASK)
        for a in (0, 1, 1 << 33)
        for b in (0, 1, 70_000)
        for c in (0, 1, 300)
    ]
    assert len({random_stream(*place).integers(1 << 62) for place in places}) == len(places)


def test_a_stream_never_runs_into_the_next_ones() -> None:
    """The place is above the word that counts: a million numbers of one share none with its neighbors' first."""
    here = set(random_stream(0, AUGMENT, 5).integers(1 << 62, size=100_000).tolist())
    for place in (4, 6):
        assert not here & set(random_stream(0, AUGMENT, place).integers(1 << 62, size=1000).tolist())


def test_the_first_numbers_of_neighboring_samples_are_uniform_and_unrelated() -> None:
    values = np.array([SampleKey(index, 0).random(0).random() for index in range(4000)])
    assert abs(values.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 4 / np.sqrt(4000)
    assert (np.histogram(values, 20, (0, 1))[0] > 130).all()


def test_every_repeat_epoch_and_sample_draws_for_itself() -> None:
    draws = [SampleKey(index, epoch, repeat) for index in range(3) for epoch in range(3) for repeat in range(3)]
    assert len({draw.random(7).random() for draw in draws}) == 27
    assert SampleKey(1, 2, 0).random(7).random() == SampleKey(1, 2, 0).random(7).random()
