"""From a sample to what a step sees of it: decoded, cropped, augmented; keyed by seed, epoch and sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from hierax.data.augment import erase, rand_augment, random_crop, resized
from hierax.data.order import Draw
from hierax.data.sources import Dataset, Sample
from hierax.processing import ImageError, Preprocessing, geometry
from hierax.processing.reading import read_picture
from hierax.processing.resize import resize_crop_fast

_NOISE = 1  # the stream of random numbers that draws masks, apart from that of the augmentation


@dataclass(frozen=True)
class Augmentation:
    """How training sees pictures; arrays are only cropped and flipped.

    Attributes:
        size: pixels per axis of what comes out.
        channels: colour channels, or those of arrays.
        crop_scale: share of the area that a random resized crop takes, lowest and highest; None crops the centre.
        flip: mirror left to right with probability 1/2.
        rand_augment: magnitude and its deviation, or None.
        erasing: probability of random erasing.
        mask_units: how many numbers of mask noise are drawn per sample; 0 for none.
    """

    size: tuple[int, ...]
    channels: int = 3
    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    flip: bool = True
    rand_augment: tuple[float, float] | None = None
    erasing: float = 0.0
    mask_units: int = 0


@dataclass(frozen=True)
class Seen:
    """A sample as a step sees it.

    Attributes:
        pixels: uint8 `[C, H, W]`, or for arrays float32 `[C, *size]`.
        label: as in `Sample`.
        noise: float32 `[mask_units]`, or None.
        name, index: which sample it is.
    """

    pixels: np.ndarray
    label: Any
    noise: np.ndarray | None
    name: str
    index: int


@dataclass(frozen=True)
class Unreadable:
    """A sample that could not be read, and why."""

    name: str
    index: int
    problem: str


class TrainingView:
    """The dataset as training sees it, by `Draw`."""

    def __init__(self, dataset: Dataset, augmentation: Augmentation, *, seed: int) -> None:
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed

    def __getitem__(self, draw: Draw) -> Seen | Unreadable:
        sample = None
        try:
            sample = self.dataset.sample(draw.index)
            pixels = self._pixels(sample, draw.random(self.seed))
        except (OSError, ValueError) as error:  # an ImageError is a ValueError
            return Unreadable(sample.name if sample else f"sample {draw.index}", draw.index, _problem(error))
        units = self.augmentation.mask_units
        noise = draw.random(self.seed, _NOISE).random(units, dtype=np.float32) if units else None
        return Seen(pixels, sample.label, noise, sample.name, draw.index)

    def _pixels(self, sample: Sample, random: np.random.Generator) -> np.ndarray:
        how = self.augmentation
        if self.dataset.arrays:
            return _array_crop(sample, how, random)
        picture = read_picture(sample.content, channels=how.channels, name=sample.name, fast=True)
        pixels = np.asarray(picture)
        pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
        height, width = how.size[-2:]
        if how.crop_scale is not None:
            top, left, h, w = random_crop(random, *pixels.shape[:2], scale=how.crop_scale)
            pixels = pixels[top : top + h, left : left + w]
        pixels = resized(pixels, (height, width))
        if how.flip and random.random() < 0.5:
            pixels = pixels[:, ::-1]
        if how.rand_augment is not None:
            image = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]))
            changed = np.asarray(rand_augment(image, random, magnitude=how.rand_augment[0], std=how.rand_augment[1]))
            pixels = changed if changed.ndim == 3 else changed[:, :, None]
        if how.erasing:
            pixels = erase(pixels, random, probability=how.erasing)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


class EvaluationView:
    """The dataset as evaluation sees it: each picture once, resized and cropped as the record says; by index."""

    def __init__(self, dataset: Dataset, record: Preprocessing, *, size: tuple[int, ...]) -> None:
        self.dataset, self.record, self.size = dataset, record, size

    def __getitem__(self, index: int) -> Seen | Unreadable:
        sample = None
        try:
            sample = self.dataset.sample(index)
            if self.dataset.arrays:
                pixels = _array_crop(sample, Augmentation(self.size, self.record.num_channels, flip=False), None)
            else:
                picture = read_picture(sample.content, channels=self.record.num_channels, name=sample.name, fast=True)
                width, height = picture.size if isinstance(picture, Image.Image) else picture.shape[1::-1]
                plan = geometry(self.record, height=height, width=width)
                part = resize_crop_fast(picture, plan, resample=self.record.resample)
                whole = np.zeros((plan.height, plan.width, part.shape[2]), np.uint8)
                (top, bottom), (left, right) = plan.rows, plan.columns
                whole[top - plan.top : bottom - plan.top, left - plan.left : right - plan.left] = part
                pixels = np.ascontiguousarray(whole.transpose(2, 0, 1))
        except (OSError, ValueError) as error:
            return Unreadable(sample.name if sample else f"sample {index}", index, _problem(error))
        return Seen(pixels, sample.label, None, sample.name, index)


def _problem(error: Exception) -> str:
    text = error.problem if isinstance(error, ImageError) else str(error)
    return " ".join(text.split()) or type(error).__name__


def _array_crop(sample: Sample, how: Augmentation, random: np.random.Generator | None) -> np.ndarray:
    """float32 `[C, *size]`: a part of an array, anywhere if `random` (and maybe mirrored), else at its centre."""
    array = np.asarray(sample.content)
    if array.ndim != len(how.size) + 1 or array.shape[0] != how.channels:
        expected = ", ".join(map(str, (how.channels, *how.size)))
        raise ValueError(f"an array of shape {list(array.shape)}; expected [{expected}] or larger along the last axes")
    for axis, (have, want) in enumerate(zip(array.shape[1:], how.size, strict=True), start=1):
        if have < want:
            raise ValueError(f"an array of shape {list(array.shape)}; at least {want} are needed on axis {axis}")
        start = (have - want) // 2 if random is None else int(random.integers(have - want + 1))
        array = array.take(range(start, start + want), axis) if have != want else array
    if random is not None and how.flip and random.random() < 0.5:
        array = array[..., ::-1]
    return np.ascontiguousarray(array, dtype=np.float32)
