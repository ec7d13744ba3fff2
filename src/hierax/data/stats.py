"""Statistics of a dataset: samples, classes, sizes, mean and standard deviation per channel, unreadable files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from hierax.arguments import check_count
from hierax.data.dataset import Dataset, Sample
from hierax.data.split import predefined_splits
from hierax.devices import available_cores
from hierax.notices import notify
from hierax.processing import DEFAULT_MAX_PIXELS, ImageError
from hierax.processing.decode import open_source, pillow_is_quiet, read_header
from hierax.processing.frames import FIRST_ONLY
from hierax.processing.reading import read_image, stored_dtype
from hierax.reprs.markup import html_repr
from hierax.reprs.text import short_repr
from hierax.sockets import shorten_socket_folder

_LEVELS = np.arange(256, dtype=np.float64)
_FEW = 256
"""Up to this number of samples, reading in this process is faster than starting worker processes."""


@short_repr()
@dataclass(frozen=True)
class DatasetStatistics:
    """The statistics of a dataset.

    Attributes:
        samples, readable: number of samples, and of readable samples.
        validation: number of samples of the validation set, or None.
        classes: number of readable samples per class, in the order of the class numbers; empty without labels. A sample
            with several labels counts for each label above 1/2.
        channels: number of channels of each sample; 3 for images, which are read as RGB.
        modes: number of readable images per color mode of the file (as named by Pillow), the most frequent first;
            "array" for arrays of colors. Empty for arrays that are not images.
        types: number of readable samples per numpy dtype: "uint8", "uint16", "float32", ….
        smallest, largest: smallest and largest length per axis, in pixels.
        mean, std: mean and standard deviation per channel over all values. Images are RGB from 0 to 1: transparent
            images are drawn on white, and gray becomes three equal channels.
        unreadable: name and problem of each unreadable sample.
    """

    samples: int
    readable: int
    validation: int | None
    classes: dict[str, int]
    channels: int
    modes: dict[str, int]
    types: dict[str, int]
    smallest: list[int]
    largest: list[int]
    mean: list[float]
    std: list[float]
    unreadable: list[tuple[str, str]]

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.data.cards import statistics

        return statistics(self)

    def to_dict(self) -> dict[str, Any]:
        """The values as a dict that can be written as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Moments:
    """Moments of values per channel: their number, their mean, and the sum of squared distances from the mean.

    Addition uses the difference of the means, because a plain sum of squares is not precise if the mean is large.
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, array: np.ndarray) -> Moments:
        """The moments of an array `[C, *size]`."""
        flat = array.reshape(len(array), -1).astype(np.float64)
        mean = flat.mean(1)
        return cls(flat.shape[1], mean, np.square(flat - mean[:, None]).sum(1))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        share, apart = other.count / count, other.mean - self.mean
        squares = self.squares + other.squares + apart**2 * self.count * share
        return Moments(count, self.mean + apart * share, squares)

    @property
    def std(self) -> np.ndarray:
        """The standard deviation per channel, over all values."""
        return np.sqrt(self.squares / self.count)


@dataclass(frozen=True)
class _Measured:
    """The measurements of one sample."""

    name: str
    size: tuple[int, ...]
    classes: tuple[int, ...]
    moments: Moments
    mode: str | None
    kind: str
    first_only: dict[str, list[str]]


class _Measure:
    """The measurements of the samples of a dataset, by index; a name and a problem for unreadable samples."""

    def __init__(self, dataset: Dataset, max_pixels: int | None) -> None:
        self.dataset, self.max_pixels = dataset, max_pixels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> _Measured | tuple[str, str]:
        sample = None
        try:
            sample = self.dataset.sample(index)
            size, moments = _array_moments(sample) if self.dataset.arrays else image_moments(sample, self.max_pixels)
            mode = None if self.dataset.arrays else _mode(sample)
            kind = stored_dtype(sample.content, name=sample.name)
        except (OSError, ValueError) as error:
            problem = error.problem if isinstance(error, ImageError) else str(error)
            return sample.name if sample else f"sample {index}", problem
        several = np.atleast_1d(sample.label) if sample.label is not None else np.zeros(0)
        classes = np.flatnonzero(several > 0.5) if isinstance(sample.label, np.ndarray) else several
        return _Measured(sample.name, size, tuple(int(c) for c in classes), moments, mode, kind, FIRST_ONLY.take())


class _Totals:
    """What the samples measured so far have in total."""

    def __init__(self, classes: int) -> None:
        self.classes = np.zeros(classes, np.int64)
        self.sizes: list[tuple[int, ...]] = []
        self.modes: Counter[str] = Counter()
        self.types: Counter[str] = Counter()
        self.moments: Moments | None = None

    def add(self, found: _Measured) -> None:
        """Raises `ValueError` for a sample with another number of channels or axes than the first one."""
        before, channels = self.moments, len(found.moments.mean)
        if before is not None and (channels, len(found.size)) != (len(before.mean), len(self.sizes[0])):
            raise ValueError(
                f"{found.name} has {channels} channels and {len(found.size)} axes, others {len(before.mean)} and "
                f"{len(self.sizes[0])}; expected the same for all"
            )
        self.moments = found.moments if before is None else before + found.moments
        self.sizes.append(found.size)
        self.modes.update(() if found.mode is None else (found.mode,))
        self.types[found.kind] += 1
        self.classes[list(found.classes)] += 1


def dataset_statistics(
    source: str | os.PathLike[str],
    *,
    workers: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    columns: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> DatasetStatistics:
    """Reads every sample of `source` once, and returns statistics. If there are several sets, it reads the training
    set.

    Args:
        source: a source for `open_dataset`, or a folder with `train/`.
        workers: number of reading processes; None: one per core, or 0 if there are few samples.
        max_pixels: larger images count as unreadable; None: no limit.
        columns: see `open_dataset`.
        on_progress: is called with the number of samples read so far, and of all.

    Raises:
        ValueError: see `open_dataset`; or arrays have different numbers of channels; or the data is videos.
    """
    if workers is not None:
        check_count("workers", workers, least=0)
    dataset, held = predefined_splits(source, columns=columns)
    if dataset.videos:
        raise ValueError(f"{source} holds videos; expected images or arrays")
    total, unreadable = _Totals(len(dataset.classes)), list[tuple[str, str]]()
    FIRST_ONLY.take()  # earlier notes do not belong to this dataset
    for number, found in enumerate(measured(_Measure(dataset, max_pixels), workers), 1):
        if on_progress is not None:
            on_progress(number, len(dataset))
        if isinstance(found, tuple):
            unreadable.append(found)
        else:
            total.add(found)
            FIRST_ONLY.merge(found.first_only)
    for line in FIRST_ONLY.lines():
        notify(line)
    axes, moments = list(zip(*total.sizes, strict=True)), total.moments
    return DatasetStatistics(
        samples=len(dataset),
        readable=len(total.sizes),
        validation=None if held is None else len(held),
        classes=dict(zip(dataset.classes, total.classes.tolist(), strict=True)),
        channels=0 if moments is None else len(moments.mean),
        modes=dict(total.modes.most_common()),
        types=dict(total.types.most_common()),
        smallest=[min(axis) for axis in axes],
        largest=[max(axis) for axis in axes],
        mean=[] if moments is None else moments.mean.tolist(),
        std=[] if moments is None else moments.std.tolist(),
        unreadable=unreadable,
    )


stats = dataset_statistics  # `hierax.stats`: the name of its command


class Measure(Protocol):
    """The measurements of samples, by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def measured(measure: Measure, workers: int | None) -> Iterator[Any]:
    """The measurements of all samples, in order.

    Args:
        measure: measures one sample.
        workers: number of processes; None: one per core, or 0 if there are few samples.
    """
    if workers is None:
        workers = available_cores() if len(measure) > _FEW else 0
    if not workers:
        return (measure[index] for index in range(len(measure)))
    shorten_socket_folder()
    from torch.utils.data import DataLoader  # its processes end with this one; the import pays for many samples only

    samples: Any = measure
    return iter(DataLoader(samples, batch_size=None, num_workers=workers, prefetch_factor=16, collate_fn=_as_it_is))


