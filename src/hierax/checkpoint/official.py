"""The dialect of the authors' own package: `blocks.N.…` and the constructor's arguments as configuration."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hierax.checkpoint.dialect import Dialect, Shapes
from hierax.checkpoint.shapes import config_from_shapes, doubled_heads, is_mae, require_expressible
from hierax.config import HieraConfig

_BLOCKS = {"encoder": "blocks", "decoder": "decoder_blocks"}
_FIELDS = {
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
_MAE_FIELDS = {
    "decoder_embed_dim": "decoder_hidden_size",
    "decoder_depth": "decoder_depth",
    "decoder_num_heads": "decoder_num_heads",
}
_DEFAULTS: Mapping[str, Any] = {  # of the constructor, which older folders leave out
    "input_size": (224, 224), "in_chans": 3, "embed_dim": 96, "num_heads": 1, "num_classes": 1000,
    "stages": (2, 3, 16, 3), "q_pool": 3, "q_stride": (2, 2), "mask_unit_size": (8, 8),
    "mask_unit_attn": (True, True, False, False), "dim_mul": 2.0, "head_mul": 2.0, "patch_kernel": (7, 7),
    "patch_stride": (4, 4), "patch_padding": (3, 3), "mlp_ratio": 4.0, "drop_path_rate": 0.0, "head_dropout": 0.0,
    "sep_pos_embed": False,
}  # fmt: skip
_ALSO_KNOWN = {"norm_layer", "head_init_scale"}


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
    their_block = re.compile(r"(blocks|decoder_blocks)\.(\d+)\.(.+)")

    def recognises(self, keys: Sequence[str]) -> bool:
        """See the base class."""
        return "patch_embed.proj.weight" in keys and any(key.startswith("blocks.0.attn.qkv") for key in keys)

    def _our_block(self, match: re.Match[str], depths: Sequence[int]) -> str:
        return f"{'encoder' if match[1] == 'blocks' else 'decoder'}.blocks.{match[2]}."

    def _block_name(self, which: str, index: int, depths: Sequence[int]) -> str:
        return f"{_BLOCKS[which]}.{index}."

    def config(self, values: Mapping[str, Any] | None, shapes: Shapes, variant: str | None) -> HieraConfig:
        """See the base class."""
        if values is None or variant is not None:
            return config_from_shapes(shapes, variant)
        known = {**_DEFAULTS, **{k: v for k, v in values.items() if v is not None}}
        fields = {**_FIELDS, **(_MAE_FIELDS if is_mae(shapes) else {})}
        given = {ours: known[theirs] for theirs, ours in fields.items() if theirs in known}
        if known["head_mul"] != 2:
            given["num_heads"] = [int(known["num_heads"] * known["head_mul"] ** i) for i in range(len(known["stages"]))]
        else:
            given["num_heads"] = [known["num_heads"] * 2**i for i in range(len(known["stages"]))]
        if known["sep_pos_embed"]:
            given["position_embedding"] = "separable"
        if len(known["input_size"]) == 3 and is_mae(shapes):
            given["mask_ratio"] = 0.9
        if "head.weight" not in shapes:
            del given["num_labels"]
        stated = {*_FIELDS, *_MAE_FIELDS, *_DEFAULTS, *_ALSO_KNOWN}
        given |= {name: value for name, value in values.items() if name not in stated}
        return HieraConfig.from_dict(given)

    def config_values(self, config: HieraConfig, task: str) -> dict[str, Any]:
        """See the base class."""
        require_expressible(
            config,
            self.name,
            {
                "abs-win position embeddings": config.position_embedding != "abs_win",
                "layer scale": config.layer_scale_init is None,
                "heads that do not double": doubled_heads(config),
                "a backbone's norms": task != "backbone",
            },
        )
        fields = {**_FIELDS, **(_MAE_FIELDS if task == "mae" else {})}
        values = {theirs: getattr(config, ours) for theirs, ours in fields.items()}
        values |= {"num_heads": config.num_heads[0], "head_mul": 2.0}
        values["sep_pos_embed"] = config.position_embedding == "separable"
        kept = {"license": config.license} if config.license else {}
        return {**config.extra, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}, **kept}
