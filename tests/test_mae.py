import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.config import HieraConfig
from hierax.mae import normalise_patches, patchify, random_keep, unpatchify, visible_patches
from hierax.models import HieraForPreTraining
from hierax.tokens import UnitLayout
from small import (
    CONFIGS,
    fresh_seed,
    image_config,
    line_config,
    pixels,
    randomise,
    relative,
    units_of,
    video_config,
    volume_config,
)

KINDS = sorted(CONFIGS)
VISIBLE = {"image": 2, "abs_win": 2, "video": 6, "line": 6, "volume": 2}  # mask units kept of 4, 4, 16, 16, 4


def mae_config(kind: str, **changes: Any) -> HieraConfig:
    ratio = 1 - (VISIBLE[kind] + 0.5) / units_of(CONFIGS[kind]())
    return CONFIGS[kind](**{"num_query_pool": 2, "mask_ratio": ratio, **changes})


def mae(kind: str = "image", std: float = 0.2, **changes: Any) -> Any:
    model = HieraForPreTraining(mae_config(kind, **changes))
    randomise(model, std)
    return model.eval()


def random_mask(config: HieraConfig, batch: int = 2, shown: int = 2, size: Any = None) -> Tensor:
    units = units_of(config, size)
    return torch.stack([torch.randperm(units) < shown for _ in range(batch)])


def over_pixels(keep: Tensor, config: HieraConfig, size: tuple[int, ...]) -> Tensor:
    """`[B, units]` -> booleans `[B, 1, *size]`."""
    shown = keep.unflatten(1, config.unit_grid(size))
    for axis, n in enumerate(config.unit_pixels):
        shown = shown.repeat_interleave(n, dim=1 + axis)
    return shown[:, None]


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
    # the patch embedding overlaps neighbours above and to the left: each mask hides some of these
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


# -- fusion and decoder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_fusion_is_a_convolution_of_every_units_map(kind: str) -> None:
    """Kernels 4 and 2 on the maps of stages 1 and 2, within units; the last stage as it is; one sum."""
    fresh_seed()
    model = mae(kind).double()
    config = model.config
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[config.axes]
    x = pixels(config, dtype=torch.float64)
    features = model.encoder(x, keep=random_mask(config), stages=(1, 2))
    expected = features.grid(4).flatten(0, 1).movedim(-1, 1)
    for stage, part in zip((1, 2), model.fusion.convs, strict=True):
        kernel = tuple(s ** (3 - stage) for s in config.query_stride)
        assert tuple(part.weight.shape[2:]) == kernel
        grid = features.grid(stage).flatten(0, 1).movedim(-1, 1)
        expected = expected + conv(grid, part.weight, part.bias, kernel)
    fused = UnitLayout.of(config, 3).reroll_units(model.fusion(features))
    assert relative(fused, expected.movedim(1, -1).unflatten(0, (2, 2))) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_decoder_sees_units_and_mask_tokens_row_by_row(kind: str) -> None:
    """A plain decoder: an empty grid of mask tokens, the visible units written into their places, then positions."""
    fresh_seed()
    model = mae(kind).double()
    config, decoder = model.config, model.decoder
    x, keep = pixels(config, dtype=torch.float64), random_mask(config)
    features = model.encoder(x, keep=keep, stages=(1, 2))
    fused = model.encoder_norm(model.fusion(features))
    by_unit = UnitLayout.of(config, 3).reroll_units(decoder.embed(fused))
    units, per_unit = config.unit_grid(config.image_size), by_unit.shape[2:-1]
    grid = [u * n for u, n in zip(units, per_unit, strict=True)]
    rows = decoder.mask_token.weight.reshape(-1).repeat(2, *grid, 1)
    places = torch.cartesian_prod(*(torch.arange(n) for n in units)).reshape(-1, len(units)).tolist()
    for image in range(2):
        for index, unit in enumerate(keep[image].nonzero()[:, 0].tolist()):
            place = tuple(slice(c * n, (c + 1) * n) for c, n in zip(places[unit], per_unit, strict=True))
            rows[(image, *place)] = by_unit[image, index]
    tokens = rows.flatten(1, -2) + decoder.pos_embed.weight
    for block in decoder.blocks:
        n = block.norm1(tokens)
        q, k, v = block.attn.qkv(n).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v).transpose(1, 2).flatten(2)
        tokens = tokens + block.attn.proj(mixed)
        tokens = tokens + block.mlp(block.norm2(tokens))
    expected = decoder.pred(decoder.norm(tokens))
    assert relative(model(x, keep=keep).logits, expected) < 1e-12


