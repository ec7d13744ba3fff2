"""From a recipe, data and perhaps a checkpoint to the model to train: sizes, channels, labels, frozen parts."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hierax.checkpoint.opened import Checkpoint, open_checkpoint
from hierax.data.dataset import Dataset, Sample, Subset
from hierax.data.file_lists import FileList
from hierax.data.list_rows import LABELS
from hierax.data.sources import ArrayDataset
from hierax.data.stats import Moments
from hierax.data.tables import LABEL_COLUMNS, TableDataset
from hierax.data.view import Augmentation, EvaluationView, Unreadable
from hierax.model.config import HieraConfig, variant_config
from hierax.model.encoder import visible_units
from hierax.model.mae import check_mae_size
from hierax.model.pretrained import Pretrained
from hierax.processing import DEFAULT_MAX_PIXELS, IMAGENET, Preprocessing
from hierax.processing.reading import stored_dtype
from hierax.processing.record import published
from hierax.processing.sampling import sampling_of
from hierax.train.settings import Recipe
from hierax.train.starting_model import for_videos, model_of
from hierax.train.teacher import Teacher, open_teacher

_STATISTICS_OF = 512  # samples


@dataclass(frozen=True)
class Prepared:
    """A model and how its inputs are made.

    Attributes:
        model: with weights, on the CPU.
        record: preprocessing for evaluation and for the saved folder; for arrays only mean and deviation.
        mean, std: per channel of the data, in gray levels 0 to 255 or in the array's units.
        notes: lines on what was changed to fit the data.
        labeled: whether to learn from labels.
        teacher: the teacher, or None.
    """

    model: Pretrained
    record: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]
    labelled: bool = True
    teacher: Teacher | None = None


def fitted_batch(recipe: Recipe, samples: int, world: int) -> tuple[Recipe, str | None]:
    """The recipe with a batch that the data can fill, and a note if the batch was changed.

    Raises:
        ValueError: there are fewer samples than ranks, or the ranks cannot divide the batch.
    """
    unit = math.lcm(world, recipe.repeats)
    most = samples * recipe.repeats // unit * unit
    if most < 1:
        raise ValueError(f"{samples} samples cannot be shared by {world} ranks")
    if recipe.batch_size > most:
        whole = math.lcm(unit, (recipe.device_batch_size or 1) * world)  # parts of that size and no smaller ones
        most = most // whole * whole or most
        note = f"batch_size {recipe.batch_size} is more than the data has; it is {most}"
        return recipe.replace(batch_size=most), note
    if recipe.batch_size % unit:
        raise ValueError(f"batch_size is {recipe.batch_size}; expected a multiple of {unit} ({world} rank(s))")
    share = recipe.batch_size // world
    each, wanted = share // accumulation(recipe, world), min(recipe.device_batch_size or share, share)
    note = f"batch_size {recipe.batch_size} divides into parts of {each} at most, not of device_batch_size {wanted}"
    return recipe, note if 2 * each <= wanted else None


def accumulation(recipe: Recipe, world: int) -> int:
    """In how many parts a rank's share of a batch is computed."""
    share = recipe.batch_size // world
    most = recipe.device_batch_size or share
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= most)


