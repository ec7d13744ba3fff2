"""Finds the variant of a tensor file from the shapes of its tensors, and contains checks that several formats use."""

import math
from collections.abc import Mapping
from typing import Any

from hierax.checkpoint.dialects.dialect import Shapes
from hierax.model.config import VARIANTS, HieraConfig, variant_config
from hierax.model.plan import plan

PATCH = "encoder.patch_embed.proj.weight"
_RANKS: Mapping[str, tuple[int, ...]] = {
    PATCH: (3, 4, 5),
    "encoder.pos_embed.weight": (3,),
    "encoder.pos_embed.spatial": (3,),
    "encoder.pos_embed.temporal": (3,),
    "encoder.pos_embed.whole": (3, 4, 5),
    "encoder.pos_embed.window": (3, 4, 5),
    "decoder.embed.weight": (2,),
    "head.weight": (2,),
}


def check_ranks(shapes: Shapes, theirs: Mapping[str, str]) -> None:
    """Raises `ValueError` for the first tensor with a shape that no variant of Hiera has; the message names it.

    Args:
        shapes: the shapes, by names in hierax.
        theirs: the names in the file, by names in hierax.
    """
    if PATCH not in shapes:
        raise ValueError("no Hiera weights; the weight of the patch embedding is missing")
    for name, shape in shapes.items():
        ranks = (2,) if name.endswith(".attn.proj.weight") else _RANKS.get(name, range(1, 6))
        if len(shape) not in ranks or 0 in shape:
            expected = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
            raise ValueError(f"{theirs[name]} has shape {list(shape)}; expected {expected} axes, none of them empty")


def is_mae(shapes: Shapes) -> bool:
    """Whether the tensors include a decoder."""
    return any(key.startswith("decoder.") for key in shapes)


def neck_width(shapes: Shapes) -> int | None:
    """Channels of the neck in these tensors; None if there is none."""
    return next((shape[0] for name, shape in shapes.items() if name.startswith("pyramid.laterals.")), None)


def _signature_of(config: HieraConfig) -> tuple[Any, ...]:
    return (
        config.patch_size,
        config.embed_dim,
        tuple(spec.dim_out for spec in plan(config)),
        config.position_embedding,
        config.pooled_shortcut,
        config.layer_scale_init is not None,
    )


def _signature(shapes: Shapes) -> tuple[Any, ...]:
    widths = {}
    for key, shape in shapes.items():
        if key.startswith("encoder.blocks.") and key.endswith(".attn.proj.weight"):
            widths[int(key.split(".")[2])] = shape[0]
    position = "separable" if "encoder.pos_embed.spatial" in shapes else "absolute"
    position = "abs_win" if "encoder.pos_embed.window" in shapes else position
    blocks = [key for key in shapes if key.startswith("encoder.blocks.")]
    projects = any(key.endswith(".proj.weight") and ".attn." not in key for key in blocks)
    scaled = any(".ls1." in key for key in blocks)
    embed_dim, _, *kernel = shapes[PATCH]
    return tuple(kernel), embed_dim, tuple(widths[i] for i in sorted(widths)), position, not projects, scaled


def _fits(config: HieraConfig, shapes: Shapes) -> bool:
    """Whether tensors have the shapes of a variant.

    A trunk of SAM 2 also needs its global table: a classic model that was converted to abs-win has another one.
    """
    whole = tuple(shapes.get("encoder.pos_embed.whole", ())[2:])
    return _signature_of(config) == _signature(shapes) and (
        not config.is_windowed or whole == config.global_position_size
    )


def config_from_shapes(shapes: Shapes, variant: str | None) -> HieraConfig:
    """The configuration of the variant that fits `shapes`, with their channels, labels and native size.

    Raises:
        ValueError: no known variant fits, or several fit, and `variant` is not given; or the native size is ambiguous.
    """
    if variant is None:
        rows = {name: variant_config(name) for name in VARIANTS if not name.startswith("mae_")}
        found = [name for name, config in rows.items() if _fits(config, shapes)]
        if len(found) != 1:
            raise ValueError(
                f"its tensors fit no known variant; pass variant= with one of {', '.join(rows)}, or config= "
                "(hierax convert --variant)"
                if not found
                else f"its tensors fit {' and '.join(found)}; pass variant= with one of them (hierax convert --variant)"
            )
        variant = found[0]
    variant = variant.removeprefix("mae_")
    config = variant_config(f"mae_{variant}" if is_mae(shapes) and f"mae_{variant}" in VARIANTS else variant)
    if len(shapes[PATCH]) - 2 != config.axes:
        raise ValueError(f"its tensors have {len(shapes[PATCH]) - 2} axes and {variant} has {config.axes}")
    return with_shapes(config, shapes)


