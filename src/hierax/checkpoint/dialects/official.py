"""The format of the package of the authors: names `blocks.N.…`, and arguments of the constructor as configuration."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hierax.checkpoint.dialects.dialect import Dialect, Shapes
from hierax.checkpoint.dialects.shapes import (
    config_from_shapes,
    is_mae,
    published_geometry,
    require_expressible,
    require_published_geometry,
)
from hierax.model.config import HieraConfig
from hierax.model.registry import TaskSpec

_BLOCKS = {"encoder": "blocks", "decoder": "decoder_blocks"}
ARGUMENTS: Mapping[str, str] = {
    "input_size": "image_size",
    "in_chans": "num_channels",
    "embed_dim": "embed_dim",
    "num_classes": "num_labels",
    "stages": "depths",
    "q_pool": "num_query_pool",
    "q_stride": "query_stride",
    "mask_unit_size": "masked_unit_size",
    "mask_unit_attn": "masked_unit_attention",
    "dim_mul": "embed_dim_multiplier",
    "patch_kernel": "patch_size",
    "patch_stride": "patch_stride",
    "patch_padding": "patch_padding",
    "mlp_ratio": "mlp_ratio",
    "drop_path_rate": "drop_path_rate",
    "head_dropout": "dropout",
}
"""Arguments of the constructor that are fields of `HieraConfig`. Heads and position embedding are translated
separately.
"""
_MAE_ARGUMENTS = {
    "decoder_embed_dim": "decoder_hidden_size",
    "decoder_depth": "decoder_depth",
    "decoder_num_heads": "decoder_num_heads",
}
_DEFAULTS: Mapping[str, Any] = {  # defaults of the constructor; folders may omit arguments with default values
    "input_size": (224, 224), "in_chans": 3, "embed_dim": 96, "num_heads": 1, "num_classes": 1000,
    "stages": (2, 3, 16, 3), "q_pool": 3, "q_stride": (2, 2), "mask_unit_size": (8, 8),
    "mask_unit_attn": (True, True, False, False), "dim_mul": 2.0, "head_mul": 2.0, "patch_kernel": (7, 7),
    "patch_stride": (4, 4), "patch_padding": (3, 3), "mlp_ratio": 4.0, "drop_path_rate": 0.0, "head_dropout": 0.0,
    "sep_pos_embed": False,
}  # fmt: skip
KEPT = "official"
"""The key in `HieraConfig.extra` of arguments that are not fields of `HieraConfig`."""


class Official(Dialect):
    """Names like `blocks.10.attn.qkv.weight`."""

    name = "official"
    parts = {
        "encoder.pos_embed.weight": "pos_embed",
        "encoder.pos_embed.spatial": "pos_embed_spatial",
        "encoder.pos_embed.temporal": "pos_embed_temporal",
        "encoder.patch_embed.proj": "patch_embed.proj",
        "norm": "norm",
        "head": "head.projection",
        "fusion.convs": "multi_scale_fusion_heads",
        "encoder_norm": "encoder_norm",
        "decoder.embed": "decoder_embed",
        "decoder.mask_token.weight": "mask_token",
        "decoder.pos_embed.weight": "decoder_pos_embed",
        "decoder.norm": "decoder_norm",
        "decoder.pred": "decoder_pred",
    }
    layer = {name: name for name in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "proj")}
    their_block = re.compile(r"(blocks|decoder_blocks)\.(\d{1,4})\.(.+)")

    def recognizes(self, keys: Sequence[str], values: Mapping[str, Any] | None) -> bool:
        """See the base class."""
        hiera = "patch_embed.proj.weight" in keys and any(key.startswith("blocks.0.attn.qkv") for key in keys)
        return hiera and "cls_token" not in keys  # a plain vision transformer has a cls_token

    def _our_block(self, match: re.Match[str], depths: Sequence[int]) -> str:
        return f"{'encoder' if match[1] == 'blocks' else 'decoder'}.blocks.{match[2]}."

    def _block_name(self, which: str, index: int, depths: Sequence[int]) -> str:
        return f"{_BLOCKS[which]}.{index}."

    def config(self, values: Mapping[str, Any] | None, shapes: Shapes, variant: str | None) -> HieraConfig:
        """See the base class."""
        if values is None or variant is not None:
            return config_from_shapes(shapes, variant)
        known = {**_DEFAULTS, **{k: v for k, v in values.items() if v is not None}}
        table = {**ARGUMENTS, **(_MAE_ARGUMENTS if is_mae(shapes) else {})}
        fields = fields_of(known, table)
        if known["sep_pos_embed"]:
            fields["position_embedding"] = "separable"
        if len(fields["image_size"]) == 3 and fields["query_stride"][0] == 1:
            fields["mask_ratio"] = 0.9  # not an argument of the constructor; the paper uses this ratio for clips
        if "head.weight" not in shapes:
            del fields["num_labels"]
        config = named_config(fields, table)
        require_published_geometry(config, "the authors' package")
        kept = {k: v for k, v in values.items() if k not in table and k not in _DEFAULTS}
        return config.replace(extra={KEPT: kept}) if kept else config

    def states(self, values: Mapping[str, Any]) -> Collection[str] | None:
        """See the base class."""
        decoder = {ours for theirs, ours in _MAE_ARGUMENTS.items() if theirs in values}
        return {*ARGUMENTS.values(), "num_heads", "position_embedding", KEPT, *decoder}

    def config_values(self, config: HieraConfig, task: TaskSpec) -> dict[str, Any]:
        """See the base class."""
        conditions = {
            **published_layers(config),
            "abs-win position embeddings": config.position_embedding != "abs_win",
            "layer scale": config.layer_scale_init is None,
            "pooled shortcuts": not config.pooled_shortcut,
        }
        if task.masked:
            clip = config.is_video and config.target == "first_frame"
            conditions["pretraining but of images, and of clips by their first frames"] = config.axes == 2 or clip
        require_expressible(self.name, conditions)
        table = {**ARGUMENTS, **(_MAE_ARGUMENTS if task.masked else {})}
        values = {**config.extra.get(KEPT, {}), **arguments_of(config, table)}
        values["sep_pos_embed"] = config.position_embedding == "separable"
        if not task.around:
            values["num_classes"] = 0
        return values


def fields_of(arguments: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `HieraConfig` from the arguments of a constructor. `table` maps arguments to fields.

    Raises:
        ValueError: an argument on which other fields depend has a wrong value; the message names it.
    """
    fields = {ours: arguments[theirs] for theirs, ours in table.items() if theirs in arguments}
    heads, factor, stages = arguments["num_heads"], arguments["head_mul"], arguments["stages"]
    for name, value in {"num_heads": heads, "head_mul": factor}.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e6:
            raise ValueError(f"{name} is {value!r}; expected a positive number")
    for theirs, ours in table.items():
        sequence = isinstance(fields.get(ours), (list, tuple))
        if ours in ("depths", "image_size", "query_stride") and not (sequence and 0 < len(fields[ours]) <= 16):
            raise ValueError(f"{theirs} is {fields.get(ours)!r:.80}; expected a list of integers")
    fields["num_heads"] = [heads]
    for _ in stages[1:]:
        fields["num_heads"].append(int(fields["num_heads"][-1] * factor))
    return fields


