"""hierax's models with timm's methods, and their places in timm's registry."""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# (timm needs torchvision, which is not part of the development environment)

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from timm.models import FeatureInfo, is_model, register_model
from timm.models._builder import resolve_pretrained_cfg
from timm.models._pretrained import DefaultCfg, PretrainedCfg
from torch import Tensor, nn

from hierax.checkpoint.records import list_checkpoints
from hierax.model.config import list_models, variant_config
from hierax.model.layers import Head, init_weights
from hierax.model.pretrained import Pretrained
from hierax.model.tasks import HieraBackbone, HieraForImageClassification

_Model = TypeVar("_Model", bound=Pretrained)
default_cfgs: dict[str, DefaultCfg] = {}
"""timm looks for them here, by the name of a model."""


class FeatureMaps(nn.Module):
    """Maps `[B, C, height, width]` of an image of any size, as timm's `features_only=True` gives them.

    Attributes:
        feature_info: timm's description of the maps: channels, reduction (pixels per cell) and name of each.
    """

    def __init__(self, backbone: HieraBackbone, out_indices: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        config = backbone.config
        stages = [
            {"num_chs": width, "reduction": config.stage_stride(stage)[-1], "module": f"stage{stage + 1}"}
            for stage, width in enumerate(config.dims)
        ]
        self.feature_info = FeatureInfo(stages, out_indices=tuple(out_indices))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of `x` `[B, channels, height, width]`."""
        return list(self.backbone(x).feature_maps)


class Classifier(nn.Module):
    """A classifier with timm's methods: logits `[B, num_classes]`, or with `num_classes=0` the pooled features."""

    def __init__(self, model: HieraForImageClassification, num_classes: int) -> None:
        super().__init__()
        self.model = model
        self.num_features = self.head_hidden_size = model.config.hidden_size
        self._set_classes(num_classes)

    def _set_classes(self, num_classes: int) -> None:
        self.num_classes = num_classes
        if num_classes == 0:
            self.model.head = nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map `[B, height, width, C]`, not normalized."""
        return self.model.encoder(x).grid(self.model.config.stages)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of what `forward_features` gave, or the normalized mean with `pre_logits`."""
        pooled = self.model.norm(x.flatten(1, -2).mean(1))
        return pooled if pre_logits else self.model.head(self.model.dropout(pooled))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x` `[B, channels, height, width]`."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.model.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head with random weights; `global_pool` is accepted if it is "avg"."""
        _check_pooling(global_pool)
        head = Head(self.num_features, max(num_classes, 1)).to(next(self.parameters()))  # its device and precision
        init_weights(head, self.model.config, mae=False)
        self.model.head = head
        self._set_classes(num_classes)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of stages, and before them what `forward_features` gives (not with `intermediates_only`).

        Args:
            indices: stages from 0 or from the end; a number is so many of the last ones; None is all.
            norm: False; the maps are not normalized.
            stop_early: changes nothing.
            output_fmt: "NCHW" or "NHWC".

        Raises:
            ValueError: another value.
        """
        if norm or output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"norm is {norm}, output_fmt is {output_fmt!r}; expected False, and 'NCHW' or 'NHWC'")
        stages = [stage + 1 for stage in _stages(range(4) if indices is None else indices)]
        out = self.model.encoder(x, stages=stages)
        maps = [out.grid(stage) for stage in stages]
        maps = [each.permute(0, 3, 1, 2) if output_fmt == "NCHW" else each for each in maps]
        return maps if intermediates_only else (out.grid(self.model.config.stages), maps)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that sort the parameters by layer, for timm's layer-wise learning rates; with `coarse` by
        stage.
        """
        depths = self.model.config.depths
        first = [sum(depths[:stage]) for stage in range(len(depths))]
        stages = [
            rf"^model\.encoder\.blocks\.(?:{'|'.join(map(str, range(a, a + d)))})\."
            for a, d in zip(first, depths, strict=True)
        ]
        blocks = [(pattern, (stage,)) for stage, pattern in enumerate(stages)]
        each = [(r"^model\.encoder\.blocks\.(\d+)", None)]
        return {"stem": r"^model\.encoder\.(?:patch_embed|pos_embed)", "blocks": blocks if coarse else each}

    def no_weight_decay(self) -> set[str]:
        """Names of the matrices without weight decay: the position embeddings."""
        return {name for name, _ in self.named_parameters() if "pos_embed" in name}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether activations are computed again in the backward pass."""
        self.model.gradient_checkpointing_enable(enable)


def _check_pooling(global_pool: str | None) -> None:
    if global_pool not in (None, "avg"):
        raise ValueError(f"global_pool is {global_pool!r}; expected 'avg', the only pooling of a Hiera")


def _create(
    variant: str,
    pretrained: bool = False,
    *,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] = (0, 1, 2, 3),
    num_classes: int | None = None,
    in_chans: int = 3,
    img_size: int | Sequence[int] | None = None,
    drop_rate: float = 0.0,
    global_pool: str | None = None,
    **overrides: Any,
) -> nn.Module:
    """The model that `timm.create_model` makes; `overrides` are other values for fields of `HieraConfig`."""
    _check_pooling(global_pool)
    published = resolve_pretrained_cfg(f"hierax_{variant}", pretrained_cfg, dict(pretrained_cfg_overlay or {}))
    changes: dict[str, Any] = {"num_channels": in_chans, "dropout": drop_rate, **overrides}
    if img_size is not None:
        changes["image_size"] = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if num_classes:
        changes["num_labels"] = num_classes
    weights = published if pretrained else None
    if features_only:
        stages = _stages(out_indices)
        changes["out_features"] = tuple(f"stage{stage + 1}" for stage in stages)
        made = FeatureMaps(_model(HieraBackbone, variant, weights, cache_dir, changes), stages)
    else:
        model = _model(HieraForImageClassification, variant, weights, cache_dir, changes)
        made = Classifier(model, model.config.num_labels if num_classes is None else num_classes)
    made.pretrained_cfg = made.default_cfg = published.to_dict()
    return made


def _stages(out_indices: int | Sequence[int]) -> list[int]:
    """The stages of `out_indices`: their numbers from 0, or from the end; or as many of the last stages.

    Raises:
        ValueError: there is no such stage, or they are not in order.
    """
    indices = range(-out_indices, 0) if isinstance(out_indices, int) else out_indices
    inside = [index % 4 for index in indices if -4 <= index < 4]
    if not inside or len(inside) < len(indices) or inside != sorted(set(inside)):
        raise ValueError(f"out_indices is {out_indices!r}; expected stages from 0 to 3, each once, in this order")
    return inside


def _model(
    cls: type[_Model], variant: str, published: PretrainedCfg | None, cache_dir: str | None, changes: dict[str, Any]
) -> _Model:
    """The model with the `published` weights, or with random ones."""
    if published is None:
        return cls(variant_config(variant, **changes))
    source = published.file or published.hf_hub_id
    if source is None:
        raise ValueError(f"pretrained is True, and no weights are published for {variant}; expected False")
    return cls.from_pretrained(source, cache_dir=cache_dir, ignore_mismatched_sizes=True, **changes)


def register() -> tuple[str, ...]:
    """Adds hierax's models of images to timm's registry; returns their names.

    With `pretrained=True`, the default weights of a variant are those of `list_checkpoints()`; others are chosen by
    their tag (`timm.list_models("hierax*", pretrained=True)`), or by `pretrained_cfg_overlay={"file": path}`.
    """
    variants = [name for name in list_models("hiera_*") if len(variant_config(name).image_size) == 2]
    for variant in variants:
        function = partial(_create, variant)
        function.__name__, function.__module__ = f"hierax_{variant}", __name__
        default_cfgs[function.__name__] = _default_cfg(variant)
        if not is_model(function.__name__):
            register_model(function)
    return tuple(default_cfgs)


def _default_cfg(variant: str) -> DefaultCfg:
    """timm's description of the weights that are published for a variant, the fine-tuned ones of ImageNet-1k first."""
    side = variant_config(variant).image_size[0]
    records = [r for r in list_checkpoints() if r.variant == variant and r.task == "classification"]
    cfgs: dict[str, PretrainedCfg] = {}
    for record in sorted(records, key=lambda record: -(record.top1 or 0)):
        values = {"num_classes": record.num_labels, "crop_pct": record.crop_pct, "license": record.license}
        cfgs.setdefault(
            record.name.partition(".")[2],
            PretrainedCfg(hf_hub_id=record.hub_id, input_size=(3, side, side), **values),
        )
    cfgs = cfgs or {"": PretrainedCfg(input_size=(3, side, side))}
    return DefaultCfg(tags=deque(cfgs), cfgs=cfgs)
