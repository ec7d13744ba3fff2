"""Masked autoencoders: fusion, decoder, targets and loss; at any size; and that they learn."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.model.mae import normalize_patches, patchify, unpatchify
from hierax.model.tasks import HieraForPreTraining
from hierax.model.tokens import UnitLayout
from masked import KINDS, mae, mae_config, random_mask
from small import fresh_seed, image_config, line_config, pixels, randomize, relative, video_config, volume_config

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


def test_patches_are_normalized_by_their_own_unbiased_statistics() -> None:
    patches = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    variance = (4 + 1 + 0 + 9) / 3
    torch.testing.assert_close(normalize_patches(patches), (patches - 3.0) / math.sqrt(variance + 1e-6))


def test_a_flat_patch_is_normalized_to_zero() -> None:
    assert torch.equal(normalize_patches(torch.full((1, 8), 5.0)), torch.zeros(1, 8))


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_loss_is_the_mean_square_over_masked_patches(kind: str, normalized: bool) -> None:
    model = mae(kind, normalize_pixel_loss=normalized)
    x, keep = pixels(model.config), random_mask(mae_config(kind))
    out = model(x, keep=keep)
    target = patchify(x, model.config)
    if normalized:
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
        ("image", (70, 100), "70x100 pixels.*multiples of 32x32; the nearest sizes are 64x96 or 96x128"),
        ("image", (64, 65), "the nearest sizes are 64x64 or 64x96"),
        ("image", (20, 64), "20x64 pixels.*the nearest sizes are 32x64$"),
        ("video", (7, 64, 64), "7x64x64 pixels.*multiples of 2x32x32; the nearest sizes are 6x64x64 or 8x64x64"),
        ("line", (500,), "500 pixels.*multiples of 32; the nearest sizes are 480 or 512"),
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
    randomize(model, 0.2)
    model.train()(pixels(model.config)).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