def arguments_of(config: HieraConfig, table: Mapping[str, str]) -> dict[str, Any]:
    """The inverse of `fields_of`, with values for JSON."""
    fields = {theirs: getattr(config, ours) for theirs, ours in table.items()}
    heads = config.num_heads
    factor = heads[1] / heads[0] if config.stages > 1 else 2.0
    fields |= {"num_heads": heads[0], "head_mul": factor}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def named_config(fields: Mapping[str, Any], table: Mapping[str, str]) -> HieraConfig:
    """The configuration with these fields. An error about a wrong value also names the argument."""
    try:
        return HieraConfig.from_dict(fields)
    except ValueError as error:
        ours = str(error).split(" ", 1)[0]
        theirs = next((theirs for theirs, field in table.items() if field == ours), ours)
        raise ValueError(f"{theirs}: {error}" if theirs != ours else str(error)) from None


def published_layers(config: HieraConfig) -> dict[str, bool]:
    """The assumptions of the official package and of timm, as conditions for `require_expressible`."""
    heads, factor = [config.num_heads[0]], config.num_heads[min(1, config.stages - 1)] / config.num_heads[0]
    for _ in config.num_heads[1:]:
        heads.append(int(heads[-1] * factor))
    return {
        **published_geometry(config),
        "heads that do not grow by one factor": tuple(heads) == config.num_heads,
        f"hidden_act {config.hidden_act!r}": config.hidden_act == "gelu",
        f"layer_norm_eps {config.layer_norm_eps}": config.layer_norm_eps == 1e-6,
    }
