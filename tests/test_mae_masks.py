"""Masks: which units are kept, and that what is hidden cannot be seen."""

import math

import pytest
import torch
from torch import Tensor

from hierax.model.mae import random_keep, visible_patches
from masked import KINDS, VISIBLE, mae, mae_config, over_pixels, random_mask
from small import fresh_seed, image_config, pixels, units_of

# -- masks ------------------------------------------------------------------------------------------------------------


def test_units_of_smallest_noise_are_kept_in_ascending_order() -> None:
    kept, ranks = random_keep(torch.tensor([[0.3, 0.1, 0.9, 0.2], [0.0, 0.5, 0.4, 0.6]]), 2)
    assert kept.tolist() == [[1, 3], [0, 2]]
    assert ranks.tolist() == [[2, 0, 3, 1], [0, 2, 1, 3]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_ones_own_gives_what_the_same_noise_gives(kind: str) -> None:
    fresh_seed()
    model = mae(kind)
    x, noise = pixels(model.config), torch.rand(2, units_of(model.config))
    by_noise = model(x, noise=noise, output_hidden_states=True)
    keep = by_noise.ids_restore < VISIBLE[kind]
    by_keep = model(x, keep=keep, output_hidden_states=True)
    assert keep.sum(1).tolist() == [VISIBLE[kind]] * 2
    assert torch.equal(by_keep.logits, by_noise.logits)
    assert torch.equal(by_keep.loss, by_noise.loss)
    assert torch.equal(by_keep.bool_masked_pos, by_noise.bool_masked_pos)
    assert by_keep.ids_restore is None
    for a, b in zip(by_keep.reshaped_hidden_states, by_noise.reshaped_hidden_states, strict=True):
        assert torch.equal(a, b)


def test_without_noise_or_mask_units_are_drawn_at_random() -> None:
    torch.manual_seed(0)
    model = mae("line")
    x = pixels(model.config)
    masks = [model(x).bool_masked_pos for _ in range(4)]
    assert all(int(m.sum()) == 2 * VISIBLE["line"] * 2 for m in masks)
    assert len({tuple(m.flatten().tolist()) for m in masks}) > 1
    torch.manual_seed(7)
    first = model(x).logits
    torch.manual_seed(7)
    assert torch.equal(model(x).logits, first)


@pytest.mark.parametrize(("ratio", "units", "kept"), [(0.6, 49, 19), (0.9, 392, 39), (0.5, 4, 2), (0.75, 4, 1)])
def test_the_number_of_kept_units_is_rounded_down_in_python_floats(ratio: float, units: int, kept: int) -> None:
    model = mae("line", image_size=(32 * units,), mask_ratio=ratio)
    out = model(pixels(model.config, 1))
    assert int(out.bool_masked_pos.sum()) == kept * 2


def test_a_ratio_that_keeps_nothing_is_refused() -> None:
    """`int(10 * (1 - 0.9))` is 0 in Python floats, whatever 10 * 0.1 looks like."""
    model = mae("line", image_size=(320,), mask_ratio=0.9)
    with pytest.raises(ValueError, match=r"mask_ratio is 0\.9, which keeps none of 10 mask units"):
        model(pixels(model.config))


def test_a_ratio_that_hides_nothing_is_refused() -> None:
    model = mae(mask_ratio=0.0)
    with pytest.raises(ValueError, match=r"mask_ratio is 0\.0, which keeps all of 4 mask units"):
        model(pixels(model.config))


def test_a_single_unit_cannot_be_masked() -> None:
    with pytest.raises(ValueError, match=r"keeps none of 1 mask units"):
        mae()(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (torch.ones(2, 4, dtype=torch.bool), "keep shows all 4 mask units; at least one must be hidden"),
        (torch.zeros(2, 4, dtype=torch.bool), "keep hides all 4 mask units; at least one must be kept"),
        (torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool(), "2 mask units in image 0 and 3 in image 1"),
        (torch.ones(2, 16, dtype=torch.bool), r"shape \[2, 16\].*\[2, 4\]"),
        (torch.ones(4, dtype=torch.bool), r"shape \[4\].*\[2, 4\]"),
        (torch.ones(2, 4), r"torch\.float32.*booleans"),
    ],
    ids=["all", "nothing", "uneven", "units", "rank", "dtype"],
)
def test_a_mask_that_cannot_be_is_refused(keep: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mae()(torch.randn(2, 3, 64, 64), keep=keep)


def test_noise_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise has shape \[2, 5\]; expected \[2, 4\]"):
        mae()(torch.randn(2, 3, 64, 64), noise=torch.rand(2, 5))


def test_noise_and_mask_together_are_refused() -> None:
    with pytest.raises(ValueError, match="keep and noise are both given"):
        mae()(torch.randn(2, 3, 64, 64), noise=torch.rand(2, 4), keep=random_mask(image_config()))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_visible_patches_are_those_of_the_kept_units_row_by_row(kind: str) -> None:
    config = mae_config(kind)
    units = config.unit_grid(config.image_size)
    keep = random_mask(config)
    kept = keep.nonzero()[:, 1].reshape(2, 2)
    per_unit = [u // s for u, s in zip(config.unit_pixels, config.stage_stride(3), strict=True)]
    expected = keep.unflatten(1, units)
    for axis, n in enumerate(per_unit):
        expected = expected.repeat_interleave(n, dim=1 + axis)
    assert torch.equal(visible_patches(kept, units, config), expected.flatten(1))


# -- what is masked cannot be seen ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_masked_pixels_change_the_loss_alone(kind: str) -> None:
    fresh_seed()
    model = mae(kind)
    x, keep = pixels(model.config), random_mask(mae_config(kind))
    hidden = ~over_pixels(keep, model.config, model.config.image_size)
    other = torch.where(hidden, torch.randn_like(x) * 100, x)
    first, second = model(x, keep=keep), model(other, keep=keep)
    assert torch.equal(first.logits, second.logits)
    assert not torch.equal(first.loss, second.loss)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@torch.no_grad()
def test_what_is_missing_can_be_masked_whatever_stands_in_its_place(value: float) -> None:
    model = mae()
    # the patch embedding overlaps neighbors above and to the left: each mask hides some of these
    x, keep = pixels(model.config), torch.tensor([[False, True, False, True], [True, False, False, True]])
    hidden = ~over_pixels(keep, model.config, model.config.image_size)
    assert torch.equal(model(x.masked_fill(hidden, value), keep=keep).logits, model(x, keep=keep).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_the_prediction_has_no_gradient_with_respect_to_masked_pixels(kind: str) -> None:
    model = mae(kind)
    x, keep = pixels(model.config).requires_grad_(), random_mask(mae_config(kind))
    model(x, keep=keep).logits.square().sum().backward()
    assert x.grad is not None
    shown = over_pixels(keep, model.config, model.config.image_size).expand_as(x)
    assert not x.grad[~shown].any()
    assert x.grad[shown].any()


@torch.no_grad()
def test_every_prediction_depends_on_every_visible_unit() -> None:
    model = mae(std=0.5).double()
    x, keep = pixels(model.config, 1, dtype=torch.float64), torch.tensor([[True, False, False, True]])
    before = model(x, keep=keep).logits
    for corner in (slice(0, 32), slice(32, 64)):
        other = x.clone()
        other[:, :, corner, corner] += 1
        assert (model(other, keep=keep).logits != before).any(dim=2).all()
