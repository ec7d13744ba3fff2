"""Masked image modeling: masks, multi-scale fusion, decoder, pixel targets, loss (paper, section 3 and table 3)."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from hierax.model.blocks import Block
from hierax.model.config import HieraConfig
from hierax.model.encoder import Features
from hierax.model.layers import CONVS, CONVS_ANY, LayerNorm, Linear, MaskToken
from hierax.model.plan import BlockSpec
from hierax.model.positions import DecoderPosition, decoder_grid
from hierax.model.tokens import UnitLayout, shown_units, split_axis


def random_keep(noise: Tensor, shown: int) -> tuple[Tensor, Tensor]:
    """Keeps the `shown` mask units with the smallest noise.

    Returns:
        Ascending indices `[B, shown]` of the kept units, and the rank `[B, U]` of every unit's noise.
    """
    order = torch.argsort(noise, dim=1)
    return order[:, :shown].sort(dim=1).values, torch.argsort(order, dim=1)


class Fusion(nn.Module):
    """Multi-scale fusion: brings the outputs of the pooled stages to the last stage's resolution, sums all, and
    normalizes.

    Each is a convolution whose kernel is as large as its stride. Positions that merge are adjacent, so it is one
    product.
    """

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.stages = tuple(range(1, config.num_query_pool + 1))
        self.kernels = [
            UnitLayout(tuple(s**levels for s in config.query_stride), config.query_stride, levels)
            for levels in range(config.num_query_pool, 0, -1)
        ]
        conv = CONVS[config.axes]
        self.convs = nn.ModuleList(
            conv(dim, config.hidden_size, kernel.size, kernel.size)
            for dim, kernel in zip(config.dims, self.kernels, strict=False)
        )

    def forward(self, features: Features) -> Tensor:
        """`[B, K, F, C]`: `F` positions per mask unit, those of the last stage."""
        fused = features.last
        for stage, kernel, conv in zip(self.stages, self.kernels, self.convs, strict=True):
            assert isinstance(conv, CONVS_ANY)
            # the tokens are put into the kernel's order, not the weight into theirs: there are fewer tokens
            merged = split_axis(features.tokens[stage], 2, kernel.positions).transpose(2, 3)
            pixels = kernel.reroll_units(merged.flatten(0, 1)).movedim(-1, 2).flatten(2)
            product = nn.functional.linear(pixels, conv.weight.flatten(1), conv.bias)
            fused = fused + product.view(*fused.shape[:2], *product.shape[1:])
        return fused


class Decoder(nn.Module):
    """The decoder: a plain transformer over the last stage's grid, from visible mask units to the pixels of all."""

    block: ClassVar[type[Block]] = Block

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        dim = config.decoder_hidden_size
        self.layout = UnitLayout.of(config, config.stages - 1)
        self.embed = Linear(config.hidden_size, dim)
        self.mask_token = MaskToken(dim)
        self.pos_embed = DecoderPosition(config)
        spec = BlockSpec(0, dim, dim, config.decoder_num_heads, window=None, pool=1, drop_path=0.0)
        plain = config.replace(layer_scale_init=None, pooled_shortcut=False)
        self.blocks = nn.ModuleList(self.block(spec, plain) for _ in range(config.decoder_depth))
        self.norm = LayerNorm(dim, eps=config.layer_norm_eps)
        self.pred = Linear(dim, config.num_channels * math.prod(config.target_size))

    @property
    def mask_vector(self) -> Tensor:
        """What stands in place of a masked token, `[1, 1, C]`."""
        return self.mask_token.weight

    def forward(self, fused: Tensor, kept: Tensor, units: Sequence[int]) -> Tensor:
        """`fused` `[B, K, F, C]` of the units `kept` `[B, K]` -> pixels `[B, patches, pixels]`, row-major."""
        visible = self.embed(fused)
        batch, _, positions, dim = visible.shape
        masked = self.mask_vector.to(visible.dtype).expand(batch, math.prod(units), positions, dim)
        x = masked.scatter(1, kept[:, :, None, None].expand_as(visible), visible)
        grid = self.layout.reroll(x, units)
        x = (grid.flatten(1, -2) + self.pos_embed(tuple(grid.shape[1:-1])))[:, None]
        for block in self.blocks:
            x = block(x)
        return self.pred(self.norm(x[:, 0]))


