"""Mixup, cutmix and the targets that go with them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hierax.data.mixup import mix_batch, soft_targets
from small import fresh_seed

SIZES = [(64,), (20, 24), (6, 10, 12)]


def random() -> np.random.Generator:
    return np.random.default_rng(fresh_seed())


def batch(size: tuple[int, ...], count: int = 6) -> tuple[Tensor, Tensor]:
    """Sample i is the number i everywhere, its class is i."""
    pixels = torch.arange(count, dtype=torch.float64).view(-1, 1, *[1] * len(size)).expand(-1, 2, *size).clone()
    return pixels, soft_targets(torch.arange(count), count).double()


def test_targets_are_probabilities_of_which_smoothing_takes_its_share() -> None:
    found = soft_targets(torch.tensor([2, 0]), 4, smoothing=0.1)
    assert torch.allclose(found, torch.tensor([[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]]))
    assert soft_targets(torch.tensor([1]), 3).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_are_the_shares_of_the_pixels(size: tuple[int, ...], mixup: float, cutmix: float) -> None:
    """The mean of all pixels of a sample is the mean of the numbers of its classes."""
    pixels, targets = batch(size)
    source = random()
    for _ in range(40):
        mixed, shares = mix_batch(pixels, targets, source, mixup=mixup, cutmix=cutmix)
        assert torch.allclose(shares.sum(1), torch.ones(6, dtype=torch.float64))
        expected = shares @ torch.arange(6, dtype=torch.float64)
        assert torch.allclose(mixed.flatten(1).mean(1), expected)


def test_a_sample_is_mixed_with_the_one_across_the_batch() -> None:
    pixels, targets = batch((8, 8), 5)
    _, shares = mix_batch(pixels, targets, random(), mixup=0.8, cutmix=0.0)
    partners = [set(row.nonzero().flatten().tolist()) for row in shares]
    assert partners == [{0, 4}, {1, 3}, {2}, {1, 3}, {0, 4}]


def test_mixup_blends_every_pixel_alike() -> None:
    pixels, targets = batch((8, 8))
    mixed, _ = mix_batch(pixels, targets, random(), mixup=0.8, cutmix=0.0)
    assert torch.equal(mixed, mixed[:, :1, :1, :1].expand_as(mixed))


@pytest.mark.parametrize("size", SIZES)
def test_cutmix_pastes_one_box_of_whole_pixels(size: tuple[int, ...]) -> None:
    pixels, targets = batch(size)
    source = random()
    for _ in range(20):
        mixed, _ = mix_batch(pixels, targets, source, mixup=0.0, cutmix=1.0)
        pasted = mixed[0, 0] != 0
        assert set(mixed[0].unique().tolist()) <= {0.0, 5.0}
        if pasted.any():
            box = [slice(int(axis.min()), int(axis.max()) + 1) for axis in pasted.nonzero().T]
            assert pasted[tuple(box)].all()
            assert torch.equal(mixed[0, 0], mixed[0, 1])


def test_weights_are_drawn_from_beta() -> None:
    pixels, targets = batch((1,), 2)
    source = random()
    weights = np.array([float(mix_batch(pixels, targets, source, mixup=0.8, cutmix=0.0)[1][0, 0]) for _ in range(3000)])
    assert abs(weights.mean() - 0.5) < 0.04
    assert abs(weights.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.012  # ab / ((a + b)^2 (a + b + 1))


def test_the_box_of_cutmix_has_even_shares_where_it_lies_inside() -> None:
    """Of 1000 pixels, uniform shares of which a half is cut off at the edge on average at one side or the other: the
    expected length of the box centered at random is l - l^2 / 4 for a share l.
    """
    pixels, targets = batch((1000,), 2)
    source = random()
    shares = [float(mix_batch(pixels, targets, source, mixup=0.0, cutmix=1.0)[1][0, 1]) for _ in range(2000)]
    assert abs(np.mean(shares) - (1 / 2 - 1 / 12)) < 0.025


def test_with_both_each_is_taken_half_the_time() -> None:
    pixels, targets = batch((16, 16))
    source = random()
    blended = [
        len(mix_batch(pixels, targets, source, mixup=1.0, cutmix=1.0)[0][0].unique()) == 1 for _ in range(1000)
    ]  # a box that is empty or all looks like a blend
    assert 0.45 < np.mean(blended) < 0.62


def test_what_is_off_changes_nothing_and_what_is_on_leaves_its_inputs() -> None:
    pixels, targets = batch((8, 8))
    before = pixels.clone(), targets.clone()
    assert mix_batch(pixels, targets, random(), mixup=0.0, cutmix=0.0)[0] is pixels
    assert mix_batch(pixels[:1], targets[:1], random(), mixup=1.0, cutmix=1.0)[0].shape == (1, 2, 8, 8)
    for mixup, cutmix in ((1.0, 0.0), (0.0, 1.0)):
        mix_batch(pixels, targets, random(), mixup=mixup, cutmix=cutmix)
    assert torch.equal(pixels, before[0])
    assert torch.equal(targets, before[1])


def test_the_same_numbers_mix_the_same_way() -> None:
    pixels, targets = batch((8, 8))
    found = [mix_batch(pixels, targets, np.random.default_rng(4), mixup=0.8, cutmix=1.0) for _ in range(2)]
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
