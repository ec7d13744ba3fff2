"""What position embeddings keep of resized tables, and when they compute anew."""

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from hierax.model.positions import PositionEmbedding
from position_tables import KINDS, OTHER, embedding
from small import CONFIGS, image_config

GRID = (24, 32)


def cached(position: PositionEmbedding) -> Tensor:
    with torch.no_grad():
        return position(GRID)


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def test_the_embedding_of_a_grid_is_kept_in_eval_without_gradients() -> None:
    position = embedding(image_config())
    assert storage(cached(position)) == storage(cached(position))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_what_would_be_computed(kind: str) -> None:
    position = embedding(CONFIGS[kind]())
    with torch.no_grad():
        first, second = position(OTHER[kind]), position(OTHER[kind])
    assert torch.equal(first, second)
    assert torch.equal(second, position(OTHER[kind]))


def test_two_grids_with_the_same_number_of_tokens_are_told_apart() -> None:
    position = embedding(image_config())
    with torch.no_grad():
        wide, high = position((16, 32)), position((32, 16))
    assert not torch.equal(wide, high)


@pytest.mark.parametrize("change", ["in place", "load", "assign", "another parameter", "optimizer", "half"])
def test_a_changed_parameter_is_noticed(change: str) -> None:
    position = embedding(image_config())
    old = cached(position).clone()
    other = torch.randn_like(position.weight)
    if change == "in place":
        with torch.no_grad():
            position.weight.copy_(other)
    elif change == "load":
        position.load_state_dict({"weight": other})
    elif change == "assign":
        position.load_state_dict({"weight": other}, assign=True)
    elif change == "another parameter":
        position.weight = torch.nn.Parameter(other)
    elif change == "optimizer":
        position.weight.grad = other
        torch.optim.SGD(position.parameters(), lr=1.0).step()
    else:
        position.to(torch.bfloat16)
    new = cached(position)
    assert not torch.equal(new.float(), old)
    assert torch.equal(new, position(GRID))


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_through_data_is_noticed(kind: str) -> None:
    """Moving averages of weights are often written so; PyTorch does not count such changes."""
    config = CONFIGS[kind]()
    position = embedding(config)
    for grid in (OTHER[kind], config.token_grid(config.image_size)):
        with torch.no_grad():
            before = position(grid).clone()
            for parameter in position.parameters():
                parameter.data.mul_(0.5).add_(0.25)
            after = position(grid)
        assert not torch.equal(after, before)
        assert torch.equal(after, position(grid))


def test_a_parameter_at_a_freed_address_does_not_pass_for_the_old_one() -> None:
    """An allocator gives freed memory out again; version and shape are the same then."""
    position = embedding(image_config())
    for _ in range(20):
        position.weight = torch.nn.Parameter(torch.randn(position.weight.shape))
        assert torch.equal(cached(position), position(GRID))


def test_changing_the_method_is_noticed() -> None:
    position = embedding(image_config())
    before = cached(position).clone()
    position.method = "window"
    assert not torch.equal(cached(position), before)


@pytest.mark.parametrize("where", ["gradients on", "training"])
def test_nothing_is_kept_or_reused_where_gradients_may_flow(where: str) -> None:
    position = embedding(image_config())
    kept = storage(cached(position))
    if where == "gradients on":
        out = position(GRID)
        assert out.requires_grad
    else:
        position.train()
        out = cached(position)
    assert storage(out) != kept
    fresh = embedding(image_config())
    fresh.train(where == "training")
    if where == "gradients on":
        fresh(GRID)
    else:
        cached(fresh)
    assert not fresh.cached


def test_gradients_reach_the_table_after_it_was_cached() -> None:
    position = embedding(image_config())
    cached(position)
    position(GRID).square().sum().backward()
    assert position.weight.grad is not None
    assert position.weight.grad.abs().min() > 0


def test_only_a_few_grids_are_kept() -> None:
    position = embedding(image_config())
    with torch.no_grad():
        for n in range(1, 40):
            position((8, 8 * n))
    assert len(position.cached) <= 8


def test_what_a_mode_with_fake_tensors_computes_is_not_kept() -> None:
    position = embedding(image_config())
    expected = position(GRID)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(cached(position), FakeTensor)
    assert not position.cached
    assert torch.equal(cached(position), expected)


def test_stale_embeddings_do_not_pile_up() -> None:
    position = embedding(image_config())
    for _ in range(40):
        with torch.no_grad():
            position.weight.add_(1.0)
        cached(position)
    assert len(position.cached) <= 8


def test_an_ensemble_is_run_by_vmap_without_gradients() -> None:
    """`torch.func` puts tensors without storage in the place of parameters."""
    several = [embedding(image_config()) for _ in range(3)]
    stacked = {"weight": torch.stack([p.weight.detach() for p in several])}
    with torch.no_grad():
        made = torch.func.vmap(lambda w: torch.func.functional_call(several[0], w, (GRID,)))(stacked)
        assert torch.equal(made, torch.stack([p(GRID) for p in several]))


def test_other_parameters_for_one_call_are_noticed() -> None:
    position, other = embedding(image_config()), embedding(image_config())
    with torch.no_grad():
        before = position(GRID).clone()
        assert torch.equal(torch.func.functional_call(position, other.state_dict(), (GRID,)), other(GRID))
        assert torch.equal(position(GRID), before)


def test_what_inference_mode_kept_can_be_used_outside_of_it() -> None:
    position = embedding(image_config())
    with torch.inference_mode():
        inside = position(GRID).clone()
    outside = cached(position)
    assert torch.equal(outside, inside)
    assert torch.equal(outside + torch.zeros(1), inside)


def test_a_model_made_under_inference_mode_works_and_notices_changes() -> None:
    with torch.inference_mode():
        position = embedding(image_config())
        before = position(GRID).clone()
        position.weight.add_(1.0)
        torch.testing.assert_close(position(GRID), before + 1.0, atol=1e-4, rtol=1e-4)
    assert torch.equal(position(GRID), cached(position))


def test_the_cache_is_no_part_of_the_state_copies_or_files() -> None:
    position = embedding(image_config())
    bare = len(pickle.dumps(position))
    kept = storage(cached(position))
    assert set(position.state_dict()) == {"weight"}
    assert len(pickle.dumps(position)) == bare
    for twin in (copy.deepcopy(position), pickle.loads(pickle.dumps(position))):
        assert not twin.cached
        assert torch.equal(cached(twin), cached(position))
        assert storage(cached(twin)) != kept
    buffer = io.BytesIO()
    torch.save(position, buffer)
    assert not torch.load(io.BytesIO(buffer.getvalue()), weights_only=False).cached


def test_compiled_code_does_not_use_the_cache() -> None:
    position = embedding(image_config())
    old = cached(position).clone()
    compiled = torch.compile(position, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(GRID), old)
        position.weight.add_(1.0)
        torch.testing.assert_close(compiled(GRID), old + 1.0, atol=1e-4, rtol=1e-4)
