"""Runs of detection that start from a model of detection: its head is kept, and the layers of classes it knows."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from hierax.detection.recipes import DetectionRecipe

_HEADS = {"rt_detr": "rt-detr", "d_fine": "d-fine", "mask2former": "mask2former"}
"""The model types of config.json, and the names of the heads."""
_DETECT = {
    "width": "d_model", "queries": "num_queries", "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers", "heads": "decoder_attention_heads", "feedforward": "decoder_ffn_dim",
}  # fmt: skip
_INSTANCES = {
    "width": "hidden_dim", "queries": "num_queries", "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers", "heads": "num_attention_heads", "feedforward": "dim_feedforward",
    "points": "train_num_points",
}  # fmt: skip
_OF_CLASSES = re.compile(
    r"(^|\.)(class_embed\.\d+|enc_score_head|class_predictor|denoising_class_embed)\.(weight|bias)$"
)
_COUNTED = "criterion.empty_weight"  # a value for each class that is not learned


def with_head_of(
    folder: Path, config: Mapping[str, Any], recipe: DetectionRecipe, settings: Sequence[str]
) -> DetectionRecipe:
    """The recipe with the form of the head of the model in `folder`, which a run that starts from it keeps.

    Args:
        config: the content of its config.json.
        settings: what was stated for the run, as `"key=value"`.

    Raises:
        ValueError: a stated setting differs from the model.
    """
    kind = str(config.get("model_type"))
    names = _INSTANCES if kind == "mask2former" else _DETECT
    kept: dict[str, Any] = {"head": _HEADS[kind], **{name: config.get(key) for name, key in names.items()}}
    kept = {name: value for name, value in kept.items() if value is not None}
    for name in (text.partition("=")[0] for text in settings):
        if name in kept and getattr(recipe, name) not in (kept[name], None):
            raise ValueError(
                f"{name} is {getattr(recipe, name)}, but {folder} has {kept[name]}; a run that starts from a model of "
                f"detection keeps its head: leave {name} out, or start from another checkpoint"
            )
    return recipe.replace(**kept)


def with_classes(model: Any, before: Sequence[str], classes: Sequence[str]) -> tuple[Any, str]:
    """The model with other classes, and a note on them. Classes that it knows by name keep their layers."""
    config = copy.deepcopy(model.config)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: number for number, name in enumerate(classes)}
    other = type(model)(config)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != _COUNTED}
    fresh: Mapping[str, Tensor] = other.state_dict()
    for name, old in state.items():
        if _OF_CLASSES.search(name):
            state[name] = _rows_by_name(old, fresh[name].clone(), before, classes)
    other.load_state_dict({**fresh, **state})
    new = [name for name in classes if name not in before]
    if not new:
        return other, f"the model knows all {len(classes)} classes and keeps their layers"
    shown = ", ".join(new[:5]) + (", …" if len(new) > 5 else "")
    return other, f"new (random) layers: those of {len(new)} of {len(classes)} classes, {shown}"


def _rows_by_name(old: Tensor, new: Tensor, before: Sequence[str], classes: Sequence[str]) -> Tensor:
    """The rows of `new`, replaced by those of `old` for the classes in both; a row after the classes is kept."""
    for number, name in enumerate(classes):
        if name in before:
            new[number] = old[before.index(name)]
    for place in range(len(old) - len(before)):  # "no object", or padding
        new[len(classes) + place] = old[len(before) + place]
    return new
