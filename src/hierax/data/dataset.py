"""Datasets as lists of samples; subsets, and datasets with other class numbers."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from hierax.data.labels import Label
from hierax.reprs.text import dataset_repr, short_repr

IGNORE = 255
"""The value of the pixels of a target that have no class. They count neither in the loss nor in scores."""


@dataclass(frozen=True)
class VideoSegment:
    """A segment of a video (a path, or the bytes of a file) from `start` to `end`, in seconds. None means the start or
    the end of the video.
    """

    video: str | bytes
    start: Fraction | None = None
    end: Fraction | None = None


@short_repr()
@dataclass(frozen=True)
class Sample:
    """One entry of a dataset.

    Attributes:
        name: its name in messages and in lists of unreadable files.
        content: a path, the bytes of a file, a Pillow image, an array `[C, *size]` that is not an image, or a segment
            of a video (`VideoSegment`).
        label: the number of its class; float32 `[classes]` if it may have several classes; None without labels.
        target: the class of each pixel of the upright image, uint8 or int64 `[H, W]`; `IGNORE` (255) for none. None
            for data that is not for segmentation.
    """

    name: str
    content: Any
    label: Label | None = None
    target: np.ndarray | None = None


class Dataset(Protocol):
    """A list of samples."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order of their numbers; empty without labels."""
        ...

    @property
    def arrays(self) -> bool:
        """Whether contents are arrays, not images."""
        ...

    @property
    def videos(self) -> bool:
        """Whether contents are segments of videos."""
        ...

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample:
        """The sample at `index`. Raises `ValueError` or `OSError` if it cannot be read."""
        ...

    def labels(self) -> list[int] | None:
        """The class of every sample, in order; None if samples have no class or several."""
        ...


@dataset_repr
@dataclass(frozen=True, eq=False)
class Subset:
    """A subset of a dataset.

    Attributes:
        base: the dataset. `whole` is its former name.
        indices: numbers of the samples in it.
    """

    base: Dataset
    indices: Sequence[int] | np.ndarray

    @property
    def whole(self) -> Dataset:
        """The former name of `base`."""
        return self.base

    @property
    def classes(self) -> tuple[str, ...]:
        """As in `base`."""
        return self.base.classes

    @property
    def arrays(self) -> bool:
        """As in `base`."""
        return self.base.arrays

    @property
    def videos(self) -> bool:
        """As in `base`."""
        return self.base.videos

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        return self.base.sample(int(self.indices[index]))

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        labels_of_base = self.base.labels()
        return None if labels_of_base is None else [labels_of_base[int(i)] for i in self.indices]


class AsImages(Subset):
    """Arrays of a dataset as images: gray levels of 8 or 16 bits, or floats from 0 to 1."""

    @property
    def arrays(self) -> bool:
        """Always false."""
        return False


@dataset_repr
@dataclass(frozen=True, eq=False)
class Relabeled:
    """A dataset with other class numbers.

    Attributes:
        base: the dataset.
        classes: names in order of the new numbers.
        numbers: the new number of each class of `base`.
    """

    base: Dataset
    classes: tuple[str, ...]
    numbers: tuple[int, ...]

    @property
    def arrays(self) -> bool:
        """As in `base`."""
        return self.base.arrays

    @property
    def videos(self) -> bool:
        """As in `base`."""
        return self.base.videos

    def __len__(self) -> int:
        return len(self.base)

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        sample = self.base.sample(index)
        label: Label | None = None
        if isinstance(sample.label, np.ndarray):
            label = np.zeros(len(self.classes), np.float32)
            label[list(self.numbers)] = sample.label
        elif sample.label is not None:
            label = self.numbers[sample.label]
        return Sample(sample.name, sample.content, label, sample.target)

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        labels_of_base = self.base.labels()
        return None if labels_of_base is None else [self.numbers[label] for label in labels_of_base]


def relabel(dataset: Dataset, classes: tuple[str, ...], *, numbered: bool) -> Dataset:
    """The dataset with the class numbers of `classes`, matched by name.

    If that is not possible and `numbered`, they are matched by number, if each class of the dataset has the name of the
    class of its number, or that number as its name.

    Raises:
        ValueError: a class is not in `classes`, or is there twice.
    """
    if dataset.classes == classes or not dataset.classes:
        return dataset
    own = dataset.classes
    number: dict[str, list[int]] = {}
    for i, name in enumerate(classes):
        number.setdefault(_normalize(name), []).append(i)
    found = [number.get(_normalize(name), []) for name in own]
    if all(len(places) == 1 for places in found):
        return Relabeled(dataset, classes, tuple(place for (place,) in found))
    # if all names are numbers, a number is a name: 3 is not the fourth of 0, 1, 2, 9
    numerals = all(name.isdecimal() for name in classes)
    numbers = [{str(i), name} for i, name in enumerate(classes)]
    by_number = len(own) <= len(classes) and all(name in allowed for name, allowed in zip(own, numbers, strict=False))
    if numbered and not numerals and by_number:
        return Relabeled(dataset, classes, tuple(range(len(own))))
    unknown = [name for name, places in zip(own, found, strict=True) if not places]
    if not unknown:
        twice = next(name for name, places in zip(own, found, strict=True) if len(places) > 1)
        raise ValueError(f"there are several classes {_quote(twice)}; expected one of each name")
    more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
    known = ", ".join(map(_quote, classes[:5])) + (", …" if len(classes) > 5 else "")
    raise ValueError(f"unknown classes {', '.join(map(_quote, unknown[:3]))}{more}; known are {known}")


def _normalize(name: str) -> str:
    """A name with its accents in one Unicode form: macOS writes é as two characters in names of folders."""
    return unicodedata.normalize("NFC", name)


def _quote(name: str) -> str:
    """A name, in quotes if it has spaces that would not be visible."""
    return name if name == " ".join(name.split()) else repr(name)
