"""The dialect of `transformers`, and our own, which is the same with more names (video, abs-win, layer scale)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hierax.checkpoint.dialect import Dialect, Shapes
from hierax.checkpoint.shapes import config_from_shapes
from hierax.config import HieraConfig

ARCHITECTURES = {
    "features": "HieraModel",
    "backbone": "HieraBackbone",
    "classification": "HieraForImageClassification",
    "video-classification": "HieraForVideoClassification",
    "mae": "HieraForPreTraining",
    "encoder": "Hiera",
}


class Transformers(Dialect):
    """Names like `hiera.encoder.stages.2.layers.0.attn.qkv.weight`; `hiera.` only where a task stands around it."""

    name = "transformers"
    parts = {
        "encoder.pos_embed.weight": "embeddings.position_embeddings",
        "encoder.pos_embed.spatial": "embeddings.position_embeddings_spatial",
        "encoder.pos_embed.temporal": "embeddings.position_embeddings_temporal",
        "encoder.pos_embed.whole": "embeddings.position_embeddings_global",
        "encoder.pos_embed.window": "embeddings.position_embeddings_window",
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
        r"(?:encoder\.stages\.(?P<stage>\d+)\.layers\.(?P<layer>\d+)|decoder\.decoder_block\.layers\.(?P<block>\d+))\.(.+)"
    )

    def recognises(self, keys: Sequence[str]) -> bool:
        """See the base class."""
        return any(key.removeprefix("hiera.").startswith("embeddings.patch_embeddings.") for key in keys)

    def ours(self, key: str, depths: Sequence[int]) -> str | None:
        """See the base class."""
        return super().ours(key.removeprefix("hiera."), depths)

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
            raise ValueError(f"config.json has model_type {model_type!r}; expected 'hiera'")
        if "id2label" not in values and "head.weight" in shapes:  # transformers leaves its default of two labels out
            values = {**values, "num_labels": shapes["head.weight"][0]}
        return HieraConfig.from_dict(values)

    def config_values(self, config: HieraConfig, task: str) -> dict[str, Any]:
        """See the base class. What `transformers` would open wrongly gets a model type that it refuses."""
        names = config.stage_names
        features = config.out_features or names[-1:]
        return {
            **config.to_dict(),
            "architectures": [ARCHITECTURES[task]],
            "model_type": "hiera" if fits_transformers(config) else "hierax",
            "hidden_size": config.hidden_size,
            "stage_names": list(names),
            "out_features": list(features),
            "out_indices": [names.index(name) for name in features],
        }


def fits_transformers(config: HieraConfig) -> bool:
    """Whether `transformers` can build this model: images, one absolute table, no layer scale."""
    plain = config.layer_scale_init is None and not config.pooled_shortcut
    return config.axes == 2 and config.position_embedding == "absolute" and plain
