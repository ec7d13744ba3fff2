"""The dialect of `timm`: the official block names, another head, and a record of preprocessing and licence."""

from collections.abc import Mapping, Sequence
from typing import Any

from hierax.checkpoint.dialect import Shapes
from hierax.checkpoint.official import Official
from hierax.checkpoint.shapes import config_from_shapes, matching_variant, require_expressible, with_shapes
from hierax.config import VARIANTS, HieraConfig, variant_config

_SPDX = {"cc-by-nc-4.0": "CC-BY-NC-4.0", "apache-2.0": "Apache-2.0", "mit": "MIT"}
KEPT = "timm"
"""Key of `HieraConfig.extra` under which what timm's record says beyond our fields is kept."""


class Timm(Official):
    """Names like `blocks.10.attn.qkv.weight` and `head.fc.weight`."""

    name = "timm"
    parts = {
        "encoder.pos_embed.weight": "pos_embed",
        "encoder.pos_embed.whole": "pos_embed",
        "encoder.pos_embed.window": "pos_embed_win",
        "encoder.patch_embed.proj": "patch_embed.proj",
        "norm": "head.norm",
        "head": "head.fc",
    }
    layer = {**Official.layer, "ls1.weight": "ls1.gamma", "ls2.weight": "ls2.gamma"}

    def recognises(self, keys: Sequence[str]) -> bool:
        """See the base class."""
        return super().recognises(keys) and any(
            key.startswith(("head.norm.", "head.fc.", "pos_embed_win")) for key in keys
        )

    def ours(self, key: str, depths: Sequence[int]) -> str | None:
        """See the base class. The absolute and the global table have one name; their rank tells them apart later."""
        return "encoder.pos_embed.weight" if key == "pos_embed" else super().ours(key, depths)

    def config(self, values: Mapping[str, Any] | None, shapes: Shapes, variant: str | None) -> HieraConfig:
        """See the base class."""
        if values is None or variant is not None:
            return _with_global_grid(config_from_shapes(shapes, variant), shapes)
        architecture = str(values.get("architecture"))
        if architecture not in VARIANTS:
            raise ValueError(f"config.json has architecture {architecture!r}, which is no variant of Hiera")
        record = values.get("pretrained_cfg") or {}
        config = with_shapes(variant_config(architecture), shapes)
        size = (values.get("model_args") or {}).get("img_size") or record.get("input_size", [3])[1:]
        if size:
            config = config.replace(image_size=tuple(size) if isinstance(size, Sequence) else size)
        license = record.get("license")
        names = values.get("label_names")
        config = config.replace(
            license=_SPDX.get(str(license).lower(), license) if license else None,
            extra={KEPT: {k: v for k, v in values.items() if k != "architecture"}},
        )
        if isinstance(names, list) and len(names) == config.num_labels:
            config = config.replace(id2label=dict(enumerate(map(str, names))))
        return _with_global_grid(config, shapes)

    def config_values(self, config: HieraConfig, task: str) -> dict[str, Any]:
        """See the base class."""
        variant = matching_variant(config)
        require_expressible(
            config,
            self.name,
            {
                "clips": config.axes == 2,
                "a decoder": task != "mae",
                "a backbone's norms": task != "backbone",
                "an architecture that is none of its own": variant is not None,
            },
        )
        labels = config.num_labels if task == "classification" else 0
        size = list(config.image_size)
        kept = dict(config.extra.get(KEPT, {}))
        record = dict(kept.get("pretrained_cfg") or {})
        record |= {"input_size": [config.num_channels, *size], "num_classes": labels, "license": _licence(config)}
        return {
            **kept,
            "architecture": variant,
            "num_classes": labels,
            "num_features": config.hidden_size,
            "global_pool": "avg",
            "model_args": {"img_size": size, "in_chans": config.num_channels, "num_classes": labels},
            "pretrained_cfg": {key: value for key, value in record.items() if value is not None},
            **({"label_names": list(config.id2label.values())} if labels else {}),
        }


def _licence(config: HieraConfig) -> str | None:
    return config.license.lower() if config.license else None


def _with_global_grid(config: HieraConfig, shapes: Shapes) -> HieraConfig:
    """The configuration with the size that the file's global table has."""
    shape = shapes.get("encoder.pos_embed.whole")
    return config.replace(global_position_size=tuple(shape[2:])) if shape else config


def untrained_norm(values: Mapping[str, Any] | None, keys: Sequence[str]) -> bool:
    """Whether `head.norm` is a MAE's: it normalised fused maps, so that it must count as missing.

    That is so in timm's `.mae` files, which have no head; a bare file without a head is taken for one of them.
    """
    if "head.fc.weight" in keys:
        return False
    tag = ((values or {}).get("pretrained_cfg") or {}).get("tag")
    return values is None or tag == "mae"
