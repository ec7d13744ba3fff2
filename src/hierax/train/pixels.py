"""How samples become pixels of a run: the preprocessing, its statistics, and the augmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from hierax.data.dataset import Dataset, Sample
from hierax.data.stats import Moments
from hierax.data.view import Augmentation, EvaluationView, Unreadable, check_axes
from hierax.model.config import HieraConfig
from hierax.model.pretrained import Pretrained
from hierax.processing import DEFAULT_MAX_PIXELS, IMAGENET, Preprocessing
from hierax.processing.defaults import default_preprocessing
from hierax.processing.reading import stored_dtype
from hierax.processing.sampling import sampling_of
from hierax.train.modes import mode_of
from hierax.train.settings import Recipe

MAX_MEASURED_SAMPLES = 512
_DEPTHS = 64  # images of which it is checked whether they have 8 bits
"""Most samples that are read for a mean and a standard deviation."""


def measure_mean_and_std(
    dataset: Dataset,
    *,
    size: Sequence[int],
    channels: int,
    exact: bool = False,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over up to 512 samples spread over the dataset.

    They are in gray levels for images, or in the values of the files if `exact`. The standard deviation of a constant
    channel is 1, so that a different value does not become huge.

    Raises:
        ValueError: none of them can be read.
    """
    record = IMAGENET if dataset.arrays else default_preprocessing(size, channels).replace(do_rescale=not exact)
    view = EvaluationView(dataset, record, size=tuple(size), max_pixels=max_pixels)
    step = -(-len(dataset) // MAX_MEASURED_SAMPLES)
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


def record_for(recipe: Recipe, dataset: Dataset, first: Sample, model: Pretrained, notes: list[str]) -> Preprocessing:
    """The preprocessing: the checkpoint's, or one that suits the data, at the model's size; adds notes."""
    config = model.config
    check_axes(dataset, config.image_size)
    record, measure = model.preprocessing, partial(measure_mean_and_std, dataset, max_pixels=recipe.max_pixels)
    if dataset.arrays and record is not None and is_for_arrays(record, config):
        notes.append("arrays are normalized with the mean and standard deviation that the checkpoint was trained with")
    elif dataset.arrays:
        mean, std = measure(size=config.image_size, channels=config.num_channels)
        record = Preprocessing(
            do_resize=False,
            do_center_crop=False,
            do_rescale=False,
            image_mean=mean,
            image_std=std,
            image_dtype=stored_type(first),
        )
    elif _reads_stored_values(dataset, first, record, config):
        notes.append(
            f"images are read with their stored values, {stored_type(first)}; nothing is scaled to gray levels"
        )
        if record is None or not record.takes_values or record.num_channels != config.num_channels:
            record = default_preprocessing(config.image_size, config.num_channels).replace(do_rescale=False)
            mean, std = measure(size=config.image_size, channels=config.num_channels, exact=True)
            record = record.replace(image_mean=mean, image_std=std, image_dtype=stored_type(first))
        if recipe.rand_augment is not None or recipe.erasing:
            notes.append("rand_augment and erasing are for images of 8 bits")
    elif record is None or record.num_channels != config.num_channels or (dataset.videos and not record.num_frames):
        record = default_preprocessing(config.image_size, config.num_channels)
        if config.num_channels != 3:
            mean, std = measure(size=config.image_size, channels=config.num_channels)
            scaled = {"image_mean": tuple(m / 255 for m in mean), "image_std": tuple(s / 255 for s in std)}
            record = record.replace(**scaled)
    if not (dataset.arrays or dataset.videos) and record.do_rescale:
        notes += _notes_on_depth(dataset, first)
    return record if dataset.arrays else record.at(config.image_size[-2:])


def _notes_on_depth(dataset: Dataset, first: Sample) -> list[str]:
    """A note on images of more than 8 bits that are read as 8 bits."""
    if stored_type(first) != "uint8":
        return [f"images of {stored_type(first)} are read as 8 bits; num_channels=1 reads their values as they are"]
    for index in range(0, len(dataset), -(-len(dataset) // _DEPTHS)):
        with suppress(OSError, ValueError):
            sample = dataset.sample(index)
            if (found := stored_type(sample)) != "uint8":
                return [
                    f"warning: {sample.name} has values of {found} and {first.name} of 8 bits: all are read as 8 bits; "
                    "separate them, and num_channels=1 reads the values of more bits as they are"
                ]
    return []


def with_sampling(record: Preprocessing, recipe: Recipe, config: HieraConfig, notes: list[str]) -> Preprocessing:
    """The preprocessing of clips: how many frames, and how far apart; adds a note."""
    stride = recipe.frame_stride or record.sampling_rate
    record = record.replace(num_frames=config.image_size[0], sampling_rate=stride)
    sampling = sampling_of(record)
    rate = float(1 / sampling.step)
    notes.append(f"clips of {sampling.count} frames, {rate:g} a second: {float(sampling.span):.2f} s")
    return record


def stored_type(sample: Sample) -> str | None:
    """The type of a sample's values, "uint8" for images of 8 bits."""
    if isinstance(sample.content, np.ndarray):
        found = str(sample.content.dtype)
        return None if found == "bool" else found
    return stored_dtype(sample.content, name=sample.name)


def _reads_stored_values(dataset: Dataset, first: Sample, record: Preprocessing | None, config: HieraConfig) -> bool:
    """Whether images are read with the values that their files store. This holds for images of more than 8 bits, if
    the model's input is not RGB.
    """
    if dataset.arrays or dataset.videos:
        return False
    if record is not None and record.takes_values:
        return True
    return config.num_channels != 3 and stored_type(first) != "uint8"


def is_for_arrays(record: Preprocessing, config: HieraConfig) -> bool:
    """Whether a record was made by `prepare` for arrays of the model's shape."""
    plain = not (record.do_resize or record.do_center_crop or record.do_rescale)
    return plain and record.do_normalize and record.num_channels == config.num_channels


def pixel_mean_and_std(record: Preprocessing) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of a record in the units of the data: gray levels 0 to 255, or those of arrays."""
    factor = record.rescale_factor if record.do_rescale else 1.0
    if not record.do_normalize:
        return (0.0,) * record.num_channels, (1 / factor,) * record.num_channels
    return tuple(m / factor for m in record.image_mean), tuple(s / factor for s in record.image_std)


def augmentation(
    recipe: Recipe, config: HieraConfig, *, arrays: bool, record: Preprocessing | None = None
) -> Augmentation:
    """The settings of augmentation; for videos, `record` says which frames are used."""
    units = math.prod(config.unit_grid(config.image_size)) if mode_of(recipe).masked else 0
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
