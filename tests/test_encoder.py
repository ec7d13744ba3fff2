import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierax.config import HieraConfig, plan
from hierax.encoder import Attention, Block, DropPath, Hiera
from small import CONFIGS, abs_win_config, fresh_seed, image_config, pixels, randomise, relative, units_of, video_config

KINDS = sorted(CONFIGS)


def encoder(config: HieraConfig, std: float = 0.2) -> Any:
    model = Hiera(config)
    randomise(model, std)
    return model.eval()


def every_map(features: Any) -> list[Tensor]:
    return [features.map(stage) for stage in range(features.config.stages + 1)]


def every_stage(model: Any, x: Tensor, **options: Any) -> Any:
    return model(x, stages=range(model.config.stages + 1), **options)


# -- against a plain second implementation, on grids, without the layout of mask units ---------------------------------


def windows(x: Tensor, window: tuple[int, ...]) -> Tensor:
    """`[B, *grid, …]` -> `[B, windows, tokens, …]`, both row by row."""
    axes = len(window)
    grid = x.shape[1 : axes + 1]
    split = [n for g, w in zip(grid, window, strict=True) for n in (g // w, w)]
    order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2)]
    x = x.reshape(x.shape[0], *split, *x.shape[axes + 1 :])
    x = x.permute(*order, *range(2 * axes + 1, x.ndim))
    return x.reshape(x.shape[0], math.prod(split[::2]), math.prod(window), *x.shape[2 * axes + 1 :])


