"""Makes the model of a run from a recipe, data and perhaps a checkpoint, and decides how its inputs are made."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hierax.checkpoint.inflation import inflate_for_videos
from hierax.checkpoint.opened import Checkpoint, open_checkpoint
from hierax.console import quantity
from hierax.data.arrays import check_channels_first
from hierax.data.dataset import Dataset, Sample
from hierax.data.view import EvaluationView
from hierax.model.config import HieraConfig, variant_config
from hierax.model.encoder import visible_units
from hierax.model.mae import check_mae_size
from hierax.model.pretrained import Pretrained
from hierax.processing import Preprocessing
from hierax.train.adapters import RunAdapter, check_adapter, plan_adapter
from hierax.train.class_weights import class_weights_for
from hierax.train.labels import check_labels, check_targets, is_multi_label
from hierax.train.modes import mode_of
from hierax.train.pixels import MAX_MEASURED_SAMPLES, pixel_mean_and_std, record_for, stored_type, with_sampling
from hierax.train.settings import Recipe
from hierax.train.starting_model import build_starting_model
from hierax.train.teacher import Teacher, open_teacher


@dataclass(frozen=True)
class PreparedRun:
    """A model and how its inputs are made.

    Attributes:
        model: the model with its weights, on the CPU.
        record: preprocessing for evaluation, saved with the model; for arrays, only mean and standard deviation apply.
        mean, std: per channel of the data, in gray levels 0 to 255 or in the array's units.
        notes: sentences for the user on what was changed to fit the data.
        labeled: whether to learn from labels.
        teacher: the teacher, or None.
        adapter: the adapter that is trained, or None.
        class_weights: float32 `[classes]`, the weight of each class in the loss, or None.
    """

    model: Pretrained
    record: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]
    labeled: bool = True
    teacher: Teacher | None = None
    adapter: RunAdapter | None = None
    class_weights: Tensor | None = None


def prepare(
    recipe: Recipe,
    dataset: Dataset,
    *,
    source: str | os.PathLike[str] | None,
    teacher: str | os.PathLike[str] | None = None,
    device: torch.device | None = None,
) -> PreparedRun:
    """The model of a run, with random weights or those of `source`, how its inputs are made, and its `teacher`, on
    `device` (None: the CPU).

    Raises:
        ValueError: the data does not fit the task or the model; or an error of loading.
    """
    check_adapter(recipe, source)
    mode, first = mode_of(recipe), _first_readable(dataset)
    opened = None if source is None else open_checkpoint(source)
    network = None if teacher is None else _load_teacher(recipe, dataset, opened, teacher, device)
    labeled = mode.supervised and bool(dataset.classes) and recipe.label_weight > 0
    if mode.targets:
        check_targets(dataset, first)
    elif mode.supervised and network is None:
        check_labels(recipe, dataset, first)
    classes = dataset.classes if labeled or network is None else _teacher_classes(recipe, network)
    model, notes = _load_model(recipe, dataset, first, opened, classes, multi_label=labeled and is_multi_label(first))
    adapter = None
    if recipe.adapter is not None:
        assert opened is not None  # checked before
        adapter = plan_adapter(recipe, model, opened, labeled=labeled)
        adapter.insert(model)
        notes.append(adapter.note(model))
    if network is not None:
        notes.append(network.note)
    _check_fit(recipe, dataset, first, model.config, fresh=source is None)
    if mode.masked:
        notes.append(_masking_note(model.config))
    record = record_for(recipe, dataset, first, model, notes)
    if mode.targets:  # nothing is cropped, so that every pixel of a target has a logit
        record = record.whole(min(model.config.image_size))
    if dataset.videos:
        record = with_sampling(record, recipe, model.config, notes)
    if dataset.arrays:
        channels, *size = _array_shape(dataset, first)
        notes.append(f"arrays of {quantity(channels, 'channel')}, each of {'x'.join(map(str, size))} values")
        notes += _unused_augmentation(recipe)
    model.preprocessing = record
    if network is not None:
        _check_teacher(network, record)
    if network is not None and network.features and recipe.teacher_features:
        network.measure(EvaluationView(dataset, record, size=model.config.image_size, max_pixels=recipe.max_pixels))
    weights = class_weights_for(recipe, dataset, pixels=mode.targets) if labeled else None
    return PreparedRun(model, record, *pixel_mean_and_std(record), tuple(notes), labeled, network, adapter, weights)


def _load_model(
    recipe: Recipe,
    dataset: Dataset,
    first: Sample,
    opened: Checkpoint | None,
    classes: tuple[str, ...],
    *,
    multi_label: bool,
) -> tuple[Pretrained, list[str]]:
    """The model for data of this kind and size, and notes on what was changed."""
    shape = _array_shape(dataset, first)
    _check_axes(recipe, dataset, first, opened)
    # arrays have their own size, which a new model adopts
    size = recipe.image_size or (shape[1:] if opened is None and shape else None)
    begin = inflate_for_videos(opened, size) if dataset.videos and opened is not None else opened
    channels = shape[0] if shape else opened.config.num_channels if opened is not None and not dataset.videos else 3
    model, notes = build_starting_model(recipe, classes, begin, size, channels, multi_label=multi_label)
    if opened is not None and begin is not opened:
        notes.append(
            f"{opened.name} is an image model: it treats all frames in the same way until it has learned motion"
        )
    return model, notes


def _check_axes(recipe: Recipe, dataset: Dataset, first: Sample, opened: Checkpoint | None) -> None:
    """Raises `ValueError` if a stated size has other axes than the model: it or the model is not for the data. A model
    of these axes is left to `_check_fit`.
    """
    shape, size = _array_shape(dataset, first), recipe.image_size
    if size is None or (opened is None and shape):  # a new model for arrays has the axes of the size
        return
    config = variant_config(recipe.model) if opened is None else opened.config
    if len(size) == (3 if dataset.videos and opened is not None else config.axes):  # image models learn clips
        return
    expected = shape[1:] or ((16, 64, 64) if dataset.videos else (64, 64))
    if len(size) == len(expected):
        raise ValueError(_unfit(dataset, shape, config))
    hint = ", or image_size=none, which takes the size of the data" if shape else ""
    raise ValueError(
        f"image_size is {'x'.join(map(str, size))}, but the data are {_kind(dataset, shape)}; expected for example "
        f"image_size={','.join(map(str, expected))}{hint}"
    )


def _kind(dataset: Dataset, shape: tuple[int, ...]) -> str:
    return f"arrays of shape {list(shape)}" if shape else "videos" if dataset.videos else "images"


def _unfit(dataset: Dataset, shape: tuple[int, ...], config: HieraConfig) -> str:
    return f"the data are {_kind(dataset, shape)}; the model takes {[config.num_channels, *config.image_size]}"


def _array_shape(dataset: Dataset, first: Sample) -> tuple[int, ...]:
    """Channels and size of the arrays; empty for images and videos."""
    return np.asarray(first.content).shape if dataset.arrays else ()


def _check_fit(recipe: Recipe, dataset: Dataset, first: Sample, config: HieraConfig, *, fresh: bool) -> None:
    """Raises `ValueError` if the model does not take data of this kind."""
    shape = _array_shape(dataset, first)
    if shape:
        check_channels_first(shape, name=first.name)
        fits = (shape[0], len(shape)) == (config.num_channels, config.axes + 1)
    else:
        fits = config.is_video and config.num_channels == 3 if dataset.videos else config.axes == 2
    if not fits:
        hint = "; image_size=none takes the size of the data" if shape and fresh and recipe.image_size else ""
        raise ValueError(f"{_unfit(dataset, shape, config)}{hint}")


def _unused_augmentation(recipe: Recipe) -> list[str]:
    """Notes on the augmentation that arrays do not get."""
    notes = []
    if recipe.flip is None:
        notes.append("arrays are not mirrored (flip=true does)")
    if recipe.rand_augment is not None or recipe.erasing:
        notes.append("rand_augment and erasing are for images, not for arrays")
    return notes


def _load_teacher(
    recipe: Recipe,
    dataset: Dataset,
    opened: Checkpoint | None,
    teacher: str | os.PathLike[str],
    device: torch.device | None,
) -> Teacher:
    """The teacher of a run; checks that it has outputs that the run learns."""
    if dataset.arrays or dataset.videos:
        kind = "arrays" if dataset.arrays else "videos"
        raise ValueError(f"{teacher}: a teacher expects images; the data are {kind}")
    size = recipe.image_size
    if size is None:
        own = variant_config(recipe.model) if opened is None else opened.config
        size = own.image_size
    found = open_teacher(teacher, size=size, device=device or torch.device("cpu"))
    gives = {"teacher_logits": found.logits, "teacher_features": found.features}
    if not any(count and getattr(recipe, weight) for weight, count in gives.items()):
        listed = " and ".join(f"{weight} is {getattr(recipe, weight):g}" for weight in gives)
        raise ValueError(f"{found.note}; {listed}, so nothing is learned from it")
    return found


def _check_teacher(teacher: Teacher, record: Preprocessing) -> None:
    """Raises `ValueError` if the teacher does not take the pixels that the model gets. A teacher of three channels
    takes gray images too: as three equal channels.
    """
    if teacher.channels not in (record.num_channels, 3 if record.num_channels == 1 else record.num_channels):
        raise ValueError(
            f"teacher {teacher.name} takes {quantity(teacher.channels, 'channel')}, the model {record.num_channels}; "
            f"expected the same (num_channels={teacher.channels})"
        )
    if teacher.takes_values != record.takes_values:
        kinds = {True: "values as they are stored", False: "gray levels of 8 bits"}
        raise ValueError(
            f"teacher {teacher.name} takes {kinds[teacher.takes_values]}, the model {kinds[record.takes_values]}; "
            "expected the same"
        )


def _teacher_classes(recipe: Recipe, teacher: Teacher) -> tuple[str, ...]:
    """The classes of a model that learns without labels: the teacher's, if its logits are learned."""
    if not (teacher.logits and recipe.teacher_logits):
        return ("none",)
    return teacher.classes or tuple(f"LABEL_{i}" for i in range(teacher.logits))


def _masking_note(config: HieraConfig) -> str:
    """A note on the number of visible mask units.

    Raises:
        ValueError: the size is not a multiple of the mask unit, or the ratio hides all units or none.
    """
    check_mae_size(config.image_size, config, name="image_size")
    units = math.prod(config.unit_grid(config.image_size))
    size = "x".join(map(str, config.image_size))
    try:
        shown = visible_units(config, units)
    except ValueError as error:
        raise ValueError(f"{error} (image_size is {size})") from None
    return f"{shown} of {units} mask units are visible (mask_ratio {config.mask_ratio:g}, image_size {size})"


def _first_readable(dataset: Dataset) -> Sample:
    """The first readable sample."""
    for index in range(min(len(dataset), MAX_MEASURED_SAMPLES)):
        with contextlib.suppress(OSError, ValueError):
            sample = dataset.sample(index)
            if not (dataset.arrays or dataset.videos):
                stored_type(sample)  # it opens the file
            return sample
    return dataset.sample(0)  # raises the error of the unreadable sample, or the caller meets it
