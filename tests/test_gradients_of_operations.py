"""Operations with backward passes of their own have the gradients that PyTorch derives, and give way where needed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import hierax
from hierax.model import blocks, gradients
from hierax.model.gradients import attention, maximum
from small import abs_win_config, image_config, pixels, randomize, units_of, video_config


def numbers(*shape: int, seed: int = 0) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=make, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (1, 2, 8, 1), (2, 1, 3)])
@pytest.mark.parametrize("dim", [1, 2])
def test_the_maximum_has_the_gradients_of_amax(shape: tuple[int, ...], dim: int) -> None:
    x = numbers(*shape)
    assert torch.equal(maximum(x, dim), x.amax(dim))
    assert torch.autograd.gradcheck(lambda t: maximum(t, dim), x)
    assert torch.autograd.gradgradcheck(lambda t: maximum(t, dim).square(), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equal_maxima_share_the_gradient_as_those_of_amax(dtype: torch.dtype) -> None:
    make = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (4, 3, 4, 5), generator=make).to(dtype).requires_grad_()
    grad = torch.randn(4, 3, 5, generator=make).to(dtype)
    [found] = torch.autograd.grad(maximum(x, 2), x, grad)
    [expected] = torch.autograd.grad(x.amax(2), x, grad)
    torch.testing.assert_close(found, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)


def test_the_maximum_of_a_view_and_of_what_is_not_a_number() -> None:
    x = numbers(2, 3, 4, 6)
    view = x.transpose(1, 3)[:, ::2]
    [found] = torch.autograd.grad(maximum(view, 2).square().sum(), x)
    [expected] = torch.autograd.grad(view.amax(2).square().sum(), x)
    assert torch.equal(found, expected)
    odd = torch.tensor([[1.0, float("nan"), 2.0]]).T.requires_grad_()
    assert maximum(odd, 0).isnan().all()


def plain(parts: Tensor, neighbors: int) -> Tensor:
    """Attention in the words of a textbook."""
    q, k, v = parts.unbind(0)
    q = q.unflatten(2, (neighbors, -1)).amax(2)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("neighbors", [1, 2, 4])
@pytest.mark.parametrize("heads", [1, 3])
def test_attention_has_the_gradients_that_pytorch_derives(heads: int, neighbors: int) -> None:
    parts = numbers(3, 2, heads, 8, 5)
    torch.testing.assert_close(attention(parts, neighbors), plain(parts, neighbors))
    assert torch.autograd.gradcheck(lambda t: attention(t, neighbors), parts)
    assert torch.autograd.gradgradcheck(lambda t: attention(t, neighbors), parts)


def test_nothing_has_gradients_of_nothing() -> None:
    x, parts = numbers(0, 4, 3), numbers(3, 0, 2, 8, 4)
    (maximum(x, 1).sum() + attention(parts, 2).sum()).backward()
    assert x.grad is not None
    assert parts.grad is not None
    assert (x.grad.shape, parts.grad.shape) == (x.shape, parts.shape)


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_of_many_vectors_are_computed_at_once(create_graph: bool) -> None:
    x, parts = numbers(2, 4, 3), numbers(3, 2, 1, 4, 3)
    for found, leaf in ((maximum(x, 1), x), (attention(parts, 2), parts)):
        vectors = torch.eye(found.numel(), dtype=torch.float64).view(-1, *found.shape)
        options: dict[str, Any] = {"retain_graph": True, "create_graph": create_graph}
        [batched] = torch.autograd.grad(found, leaf, vectors, is_grads_batched=True, **options)
        one_by_one = [torch.autograd.grad(found, leaf, vector, **options)[0] for vector in vectors]
        torch.testing.assert_close(batched, torch.stack(one_by_one))
        assert batched.requires_grad == one_by_one[0].requires_grad


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning", "ignore::DeprecationWarning")
def test_the_vectorized_jacobian_of_a_model_is_that_of_its_rows() -> None:
    model, x, _ = of_model("image")

    def logits(pixels: Tensor) -> Tensor:
        return model(pixels).logits[0, :3]

    expected = torch.autograd.functional.jacobian(logits, x[:1])
    found = torch.autograd.functional.jacobian(logits, x[:1], vectorize=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.func
def test_derivatives_in_forward_mode_need_no_small_input(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_MAX_EXPLICIT_SCORES_FP32", 0)  # as of a large input: attention is fused
    torch.manual_seed(0)
    model: Any = randomize(hierax.HieraForImageClassification(image_config()), 0.2).to(dtype)
    x, tangent = (torch.randn(1, 3, 64, 64, dtype=dtype) for _ in range(2))
    found: Any = torch.func.jvp(lambda t: model(t).logits, (x,), (tangent,))[1]
    rows = torch.autograd.functional.jacobian(lambda t: model(t).logits[0], x)
    torch.testing.assert_close(found[0], (rows * tangent).flatten(1).sum(1), rtol=1e-3, atol=1e-3)


MODELS: dict[str, Callable[[], Any]] = {
    "image": lambda: hierax.HieraForImageClassification(image_config()),
    "clip": lambda: hierax.HieraForVideoClassification(video_config()),
    "abs-win": lambda: hierax.HieraForImageClassification(abs_win_config(global_position_size=(16, 16))),
    "mae": lambda: hierax.HieraForPreTraining(image_config()),
}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each operation ran; in any precision."""
    counts = {"maximum": 0, "attention": 0}

    def counting(function: Any, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            counts[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(gradients._Maximum, "apply", counting(gradients._Maximum.apply, "maximum"))
    monkeypatch.setattr(gradients._Attention, "apply", counting(gradients._Attention.apply, "attention"))
    monkeypatch.setattr(blocks, "_HALF", (torch.bfloat16, torch.float64))
    return counts


def loss_and_gradients(model: Any, x: Tensor, **options: Any) -> tuple[Tensor, list[Tensor]]:
    out = model(x, **options)
    loss = out.loss if "noise" in options else out.logits.square().sum()
    return loss, list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


def of_model(kind: str) -> tuple[Any, Tensor, dict[str, Any]]:
    torch.manual_seed(0)
    model: Any = randomize(MODELS[kind](), 0.2).double()
    x = pixels(model.config, dtype=torch.float64)
    return model, x, {"noise": torch.rand(2, units_of(model.config))} if kind == "mae" else {}


@pytest.mark.parametrize("kind", MODELS)
def test_models_have_the_same_gradients_with_and_without(
    kind: str, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, options = of_model(kind)
    loss, found = loss_and_gradients(model, x, **options)
    assert min(counted.values()) > 0
    counted.update(maximum=0, attention=0)
    monkeypatch.setattr(gradients, "learns", lambda x: False)
    monkeypatch.setattr(blocks, "learns", lambda x: False)
    expected_loss, expected = loss_and_gradients(model, x, **options)
    assert max(counted.values()) == 0
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_bf16_differs_from_float64_as_before(counted: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, _ = of_model("image")
    _, exact = loss_and_gradients(model, x)

    def error() -> float:
        half = copy.deepcopy(model).float()
        with torch.autocast("cpu", torch.bfloat16):
            out = half(x.float()).logits.square().sum()
        found = torch.autograd.grad(out, list(half.parameters()))
        return sum(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)) / len(exact)

    ours = error()
    assert min(counted.values()) > 0
    monkeypatch.setattr(gradients, "learns", lambda x: False)
    monkeypatch.setattr(blocks, "learns", lambda x: False)
    assert ours < 1.2 * error()


@pytest.mark.filterwarnings(
    "ignore:There is a performance drop:UserWarning", "ignore::DeprecationWarning"
)  # of torch.func
def test_they_give_way_where_something_sees_the_operators(counted: dict[str, int]) -> None:
    model, x, _ = of_model("image")

    def loss(pixels: Tensor) -> Tensor:
        return model(pixels).logits.square().sum()

    torch.func.grad(loss)(x)
    torch.func.vmap(loss)(x[:, None])
    torch.func.jvp(lambda t: maximum(t, 2), (x,), (torch.ones_like(x),))
    with FlopCounterMode(display=False):
        loss(x)
    torch.compile(model, backend="eager", fullgraph=True)(x).logits.sum().backward()
    with torch.no_grad():
        loss(x)
    assert max(counted.values()) == 0


def test_recomputation_and_second_derivatives_work(counted: dict[str, int]) -> None:
    model, x, _ = of_model("image")
    x.requires_grad_()
    _, expected = loss_and_gradients(model, x)
    out = checkpoint(lambda t: model(t).logits, x, use_reentrant=False)
    again = torch.autograd.grad(out.square().sum(), list(model.parameters()))
    for ours, theirs in zip(again, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    [first] = torch.autograd.grad(model(x).logits.square().sum(), x, create_graph=True)
    second = torch.autograd.grad(first.square().sum(), x)[0]
    assert second.isfinite().all()
    assert second.abs().max() > 0
    assert min(counted.values()) > 0