def unwindow(x: Tensor, window: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """The inverse of `windows` for `[B, windows, tokens, C]`."""
    counts = [g // w for g, w in zip(grid, window, strict=True)]
    axes = len(window)
    order = [0, *(1 + a + part * axes for a in range(axes) for part in (0, 1)), 2 * axes + 1]
    return x.reshape(x.shape[0], *counts, *window, x.shape[-1]).permute(*order).reshape(x.shape[0], *grid, x.shape[-1])


def pooled(x: Tensor, stride: tuple[int, ...], mode: str = "max") -> Tensor:
    """Pooling of `[B, *grid, C]`."""
    functions: dict[str, dict[int, Any]] = {
        "max": {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d},
        "mean": {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d},
    }
    return functions[mode][len(stride)](x.movedim(-1, 1), stride).movedim(1, -1)


def plain_attention(attn: Any, n: Tensor, unit: tuple[int, ...], stride: tuple[int, ...], hidden: Tensor) -> Tensor:
    """Attention of normed tokens `n` on their grid; `hidden` `[B, *grid]` are keys that nobody sees, across units."""
    grid = tuple(n.shape[1:-1])
    window = unit if attn.unit_attention else grid
    small = tuple(w // s for w, s in zip(window, stride, strict=True))
    q, k, v = attn.qkv(n).chunk(3, dim=-1)
    q = windows(pooled(q, stride), small).unflatten(-1, (attn.heads, -1)).transpose(2, 3)
    k, v = (windows(part, window).unflatten(-1, (attn.heads, -1)).transpose(2, 3) for part in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if not attn.unit_attention:
        scores = scores.masked_fill(windows(hidden[..., None], window)[:, :, None, None, :, 0], -math.inf)
    y = (scores.softmax(-1) @ v).transpose(2, 3).flatten(3)
    return attn.proj(unwindow(y, small, tuple(g // s for g, s in zip(grid, stride, strict=True))))


def plain_block(block: Any, x: Tensor, unit: tuple[int, ...], stride: tuple[int, ...], hidden: Tensor) -> Tensor:
    n = block.norm1(x)
    if block.pooled_shortcut:
        shortcut = torch.cat([pooled(x, stride), pooled(x, stride, "mean")], dim=-1)
    else:
        shortcut = pooled(x if block.proj is None else block.proj(n), stride)
    x = shortcut + block.ls1(plain_attention(block.attn, n, unit, stride, hidden))
    return x + block.ls2(block.mlp(block.norm2(x)))


def plain_maps(model: Any, x: Tensor, keep: Tensor | None = None) -> list[Tensor]:
    """Maps `[B, C, *grid]` of stem and stages; `keep` `[B, units]` hides units from all others."""
    config = model.config
    unit, ones = config.masked_unit_size, (1,) * config.axes
    units = config.unit_grid(x.shape[2:])
    shown = torch.ones(x.shape[0], math.prod(units), dtype=torch.bool) if keep is None else keep
    shown = shown.unflatten(1, units)
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[config.axes]
    seen = spread(shown, config.unit_pixels)
    proj = model.patch_embed.proj
    x = conv(x * seen[:, None], proj.weight, proj.bias, config.patch_stride, config.patch_padding).movedim(1, -1)
    x = x + model.pos_embed.table(tuple(x.shape[1:-1]))
    maps = [x]
    for spec, block in zip(plan(config), model.blocks, strict=True):
        stride = config.query_stride if spec.pool > 1 else ones
        x = plain_block(block, x, unit, stride, ~spread(shown, unit))
        unit = tuple(u // s for u, s in zip(unit, stride, strict=True))
        maps = [*maps[: spec.stage + 1], x]
    return [m.movedim(-1, 1) for m in maps]


def spread(shown: Tensor, size: tuple[int, ...]) -> Tensor:
    """`[B, *units]` -> every entry repeated over its unit of `size`."""
    for axis, n in enumerate(size):
        shown = shown.repeat_interleave(n, dim=1 + axis)
    return shown


@pytest.mark.parametrize("pools", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_stage_map_equals_a_plain_implementation(kind: str, pools: int) -> None:
    fresh_seed()
    model = encoder(CONFIGS[kind](num_query_pool=pools)).double()
    x = pixels(model.config, dtype=torch.float64)
    ours, expected = every_map(every_stage(model, x)), plain_maps(model, x)
    assert max(relative(a, b) for a, b in zip(ours, expected, strict=True)) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_under_a_mask_every_seen_unit_equals_a_plain_implementation(kind: str) -> None:
    fresh_seed()
    model = encoder(CONFIGS[kind](num_query_pool=2)).double()
    x, units = pixels(model.config, dtype=torch.float64), units_of(model.config)
    keep = torch.stack([torch.randperm(units) < units // 2 for _ in range(2)])
    features = every_stage(model, x, keep=keep)
    for stage, expected in enumerate(plain_maps(model, x, keep)):
        unit = [n // u for n, u in zip(expected.shape[2:], model.config.unit_grid(x.shape[2:]), strict=True)]
        by_unit = windows(expected.movedim(1, -1), tuple(unit)).unflatten(2, unit)
        seen = torch.stack([rows[shown] for rows, shown in zip(by_unit, keep, strict=True)])
        assert relative(features.grid(stage), seen) < 1e-12


@torch.no_grad()
def test_the_pooled_shortcut_is_of_the_input_before_its_norm() -> None:
    """abs-win small, by hand: with branches that give nothing, a block is its shortcut alone."""
    config = abs_win_config()
    block = Block(plan(config)[1], config)
    randomise(block)
    for part in (block.attn.proj, block.mlp.fc2):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    x = torch.randn(1, 1, 64, 8)
    grouped = x.reshape(1, 1, 4, 16, 8)
    torch.testing.assert_close(block(x), torch.cat([grouped.amax(2), grouped.mean(2)], dim=-1))


# -- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_attention_is_four_dimensional_so_that_fused_kernels_apply(
    kind: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[torch.Size, ...]] = []
    fused = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
        assert not args
        assert not {"attn_mask", "dropout_p"} & options.keys()
        calls.append((q.shape, k.shape, v.shape))
        return fused(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    model = encoder(CONFIGS[kind]())
    x = pixels(model.config)
    keep = (torch.arange(units_of(model.config)) % 2 == 0).expand(2, -1) if masked else None
    model(x, keep=keep)
    assert len(calls) == sum(model.config.depths)
    assert {len(shape) for shape in itertools.chain(*calls)} == {4}


@torch.no_grad()
def test_attention_weights_are_those_that_mix_the_values() -> None:
    fresh_seed()
    for spec in plan(image_config()):
        attn = Attention(spec).double()
        randomise(attn, 0.5)
        x = torch.randn(2, 3, 16, spec.dim, dtype=torch.float64)
        weights = attn.weights(x)
        _, _, values = attn.qkv(x).unflatten(-1, (3, spec.heads, -1)).unbind(3)  # [B, U, P, N, D]
        if spec.unit_attention:
            mixed = torch.einsum("bnuqk,bukhd->buqnhd", weights, values).diagonal(dim1=3, dim2=4).movedim(-1, 3)
        else:  # one window of all tokens, position-major
            flat = values.transpose(1, 2).flatten(1, 2)
            mixed = torch.einsum("bnqk,bknd->bqnd", weights[:, :, 0], flat)
            mixed = mixed.unflatten(1, (-1, 3)).transpose(1, 2)
        torch.testing.assert_close(attn.proj(mixed.flatten(3)), attn(x))


@torch.no_grad()
def test_attentions_are_of_the_last_block_of_every_stage() -> None:
    model = encoder(image_config())
    attentions = model(pixels(model.config), output_attentions=True).attentions
    assert [tuple(a.shape) for a in attentions] == [
        (2, 1, 4, 64, 64), (2, 2, 4, 16, 16), (2, 4, 1, 16, 16), (2, 8, 1, 4, 4),
    ]  # fmt: skip
    for weights in attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@torch.no_grad()
def test_asking_for_attentions_does_not_change_the_tokens() -> None:
    model = encoder(image_config())
    x = pixels(model.config)
    plain, asked = every_stage(model, x), every_stage(model, x, output_attentions=True)
    assert plain.attentions is None
    assert all(torch.equal(plain.tokens[s], asked.tokens[s]) for s in plain.tokens)


# -- any size ---------------------------------------------------------------------------------------------------------

IMAGE_SIZES = [(96, 96), (224, 320), (448, 448), (472, 472), (20, 20), (33, 65), (1, 1), (32, 100)]
SIZES: list[tuple[str, tuple[int, ...]]] = [
    *(("image", size) for size in IMAGE_SIZES),
    *(("abs_win", size) for size in [(96, 160), (33, 65)]),
    *(("video", size) for size in [(8, 64, 64), (16, 64, 64), (7, 64, 64), (1, 20, 20), (9, 40, 72)]),
    *(("line", size) for size in [(64,), (500,), (1,)]),
    *(("volume", size) for size in [(64, 32, 32), (20, 33, 40)]),
    pytest.param("image", (1000, 1000), marks=pytest.mark.slow),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("kind", "size"), SIZES, ids=str)
@pytest.mark.parametrize("pools", [2, 3])
@torch.no_grad()
def test_maps_have_a_cell_for_every_stride_that_touches_the_input(kind: str, size: tuple[int, ...], pools: int) -> None:
    model = encoder(CONFIGS[kind](num_query_pool=pools))
    maps = every_map(every_stage(model, pixels(model.config, 1, size)))
    for stage, made in enumerate(maps):
        depth = max(stage - 1, 0)
        strides = [p * q ** min(depth, pools) for p, q in
                   zip(model.config.patch_stride, model.config.query_stride, strict=True)]  # fmt: skip
        expected = [math.ceil(s / n) for s, n in zip(size, strides, strict=True)]
        assert list(made.shape) == [1, model.config.embed_dim * 2**depth, *expected]
        assert made.isfinite().all()


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_any_number_of_channels_is_taken(kind: str, channels: int) -> None:
    model = encoder(CONFIGS[kind](num_channels=channels))
    x = pixels(model.config)
    assert x.shape[1] == channels
    first = model(x).last
    x[:, -1] += 1
    assert not torch.equal(model(x).last, first)


@pytest.mark.parametrize(("kind", "size"), [("image", (48, 70)), ("line", (500,)), ("volume", (20, 33, 64))])
@torch.no_grad()
def test_zeros_are_added_right_and_below_up_to_the_next_multiple(kind: str, size: tuple[int, ...]) -> None:
    model = encoder(CONFIGS[kind]())
    x = pixels(model.config, size=size)
    padded = F.pad(x, [n for s in reversed(size) for n in (0, -s % 32)])
    assert all(n % 32 == 0 for n in padded.shape[2:])
    ours, expected = every_stage(model, x), every_stage(model, padded)
    for stage in range(model.config.stages + 1):
        assert torch.equal(ours.published(stage), expected.published(stage))
        whole = expected.map(stage)
        crop = tuple(slice(n) for n in ours.map(stage).shape)
        assert torch.equal(ours.map(stage), whole[crop])


@pytest.mark.parametrize("frames", [1, 3, 7])
@torch.no_grad()
def test_the_last_frame_of_an_odd_clip_is_repeated(frames: int) -> None:
    model = encoder(video_config())
    x = pixels(model.config, size=(frames, 64, 64))
    ours, expected = every_stage(model, x), every_stage(model, torch.cat([x, x[:, :, -1:]], dim=2))
    for stage in range(model.config.stages + 1):
        assert torch.equal(ours.map(stage), expected.map(stage))


@torch.no_grad()
def test_a_clip_can_be_short_and_odd_in_space_too() -> None:
    model = encoder(video_config())
    x = pixels(model.config, size=(7, 40, 64))
    padded = F.pad(torch.cat([x, x[:, :, -1:]], dim=2), (0, 0, 0, 24))
    assert torch.equal(model(x).published(4), model(padded).published(4))


@pytest.mark.parametrize("kind", ["image", "video"])
@torch.no_grad()
def test_nothing_is_padded_at_multiples_of_the_mask_unit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("padded")

    model = encoder(CONFIGS[kind]())
    size = {"image": (96, 32), "video": (4, 32, 96)}[kind]
    monkeypatch.setattr(F, "pad", fail)
    monkeypatch.setattr(torch, "cat", fail)
    model(pixels(model.config, size=size))
    with pytest.raises(AssertionError, match="padded"):
        model(pixels(model.config, size=[n - 1 for n in size]))


@pytest.mark.parametrize(
    ("size", "pools", "touching"),
    [((48, 48), 2, (3, 3)), ((33, 64), 2, (3, 4)), ((40, 64), 3, (2, 2)), ((64, 64), 2, (4, 4)), ((60, 60), 2, (4, 4))],
)
@torch.no_grad()
def test_the_mean_takes_only_tokens_that_touch_the_picture(
    size: tuple[int, int], pools: int, touching: tuple[int, int]
) -> None:
    """By hand: with two poolings a token of the last stage stands for 16 pixels, with three for 32."""
    model = encoder(image_config(num_query_pool=pools))
    x = pixels(model.config, size=size)
    whole = plain_maps(model, F.pad(x, (0, -size[1] % 32, 0, -size[0] % 32)))[-1]
    expected = whole[:, :, : touching[0], : touching[1]].mean((2, 3))
    torch.testing.assert_close(model(x).mean(), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_mean_of_an_odd_clip_is_over_whole_tokens_of_time() -> None:
    model = encoder(video_config(num_query_pool=2))
    features = model(pixels(model.config, size=(7, 48, 64)))
    assert features.map(4).shape[2:] == (4, 3, 4)
    torch.testing.assert_close(features.mean(), features.map(4).mean((2, 3, 4)))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_image_alone_gives_what_it_gives_in_a_batch(kind: str) -> None:
    model = encoder(CONFIGS[kind]()).double()
    size = [n - 5 for n in model.config.image_size]
    x = pixels(model.config, 3, size, dtype=torch.float64)
    together = every_map(every_stage(model, x))
    for row in range(3):
        alone = every_map(every_stage(model, x[row : row + 1]))
        assert max(relative(a, b[row : row + 1]) for a, b in zip(alone, together, strict=True)) < 1e-13


@torch.no_grad()
def test_only_the_stages_that_were_asked_for_are_kept() -> None:
    model = encoder(image_config())
    x = pixels(model.config)
    assert set(model(x).tokens) == {4}
    assert set(model(x, stages=(0, 2)).tokens) == {0, 2, 4}
    assert torch.equal(model(x, stages=(2,)).tokens[2], every_stage(model, x).tokens[2])


# -- masks ------------------------------------------------------------------------------------------------------------


def checkerboard(config: HieraConfig) -> Tensor:
    """`[2, units]`: every other mask unit, the other ones in the second image."""
    even = torch.arange(units_of(config)) % 2 == 0
    return torch.stack([even, ~even])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_masked_cannot_be_seen(kind: str) -> None:
    """Not even through the patch embedding, which overlaps its neighbours."""
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
    with pytest.raises(ValueError, match=f"dtype {dtype}; expected normalised floating-point"):
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
    randomise(block, 0.5)
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
