"""Configurations drawn at random: every number of axes, kind of position embedding and shape of unit that can be."""

from __future__ import annotations

import random
from typing import Any

from hierax import HieraConfig

TASKS = ("features", "classification", "backbone", "mae")


def _pixels(units: tuple[int, ...], unit: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n * u * s for n, u, s in zip(units, unit, stride, strict=True))


def draw_config(draw: random.Random, *, axes: int | None = None, position: str | None = None) -> HieraConfig:
    """A small valid configuration; at most some 500 tokens of 8 to 24 channels."""
    axes = axes or draw.choice((1, 2, 2, 3, 3))
    clip = axes == 3 and draw.random() < 0.5
    stages = draw.choice((1, 2, 3))
    pools = draw.randint(0, stages - 1)
    query = tuple(1 if clip and axis == 0 else 2 for axis in range(axes))
    unit = tuple(
        draw.choice((1, 2)) if clip and axis == 0 else q**pools * draw.choice((1, 2) if axes < 3 else (1, 1, 2))
        for axis, q in enumerate(query)
    )
    stride = tuple(draw.choice((1, 2, 4)) for _ in range(axes))
    tight = draw.random() < 0.3  # patches that lie side by side, or overlap
    patch = stride if tight else tuple(s + 1 - s % 2 + draw.choice((0, 2)) for s in stride)
    padding = tuple(0 if tight else p // 2 for p in patch)
    units = (*(draw.randint(1, 4 if axes < 3 else 2) for _ in range(axes - 1)), 2)  # one to see, one to hide
    kinds = ("absolute", "abs_win") + (("separable",) if axes == 3 else ())
    position = position or draw.choice(kinds)
    heads = tuple(draw.choice((1, 2, 4)) for _ in range(stages))
    fields: dict[str, Any] = {
        # also widths that equal a unit's depth, height or width: a wrong broadcast passes there
        "embed_dim": draw.choice((8, 8, 16, 24)),
        "image_size": _pixels(units, unit, stride),
        "num_channels": draw.randint(1, 4),
        "patch_size": patch,
        "patch_stride": stride,
        "patch_padding": padding,
        "depths": tuple(draw.randint(1, 2) for _ in range(stages)),
        "num_heads": heads,
        "num_query_pool": pools,
        "query_stride": query,
        "masked_unit_size": unit,
        "masked_unit_attention": tuple(draw.random() < 0.5 for _ in range(stages)),
        "position_embedding": position,
        "position_resize": draw.choice(("bicubic", "window")),
        "hidden_act": draw.choice(("gelu", "relu", "silu", "gelu_pytorch_tanh")),
        "layer_scale_init": draw.choice((None, 0.5)),
        "pooled_shortcut": draw.random() < 0.3,
        "num_labels": draw.randint(1, 5),
        "mask_ratio": 0.5,
        "normalize_pixel_loss": False,  # a patch of one value has no variance
        "decoder_hidden_size": 16,
        "decoder_depth": 1,
        "decoder_num_heads": 2,
    }
    if position == "abs_win":
        fields["global_position_size"] = tuple(draw.randint(1, 6) for _ in range(axes))
    return HieraConfig(**fields)


def other_size(draw: random.Random, config: HieraConfig, *, whole: bool) -> tuple[int, ...]:
    """Another size than the native one; `whole` mask units for an MAE model."""
    grown = tuple(size + unit for size, unit in zip(config.image_size, config.unit_pixels, strict=True))
    return grown if whole else tuple(size - draw.randint(0, 1) for size in grown)
