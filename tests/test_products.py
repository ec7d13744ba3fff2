"""Products by oneDNN: equal to `F.linear`, with all gradients, and used only where nothing else watches."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from hierax.model import products
from hierax.model.layers import Linear, activated
from hierax.model.products import linear


class Own(Tensor):
    """A tensor of another library."""


SHAPES = [(96, 288), (288, 96), (64, 64), (1, 7), (33, 1)]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Products of any size by oneDNN on any CPU; counts them."""
    if not products._works():
        pytest.skip("PyTorch without the operator of oneDNN")
    counts: list[int] = []
    real = products._product

    def count(*arguments: Any) -> Tensor:
        counts.append(1)
        return real(*arguments)

    monkeypatch.setattr(products, "_LEAST", 1)
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(products, "_product", count)
    return counts


def tensors(width: int, out: int, *rows: int, grad: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    make = torch.Generator().manual_seed(0)
    shapes = ((*rows, width), (out, width), (out,))
    x, weight, bias = (torch.randn(shape, generator=make, requires_grad=grad) for shape in shapes)
    return x, weight, bias


def assert_near(found: Tensor, expected: Tensor) -> None:
    largest = max([1.0, *expected.detach().abs().flatten().tolist()])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize(("width", "out"), SHAPES)
@pytest.mark.parametrize("rows", [(5,), (2, 3, 4), (1, 1), (0,)])
def test_product_and_gradients_equal_those_of_linear(
    used: list[int], width: int, out: int, rows: tuple[int, ...]
) -> None:
    parts = tensors(width, out, *rows)
    found, expected = linear(*parts), F.linear(*parts)
    assert_near(found, expected)
    weights = torch.linspace(-1, 1, expected.numel()).view_as(expected)
    for mine, theirs in zip(
        torch.autograd.grad(found, parts, weights), torch.autograd.grad(expected, parts, weights), strict=True
    ):
        assert mine.shape == theirs.shape
        assert_near(mine, theirs)
    assert bool(used) == (expected.numel() > 0)


@pytest.mark.parametrize("asked", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_gradients_of_some_inputs_alone(used: list[int], asked: tuple[int, ...]) -> None:
    parts = [part.detach().requires_grad_(i in asked) for i, part in enumerate(tensors(16, 24, 6))]
    wanted = [parts[i] for i in asked]
    found = torch.autograd.grad(linear(*parts).square().sum(), wanted)
    for mine, theirs in zip(found, torch.autograd.grad(F.linear(*parts).square().sum(), wanted), strict=True):
        assert_near(mine, theirs)


def test_gradients_have_gradients(used: list[int]) -> None:
    x, weight, bias = tensors(12, 20, 7)

    def penalty(product: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        (slope,) = torch.autograd.grad(product(x, weight, bias).square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (x, weight, bias))

    for mine, theirs in zip(penalty(linear), penalty(F.linear), strict=True):
        assert_near(mine, theirs)


def test_inputs_that_are_views(used: list[int]) -> None:
    x, weight, bias = tensors(16, 24, 6, 5, grad=False)
    for view in (x.transpose(0, 1), x[:, ::2], x.expand(3, 6, 5, 16), x[..., :16:2]):
        narrow = weight[:, : view.shape[-1]]
        assert_near(linear(view, narrow, bias), F.linear(view, narrow, bias))
        assert_near(linear(view, narrow.t().contiguous().t(), None), F.linear(view, narrow))
    assert len(used) == 8


def test_the_same_call_gives_the_same_bits(used: list[int]) -> None:
    parts = tensors(96, 288, 50, grad=False)
    assert all(torch.equal(linear(*parts), linear(*parts)) for _ in range(3))


def test_other_kinds_of_tensors_go_to_pytorch(used: list[int]) -> None:
    x, weight, bias = tensors(16, 24, 6, grad=False)
    for kind in (torch.float64, torch.bfloat16):
        parts = (part.to(kind) for part in (x, weight, bias))
        assert linear(*parts).dtype == kind
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    assert linear(x.to("meta"), weight.to("meta"), None).device.type == "meta"
    assert linear(x[0], weight, bias).shape == (24,)
    assert isinstance(linear(x, weight.as_subclass(Own), bias), Own)  # as quantized weights are
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(linear(x.requires_grad_(), weight.as_subclass(Own), bias), Own)
    assert not used


@pytest.mark.skipif(not products._works_in_half(), reason="a CPU without bfloat16")
def test_under_autocast_a_product_that_is_learned_adds_its_bias(used: list[int]) -> None:
    parts = tensors(16, 24, 6, 5)
    weights = torch.linspace(-1, 1, 6 * 5 * 24).view(6, 5, 24)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = linear(*parts), F.linear(*parts)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert len(used) == 1
    gradients = (torch.autograd.grad(out.float(), parts, weights) for out in (found, expected))
    for mine, theirs in zip(*gradients, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-2)
    with torch.autocast("cpu", torch.bfloat16):
        [slope] = torch.autograd.grad(linear(*parts).float().square().sum(), parts[0], create_graph=True)
    assert torch.autograd.grad(slope.square().sum(), parts[1])[0].abs().max() > 0


def test_small_products_go_to_pytorch(used: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_LEAST", 6 * 16 * 24)
    linear(*tensors(16, 24, 5, grad=False))
    assert not used
    linear(*tensors(16, 24, 6, grad=False))
    assert used


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_transforms_and_modes_see_the_operators_of_pytorch(used: list[int]) -> None:
    x, weight, bias = tensors(16, 24, 6, 5, grad=False)
    assert torch.func.vmap(lambda part: linear(part, weight, bias))(x).shape == (6, 5, 24)
    assert torch.func.grad(lambda part: linear(part, weight, bias).sum())(x).shape == x.shape
    assert torch.func.jvp(lambda part: linear(part, weight, bias), (x,), (x,))[1].shape == (6, 5, 24)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        assert torch.autograd.forward_ad.unpack_dual(linear(dual, weight, bias)).tangent is not None
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias)
    assert counter.get_total_flops() == 2 * 30 * 16 * 24
    assert not used


def test_exports_contain_the_operators_of_pytorch(used: list[int]) -> None:
    layer = Linear(16, 24)
    program = torch.export.export(layer, (torch.zeros(4, 16),), strict=False)
    assert not used
    assert "mkldnn" not in str(program.graph)


@pytest.mark.parametrize("autocast", [False, True])
def test_exports_are_for_any_batch(autocast: bool) -> None:
    """oneDNN would compute batches of 4 and more: an export with a batch of 3 must not be for smaller ones alone."""
    layer, batch = Linear(4096, 2048), torch.export.Dim("batch", min=1, max=1024)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        program = torch.export.export(layer, (torch.zeros(3, 4096),), dynamic_shapes=({0: batch},), strict=False)
    assert program.module()(torch.zeros(9, 4096)).shape == (9, 2048)


def test_a_layer_trains_with_checkpointing(used: list[int]) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    mine = nn.Sequential(Linear(16, 32), nn.GELU(), Linear(32, 16))
    mine.load_state_dict(layer.state_dict())
    again = copy.deepcopy(mine)
    x = torch.randn(9, 16)
    layer(x).square().mean().backward()
    mine(x).square().mean().backward()
    checkpoint(again, x, use_reentrant=False).square().mean().backward()  # pyright: ignore[reportOptionalMemberAccess]
    for a, b, c in zip(mine.parameters(), layer.parameters(), again.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert c.grad is not None
        assert_near(a.grad, b.grad)
        assert torch.equal(a.grad, c.grad)
        assert a.grad.stride() == a.stride()


def test_a_pytorch_without_the_operator_computes_with_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not products._works()


# -- with GELU


def mlp() -> tuple[Linear, nn.GELU, Tensor]:
    x, weight, bias = tensors(16, 24, 6, grad=False)
    layer = Linear(16, 24)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False), nn.GELU(), x


def test_gelu_is_part_of_the_product(used: list[int]) -> None:
    layer, act, x = mlp()
    assert_near(activated(layer, act, x), act(F.linear(x, layer.weight, layer.bias)))
    assert len(used) == 1


def test_where_a_gradient_is_needed_gelu_is_an_operation_of_its_own(used: list[int]) -> None:
    layer, act, x = mlp()
    found = activated(layer.requires_grad_(True), act, x)
    found.sum().backward()
    assert layer.weight.grad is not None


def hook(module: nn.Module, *_: object) -> None:
    seen.append(type(module).__name__)


seen: list[str] = []


@pytest.mark.parametrize("where", ["layer", "act", "before", "global", "forward"])
def test_hooks_see_the_layer_and_its_activation(where: str, used: list[int]) -> None:
    layer, act, x = mlp()
    seen.clear()
    handle = None
    if where == "forward":  # as accelerate does it
        plain = layer.forward
        layer.forward = lambda input: (hook(layer), plain(input))[1]
    elif where == "global":
        handle = nn.modules.module.register_module_forward_hook(hook)
    elif where == "before":
        layer.register_forward_pre_hook(hook)
    else:
        (layer if where == "layer" else act).register_forward_hook(hook)
    try:
        assert_near(activated(layer, act, x), F.gelu(F.linear(x, layer.weight, layer.bias)))
    finally:
        if handle is not None:
            handle.remove()
    assert seen == {"act": ["GELU"], "global": ["Linear", "GELU"]}.get(where, ["Linear"])


@pytest.mark.parametrize("act", [nn.GELU("tanh"), nn.ReLU(), nn.SiLU()], ids=["tanh", "relu", "silu"])
def test_other_activations_stay_as_they_are(act: nn.Module, used: list[int]) -> None:
    layer, _, x = mlp()
    assert_near(activated(layer, act, x), act(F.linear(x, layer.weight, layer.bias)))


def test_a_layer_of_another_kind_is_called(used: list[int]) -> None:
    class Twice(Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    layer, act, x = mlp()
    other = Twice(16, 24)
    other.load_state_dict(layer.state_dict())
    assert_near(activated(other, act, x), F.gelu(2 * F.linear(x, layer.weight, layer.bias)))
