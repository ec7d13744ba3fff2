import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.model.blocks import Block, DropPath
from hierax.model.config import HieraConfig
from hierax.model.encoder import Hiera
from hierax.model.plan import plan
from plain import KINDS, encoder, every_stage, spread
from small import CONFIGS, fresh_seed, image_config, pixels, randomize, units_of

# -- masks ------------------------------------------------------------------------------------------------------------


def checkerboard(config: HieraConfig) -> Tensor:
    """`[2, units]`: every other mask unit, the other ones in the second image."""
    even = torch.arange(units_of(config)) % 2 == 0
    return torch.stack([even, ~even])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_masked_cannot_be_seen(kind: str) -> None:
    """Not even through the patch embedding, which overlaps its neighbors."""
    model = encoder(CONFIGS[kind]())
    x, keep = pixels(model.config), checkerboard(model.config)
    hidden = ~spread(keep.unflatten(1, model.config.unit_grid(x.shape[2:])), model.config.unit_pixels)[:, None]
    other = torch.where(hidden, torch.randn_like(x) * 100, x)
    assert not torch.equal(other, x)
    first, second = every_stage(model, x, keep=keep), every_stage(model, other, keep=keep)
    assert all(torch.equal(first.tokens[s], second.tokens[s]) for s in first.tokens)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_mask_that_shows_everything_changes_nothing(kind: str) -> None:
    model = encoder(CONFIGS[kind]())
    x = pixels(model.config)
    seen = every_stage(model, x, keep=torch.ones(2, units_of(model.config), dtype=torch.bool))
    plain = every_stage(model, x)
    assert all(torch.equal(seen.tokens[s], plain.tokens[s]) for s in plain.tokens)


@torch.no_grad()
def test_images_of_a_batch_have_masks_of_their_own() -> None:
    model = encoder(image_config()).double()
    x, keep = pixels(model.config, dtype=torch.float64), checkerboard(model.config)
    together = model(x, keep=keep).last
    for row in range(2):
        torch.testing.assert_close(model(x[row : row + 1], keep=keep[row : row + 1]).last[0], together[row])


@torch.no_grad()
def test_indices_of_kept_units_are_as_good_as_booleans() -> None:
    model = encoder(image_config())
    x = pixels(model.config)
    kept = torch.tensor([[0, 2], [1, 3]])
    assert torch.equal(model(x, kept=kept).last, model(x, keep=checkerboard(model.config)).last)


@torch.no_grad()
def test_maps_under_a_mask_are_one_per_seen_unit() -> None:
    model = encoder(image_config(num_query_pool=2))
    features = every_stage(model, pixels(model.config), keep=checkerboard(model.config))
    assert [tuple(features.grid(s).shape) for s in range(5)] == [
        (2, 2, 8, 8, 8), (2, 2, 8, 8, 8), (2, 2, 4, 4, 16), (2, 2, 2, 2, 32), (2, 2, 2, 2, 64),
    ]  # fmt: skip


@torch.no_grad()
def test_a_mask_works_at_sizes_that_are_padded() -> None:
    model = encoder(image_config())
    x = pixels(model.config, size=(40, 70))  # 2 x 3 units
    keep = torch.tensor([[True, False, True, False, True, False]] * 2)
    padded = F.pad(x, (0, 26, 0, 24))
    assert torch.equal(model(x, keep=keep).last, model(padded, keep=keep).last)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (torch.ones(2, 5, dtype=torch.bool), r"shape \[2, 5\].*\[2, 4\].*32x32 pixels"),
        (torch.ones(1, 4, dtype=torch.bool), r"shape \[1, 4\].*\[2, 4\]"),
        (torch.ones(2, 2, 2, dtype=torch.bool), r"shape \[2, 2, 2\].*\[2, 4\]"),
        (torch.ones(2, 4), r"torch\.float32.*booleans"),
        (torch.ones(2, 4, dtype=torch.long), r"torch\.int64.*booleans"),
        (torch.zeros(2, 4, dtype=torch.bool), "hides all 4 mask units"),
        (torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]).bool(), r"2 mask units in image 0 and 1 in image 1"),
        (torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0]]).bool(), r"0 mask units in image 0 and 1 in image 1"),
    ],
    ids=["units", "batch", "rank", "float", "int", "nothing", "uneven", "uneven and empty"],
)
def test_a_mask_that_cannot_be_is_refused(keep: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(image_config())(torch.randn(2, 3, 64, 64), keep=keep)


# -- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("image", (3, 64, 64), r"shape \[3, 64, 64\]; expected \[batch, 3, height, width\]"),
        ("image", (1, 3, 8, 64, 64), r"shape \[1, 3, 8, 64, 64\]; expected \[batch, 3, height, width\]"),
        ("image", (1, 4, 64, 64), r"shape \[1, 4, 64, 64\]; expected \[batch, 3, height, width\]"),
        ("image", (1, 64, 64, 3), r"shape \[1, 64, 64, 3\]; expected \[batch, 3, height, width\]"),
        ("image", (1, 3, 0, 64), r"shape \[1, 3, 0, 64\]"),
        ("image", (0, 3, 64, 64), r"shape \[0, 3, 64, 64\]"),
        ("video", (1, 3, 64, 64), r"expected \[batch, 3, time, height, width\]"),
        ("volume", (1, 1, 64, 64), r"expected \[batch, 1, depth, height, width\]"),
        ("line", (8, 512), r"shape \[8, 512\]; expected \[batch, 8, length\]"),
    ],
)
def test_pixels_of_another_shape_are_refused(kind: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(CONFIGS[kind]())(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_pixels_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"dtype {dtype}; expected normalized floating-point"):
        encoder(image_config())(torch.zeros(1, 3, 64, 64, dtype=dtype))


# -- training ---------------------------------------------------------------------------------------------------------


def test_drop_path_keeps_or_drops_whole_samples_and_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.3).train()
    out = drop(torch.ones(20000, 2, 3))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert abs(float(out.mean()) - 1) < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_drop_path_keeps_the_precision(dtype: torch.dtype) -> None:
    assert DropPath(0.5).train()(torch.ones(4, 2, dtype=dtype)).dtype == dtype


