"""Which variant a bare tensor file holds, from the shapes of its tensors; and the checks that dialects share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hierax.checkpoint.dialect import Shapes
from hierax.config import VARIANTS, HieraConfig, plan, variant_config

PATCH = "encoder.patch_embed.proj.weight"
_STRUCTURE = (
    "embed_dim", "patch_size", "patch_stride", "patch_padding", "mlp_ratio", "depths", "num_heads",
    "embed_dim_multiplier", "query_stride", "masked_unit_size", "masked_unit_attention", "position_embedding",
    "pooled_shortcut",
)  # fmt: skip


def matching_variant(config: HieraConfig) -> str | None:
    """The classification variant with this structure (whatever its size, channels and labels), or None."""
    for name in VARIANTS:
        row = variant_config(name)
        same = all(getattr(row, field) == getattr(config, field) for field in _STRUCTURE)
        scaled = (row.layer_scale_init is None) == (config.layer_scale_init is None)
        if same and scaled and not name.startswith("mae_"):
            return name
    return None


def is_mae(shapes: Shapes) -> bool:
    """Whether a decoder is among the tensors."""
    return any(key.startswith("decoder.") for key in shapes)


def _signature_of(config: HieraConfig) -> tuple[Any, ...]:
    return (
        config.patch_size,
        config.embed_dim,
        tuple(spec.dim_out for spec in plan(config)),
        config.position_embedding,
        config.pooled_shortcut,
    )


def _signature(shapes: Shapes) -> tuple[Any, ...]:
    widths = {}
    for key, shape in shapes.items():
        name = key.split(".")
        if key.startswith("encoder.blocks.") and key.endswith(".attn.proj.weight"):
            widths[int(name[2])] = shape[0]
    position = "separable" if "encoder.pos_embed.spatial" in shapes else "absolute"
    position = "abs_win" if "encoder.pos_embed.window" in shapes else position
    projects = any(".attn." not in key and key.endswith(".proj.weight") for key in shapes if "blocks" in key)
    embed_dim, _, *kernel = shapes[PATCH]
    return tuple(kernel), embed_dim, tuple(widths[i] for i in sorted(widths)), position, not projects


def config_from_shapes(shapes: Shapes, variant: str | None) -> HieraConfig:
    """The configuration of the variant that `shapes` belong to, with their channels, labels and native size.

    Raises:
        ValueError: no row of the table fits and no `variant` is named, or the native size cannot be told.
    """
    if variant is None:
        rows = {name: _signature_of(variant_config(name)) for name in VARIANTS if not name.startswith("mae_")}
        found = [name for name, signature in rows.items() if signature == _signature(shapes)]
        if len(found) != 1:
            raise ValueError(
                "its tensors fit no known variant; pass variant= with one of " + ", ".join(rows)
                if not found
                else f"its tensors fit {' and '.join(found)}; pass variant= with one of them"
            )
        variant = found[0]
    variant = variant.removeprefix("mae_")
    config = variant_config(f"mae_{variant}" if is_mae(shapes) and f"mae_{variant}" in VARIANTS else variant)
    return with_shapes(config, shapes)


def with_shapes(config: HieraConfig, shapes: Shapes) -> HieraConfig:
    """`config` with the channels, labels, decoder and native size that the tensors have."""
    changes: dict[str, Any] = {"num_channels": shapes[PATCH][1]}
    if "head.weight" in shapes:
        changes["num_labels"] = shapes["head.weight"][0]
    if is_mae(shapes):
        blocks = {key.split(".")[2] for key in shapes if key.startswith("decoder.blocks.")}
        changes |= {"decoder_hidden_size": shapes["decoder.embed.weight"][0], "decoder_depth": len(blocks)}
    config = config.replace(**changes)
    return config.replace(image_size=_native_size(config, shapes))


def _native_size(config: HieraConfig, shapes: Shapes) -> tuple[int, ...]:
    """The size in pixels that the position embedding was learned for; square pictures are assumed."""
    size, stride = list(config.image_size), config.patch_stride
    grid = config.token_grid(config.image_size)
    if "encoder.pos_embed.temporal" in shapes:
        size[0] = shapes["encoder.pos_embed.temporal"][1] * stride[0]
    key = "encoder.pos_embed.spatial" if "encoder.pos_embed.spatial" in shapes else "encoder.pos_embed.weight"
    first = 1 if key.endswith("spatial") else 0
    if key not in shapes or shapes[key][1] == math.prod(grid[first:]):
        return tuple(size)
    side = round(shapes[key][1] ** (1 / (len(size) - first)))
    if side ** (len(size) - first) != shapes[key][1] or side % config.masked_unit_size[-1]:
        raise ValueError(f"{key} has {shapes[key][1]} positions, from which the native size cannot be told; "
                         "use a folder whose config.json states image_size")  # fmt: skip
    return (*size[:first], *(side * s for s in stride[first:]))


def require_expressible(config: HieraConfig, dialect: str, conditions: Mapping[str, bool]) -> None:
    """Raises the `ValueError` that names what a dialect cannot express: the keys of `conditions` that are False."""
    lacking = [what for what, possible in conditions.items() if not possible]
    if lacking:
        raise ValueError(f"the {dialect} dialect cannot express {', '.join(lacking)}")


def doubled_heads(config: HieraConfig) -> bool:
    """Whether heads double from stage to stage, as constructors with one number assume."""
    first: int = config.num_heads[0]
    expected: Sequence[int] = [first * 2**i for i in range(config.stages)]
    return tuple(expected) == config.num_heads
