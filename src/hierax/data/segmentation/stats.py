"""Statistics of images whose pixels have classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hierax.data.dataset import IGNORE, Dataset
from hierax.data.segmentation.dataset import check_size
from hierax.data.segmentation.sources import ClassColors, ClassNames, open_segmentation_splits
from hierax.data.stats import Moments, image_moments, measured
from hierax.notices import notify
from hierax.processing import DEFAULT_MAX_PIXELS, ImageError
from hierax.processing.frames import FIRST_ONLY
from hierax.reprs.markup import html_repr
from hierax.reprs.text import short_repr


@short_repr()
@dataclass(frozen=True)
class SegmentationStatistics:
    """The statistics of images and their masks.

    Attributes:
        samples, readable: number of images with masks, and of those that could be read.
        validation: number of images of the validation set, or None.
        pixels: number of pixels per class, in the order of the class numbers.
        share: the same as a share of all pixels that have a class.
        images: number of images per class that have pixels of it.
        ignored: share of the pixels without a class, of all pixels.
        without_labels: number of images in which no pixel has a class.
        smallest, largest: smallest and largest height and width, in pixels.
        mean, std: mean and standard deviation per channel over all pixels, RGB from 0 to 1.
        unreadable: name and problem of each image whose pixels or mask could not be read.
    """

    samples: int
    readable: int
    validation: int | None
    pixels: dict[str, int]
    share: dict[str, float]
    images: dict[str, int]
    ignored: float
    without_labels: int
    smallest: list[int]
    largest: list[int]
    mean: list[float]
    std: list[float]
    unreadable: list[tuple[str, str]]

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.data.cards import segmentation_statistics

        return segmentation_statistics(self)

    def to_dict(self) -> dict[str, Any]:
        """The values as a dict that can be written as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Measured:
    """The measurements of one image; `counts` are its pixels per value of the target."""

    size: tuple[int, ...]
    counts: np.ndarray
    moments: Moments
    first_only: dict[str, list[str]]


class _Measure:
    """The measurements of images and masks, by index; a name and a problem for those that cannot be read."""

    def __init__(self, dataset: Dataset, max_pixels: int | None) -> None:
        self.dataset, self.max_pixels = dataset, max_pixels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> _Measured | tuple[str, str]:
        sample = None
        try:
            sample = self.dataset.sample(index)
            size, moments = image_moments(sample, self.max_pixels)
            check_size(sample, size[0], size[1])
        except ImageError as error:
            return error.source, error.problem
        except (OSError, ValueError) as error:
            return sample.name if sample else f"sample {index}", str(error)
        assert sample.target is not None
        return _Measured(size, np.bincount(sample.target.ravel(), minlength=256), moments, FIRST_ONLY.take())


def segmentation_statistics(
    source: str | os.PathLike[str],
    *,
    workers: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    columns: Mapping[str, str] | None = None,
    classes: ClassNames = None,
    reduce_labels: bool = False,
    colors: ClassColors = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> SegmentationStatistics:
    """Reads every image of `source` and its mask once, and returns statistics. If there are several sets, it reads the
    training set.

    Args:
        source, columns, classes, reduce_labels, colors: see `open_segmentation`.
        workers: number of reading processes; None: one per core, or 0 if there are few images.
        max_pixels: larger images count as unreadable; None: no limit.
        on_progress: is called with the number of images read so far, and of all.

    Raises:
        ValueError, ImportError: see `open_segmentation`.
    """
    dataset, held = open_segmentation_splits(
        source, fraction=0, seed=0, columns=columns, classes=classes, reduce_labels=reduce_labels, colors=colors
    )
    counts, images = np.zeros(256, np.int64), np.zeros(256, np.int64)
    sizes: list[tuple[int, ...]] = []
    unreadable: list[tuple[str, str]] = []
    moments: Moments | None = None
    without = 0
    FIRST_ONLY.take()  # earlier notes do not belong to this dataset
    for number, found in enumerate(measured(_Measure(dataset, max_pixels), workers), 1):
        if on_progress is not None:
            on_progress(number, len(dataset))
        if isinstance(found, tuple):
            unreadable.append(found)
            continue
        counts += found.counts
        images += found.counts > 0
        without += int(found.counts[IGNORE] == found.counts.sum())
        sizes.append(found.size)
        moments = found.moments if moments is None else moments + found.moments
        FIRST_ONLY.merge(found.first_only)
    for line in FIRST_ONLY.lines():
        notify(line)
    names, axes = dataset.classes, list(zip(*sizes, strict=True))
    labeled, whole = int(counts[: len(names)].sum()), int(counts.sum())
    return SegmentationStatistics(
        samples=len(dataset),
        readable=len(sizes),
        validation=None if held is None else len(held),
        pixels=dict(zip(names, counts.tolist(), strict=False)),
        share=dict(zip(names, (counts / max(labeled, 1)).tolist(), strict=False)),
        images=dict(zip(names, images.tolist(), strict=False)),
        ignored=int(counts[IGNORE]) / max(whole, 1),
        without_labels=without,
        smallest=[min(axis) for axis in axes],
        largest=[max(axis) for axis in axes],
        mean=[] if moments is None else moments.mean.tolist(),
        std=[] if moments is None else moments.std.tolist(),
        unreadable=unreadable,
    )