def test_drop_path_is_off_in_eval() -> None:
    model = encoder(image_config(drop_path_rate=0.9))
    x = pixels(model.config)
    with torch.no_grad():
        assert torch.equal(model(x).last, encoder_like(model, drop_path_rate=0.0)(x).last)


def encoder_like(model: Any, **changes: Any) -> Any:
    twin = Hiera(model.config.replace(**changes))
    twin.load_state_dict(model.state_dict())
    return twin.eval()


@torch.no_grad()
def test_both_branches_of_a_block_are_dropped_each_by_its_own_draw() -> None:
    fresh_seed()
    spec = plan(image_config(drop_path_rate=0.5))[-1]
    block = Block(spec, image_config())
    randomize(block, 0.5)
    block.train()
    x = torch.randn(1, 1, 4, spec.dim).expand(4000, -1, -1, -1)
    without_attn = x + block.mlp(block.norm2(x)) / 0.5
    with_attn = x + block.attn(block.norm1(x)) / 0.5
    cases = {
        "neither": x,
        "mlp": without_attn,
        "attention": with_attn,
        "both": with_attn + block.mlp(block.norm2(with_attn)) / 0.5,
    }
    out = block(x)
    share = {name: float(((out - made).abs().amax((1, 2, 3)) < 1e-4).float().mean()) for name, made in cases.items()}
    assert sum(share.values()) == pytest.approx(1.0)
    assert all(abs(part - 0.25) < 0.05 for part in share.values()), share


def test_the_blocks_drop_as_planned() -> None:
    model = Hiera(image_config(drop_path_rate=0.7))
    rates = [block.drop_path.rate for block in model.blocks if isinstance(block, Block)]
    assert rates == pytest.approx([n / 10 for n in range(8)])


@pytest.mark.parametrize("kind", ["image", "abs_win", "video"])
def test_recomputing_blocks_gives_the_same_gradients(kind: str) -> None:
    seed = fresh_seed()
    config = CONFIGS[kind](drop_path_rate=0.4)
    x = pixels(config, dtype=torch.float64)
    grads = []
    for enabled in (False, True):
        torch.manual_seed(seed)
        model = encoder(config).double().train()
        model.gradient_checkpointing_enable(enabled)
        torch.manual_seed(seed + 1)
        model(x).last.square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-10, atol=1e-14)


def test_recomputing_saves_what_blocks_would_keep() -> None:
    """Otherwise the flag would do nothing and the test above still pass."""
    kept = {}
    for enabled in (False, True):
        model = encoder(image_config()).train()
        model.gradient_checkpointing_enable(enabled)
        size = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(pixels(model.config)).last.sum()
        kept[enabled] = size
    assert kept[True] < kept[False] / 3


def test_recomputing_can_be_turned_off_again_and_is_off_in_eval() -> None:
    model = encoder(image_config())
    model.gradient_checkpointing_enable()
    assert model.gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.gradient_checkpointing


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    model = encoder(CONFIGS[kind]()).train()
    size = [n + 32 for n in model.config.image_size]
    for shape in (None, size):
        model.zero_grad()
        model(pixels(model.config, size=shape)).last.square().sum().backward()
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []


def test_the_activation_is_the_exact_gelu_unless_another_is_named() -> None:
    x = torch.linspace(-3, 3, 50)
    expected = {
        "gelu": x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
        "gelu_pytorch_tanh": F.gelu(x, approximate="tanh"),
        "relu": x.clamp(min=0),
        "silu": x * torch.sigmoid(x),
    }
    for name, made in expected.items():
        config = image_config(hidden_act=name)
        torch.testing.assert_close(Block(plan(config)[0], config).mlp.act(x), made, atol=1e-6, rtol=1e-6)