def statistics(
    dataset: Dataset,
    *,
    size: Sequence[int],
    channels: int,
    exact: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over up to 512 samples spread over the dataset.

    The deviation of a constant channel is 1, so that another value does not become huge. For images, they are in gray
    levels, or in the values of the files if `exact`.

    Raises:
        ValueError: none of them can be read.
    """
    record = IMAGENET if dataset.arrays else convention(size, channels).replace(do_rescale=not exact)
    view = EvaluationView(dataset, record, size=tuple(size), max_pixels=max_pixels)
    step = -(-len(dataset) // _STATISTICS_OF)
    total: Moments | None = None
    problem = ""
    for index in range(0, len(dataset), step):
        seen = view[index]
        if isinstance(seen, Unreadable):
            problem = problem or f"{seen.name}: {seen.problem}"
        else:
            moments = Moments.of(seen.pixels)
            total = moments if total is None else total + moments
    if total is None:
        raise ValueError(f"no sample can be read; the first: {problem}")
    rounding = np.finfo(np.float32).eps * np.abs(total.mean)  # pixels come in float32
    std = np.where(total.std > rounding, total.std, 1.0)
    return tuple(total.mean.tolist()), tuple(std.tolist())


def convention(size: Sequence[int], channels: int) -> Preprocessing:
    """The published preprocessing for images or clips of `size` pixels; of other channels, with levels about 0.5."""
    record = published(size, 3)
    if record is None:
        raise ValueError(f"the model takes inputs of {len(size)} axis; expected a model of images or clips")
    return record if channels == 3 else record.replace(image_mean=(0.5,) * channels, image_std=(0.5,) * channels)


def prepare(
    recipe: Recipe,
    dataset: Dataset,
    *,
    source: str | os.PathLike[str] | None,
    teacher: str | os.PathLike[str] | None = None,
    device: torch.device | None = None,
) -> Prepared:
    """The model of a run, with fresh weights or those of `source`, the statistics of its inputs, and its `teacher`, on
    `device`.

    Raises:
        ValueError: the data does not fit the task or the model; or an error of loading.
    """
    first = _first(dataset)
    opened = None if source is None else open_checkpoint(source)
    teaches = None if teacher is None else _teacher(recipe, dataset, opened, teacher, device or torch.device("cpu"))
    labelled = recipe.task == "finetune" and bool(dataset.classes) and recipe.label_weight > 0
    if recipe.task == "finetune" and teaches is None:
        _check_labels(recipe, dataset, first)
    shape = np.asarray(first.content).shape if dataset.arrays else ()
    # arrays have their own size, which a new model adopts
    size = recipe.image_size or (shape[1:] if source is None and shape else None)
    classes = dataset.classes if labelled or teaches is None else _taught(recipe, teaches)
    several = labelled and _several(first)
    begin = for_videos(opened, size) if dataset.videos and opened is not None else opened
    model, notes = model_of(recipe, classes, begin, size, shape[0] if shape else 3, several=several)
    if begin is not opened:
        notes.append(f"{source} is an image model: it treats all frames alike until it has learned motion")
    if teaches is not None:
        notes.append(teaches.note)
    config = model.config
    if shape:
        fits = (shape[0], len(shape)) == (config.num_channels, config.axes + 1)
    else:
        fits = config.is_video and config.num_channels == 3 if dataset.videos else config.axes == 2
    if not fits:
        kind = f"arrays of shape {list(shape)}" if shape else "videos" if dataset.videos else "images"
        hint = "; image_size=none takes the size of the data" if shape and source is None and recipe.image_size else ""
        raise ValueError(f"the data are {kind}; the model takes {[config.num_channels, *config.image_size]}{hint}")
    if recipe.task == "pretrain":
        notes.append(_masking(config))
    record = _record(recipe, dataset, first, model, notes)
    if dataset.videos:
        stride = recipe.frame_stride or record.sampling_rate
        record = record.replace(num_frames=config.image_size[0], sampling_rate=stride)
        notes.append(_sampled(record))
    if dataset.arrays and recipe.flip is None:
        notes.append("arrays are not mirrored (flip=true does)")
    if dataset.arrays and (recipe.rand_augment is not None or recipe.erasing):
        notes.append("rand_augment and erasing are for images, not for arrays")
    model.preprocessing = record
    if teaches is not None and teaches.features and recipe.teacher_features:
        teaches.measure(EvaluationView(dataset, record, size=config.image_size, max_pixels=recipe.max_pixels))
    return Prepared(model, record, *levels(record), tuple(notes), labelled, teaches)


def _sampled(record: Preprocessing) -> str:
    sampling = sampling_of(record)
    rate = float(1 / sampling.step)
    return f"clips of {sampling.count} frames, {rate:g} a second: {float(sampling.span):.2f} s"


def _check_labels(recipe: Recipe, dataset: Dataset, first: Sample) -> None:
    """Raises `ValueError` if the labels of the data are not enough to learn from."""
    if not dataset.classes:
        teacher = "" if dataset.arrays else ", or a teacher (--teacher)"
        raise ValueError(f"the data has no classes; {labels_beside(dataset)}{teacher}")
    if not recipe.label_weight:
        raise ValueError("label_weight is 0 and there is no teacher, which leaves nothing to learn; expected above 0")
    if len(dataset.classes) < 2 and not _several(first):
        raise ValueError(
            f"the data has one class, {', '.join(dataset.classes)}; fine-tuning takes two or more "
            "(if the classes are folders inside of that one, pass it)"
        )


def _teacher(
    recipe: Recipe,
    dataset: Dataset,
    opened: Checkpoint | None,
    teacher: str | os.PathLike[str],
    device: torch.device,
) -> Teacher:
    """The teacher of a run, checked to have an answer that the run learns."""
    if dataset.arrays or dataset.videos:
        kind = "arrays" if dataset.arrays else "videos"
        raise ValueError(f"{teacher}: a teacher expects images; the data are {kind}")
    size = recipe.image_size
    if size is None:
        own = variant_config(recipe.model) if opened is None else opened.config
        size = own.image_size
    found = open_teacher(teacher, size=size, device=device)
    gives = {"teacher_logits": found.logits, "teacher_features": found.features}
    if not any(count and getattr(recipe, weight) for weight, count in gives.items()):
        listed = " and ".join(f"{weight} is {getattr(recipe, weight):g}" for weight in gives)
        raise ValueError(f"{found.note}; {listed}, which leaves nothing to learn from it")
    return found


def _taught(recipe: Recipe, teacher: Teacher) -> tuple[str, ...]:
    """The classes of a model that learns without labels: the teacher's, if its logits are learned."""
    if not (teacher.logits and recipe.teacher_logits):
        return ("none",)
    return teacher.classes or tuple(f"LABEL_{i}" for i in range(teacher.logits))


def _masking(config: HieraConfig) -> str:
    """A note on the number of visible mask units.

    Raises:
        ValueError: the size is not a multiple of the mask unit, or the ratio hides all units or none.
    """
    check_mae_size(config.image_size, config)
    units = math.prod(config.unit_grid(config.image_size))
    size = "x".join(map(str, config.image_size))
    try:
        shown = visible_units(config, units)
    except ValueError as error:
        raise ValueError(f"{error} (image_size is {size})") from None
    return f"{shown} of {units} mask units are visible (mask_ratio {config.mask_ratio:g}, image_size {size})"


def _record(recipe: Recipe, dataset: Dataset, first: Sample, model: Pretrained, notes: list[str]) -> Preprocessing:
    """The preprocessing: the checkpoint's, or one that suits the data; adds notes."""
    config = model.config
    record, measure = model.preprocessing, partial(statistics, dataset, max_pixels=recipe.max_pixels)
    if dataset.arrays and record is not None and _of_arrays(record, config):
        notes.append("arrays are normalized with the mean and standard deviation that the checkpoint was trained with")
    elif dataset.arrays:
        mean, std = measure(size=config.image_size, channels=config.num_channels)
        record = Preprocessing(
            do_resize=False, do_center_crop=False, do_rescale=False, image_mean=mean, image_std=std,
            image_dtype=stored_type(first),
        )  # fmt: skip
    elif _exact(dataset, first, record, config):
        notes.append(f"images are read as they are stored, {stored_type(first)}; nothing is scaled to gray levels")
        if record is None or not record.takes_values or record.num_channels != config.num_channels:
            record = convention(config.image_size, config.num_channels).replace(do_rescale=False)
            mean, std = measure(size=config.image_size, channels=config.num_channels, exact=True)
            record = record.replace(image_mean=mean, image_std=std, image_dtype=stored_type(first))
        if recipe.rand_augment is not None or recipe.erasing:
            notes.append("rand_augment and erasing are for images of 8 bits")
    elif record is None or record.num_channels != config.num_channels or (dataset.videos and not record.num_frames):
        record = convention(config.image_size, config.num_channels)
        if config.num_channels != 3:
            mean, std = measure(size=config.image_size, channels=config.num_channels)
            scaled = {"image_mean": tuple(m / 255 for m in mean), "image_std": tuple(s / 255 for s in std)}
            record = record.replace(**scaled)
    if not (dataset.arrays or dataset.videos) and record.do_rescale and stored_type(first) != "uint8":
        notes.append(
            f"images of {stored_type(first)} are read as 8 bits; num_channels=1 reads their values as they are"
        )
    return record


def stored_type(sample: Sample) -> str | None:
    """The type of a sample's values, "uint8" for images of 8 bits."""
    if isinstance(sample.content, np.ndarray):
        found = str(sample.content.dtype)
        return None if found == "bool" else found
    return stored_dtype(sample.content, name=sample.name)


def _exact(dataset: Dataset, first: Sample, record: Preprocessing | None, config: HieraConfig) -> bool:
    """Whether images are read with their files' own values: more than 8 bits, for models that do not take RGB."""
    if dataset.arrays or dataset.videos:
        return False
    if record is not None and record.takes_values:
        return True
    return config.num_channels != 3 and stored_type(first) != "uint8"


def _of_arrays(record: Preprocessing, config: HieraConfig) -> bool:
    """Whether a record is one that `prepare` made for arrays such as the model's."""
    plain = not (record.do_resize or record.do_center_crop or record.do_rescale)
    return plain and record.do_normalize and record.num_channels == config.num_channels


def levels(record: Preprocessing) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in units of the data: gray levels 0 to 255, or the units of arrays."""
    factor = record.rescale_factor if record.do_rescale else 1.0
    if not record.do_normalize:
        return (0.0,) * record.num_channels, (1 / factor,) * record.num_channels
    return tuple(m / factor for m in record.image_mean), tuple(s / factor for s in record.image_std)


def labels_beside(dataset: Dataset) -> str:
    """A sentence on the place of labels for this kind of data."""
    whole = dataset.whole if isinstance(dataset, Subset) else dataset
    if isinstance(whole, ArrayDataset):
        return f"fine-tuning takes labels from {Path(whole.path).stem}.labels.npy beside {whole.path}"
    if isinstance(whole, TableDataset):
        known = f"labels are in a column that is called {', '.join(LABEL_COLUMNS)} (--columns label=NAME names another)"
        return f"its columns are {', '.join(whole.columns)}; {known}"
    if isinstance(whole, FileList):
        names = ", ".join(LABELS)
        return f"labels are in a column of the list that is called {names} (--columns label=NAME names another)"
    return (
        "fine-tuning takes a folder of class folders, shards with labels, or a list (.csv) with columns path and label"
    )


def _first(dataset: Dataset) -> Sample:
    """The first readable sample."""
    for index in range(min(len(dataset), _STATISTICS_OF)):
        with contextlib.suppress(OSError, ValueError):
            return dataset.sample(index)
    return dataset.sample(0)  # says what is wrong with it


def _several(sample: Sample) -> bool:
    """Whether several classes may be true of a sample."""
    return isinstance(sample.label, np.ndarray)


def augmentation(
    recipe: Recipe, config: HieraConfig, *, arrays: bool, record: Preprocessing | None = None
) -> Augmentation:
    """The training view of a sample; for videos, `record` says which frames."""
    units = math.prod(config.unit_grid(config.image_size)) if recipe.task == "pretrain" else 0
    exact = not arrays and record is not None and record.takes_values
    values = arrays or exact
    return Augmentation(
        size=config.image_size,
        channels=config.num_channels,
        crop_scale=recipe.crop_scale,
        flip=not arrays if recipe.flip is None else recipe.flip,
        rand_augment=None if values else recipe.rand_augment,
        erasing=0.0 if values else recipe.erasing,
        mask_units=units,
        exact=exact,
        max_pixels=recipe.max_pixels,
        sampling=None if arrays or record is None or record.num_frames is None else sampling_of(record),
    )
