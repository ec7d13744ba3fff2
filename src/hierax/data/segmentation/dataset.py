"""Images with masks as a dataset: each sample has a target, the class of each pixel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hierax.data.dataset import Dataset, Relabeled, Sample, Subset
from hierax.data.segmentation.masks import Mask
from hierax.data.segmentation.numbering import Numbering
from hierax.processing import ImageError
from hierax.reprs.text import dataset_repr


class MaskedImages(Protocol):
    """Images and their masks, as they are stored."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The name of an image."""
        ...

    def mask_name(self, index: int) -> str:
        """The name of its mask in errors."""
        ...

    def image(self, index: int) -> Any:
        """A path, the bytes of a file, or a Pillow image."""
        ...

    def mask(self, index: int) -> Mask:
        """Its mask. Raises `ImageError`, a `ValueError`, if it cannot be read or does not fit the image."""
        ...


@dataset_repr
@dataclass(frozen=True, eq=False)
class SegmentationDataset:
    """Images and the class of each of their pixels.

    Attributes:
        images: the images and their masks.
        numbering: how the values of masks become classes.
        classes: names of the classes; numbers as text if no names are known.
        palette: uint8 `[classes, 3]`, a color for each class that the data states; None if it states none.
    """

    images: MaskedImages
    numbering: Numbering
    classes: tuple[str, ...]
    palette: np.ndarray | None = None
    arrays: bool = field(default=False, init=False)
    videos: bool = field(default=False, init=False)

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int) -> Sample:
        """See `Dataset`. The target is uint8 `[H, W]`; a mask that cannot be read is a `ValueError` that names it."""
        target = self.numbering.classes_of(self.images.mask(index), name=self.images.mask_name(index))
        return Sample(self.images.name(index), self.images.image(index), None, target)

    def labels(self) -> list[int] | None:
        """None: images have no class as a whole."""
        return None


def segmentation_of(dataset: Dataset) -> SegmentationDataset | None:
    """The segmentation dataset that a dataset is, or is a subset of; None for others."""
    while isinstance(dataset, (Subset, Relabeled)):
        dataset = dataset.base
    return dataset if isinstance(dataset, SegmentationDataset) else None


def has_targets(dataset: Dataset) -> bool:
    """Whether the samples of a dataset, or of a subset of one, have targets."""
    return segmentation_of(dataset) is not None


def palette_of(dataset: Dataset) -> np.ndarray | None:
    """The colors of the classes, uint8 `[classes, 3]`; None if the data states none."""
    found = segmentation_of(dataset)
    return None if found is None else found.palette


def check_size(sample: Sample, height: int, width: int) -> None:
    """Raises `ImageError` if the target of a sample has another size than its upright image."""
    if sample.target is not None and sample.target.shape != (height, width):
        raise size_error(sample.name, (height, width), sample.target.shape)


def size_error(name: str, image: tuple[int, ...], mask: tuple[int, ...]) -> ImageError:
    """The error for an image and a mask of different sizes, each as height and width."""
    return ImageError(
        name, f"the image has {image[1]} x {image[0]} pixels, its mask {mask[1]} x {mask[0]}; expected the same size"
    )
