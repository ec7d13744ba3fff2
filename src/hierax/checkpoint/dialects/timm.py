"""The format of `timm`: the official names of blocks, another head, and a record of preprocessing and license."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from hierax.checkpoint.dialects.dialect import Shapes
from hierax.checkpoint.dialects.official import (
    ARGUMENTS,
    Official,
    arguments_of,
    fields_of,
    named_config,
    published_layers,
)
from hierax.checkpoint.dialects.shapes import PATCH, config_from_shapes, require_expressible, require_published_geometry
from hierax.model.config import VARIANTS, HieraConfig, variant_config
from hierax.model.registry import ENCODER, TaskSpec

SPDX = {"cc-by-nc-4.0": "CC-BY-NC-4.0", "apache-2.0": "Apache-2.0", "mit": "MIT"}
KEPT = "timm"
_OWN = ("hiera_femto_160",)  # architectures that timm does not have
"""The key in `HieraConfig.extra` of values of timm that are not fields of `HieraConfig`."""
_ARGUMENTS: Mapping[str, str] = {
    "img_size": "image_size",
    **{theirs: ours for theirs, ours in ARGUMENTS.items() if ours not in ("image_size", "dropout", "drop_path_rate")},
    "init_values": "layer_scale_init",
    "global_pos_size": "global_position_size",
}


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

    def recognizes(self, keys: Sequence[str], values: Mapping[str, Any] | None) -> bool:
        """See the base class."""
        own = any(key.startswith(("head.norm.", "head.fc.", "pos_embed_win")) for key in keys)
        return super().recognizes(keys, values) and (own or "architecture" in (values or {}))

    def resolve_ambiguous(self, tensors: dict[str, Tensor], values: Mapping[str, Any] | None) -> dict[str, Tensor]:
        """See the base class. The absolute and the global table have the same name, and so do two norms of an MAE."""
        if "encoder.pos_embed.window" in tensors:
            renamed = {"encoder.pos_embed.weight": "encoder.pos_embed.whole"}
            tensors = {renamed.get(name, name): tensor for name, tensor in tensors.items()}
        if "head.weight" not in tensors and _norm_of_a_mae(values):
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("norm.")}
        return tensors

    def ours(self, key: str, depths: Sequence[int]) -> str | None:
        """See the base class."""
        return "encoder.pos_embed.weight" if key == "pos_embed" else super().ours(key, depths)

    def config(self, values: Mapping[str, Any] | None, shapes: Shapes, variant: str | None) -> HieraConfig:
        """See the base class."""
        if values is None or variant is not None:
            return config_from_shapes(shapes, variant)
        architecture = values.get("architecture")
        if not isinstance(architecture, str) or architecture not in VARIANTS:
            raise ValueError(f"architecture is {architecture!r}, which is not a variant of Hiera")
        record, arguments = object_in(values, "pretrained_cfg"), object_in(values, "model_args")
        row = _arguments(variant_config(architecture))
        arguments = {**row, **{k: v for k, v in arguments.items() if v is not None or k == "init_values"}}
        if "img_size" not in (values.get("model_args") or {}) and isinstance(record.get("input_size"), (list, tuple)):
            arguments["img_size"] = record["input_size"][1:]
        if isinstance(arguments["img_size"], int):
            arguments["img_size"] = [arguments["img_size"]] * 2
        fields = fields_of(arguments, _ARGUMENTS)
        fields["position_embedding"] = "abs_win" if arguments["abs_win_pos_embed"] else "absolute"
        fields["pooled_shortcut"] = not arguments["use_expand_proj"]
        fields |= {"num_channels": shapes[PATCH][1], "num_labels": shapes.get("head.weight", (1000,))[0]}
        fields["id2label"] = _label_names(values, fields["num_labels"])
        if "encoder.pos_embed.whole" in shapes:
            fields["global_position_size"] = shapes["encoder.pos_embed.whole"][2:]
        license = record.get("license")
        fields["license"] = SPDX.get(str(license).lower(), license) if license else None
        kept = {k: v for k, v in values.items() if k != "architecture"}
        config = named_config(fields, _ARGUMENTS)
        require_published_geometry(config, "timm")
        return config.replace(extra={KEPT: kept})

    def states(self, values: Mapping[str, Any]) -> Collection[str] | None:
        """See the base class."""
        named = {"id2label"} if values.get("label_names") else set()
        licensed = {"license"} if object_in(values, "pretrained_cfg").get("license") else set()
        return {*_ARGUMENTS.values(), "num_heads", "position_embedding", "pooled_shortcut", KEPT, *named, *licensed}

    def config_values(self, config: HieraConfig, task: TaskSpec) -> dict[str, Any]:
        """See the base class."""
        kind = "clips" if config.is_video else f"{config.axes}-D inputs"
        conditions = {**published_layers(config), kind: config.axes == 2, "a decoder": not task.masked}
        require_expressible(self.name, conditions)
        architecture, labels = _architecture(config), config.num_labels if task.labels else 0
        row, own = _arguments(variant_config(architecture)), _arguments(config)
        own |= {"img_size": list(config.image_size), "in_chans": config.num_channels, "num_classes": labels}
        always = ("img_size", "in_chans", "num_classes")
        kept = dict(config.extra.get(KEPT, {}))
        record = dict(kept.get("pretrained_cfg") or {})
        record |= {"input_size": [config.num_channels, *config.image_size], "num_classes": labels}
        record["license"] = next((theirs for theirs, ours in SPDX.items() if ours == config.license), config.license)
        if record.get("tag") == "mae" and task is not ENCODER:
            del record["tag"]  # the tag would mean that the norm must not be used
        kept.pop("label_names", None)
        names = list(config.id2label.values())
        if labels and names != [f"LABEL_{i}" for i in range(labels)]:
            kept["label_names"] = names
        return {
            **kept,
            "architecture": architecture,
            "num_classes": labels,
            "num_features": config.hidden_size,
            "global_pool": "avg",
            "model_args": {
                **{name: value for name, value in (kept.get("model_args") or {}).items() if name not in own},
                **{name: value for name, value in own.items() if name in always or value != row[name]},
            },
            "pretrained_cfg": {key: value for key, value in record.items() if value is not None},
        }


def _arguments(config: HieraConfig) -> dict[str, Any]:
    """The arguments of the constructor of timm for a configuration."""
    return {
        **arguments_of(config, _ARGUMENTS),
        "abs_win_pos_embed": config.position_embedding == "abs_win",
        "use_expand_proj": not config.pooled_shortcut,
    }


def _architecture(config: HieraConfig) -> str:
    """The name of the architecture in timm; if there is none, the name of the most similar architecture."""
    rows = [
        name
        for name in VARIANTS
        if not name.startswith(("mae_", "sam2_")) and name not in _OWN and variant_config(name).axes == 2
    ]
    own = _arguments(config)
    free = ("img_size", "in_chans", "num_classes")

    def differences(name: str) -> int:
        row = _arguments(variant_config(name))
        return sum(row[key] != value for key, value in own.items() if key not in free)

    return min(rows, key=differences)


def object_in(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object in a field; empty if there is none. Raises `ValueError` if the field is something else."""
    found = values.get(name) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} is {found!r:.80}; expected an object of fields")
    return found


def _label_names(values: Mapping[str, Any], count: int) -> dict[int, str] | None:
    """The class names, if every class has one; from a list, or from an object that maps indices to names."""
    names = values.get("label_names")
    if isinstance(names, Mapping) and set(names) == {str(i) for i in range(count)}:
        names = [names[str(i)] for i in range(count)]
    if not isinstance(names, list) or len(names) != count:
        return None
    return dict(enumerate(map(str, names)))


def _norm_of_a_mae(values: Mapping[str, Any] | None) -> bool:
    """Whether `head.norm`, in a file without a head, normalized the fused maps of an MAE. It then counts as missing.

    This is true for the `.mae` files of timm. The same is assumed of a tensor file without a head
    and without a configuration.
    """
    return values is None or object_in(values, "pretrained_cfg").get("tag") == "mae"
