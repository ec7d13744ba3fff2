"""A second, plain encoder, on grids, without the layout of mask units; and what the tests of the encoder share."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierax.model.config import HieraConfig
from hierax.model.encoder import Hiera
from hierax.model.plan import plan
from small import CONFIGS, randomize

KINDS = sorted(CONFIGS)


def encoder(config: HieraConfig, std: float = 0.2) -> Any:
    model = Hiera(config)
    randomize(model, std)
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


def plain_attention(
    attn: Any, n: Tensor, window: tuple[int, ...] | None, stride: tuple[int, ...], hidden: Tensor
) -> Tensor:
    """Attention of normed tokens `n` on their grid, filled with zeros to whole windows.

    `hidden` `[B, *grid]` are keys that nobody sees, across units.
    """
    grid = tuple(n.shape[1:-1])
    across, window = window is None, window or grid
    n = F.pad(n, [0, 0, *(m for g, w in zip(reversed(grid), reversed(window), strict=True) for m in (0, -g % w))])
    small = tuple(w // s for w, s in zip(window, stride, strict=True))
    q, k, v = attn.qkv(n).chunk(3, dim=-1)
    q = windows(pooled(q, stride), small).unflatten(-1, (attn.heads, -1)).transpose(2, 3)
    k, v = (windows(part, window).unflatten(-1, (attn.heads, -1)).transpose(2, 3) for part in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if across:
        scores = scores.masked_fill(windows(hidden[..., None], window)[:, :, None, None, :, 0], -math.inf)
    y = (scores.softmax(-1) @ v).transpose(2, 3).flatten(3)
    y = unwindow(y, small, tuple(g // s for g, s in zip(n.shape[1:-1], stride, strict=True)))
    return attn.proj(y[(slice(None), *(slice(g // s) for g, s in zip(grid, stride, strict=True)))])


def plain_block(
    block: Any, x: Tensor, window: tuple[int, ...] | None, stride: tuple[int, ...], hidden: Tensor
) -> Tensor:
    n = block.norm1(x)
    if block.pooled_shortcut:
        shortcut = torch.cat([pooled(x, stride), pooled(x, stride, "mean")], dim=-1)
    else:
        shortcut = pooled(x if block.proj is None else block.proj(n), stride)
    first, second = (scale if scale is not None else nn.Identity() for scale in (block.ls1, block.ls2))
    x = shortcut + first(plain_attention(block.attn, n, window, stride, hidden))
    return x + second(block.mlp(block.norm2(x)))


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
        x = plain_block(block, x, spec.window, stride, ~spread(shown, unit))
        unit = tuple(u // s for u, s in zip(unit, stride, strict=True))
        maps = [*maps[: spec.stage + 1], x]
    return [m.movedim(-1, 1) for m in maps]


def spread(shown: Tensor, size: tuple[int, ...]) -> Tensor:
    """`[B, *units]` -> every entry repeated over its unit of `size`."""
    for axis, n in enumerate(size):
        shown = shown.repeat_interleave(n, dim=1 + axis)
    return shown
