"""The formats of SAM 2's image encoders: files of the authors, folders of transformers, and files of timm.

They hold a trunk, and those of the authors and of transformers a neck too. The windows of a trunk cannot be seen in its
tensors; without a configuration they are those of the published trunk with these widths and depths.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hierax.checkpoint.dialects.dialect import Dialect, Shapes
from hierax.checkpoint.dialects.official import arguments_of, fields_of, named_config, published_layers
from hierax.checkpoint.dialects.shapes import PATCH, config_from_shapes, neck_width, require_expressible
from hierax.checkpoint.dialects.timm import KEPT, SPDX, object_in
from hierax.model.config import VARIANTS, HieraConfig, variant_config
from hierax.model.registry import ENCODER, TASKS, TaskSpec

_LEVEL = "pyramid.laterals."
_TRUNKS = tuple(name for name in VARIANTS if name.startswith("sam2_"))
_TABLE = {
    "embed_dim": "embed_dim",
    "stages": "depths",
    "q_pool": "num_query_pool",
    "q_stride": "query_stride",
    "dim_mul": "embed_dim_multiplier",
    "drop_path_rate": "drop_path_rate",
    "window_spec": "window_sizes",
    "global_att_blocks": "global_blocks",
}
"""Arguments of the constructors of the authors and of timm, and the fields of `HieraConfig`."""
_MADE: Mapping[str, Any] = {"position_embedding": "abs_win", "position_antialias": False}
_PIXELS = (1024, 1024)
_FOREIGN = re.compile(
    r"(?:^|\.)(?:sam_|mask|memory_|no_mem|no_obj|obj_ptr|object_pointer|prompt_encoder\.|shared_image_embedding\."
    r"|occlusion_|temporal_positional_)"
)
"""Matches tensors of the memory, of prompts and of masks, in files of the authors and of transformers."""


class _Sam2(Dialect):
    """What the three formats share: the names of blocks count over all stages."""

    trunk = ""
    """What stands before the names of the trunk, if a neck is beside it."""
    neck = re.compile(r"(?!)")
    """Matches names of the neck, whose convolutions count from the last stage; groups: the number, and the rest."""
    their_block = re.compile(r"(blocks)\.(\d{1,4})\.(.+)")
    layer = {name: name for name in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "proj")}
    parts = {
        "encoder.pos_embed.whole": "pos_embed",
        "encoder.pos_embed.window": "pos_embed_window",
        "encoder.patch_embed.proj": "patch_embed.proj",
    }

    def _of_trunk(self, keys: Collection[str]) -> set[str]:
        return {key.removeprefix(self.trunk) for key in keys}

    def depths(self, keys: Sequence[str]) -> tuple[int, ...]:
        """See the base class. Only the number of stages is needed: every later stage begins with a projection."""
        later = re.compile(r"blocks\.\d+\.proj\.weight")
        return (1,) * (1 + sum(later.fullmatch(key) is not None for key in self._of_trunk(keys)))

    def ours(self, key: str, depths: Sequence[int]) -> str | None:
        """See the base class."""
        match = self.neck.fullmatch(key)
        if match is None:
            return super().ours(key.removeprefix(self.trunk), depths)
        level = len(depths) - 1 - int(match[1])
        return f"{_LEVEL}{level}.{match[2]}" if level >= 0 else None

    def theirs(self, key: str, depths: Sequence[int]) -> str:
        """See the base class."""
        if not key.startswith(_LEVEL):
            return self.trunk + super().theirs(key, depths)
        level, rest = key.removeprefix(_LEVEL).split(".", 1)
        return self._neck_name(len(depths) - 1 - int(level)) + rest

    def _neck_name(self, convolution: int) -> str:
        """The prefix, with a final dot, of a convolution of the neck."""
        raise ValueError(f"the {self.name} format has no neck")

    def _our_block(self, match: re.Match[str], depths: Sequence[int]) -> str:
        return f"encoder.blocks.{match[2]}."

    def _block_name(self, which: str, index: int, depths: Sequence[int]) -> str:
        return f"blocks.{index}."

    def is_foreign(self, key: str) -> bool:
        """See the base class."""
        return _FOREIGN.search(key) is not None

    def expressible(self, config: HieraConfig, task: TaskSpec) -> dict[str, bool]:
        """What this format must be able to express, as conditions for `require_expressible`."""
        odd = f"windows of {config.window_sizes}"
        layers = {what: fits for what, fits in published_layers(config).items() if what not in (odd, "a neck")}
        return {
            **layers,
            f"inputs of {config.axes} axes": config.axes == 2,
            "mask units instead of windows": config.is_windowed,
            f"position_embedding {config.position_embedding!r}": config.position_embedding == "abs_win",
            "position_antialias": not config.position_antialias,
            f"patch_size {config.patch_size}": config.patch_size == (7, 7) and config.patch_stride == (4, 4),
            "layer scale": config.layer_scale_init is None,
            "pooled shortcuts": not config.pooled_shortcut,
            f"a {task.architecture}": task in (ENCODER, TASKS["backbone"]),
        }

    def writes(self, config: HieraConfig, task: TaskSpec, tensors: Collection[str]) -> bool:
        """Whether a model with these `tensors` (names in hierax) can be written in this format, complete."""
        last = f"encoder.blocks.{sum(config.depths) - 1}.norm1.weight"
        names = {task.prefix + name for name in tensors}
        neck = [name for name in names if name.startswith(_LEVEL)]
        whole = last in names and len(neck) in (0, 2 * config.stages)
        return whole and not any(n.startswith("norms.") for n in names) and all(self.expressible(config, task).values())


def _finished(config: HieraConfig, shapes: Shapes, *, neck: bool = True) -> HieraConfig:
    """The configuration with what the tensors state: the neck, and the task that opens them if no head is there."""
    width = neck_width(shapes) if neck else None
    changes: dict[str, Any] = {} if width is None else {"fpn_hidden_size": width}
    if "head.weight" not in shapes:
        changes["extra"] = {**config.extra, "architectures": [TASKS["backbone"].architecture]}
    return config.replace(**changes)


class OfficialSam2(_Sam2):
    """Names like `image_encoder.trunk.blocks.10.mlp.layers.0.weight`, without `image_encoder.` in what is read."""

    name = "official SAM 2"
    container = "model"
    trunk = "trunk."
    neck = re.compile(r"neck\.convs\.(\d{1,2})\.conv\.(weight|bias)")
    layer = {**_Sam2.layer, "mlp.fc1": "mlp.layers.0", "mlp.fc2": "mlp.layers.1"}
    arguments = {**_TABLE, "window_pos_embed_bkg_spatial_size": "global_position_size"}
    defaults: Mapping[str, Any] = {
        "embed_dim": 96, "num_heads": 1, "drop_path_rate": 0.0, "q_pool": 3, "q_stride": (2, 2),
        "stages": (2, 3, 16, 3), "dim_mul": 2.0, "head_mul": 2.0, "window_pos_embed_bkg_spatial_size": (14, 14),
        "window_spec": (8, 4, 14, 7), "global_att_blocks": (12, 16, 20),
    }  # fmt: skip

    def recognizes(self, keys: Sequence[str], values: Mapping[str, Any] | None) -> bool:
        """See the base class."""
        names = self._of_trunk(keys)
        return {"pos_embed_window", "patch_embed.proj.weight"} <= names and any(".mlp.layers." in key for key in keys)

    def config(self, values: Mapping[str, Any] | None, shapes: Shapes, variant: str | None) -> HieraConfig:
        """See the base class."""
        if values is None or variant is not None:
            return _finished(config_from_shapes(shapes, variant), shapes)
        given = {**self.defaults, **{k: v for k, v in values.items() if v is not None}}
        fields = {**fields_of(given, self.arguments), **_MADE, "image_size": _PIXELS}
        fields["num_channels"] = shapes[PATCH][1]
        return _finished(named_config(fields, self.arguments), shapes)

    def states(self, values: Mapping[str, Any]) -> Collection[str] | None:
        """See the base class."""
        return {*self.arguments.values(), *_MADE, "num_heads", "num_channels", "fpn_hidden_size"}

    def config_values(self, config: HieraConfig, task: TaskSpec) -> dict[str, Any]:
        """See the base class."""
        require_expressible(self.name, self.expressible(config, task))
        return arguments_of(config, self.arguments)

    def completed(self, tensors: dict[str, Tensor], config: HieraConfig) -> dict[str, Tensor]:
        """See the base class."""
        return {f"image_encoder.{name}": tensor for name, tensor in tensors.items()}

    def _neck_name(self, convolution: int) -> str:
        return f"neck.convs.{convolution}.conv."


class TimmSam2(_Sam2):
    """Names like `blocks.10.mlp.fc1.weight` and `head.norm.weight`; there is no neck."""

    name = "timm SAM 2"
    parts = {**_Sam2.parts, "norm": "head.norm", "head": "head.fc"}
    arguments = {**_TABLE, "global_pos_size": "global_position_size", "in_chans": "num_channels"}

    def recognizes(self, keys: Sequence[str], values: Mapping[str, Any] | None) -> bool:
        """See the base class."""
        return {"pos_embed_window", "patch_embed.proj.weight"} <= set(keys)

    def resolve_ambiguous(self, tensors: dict[str, Tensor], values: Mapping[str, Any] | None) -> dict[str, Tensor]:
        """See the base class. timm adds a norm, which is untrained if there is no head: it does not count."""
        norm = {name: tensors[name] for name in ("norm.weight", "norm.bias") if name in tensors}
        if "head.weight" in tensors or not all(_is_untrained(name, tensor) for name, tensor in norm.items()):
            return tensors
        return {name: tensor for name, tensor in tensors.items() if name not in norm}

    def config(self, values: Mapping[str, Any] | None, shapes: Shapes, variant: str | None) -> HieraConfig:
        """See the base class."""
        if values is None or variant is not None:
            return _finished(config_from_shapes(shapes, variant), shapes)
        architecture = values.get("architecture")
        if architecture not in _TRUNKS:
            raise ValueError(f"architecture is {architecture!r}; expected one of {', '.join(_TRUNKS)}")
        record, given = object_in(values, "pretrained_cfg"), object_in(values, "model_args")
        row = arguments_of(variant_config(architecture), self.arguments)
        fields = {**fields_of({**row, **{k: v for k, v in given.items() if v is not None}}, self.arguments), **_MADE}
        size = record.get("input_size")
        fields["image_size"] = tuple(size[1:]) if isinstance(size, (list, tuple)) and len(size) == 3 else _PIXELS
        fields["num_channels"] = shapes[PATCH][1]
        if "head.weight" in shapes:
            fields["num_labels"] = shapes["head.weight"][0]
        license = record.get("license")
        fields["license"] = SPDX.get(str(license).lower(), license) if license else None
        config = named_config(fields, self.arguments)
        kept = {k: v for k, v in values.items() if k != "architecture"}
        return _finished(config.replace(extra={KEPT: kept}), shapes)

    def states(self, values: Mapping[str, Any]) -> Collection[str] | None:
        """See the base class."""
        return {*self.arguments.values(), *_MADE, "image_size", "num_heads", KEPT}

    def expressible(self, config: HieraConfig, task: TaskSpec) -> dict[str, bool]:
        """See the base class."""
        conditions = super().expressible(config, task)
        conditions[f"a {task.architecture}"] = task in (ENCODER, *(TASKS[n] for n in ("backbone", "classification")))
        return {**conditions, "a neck": config.fpn_hidden_size is None}

    def config_values(self, config: HieraConfig, task: TaskSpec) -> dict[str, Any]:
        """See the base class."""
        require_expressible(self.name, self.expressible(config, task))
        own = arguments_of(config, self.arguments)
        rows = {name: arguments_of(variant_config(name), self.arguments) for name in _TRUNKS}
        architecture = min(rows, key=lambda name: sum(rows[name][key] != value for key, value in own.items()))
        kept, labels = dict(config.extra.get(KEPT, {})), config.num_labels if task.labels else 0
        record = {**object_in(kept, "pretrained_cfg"), "input_size": [config.num_channels, *config.image_size]}
        record["license"] = next((theirs for theirs, ours in SPDX.items() if ours == config.license), config.license)
        changed = {key: value for key, value in own.items() if value != rows[architecture][key]}
        return {
            **kept,
            "architecture": architecture,
            "num_classes": labels,
            "num_features": config.hidden_size,
            "model_args": {**changed, "num_classes": labels},
            "pretrained_cfg": {k: v for k, v in {**record, "num_classes": labels}.items() if v is not None},
        }

    def completed(self, tensors: dict[str, Tensor], config: HieraConfig) -> dict[str, Tensor]:
        """See the base class. timm expects its norm."""
        like = next(iter(tensors.values())).new_ones(config.hidden_size)
        return {"head.norm.weight": like, "head.norm.bias": torch.zeros_like(like), **tensors}


def _is_untrained(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of a norm has the values that it was made with."""
    return tensor.is_meta or bool((tensor == (1 if name.endswith("weight") else 0)).all())