def test_the_decoder_has_the_heads_of_its_configuration() -> None:
    assert {b.attn.heads for b in mae(decoder_num_heads=8).decoder.blocks} == {8}


# -- targets ----------------------------------------------------------------------------------------------------------


def counted(*shape: int) -> Tensor:
    """`[1, *shape]` filled with 0, 1, 2, …"""
    return torch.arange(float(math.prod(shape))).reshape(1, *shape)


def test_image_patches_are_ordered_channel_row_column() -> None:
    x = counted(3, 64, 64)
    patches = patchify(x, mae_config("image"))
    assert patches.shape == (1, 16, 3 * 16 * 16)
    for patch, (row, column) in {0: (0, 0), 1: (0, 16), 4: (16, 0), 15: (48, 48)}.items():
        assert torch.equal(patches[0, patch], x[0, :, row : row + 16, column : column + 16].flatten())
    assert patches[0, 0, 1] - patches[0, 0, 0] == 1  # the next value is the next column …
    assert patches[0, 0, 256] - patches[0, 0, 0] == 64 * 64  # … and 256 later comes the next channel


def test_video_patches_are_ordered_row_column_channel_of_every_first_frame() -> None:
    x = counted(3, 8, 64, 64)
    patches = patchify(x, mae_config("video"))
    assert patches.shape == (1, 4 * 16, 16 * 16 * 3)
    for patch, (frame, row, column) in {0: (0, 0, 0), 1: (0, 0, 16), 16: (2, 0, 0), 63: (6, 48, 48)}.items():
        part = x[0, :, frame, row : row + 16, column : column + 16]
        assert torch.equal(patches[0, patch], part.permute(1, 2, 0).flatten())
    assert patches[0, 0, 1] - patches[0, 0, 0] == 8 * 64 * 64  # the next value is the next channel


def test_video_can_predict_all_frames() -> None:
    config = mae_config("video", target="all")
    x = counted(3, 8, 64, 64)
    patches = patchify(x, config)
    assert patches.shape == (1, 64, 3 * 2 * 16 * 16)
    assert torch.equal(patches[0, 16], x[0, :, 2:4, :16, :16].flatten())


def test_patches_of_a_signal_and_a_volume_are_ordered_channel_first() -> None:
    x = counted(8, 512)
    assert torch.equal(patchify(x, mae_config("line"))[0, 3], x[0, :, 48:64].flatten())
    x = counted(1, 32, 64, 64)
    patches = patchify(x, mae_config("volume"))
    assert patches.shape == (1, 2 * 4 * 4, 16**3)
    assert torch.equal(patches[0, 16 + 4 + 2], x[0, :, 16:32, 16:32, 32:48].flatten())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 4])
def test_unpatchify_is_the_inverse_of_patchify(kind: str, channels: int) -> None:
    config = mae_config(kind, num_channels=channels)
    for factor in (1, 2):
        size = [n * factor for n in config.image_size]
        x = pixels(config, size=size)
        back = unpatchify(patchify(x, config), config, size)
        assert torch.equal(back, x[:, :, ::2] if kind == "video" else x)


@pytest.mark.parametrize("kind", KINDS)
def test_one_patch_is_predicted_per_token_of_the_last_stage(kind: str) -> None:
    model = mae(kind)
    x = pixels(model.config)
    logits = model(x).logits
    assert logits.shape == patchify(x, model.config).shape


def test_patches_are_normalised_by_their_own_unbiased_statistics() -> None:
    patches = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    variance = (4 + 1 + 0 + 9) / 3
    torch.testing.assert_close(normalise_patches(patches), (patches - 3.0) / math.sqrt(variance + 1e-6))


