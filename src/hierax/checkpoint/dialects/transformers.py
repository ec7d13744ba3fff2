"""The format of `transformers`. The format of hierax is the same, with more names (video, abs-win, layer scale)."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hierax.checkpoint.dialects.dialect import Dialect, Shapes
from hierax.checkpoint.dialects.shapes import config_from_shapes, is_mae, published_geometry
from hierax.model.config import HieraConfig
from hierax.model.registry import TaskSpec

_DETECTORS = ("rt_detr", "d_fine", "mask2former")
_TABLE, _GLOBAL = "encoder.pos_embed.weight", "encoder.pos_embed.whole"


class Transformers(Dialect):
    """Names like `hiera.encoder.stages.2.layers.0.attn.qkv.weight`. Only models for a task have the prefix `hiera.`.

    If `transformers` would open a model wrongly, the model gets a model type that the `Auto` classes refuse, and a
    position table with the shape of its grid (`[1, h, w, C]`; for abs-win, the global table), which all classes refuse.
    """

    name = "transformers"
    own_parts = True
    parts = {
        _TABLE: "embeddings.position_embeddings",
        _GLOBAL: "embeddings.position_embeddings",
        "encoder.pos_embed.window": "embeddings.position_embeddings_window",
        "encoder.pos_embed.spatial": "embeddings.position_embeddings_spatial",
        "encoder.pos_embed.temporal": "embeddings.position_embeddings_temporal",
        "encoder.patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "pooler.layernorm",
        "head": "classifier",
        "norms": "hidden_states_norms",
        "fusion.convs": "multiscale_fusion.multi_scale_fusion_heads",
        "encoder_norm": "encoder_norm",
        "decoder.embed": "decoder.decoder_embeddings",
        "decoder.mask_token.weight": "decoder.mask_token",
        "decoder.pos_embed.weight": "decoder.decoder_position_embeddings",
        "decoder.norm": "decoder.decoder_norm",
        "decoder.pred": "decoder.decoder_pred",
    }
    layer = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.qkv": "attn.qkv",
        "attn.proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
        "proj": "proj",
        "ls1.weight": "layer_scale1",
        "ls2.weight": "layer_scale2",
    }
    their_block = re.compile(
        r"(?:encoder\.stages\.(?P<stage>\d{1,2})\.layers\.(?P<layer>\d{1,4})"
        r"|decoder\.decoder_block\.layers\.(?P<block>\d{1,4}))\.(.+)"
    )

    def recognizes(self, keys: Sequence[str], values: Mapping[str, Any] | None) -> bool:
        """See the base class."""
        return any(key.removeprefix("hiera.").startswith("embeddings.patch_embeddings.") for key in keys)

    def resolve_ambiguous(self, tensors: dict[str, Tensor], values: Mapping[str, Any] | None) -> dict[str, Tensor]:
        """See the base class. The absolute and the global table have the same name."""
        table = tensors.get(_TABLE)
        if table is None or (table.ndim == 3 and "encoder.pos_embed.window" not in tensors):
            return tensors
        others = {name: tensor for name, tensor in tensors.items() if name != _TABLE}
        if "encoder.pos_embed.window" in tensors:
            return {_GLOBAL: table, **others}
        return {_TABLE: table.flatten(1, -2) if table.ndim in (4, 5) else table, **others}

    def stored(self, name: str, tensor: Tensor, config: HieraConfig) -> Tensor:
        """See the base class."""
        if name != _TABLE or fits_transformers(config):
            return tensor
        return tensor.unflatten(1, config.token_grid(config.image_size))

    def ours(self, key: str, depths: Sequence[int]) -> str | None:
        """See the base class."""
        key = key.removeprefix("hiera.")
        return _TABLE if key == self.parts[_TABLE] else super().ours(key, depths)

    def depths(self, keys: Sequence[str]) -> tuple[int, ...]:
        """See the base class."""
        counts: dict[int, int] = {}
        for key in keys:
            match = self.their_block.fullmatch(key.removeprefix("hiera."))
            if match and match["stage"]:
                stage, layer = int(match["stage"]), int(match["layer"])
                counts[stage] = max(counts.get(stage, 0), layer + 1)
        return tuple(counts.get(stage, 0) for stage in range(max(counts, default=-1) + 1))

    def _our_block(self, match: re.Match[str], depths: Sequence[int]) -> str:
        if match["block"]:
            return f"decoder.blocks.{match['block']}."
        return f"encoder.blocks.{sum(depths[: int(match['stage'])]) + int(match['layer'])}."

    def _block_name(self, which: str, index: int, depths: Sequence[int]) -> str:
        if which == "decoder":
            return f"decoder.decoder_block.layers.{index}."
        stage = 0
        while index >= depths[stage]:
            index, stage = index - depths[stage], stage + 1
        return f"encoder.stages.{stage}.layers.{index}."

    def config(self, values: Mapping[str, Any] | None, shapes: Shapes, variant: str | None) -> HieraConfig:
        """See the base class."""
        if values is None or variant is not None:
            return config_from_shapes(shapes, variant)
        model_type = values.get("model_type")
        if model_type not in ("hiera", "hierax", None):
            hint = " (hierax detect and hierax evaluate take this model)" if model_type in _DETECTORS else ""
            raise ValueError(f"model_type is {model_type!r}; expected 'hiera'{hint}")
        if values.get("id2label") is None and "head.weight" in shapes:  # not the default of two
            values = {**values, "num_labels": shapes["head.weight"][0]}
        config = HieraConfig.from_dict(values)
        odd = incompatibilities(config, mae=is_mae(shapes)) if model_type == "hiera" else []
        if odd:
            raise ValueError(f"{', '.join(odd)}: transformers builds another model from it, which hierax does not have")
        return config

    def config_values(self, config: HieraConfig, task: TaskSpec) -> dict[str, Any]:
        """See the base class."""
        names = config.feature_names
        values = {
            **config.to_dict(),
            "architectures": [task.architecture],
            "model_type": "hiera" if fits_transformers(config, mae=task.masked) else "hierax",
            "hidden_size": config.hidden_size,
            "stage_names": list(names),
            "out_indices": [names.index(name) for name in config.out_features or ()],
        }
        if config.out_features is None:  # the default is the last stage in both libraries
            del values["out_indices"]
        if not task.labels and config.id2label == HieraConfig().id2label:
            del values["id2label"], values["label2id"]  # a thousand generic names
        return values


def fits_transformers(config: HieraConfig, *, mae: bool = False) -> bool:
    """Whether `transformers` builds the same model. See `incompatibilities`."""
    return not incompatibilities(config, mae=mae)


def incompatibilities(config: HieraConfig, *, mae: bool = False) -> list[str]:
    """The parts of a configuration that `transformers` computes differently or cannot express, as texts.

    `transformers` has one absolute table. The windows of a stage have the size that they would have if all earlier
    stages pooled. The first block of a stage attends within mask units if the stage before it *or its own stage* does.
    """
    units = config.masked_unit_attention
    within = [units[max(s - 1, 0)] or (depth > 1 and units[s]) for s, depth in enumerate(config.depths)]  # as in plan()
    pooled = not any(within[config.num_query_pool + 1 :])
    lags = all(before or not own for before, own in itertools.pairwise(units))
    conditions = {
        f"inputs of {config.axes} axes": config.axes == 2,
        f"position_embedding {config.position_embedding!r}": config.position_embedding == "absolute",
        "layer scale": config.layer_scale_init is None,
        "pooled shortcuts": not config.pooled_shortcut,
        f"query_stride {config.query_stride}": len(set(config.query_stride)) == 1,
        f"patch_stride {config.patch_stride} of an MAE": not mae or len(set(config.patch_stride)) == 1,
        f"num_query_pool {config.num_query_pool} with masked_unit_attention {units}": pooled,
        f"masked_unit_attention {units}": lags,
        **published_geometry(config),
    }
    return [what for what, same in conditions.items() if not same]
