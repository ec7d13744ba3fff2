"""The configuration of the models in transformers, and its way from and to `hierax.HieraConfig`."""

import dataclasses
import os
from typing import Any

from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from hierax.checkpoint.bundled import BUNDLED, bundled_folder
from hierax.model.config import HieraConfig

_Numbers = list[int] | tuple[int, ...]
_NOT_OF_THE_MODEL = {"extra", "id2label", "label2id", "license", "num_labels", "out_features", "out_indices"}
_NOT_OF_THE_MODEL |= {"fpn_hidden_size", "fpn_top_down_levels", "num_feature_levels"}  # a neck is hierax's own
_FIELDS = tuple(f.name for f in dataclasses.fields(HieraConfig) if f.name not in _NOT_OF_THE_MODEL)
"""Fields that both configurations have under one name."""


class HieraxConfig(BackboneConfigMixin, PreTrainedConfig):
    """The complete description of a model, as `hierax.HieraConfig`, whose fields it has.

    Labels, `out_features` and `out_indices` are those of `transformers`: without `id2label` there are two labels, and
    without `out_features` the last stage is the only map. A `config.json` of model type "hiera" is read too.

    Raises:
        ValueError: a bad value; names the field, the value and what is expected.
    """

    model_type = "hierax"
    attribute_map = {"num_hidden_layers": "num_layers"}

    embed_dim: int = 96
    image_size: _Numbers = (224, 224)
    patch_size: _Numbers | None = None
    patch_stride: _Numbers | None = None
    patch_padding: _Numbers | None = None
    mlp_ratio: float | int = 4.0
    depths: _Numbers = (2, 3, 16, 3)
    num_heads: _Numbers = (1, 2, 4, 8)
    embed_dim_multiplier: float | int = 2.0
    num_query_pool: int = 3
    query_stride: _Numbers | None = None
    masked_unit_size: _Numbers | None = None
    masked_unit_attention: list[bool] | tuple[bool, ...] = (True, True, False, False)
    window_sizes: _Numbers | None = None
    global_blocks: _Numbers = ()
    drop_path_rate: float | int = 0.0
    num_channels: int = 3
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_init: float | int = 1.0
    layer_norm_eps: float = 1e-6
    decoder_hidden_size: int | None = 512
    decoder_depth: int | None = 8
    decoder_num_heads: int | None = 16
    normalize_pixel_loss: bool | None = True
    mask_ratio: float = 0.6
    dropout: float | int = 0.0
    position_embedding: str = "absolute"
    position_resize: str = "bicubic"
    position_antialias: bool = True
    global_position_size: _Numbers | None = None
    layer_scale_init: float | None = None
    pooled_shortcut: bool = False
    segmentation_head: str = "fpn"
    segmentation_hidden_size: int = 128
    semantic_loss_ignore_index: int = 255
    target: str | None = None
    license: str | None = None
    backbone_norms: bool = False
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **others: Any) -> None:
        own = hierax_config(self)
        for name in _FIELDS:  # None follows from the other fields
            if name != "problem_type" and getattr(self, name) is None:
                setattr(self, name, getattr(own, name))
        self.num_layers, self.hidden_size, self.hidden_sizes = own.stages, own.hidden_size, list(own.dims)
        self.stage_names = list(own.stage_names)
        if own.is_video:
            self.num_frames = own.image_size[0]
        features = others.pop("out_features", None)
        indices = others.pop("out_indices", None)
        self.set_output_features_output_indices(
            out_features=None if features is None else list(features),
            out_indices=None if indices is None or features is not None else list(indices),
        )
        super().__post_init__(**others)

    @classmethod
    def from_hierax(cls, config: HieraConfig, **changes: Any) -> "HieraxConfig":
        """The same configuration for transformers; `changes` are other values for its fields."""
        names = {} if config.id2label == HieraConfig().id2label else {"id2label": dict(config.id2label)}
        stages = [name for name in config.out_features or () if name in config.stage_names]  # here is no neck
        features = {"out_features": stages} if stages else {}
        values = {name: getattr(config, name) for name in _FIELDS}
        asked = ("output_hidden_states", "output_attentions")  # attributes, not fields
        values |= {name: True for name in asked if getattr(config, name, False)}
        return cls(
            **{**values, "license": config.license, "num_labels": config.num_labels, **names, **features, **changes}
        )

    def to_hierax(self) -> HieraConfig:
        """The same configuration as a `hierax.HieraConfig`."""
        return hierax_config(self)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **others: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """See the base class. Model type "hiera" is the same model."""
        values, rest = super().get_config_dict(bundled_or_given(pretrained_model_name_or_path), **others)
        if values and values.get("model_type") == "hiera":
            values = {**values, "model_type": cls.model_type}
        return values, rest


def bundled_or_given(source: Any) -> Any:
    """The folder of a checkpoint that comes with hierax; every other source as it is.

    A folder of the same name without a model does not count, such as `hierax/femto` of a clone of hierax.
    """
    if not isinstance(source, str):
        return source
    if os.path.lexists(source) and (source not in BUNDLED or os.path.isfile(os.path.join(source, "config.json"))):
        return source
    folder = bundled_folder(source)
    return source if folder is None else folder


def hierax_config(config: PreTrainedConfig) -> HieraConfig:
    """The `hierax.HieraConfig` of a configuration of ours in transformers, or of transformers' own `HieraConfig`."""
    fields = {name: getattr(config, name, None) for name in _FIELDS}
    known = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items() if v is not None}
    names = getattr(config, "id2label", None) or {}
    labels: dict[str, Any] = {"id2label": names} if names else {"num_labels": 1}
    return HieraConfig(**known, **labels, license=getattr(config, "license", None))