def test_a_flat_patch_is_normalised_to_zero() -> None:
    assert torch.equal(normalise_patches(torch.full((1, 8), 5.0)), torch.zeros(1, 8))


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_loss_is_the_mean_square_over_masked_patches(kind: str, normalised: bool) -> None:
    model = mae(kind, normalize_pixel_loss=normalised)
    x, keep = pixels(model.config), random_mask(mae_config(kind))
    out = model(x, keep=keep)
    target = patchify(x, model.config)
    if normalised:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    hidden = ~out.bool_masked_pos
    assert 0 < int(hidden.sum()) < hidden.numel()
    torch.testing.assert_close(out.loss, (out.logits[hidden] - target[hidden]).square().mean())


def test_predictions_of_visible_patches_get_no_gradient_from_the_loss() -> None:
    model = mae()
    caught: list[Tensor] = []
    model.decoder.pred.register_full_backward_pre_hook(lambda _, grad: caught.append(grad[0]))
    out = model(pixels(model.config), keep=random_mask(model.config))
    out.loss.backward()
    touched = caught[0].abs().sum(-1) > 0
    assert torch.equal(touched, ~out.bool_masked_pos)


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "size"),
    [("image", (96, 160)), ("image", (224, 320)), ("image", (32, 64)), ("abs_win", (96, 64)), ("video", (16, 64, 96)),
     ("video", (8, 32, 64)), ("line", (1024,)), ("volume", (64, 32, 64))],
)  # fmt: skip
def test_other_multiples_of_the_mask_unit_work(kind: str, size: tuple[int, ...]) -> None:
    model = mae(kind)
    x = pixels(model.config, size=size)
    out = model(x)
    assert out.logits.shape == patchify(x, model.config).shape
    assert out.loss.isfinite()
    out.loss.backward()
    assert model.decoder.pos_embed.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_the_decoders_positions_are_resized_to_the_input() -> None:
    """With everything else silenced, the prediction is the resized table through norm and linear layer."""
    model = mae().eval()
    decoder = model.decoder
    for part in (decoder.embed, *(layer for b in decoder.blocks for layer in (b.attn.proj, b.mlp.fc2))):
        part.weight.zero_()
        part.bias.zero_()
    decoder.mask_token.weight.zero_()
    table = decoder.pos_embed.weight.reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
    resized = F.interpolate(table, (6, 8), mode="bicubic").flatten(2).transpose(1, 2)
    expected = decoder.pred(decoder.norm(resized)).expand(2, -1, -1)
    torch.testing.assert_close(model(pixels(model.config, size=(96, 128))).logits, expected)


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("image", (70, 100), "70x100 pixels.*multiples of 32x32, the nearest being 64x96 or 96x128"),
        ("image", (64, 65), "the nearest being 64x64 or 64x96"),
        ("image", (20, 64), "20x64 pixels.*the nearest being 32x64$"),
        ("video", (7, 64, 64), "7x64x64 pixels.*multiples of 2x32x32, the nearest being 6x64x64 or 8x64x64"),
        ("line", (500,), "500 pixels.*multiples of 32, the nearest being 480 or 512"),
    ],
)
def test_sizes_that_are_no_multiples_are_refused_with_the_nearest(
    kind: str, size: tuple[int, ...], message: str
) -> None:
    model = mae(kind)
    with pytest.raises(ValueError, match=message):
        model(pixels(model.config, size=size))


# -- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_over_a_few_steps(kind: str) -> None:
    torch.manual_seed(0)
    model = HieraForPreTraining(mae_config(kind)).train()
    x, keep = pixels(model.config, batch=4), random_mask(model.config, batch=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = model(x, keep=keep).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.98 * losses[0], losses
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("config", [line_config, volume_config, video_config, image_config])
def test_mae_steps_at_toy_size_give_every_parameter_a_gradient(config: Any) -> None:
    model = HieraForPreTraining(config(num_query_pool=2, mask_ratio=0.5))
    randomise(model, 0.2)
    model.train()(pixels(model.config)).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