def patchify(pixels: Tensor, config: HieraConfig) -> Tensor:
    """Pixels `[B, channels, *size]` -> patches `[B, patches, pixels]`, one per token of the decoder.

    The order inside a patch is (channel, *axes). With the target "first_frame", a patch is the first frame of its
    token, and the order is (row, column, channel), as in the released video decoders.
    """
    first_frame = config.target == "first_frame"
    if first_frame:
        pixels = pixels[:, :, :: config.stage_stride(config.stages - 1)[0]]
    size = config.target_size
    axes = len(size)
    for axis, length in enumerate(size):
        pixels = pixels.unflatten(2 + 2 * axis, (-1, length))
    grid, inside = [2 + 2 * a for a in range(axes)], [3 + 2 * a for a in range(axes)]
    inner = (*inside, 1) if first_frame else (1, *inside)
    return pixels.permute(0, *grid, *inner).flatten(axes + 1).flatten(1, axes)


def unpatchify(patches: Tensor, config: HieraConfig, size: Sequence[int]) -> Tensor:
    """The inverse of `patchify` for an input of `size` pixels; with "first_frame", time has one frame per token."""
    first_frame = config.target == "first_frame"
    inside, grid = config.target_size, decoder_grid(config, size)
    axes, channels = len(inside), config.num_channels
    inner = (*inside, channels) if first_frame else (channels, *inside)
    x = patches.unflatten(1, grid).unflatten(-1, inner)
    start, channel = 1 + axes, 1 + 2 * axes if first_frame else 1 + axes
    digits = [start + a + (0 if first_frame else 1) for a in range(axes)]
    x = x.permute(0, channel, *(d for a in range(axes) for d in (1 + a, digits[a])))
    return x.reshape(x.shape[0], channels, *(g * n for g, n in zip(grid, inside, strict=True)))


def normalize_patches(patches: Tensor) -> Tensor:
    """Every patch minus its own mean, divided by its own standard deviation (unbiased, eps 1e-6)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def visible_patches(kept: Tensor, units: Sequence[int], config: HieraConfig) -> Tensor:
    """Booleans `[B, patches]`, row-major: whether the patch lies in one of the mask units `kept` `[B, K]`."""
    layout = UnitLayout.of(config, config.stages - 1)
    shown = shown_units(kept, math.prod(units))[:, :, None, None].expand(-1, -1, layout.positions, 1)
    return layout.reroll(shown, units).flatten(1)


def masked_loss(logits: Tensor, pixels: Tensor, visible: Tensor, config: HieraConfig) -> Tensor:
    """Mean squared error over the patches that are not `visible` `[B, patches]`; in float32 (float64 for float64)."""
    target = patchify(pixels.float() if pixels.dtype != torch.float64 else pixels, config)
    if config.normalize_pixel_loss:
        target = normalize_patches(target)
    hidden = (~visible).to(target.dtype)
    return ((logits.to(target.dtype) - target).square().mean(-1) * hidden).sum() / hidden.sum()


def check_mae_size(size: Sequence[int], config: HieraConfig, *, name: str = "pixel_values") -> None:
    """Raises a `ValueError` that names the nearest sizes if `size` (of `name`) is not a multiple of the mask unit."""
    pairs = list(zip(size, config.unit_pixels, strict=True))
    if any(s % u for s, u in pairs):
        below = "x".join(str(max(s // u, 1) * u) for s, u in pairs)
        above = "x".join(str(-(-s // u) * u) for s, u in pairs)
        nearest = below if below == above else f"{below} or {above}"
        raise ValueError(
            f"{name} is {'x'.join(map(str, size))} pixels; masked image modeling expects multiples of "
            f"{'x'.join(str(u) for _, u in pairs)}; the nearest sizes are {nearest}"
        )