def _as_it_is(found: Any) -> Any:
    """Replaces the conversion of PyTorch, which converts tuples to lists."""
    return found


def _array_moments(sample: Sample) -> tuple[tuple[int, ...], Moments]:
    """The size, and the moments per channel, of an array."""
    array = np.asarray(sample.content, dtype=np.float64)
    if array.ndim < 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"an array of shape {list(array.shape)}; expected finite numbers [channels, *size]")
    return array.shape[1:], Moments.of(array)


def _mode(sample: Sample) -> str:
    """The color mode of an image as it is stored, with "+transparency" for a transparent palette entry or key color."""
    image = sample.content
    if isinstance(image, (str, bytes, os.PathLike)):
        with open_source(image, name=sample.name) as stream, pillow_is_quiet():
            try:
                return _named(read_header(stream, name=sample.name, max_pixels=None))
            except ImageError:  # Pillow does not read this file
                return "array"
    return _named(image) if isinstance(image, Image.Image) else "array"


def _named(image: Image.Image) -> str:
    return image.mode + "+transparency" * ("transparency" in image.info)


def image_moments(sample: Sample, max_pixels: int | None) -> tuple[tuple[int, ...], Moments]:
    """The size, and the moments per channel, of an image with values from 0 to 1. It counts the gray levels."""
    image = read_image(sample.content, channels=3, name=sample.name, fast=True, max_pixels=max_pixels)
    pixels = np.asarray(image)
    if isinstance(image, Image.Image) or pixels.dtype == np.uint8:
        levels = np.stack([np.bincount(pixels[:, :, c].ravel(), minlength=256) for c in range(3)])
        mean = levels @ _LEVELS / levels.sum(1)
        squares = (levels * np.square(_LEVELS - mean[:, None])).sum(1)
        return pixels.shape[:2], Moments(pixels.shape[0] * pixels.shape[1], mean / 255, squares / 255**2)
    return _array_moments(Sample(sample.name, np.moveaxis(pixels, -1, 0)))
