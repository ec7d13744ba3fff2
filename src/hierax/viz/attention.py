"""The attention of blocks as maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from hierax.viz.maps import enlarge, finite_array

if TYPE_CHECKING:
    from torch import Tensor

    from hierax.model.config import HieraConfig
    from hierax.model.windows import WindowLayout


# Dark to bright, perceptually uniform and safe for color-blind readers: five points of matplotlib's "inferno" (CC0).
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)


def attention_map(
    weights: np.ndarray | Tensor,
    *,
    config: HieraConfig,
    stage: int,
    size: Sequence[int],
    at: Sequence[int] | None = None,
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The attention that the tokens of a stage receive, as a map of its keys, and the pixels per cell of that map.

    It is the mean over heads, times the number of keys in a window: uniform attention is 1 everywhere.

    Args:
        weights: one image's `attentions[stage]`, `[heads, windows, queries, keys]` in the published order.
        config: configuration of the model.
        stage: number of the stage, from 0.
        size: pixels per axis of the model's input.
        at: a pixel (one number per axis); the map is then the attention of the token at this pixel, 0 outside of its
            window. None gives the mean over all queries.
    """
    import torch

    from hierax.model.plan import plan
    from hierax.model.windows import layout_after, layouts

    mean = torch.from_numpy(finite_array(weights).mean(0))
    last = [spec for spec in plan(config) if spec.stage == stage][-1]
    key_stage = stage - 1 if last.pool > 1 else stage  # a block with query pooling has the keys of the stage before
    layout = layouts(config, config.token_grid(size))[stage]
    if at is None:
        rows = mean.mean(1)
    else:
        cell = tuple(pixel // stride for pixel, stride in zip(at, config.stage_stride(stage), strict=True))
        window, query = _query_at(layout_after(last, layout), cell, windows=mean.shape[0])
        rows = torch.zeros(mean.shape[0], mean.shape[2])
        rows[window] = mean[window, query]
    positions = layout.groups[0].unit.positions
    global_attention = mean.shape[2] == math.prod(layout.grid)
    tokens = rows[0].view(positions, -1).T if global_attention else rows
    stride = config.stage_stride(key_stage)
    grid = layout.reroll(tokens[None, :, :, None] * mean.shape[2])[0, ..., 0].numpy()
    return grid[tuple(slice(-(-s // p)) for s, p in zip(size, stride, strict=True))], stride


def _query_at(layout: WindowLayout, cell: tuple[int, ...], *, windows: int) -> tuple[int, int]:
    """The window, and the index in it, of the query of a cell of the map."""
    import torch

    positions, count = layout.groups[0].unit.positions, math.prod(layout.groups[0].windows)
    numbers = torch.arange(count * positions).view(1, count, positions, 1)
    window, position = divmod(int(layout.reroll(numbers)[(0, *cell, 0)]), positions)
    return (window, position) if windows > 1 else (0, position * count + window)


def heat_colors(levels: np.ndarray) -> np.ndarray:
    """Red, green and blue `[…, 3]`, 0 to 255, of levels `[…]` from 0 (black) to 1 (bright yellow)."""
    places = levels * (len(_HEAT) - 1)
    return np.stack([np.interp(places, np.arange(len(_HEAT)), channel) for channel in _HEAT.T], axis=-1)


def heat_image(
    picture: Image.Image, heat: np.ndarray, *, stride: Sequence[int], at: Sequence[int] | None = None
) -> Image.Image:
    """A map `[rows, columns]` of `attention_map` over an image: black is 0, bright is high; a ring marks `at` (y, x).

    The scale is the square root, which shows more than the peak. It reaches at least 4, so that a uniform map (1
    everywhere) has the middle color and does not look like strong attention.
    """
    size = (picture.height, picture.width)
    top = max(4.0, float(np.percentile(heat, 99.5)))
    colors = heat_colors(np.sqrt((heat / top).clip(0, 1)))
    gray = np.asarray(picture.convert("L"), np.float32)[..., None]
    mixed = 0.3 * gray + 0.7 * enlarge(colors, stride=stride, size=size)
    drawn = Image.fromarray(np.rint(mixed).astype(np.uint8))
    if at is not None:
        y, x, radius = at[0], at[1], max(3, min(size) // 40)
        for grown, color in ((1, (0, 0, 0)), (0, (255, 255, 255)), (-1, (255, 255, 255)), (-2, (0, 0, 0))):
            reach = radius + grown
            ImageDraw.Draw(drawn).ellipse((x - reach, y - reach, x + reach, y + reach), outline=color)
    return drawn
