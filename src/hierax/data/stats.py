"""What is in a dataset: samples, classes, sizes, mean and deviation per channel, what cannot be read."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from hierax.data.sources import Sample, open_dataset
from hierax.processing import ImageError
from hierax.processing.reading import read_picture


@dataclass(frozen=True)
class DatasetStatistics:
    """A dataset, counted.

    Attributes:
        samples, readable: how many there are, and how many can be read.
        classes: samples by class; empty without labels.
        channels: of each sample.
        smallest, largest: shortest and longest length per axis, in pixels.
        mean, std: per channel over all values, in 0 to 1 for pictures.
        unreadable: names and problems.
    """

    samples: int
    readable: int
    classes: dict[str, int]
    channels: int
    smallest: list[int]
    largest: list[int]
    mean: list[float]
    std: list[float]
    unreadable: list[tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def dataset_statistics(source: str | os.PathLike[str]) -> DatasetStatistics:
    """Reads every sample of `source` once.

    Raises:
        ValueError: what `open_dataset` raises; arrays of several channel counts.
    """
    dataset = open_dataset(source)
    classes: Counter[str] = Counter()
    unreadable: list[tuple[str, str]] = []
    sizes: list[tuple[int, ...]] = []
    count, total, squares = 0, np.zeros(0), np.zeros(0)
    for index in range(len(dataset)):
        sample = None
        try:
            sample = dataset.sample(index)
            values = _values(sample, arrays=dataset.arrays)
        except (OSError, ValueError) as error:
            problem = error.problem if isinstance(error, ImageError) else str(error)
            unreadable.append((sample.name if sample else f"sample {index}", problem))
            continue
        if not count:
            total, squares = np.zeros(len(values)), np.zeros(len(values))
        if len(values) != len(total):
            raise ValueError(f"{sample.name} has {len(values)} channels, others {len(total)}")
        flat = values.reshape(len(values), -1)
        count += flat.shape[1]
        total += flat.sum(1, dtype=np.float64)
        squares += (flat.astype(np.float64) ** 2).sum(1)
        sizes.append(values.shape[1:])
        if isinstance(sample.label, (int, np.integer)) and dataset.classes:
            classes[dataset.classes[int(sample.label)]] += 1
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    axes = list(zip(*sizes, strict=True)) if sizes else []
    return DatasetStatistics(
        samples=len(dataset),
        readable=len(sizes),
        classes=dict(sorted(classes.items())),
        channels=len(total),
        smallest=[int(min(axis)) for axis in axes],
        largest=[int(max(axis)) for axis in axes],
        mean=mean.tolist(),
        std=std.tolist(),
        unreadable=unreadable,
    )


def _values(sample: Sample, *, arrays: bool) -> np.ndarray:
    """float32 `[C, *size]`: an array as it is, a picture in 0 to 1."""
    if arrays:
        return np.asarray(sample.content, dtype=np.float32)
    picture = read_picture(sample.content, channels=3, name=sample.name, fast=True)
    pixels = np.asarray(picture) if isinstance(picture, Image.Image) else picture
    return np.moveaxis(pixels, -1, 0).astype(np.float32) / 255