def with_shapes(config: HieraConfig, shapes: Shapes) -> HieraConfig:
    """`config` with the channels, labels, decoder, tables, neck and native size of the tensors."""
    changes: dict[str, Any] = {"num_channels": shapes[PATCH][1]}
    if neck_width(shapes) is not None:
        changes["fpn_hidden_size"] = neck_width(shapes)
    if "head.weight" in shapes:
        changes["num_labels"] = shapes["head.weight"][0]
    changes |= _segmentation_fields(shapes)
    if "encoder.pos_embed.whole" in shapes:
        changes["global_position_size"] = tuple(shapes["encoder.pos_embed.whole"][2:])
    if "decoder.embed.weight" in shapes:
        blocks = {key.split(".")[2] for key in shapes if key.startswith("decoder.blocks.")}
        changes |= {"decoder_hidden_size": shapes["decoder.embed.weight"][0], "decoder_depth": len(blocks)}
    config = config.replace(**changes)
    return config.replace(image_size=_native_size(config, shapes))


def _segmentation_fields(shapes: Shapes) -> dict[str, Any]:
    """The fields that the tensors of a segmentation head state."""
    linear, fpn = (shapes.get(f"segmentation.classifier.{end}") for end in ("stage1.weight", "weight"))
    if linear is not None:
        return {"segmentation_head": "linear", "num_labels": linear[0]}
    return {} if fpn is None else {"num_labels": fpn[0], "segmentation_hidden_size": fpn[1]}


def _native_size(config: HieraConfig, shapes: Shapes) -> tuple[int, ...]:
    """The size in pixels for which the position embedding was learned. Square images are assumed."""
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
        raise ValueError(
            f"{key} has {shapes[key][1]} positions, which do not determine the native size; "
            "use a folder with a config.json that states image_size"
        )
    return (*size[:first], *(side * s for s in stride[first:]))


def require_expressible(dialect: str, conditions: Mapping[str, bool]) -> None:
    """Raises `ValueError` if a condition is False: the format cannot express it. The message names these conditions."""
    lacking = [what for what, possible in conditions.items() if not possible]
    if lacking:
        raise ValueError(f"the {dialect} format cannot express {', '.join(lacking)}")


def published_geometry(config: HieraConfig) -> dict[str, bool]:
    """The assumptions of all published implementations, as conditions for `require_expressible`.

    In their order of tokens, the poolings of all stages reduce a mask unit to one token. They pool a shortcut only if
    they also project it.
    """
    units = zip(config.masked_unit_size, config.query_stride, strict=True)
    sizes = zip(config.image_size, config.unit_pixels, strict=True)
    widths = list(config.dims)
    for stage in range(1, config.stages):  # these packages round stage by stage
        widths[stage] = int(widths[stage - 1] * config.embed_dim_multiplier)
    return {
        f"mask units other than query_stride ** (stages - 1), as masked_unit_size {config.masked_unit_size}": all(
            u == s ** (config.stages - 1) for u, s in units
        ),
        "a native size that is not a multiple of the mask unit": all(s % u == 0 for s, u in sizes),
        "stages that pool without growing in width": all(
            before != after
            for before, after in zip(config.dims[: config.num_query_pool], config.dims[1:], strict=False)
        ),
        "widths that are rounded differently": tuple(widths) == config.dims,
        f"windows of {config.window_sizes}": not config.is_windowed,
        "a neck": config.fpn_hidden_size is None,
    }


def require_published_geometry(config: HieraConfig, package: str) -> None:
    """Raises `ValueError` if a package builds another model than hierax from this configuration."""
    odd = [what for what, same in published_geometry(config).items() if not same]
    if odd:
        raise ValueError(f"{', '.join(odd)}: {package} builds another model from it, which hierax does not have")