class TransformersSam2(_Sam2):
    """Names like `vision_encoder.backbone.blocks.10.mlp.proj_in.weight`, without `vision_encoder.` in what is read."""

    name = "transformers SAM 2"
    trunk = "backbone."
    neck = re.compile(r"neck\.convs\.(\d{1,2})\.(weight|bias)")
    parts = {**_Sam2.parts, "encoder.patch_embed.proj": "patch_embed.projection"}
    layer = {
        **_Sam2.layer, "norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.fc1": "mlp.proj_in",
        "mlp.fc2": "mlp.proj_out",
    }  # fmt: skip
    fields = {
        "blocks_per_stage": "depths",
        "num_attention_heads_per_stage": "num_heads",
        "window_size_per_stage": "window_sizes",
        "global_attention_blocks": "global_blocks",
        "window_positional_embedding_background_size": "global_position_size",
        "num_query_pool_stages": "num_query_pool",
        "patch_kernel_size": "patch_size",
        **{
            name: name
            for name in (
                "query_stride", "patch_stride", "patch_padding", "image_size", "num_channels", "mlp_ratio",
                "hidden_act", "layer_norm_eps", "initializer_range",
            )
        },
    }  # fmt: skip
    pyramid = ("fpn_hidden_size", "fpn_top_down_levels", "num_feature_levels")
    fixed = {"fpn_kernel_size": 1, "fpn_stride": 1, "fpn_padding": 0}
    types = ("sam2_video", "sam2", "sam2_vision_model", "sam2_hiera_det_model")

    def recognizes(self, keys: Sequence[str], values: Mapping[str, Any] | None) -> bool:
        """See the base class."""
        return {"pos_embed_window", "patch_embed.projection.weight"} <= self._of_trunk(keys)

    def config(self, values: Mapping[str, Any] | None, shapes: Shapes, variant: str | None) -> HieraConfig:
        """See the base class."""
        if values is None or variant is not None:
            return _finished(config_from_shapes(shapes, variant), shapes)
        trunk, vision = self._objects(values)
        for name in ("stages", "window_spec", "q_pool", "dim_mul", "global_att_blocks"):
            if name in trunk:
                raise ValueError(
                    f"{name} belongs to an early form of SAM 2's configuration, which hierax does not read; "
                    "expected that of facebook/sam2.1-hiera-tiny, with blocks_per_stage"
                )
        row = self.trunk_values(variant_config("sam2_hiera_tiny"))
        given = {**row, **{k: v for k, v in trunk.items() if v is not None}}
        widths = given["embed_dim_per_stage"]
        listed = isinstance(widths, (list, tuple)) and 0 < len(widths) <= 16 and isinstance(widths[0], int)
        if not listed or list(widths) != [widths[0] * 2**stage for stage in range(len(widths))]:
            raise ValueError(f"embed_dim_per_stage is {widths!r:.80}; expected widths that double from stage to stage")
        made = {ours: given[theirs] for theirs, ours in self.fields.items()}
        stages = {"masked_unit_attention": [stage < 2 for stage in range(len(widths))], "embed_dim": widths[0]}
        if vision is not None:
            for name, value in self.fixed.items():
                if vision.get(name) not in (None, value):
                    raise ValueError(f"{name} is {vision[name]!r}; expected {value}")
            made |= {"fpn_hidden_size": 256, **{n: vision[n] for n in self.pyramid if vision.get(n) is not None}}
        return _finished(named_config({**made, **stages, **_MADE}, self.fields), shapes, neck=False)

    def _objects(self, values: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
        """The configurations of the trunk, and of the neck if there is one."""
        kind = values.get("model_type")
        if kind not in self.types:
            raise ValueError(f"model_type is {kind!r}; expected one of {', '.join(self.types)}")
        if kind == "sam2_hiera_det_model":
            return values, None
        vision = values if kind == "sam2_vision_model" else object_in(values, "vision_config")
        return object_in(vision, "backbone_config"), vision

    def states(self, values: Mapping[str, Any]) -> Collection[str] | None:
        """See the base class."""
        return {*self.fields.values(), *_MADE, *self.pyramid, "embed_dim"}

    def trunk_values(self, config: HieraConfig) -> dict[str, Any]:
        """The fields of transformers for a trunk."""
        values = {theirs: getattr(config, ours) for theirs, ours in self.fields.items()}
        values |= {"hidden_size": config.embed_dim, "embed_dim_per_stage": config.dims}
        values["num_attention_heads"] = config.num_heads[0]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def config_values(self, config: HieraConfig, task: TaskSpec) -> dict[str, Any]:
        """See the base class."""
        require_expressible(self.name, self.expressible(config, task))
        trunk = {**self.trunk_values(config), "model_type": "sam2_hiera_det_model"}
        if config.fpn_hidden_size is None:
            return {**trunk, "architectures": ["Sam2HieraDetModel"]}
        sizes = [
            [-(-pixels // stride) for pixels, stride in zip(config.image_size, config.stage_stride(level), strict=True)]
            for level in range(config.num_feature_levels)
        ]
        return {
            "model_type": "sam2_vision_model",
            "architectures": ["Sam2VisionModel"],
            "backbone_config": trunk,
            "backbone_channel_list": list(reversed(config.dims)),
            "backbone_feature_sizes": sizes,
            "fpn_hidden_size": config.fpn_hidden_size,
            "fpn_top_down_levels": list(config.fpn_top_down_levels),
            "num_feature_levels": config.num_feature_levels,
            **self.fixed,
        }

    def completed(self, tensors: dict[str, Tensor], config: HieraConfig) -> dict[str, Tensor]:
        """See the base class. A trunk alone has no prefix."""
        if any(self.neck.fullmatch(name) for name in tensors):
            return tensors
        return {name.removeprefix(self.trunk): tensor for name, tensor in tensors.items()}

    def _neck_name(self, convolution: int) -> str:
        return f"neck.convs.{convolution}."


SAM_2: Mapping[str, _Sam2] = {"official": OfficialSam2(), "transformers": TransformersSam2(), "timm": TimmSam2()}
"""The formats, by the names of the formats of the same libraries for other models. Those of the authors are asked
before those of timm, because timm has most of their names.
"""
