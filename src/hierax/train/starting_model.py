"""The model of a run: built, or loaded and adapted to recipe and data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hierax.checkpoint.adaptation import for_channels
from hierax.checkpoint.bundled import FEMTO, FEMTO_MAE
from hierax.checkpoint.dialects.shapes import PATCH
from hierax.checkpoint.opened import Checkpoint
from hierax.model.config import variant_config
from hierax.model.pretrained import Pretrained
from hierax.model.registry import task_with
from hierax.train.modes import mode_of
from hierax.train.settings import Recipe


def _config_changes(
    recipe: Recipe, size: tuple[int, ...] | None, channels: int, *, multi_label: bool
) -> dict[str, Any]:
    """Fields of the configuration that the recipe and the data decide."""
    mode = mode_of(recipe)
    pretraining = mode.masked
    wanted = {
        "image_size": size,
        "drop_path_rate": recipe.drop_path,
        "dropout": recipe.dropout,
        "mask_ratio": recipe.mask_ratio if pretraining else None,
        "problem_type": None
        if pretraining or mode.targets
        else f"{'multi' if multi_label else 'single'}_label_classification",
    }
    stated = {field: value for field, value in wanted.items() if value is not None}
    changes: dict[str, Any] = {"num_channels": channels, **recipe.overrides, **stated}
    if pretraining:
        changes["normalize_pixel_loss"] = recipe.target == "normalized"
    return changes


def build_starting_model(
    recipe: Recipe,
    classes: tuple[str, ...],
    source: Checkpoint | None,
    size: tuple[int, ...] | None,
    channels: int,
    *,
    multi_label: bool,
) -> tuple[Pretrained, list[str]]:
    """The model that a run starts from, with random weights or those of `source`, and notes on what was changed.

    Args:
        classes: names of the classes, for a classifier.
        size: pixels per axis; None is the architecture's, or the checkpoint's.
        channels: number of channels of the data.
        multi_label: whether a sample may have several classes.

    Raises:
        ValueError: the settings are not possible; or an error of loading.
    """
    changes = _config_changes(recipe, size, channels, multi_label=multi_label)
    if source is not None:
        return _loaded(recipe, classes, source, changes)
    if recipe.freeze:
        raise ValueError(f"freeze is {recipe.freeze!r}, but no weights are loaded; expected 0")
    config = variant_config(recipe.model, **changes)
    task = task_with(mode_of(recipe).part, config)
    if task.labels:
        config = config.replace(num_labels=len(classes), id2label=dict(enumerate(classes)))
    return task.cls(config), []


def _loaded(
    recipe: Recipe, classes: tuple[str, ...], opened: Checkpoint, changes: dict[str, Any]
) -> tuple[Pretrained, list[str]]:
    """The model of a checkpoint, adapted to recipe and data. Its head is kept if the classes are the same."""
    own, channels = opened.config.num_channels, changes.pop("num_channels")
    changes = {"image_size": changes.pop("image_size", None), **changes}
    task, labels = task_with(mode_of(recipe).part, opened.config), dict(enumerate(classes))
    notes = _kept_head(changes, opened) if task.part in opened.parts else []
    new = tuple(part for part in task.parts if part not in opened.parts)
    if task.labels:
        of_a_mae = (
            ("norm",) if "decoder" in opened.parts and "norm" in task.parts else ()
        )  # it normalized fused maps, not the last one
        new = (*new, *of_a_mae)
        if task.part not in opened.parts or dict(opened.config.id2label) != labels:
            changes |= {"num_labels": len(labels), "id2label": labels}
            new = (*new, task.classifier)  # also if there are as many classes as before
    model: Pretrained = task.cls.from_pretrained(opened, reinit=new, **changes)
    license = f", license of the weights: {model.license}" if model.license else ""
    notes = [f"starts from {opened.name}{license}", *notes]
    notes += [line.strip() for line in str(model.loading_report).splitlines()[1:]]
    if own != channels:
        model = with_channels(model, channels)
        notes.append(f"patch embedding: its weights, averaged over {own} channels, are used for each of {channels}")
        if mode_of(recipe).masked:
            notes.append("new (random) layer: the last one of the decoder, which predicts the channels")
    _freeze(model, recipe.freeze)
    wanted, found = variant_config(recipe.model), model.config
    if opened.name not in (FEMTO, FEMTO_MAE) and (wanted.embed_dim, wanted.depths) != (found.embed_dim, found.depths):
        notes.append(f"the recipe names another model, {recipe.model}; the architecture of {opened.name} is used")
    return model, notes


def _kept_head(changes: dict[str, Any], opened: Checkpoint) -> list[str]:
    """Takes out of `changes` what describes another segmentation head than that of the checkpoint, which is kept; a
    note if there was such a thing.
    """
    asked = {name: changes.pop(name) for name in ("segmentation_head", "segmentation_hidden_size") if name in changes}
    own = opened.config.segmentation_head
    others = [f"{name}={value}" for name, value in asked.items() if getattr(opened.config, name) != value]
    return [f"the head of {opened.name}, {own}, is kept; {', '.join(others)} is for new heads"] if others else []


def with_channels(model: Pretrained, channels: int) -> Pretrained:
    """The model for another number of input channels. The patch embedding's weights are averaged over the old channels
    and scaled, so that inputs with equal channels give the same result as before.
    """
    config = model.config.replace(num_channels=channels)
    with torch.device("meta"):
        changed = type(model)(config)
    state: dict[str, Tensor] = dict(model.state_dict())
    state[PATCH] = for_channels(state[PATCH], channels)
    wanted = changed.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if tensor.shape == wanted[name].shape}
    fresh = type(model)(config).state_dict() if len(fitting) < len(wanted) else {}
    changed.load_state_dict({**fresh, **fitting}, assign=True)
    changed.loading_report, changed.preprocessing = model.loading_report, None
    return changed


def _freeze(model: Pretrained, freeze: int | str) -> None:
    """Freezes the embedding and the first stages; "all" freezes all but norm and head."""
    if freeze == 0:
        return
    config = model.config
    if freeze != "all" and not (isinstance(freeze, int) and freeze <= config.stages):
        raise ValueError(f"freeze is {freeze!r}; expected 0 to {config.stages} stages, or 'all'")
    blocks = sum(config.depths if freeze == "all" else config.depths[: int(freeze)])
    for layer, names in enumerate(model.layer_groups()):
        for name in names:
            if layer <= blocks and name.startswith("encoder."):
                parameter: nn.Parameter = model.get_parameter(name)
                parameter.requires_grad_(False)
