import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hierax.model.blocks
from hierax.model.blocks import Attention, Block
from hierax.model.plan import plan
from plain import KINDS, encoder, every_map, every_stage, plain_maps, windows
from small import CONFIGS, abs_win_config, fresh_seed, image_config, pixels, randomize, relative, units_of, video_config


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
    randomize(block)
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
    monkeypatch.setattr(hierax.model.blocks, "_MAX_EXPLICIT_SCORES_FP32", 0)
    model = encoder(CONFIGS[kind]())
    x = pixels(model.config)
    keep = (torch.arange(units_of(model.config)) % 2 == 0).expand(2, -1) if masked else None
    model(x, keep=keep)
    assert len(calls) == sum(model.config.depths)
    assert {len(shape) for shape in itertools.chain(*calls)} == {4}


@pytest.mark.parametrize("queries", [16, 64])
def test_attention_of_few_scores_is_that_of_the_fused_kernel(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_seed()
    q, k, v = (torch.randn(5, 2, n, 24, requires_grad=True) for n in (queries, 64, 64))
    fused = F.scaled_dot_product_attention(q, k, v)
    expected = torch.autograd.grad(fused.square().sum(), (q, k, v))
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    few = hierax.model.blocks.attend(q, k, v)
    assert relative(few, fused) < 1e-6
    for ours, theirs in zip(torch.autograd.grad(few.square().sum(), (q, k, v)), expected, strict=True):
        assert relative(ours, theirs) < 1e-5


@torch.no_grad()
def test_attention_weights_are_those_that_mix_the_values() -> None:
    fresh_seed()
    for spec in plan(image_config()):
        attn = Attention(spec).double()
        randomize(attn, 0.5)
        x = torch.randn(2, 3, 16, spec.dim, dtype=torch.float64)
        made, weights = attn.with_weights(x)
        _, _, values = attn.qkv(x).unflatten(-1, (3, spec.heads, -1)).unbind(3)  # [B, U, P, N, D]
        if spec.window is not None:
            mixed = torch.einsum("bnuqk,bukhd->buqnhd", weights, values).diagonal(dim1=3, dim2=4).movedim(-1, 3)
        else:  # one window of all tokens, position-major
            flat = values.transpose(1, 2).flatten(1, 2)
            mixed = torch.einsum("bnqk,bknd->bqnd", weights[:, :, 0], flat)
            mixed = mixed.unflatten(1, (-1, 3)).transpose(1, 2)
        torch.testing.assert_close(attn.proj(mixed.flatten(3)), attn(x))
        torch.testing.assert_close(made, attn(x))


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
    for stage, tokens in plain.tokens.items():  # computed by way of the weights, so equal but for rounding
        assert relative(asked.tokens[stage], tokens) <= 1e-5


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
