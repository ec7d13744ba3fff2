"""Images with annotated objects, as the readers of COCO files and YOLO folders return them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from hierax.notices import notify
from hierax.processing import DEFAULT_MAX_PIXELS, ImageError, load_image
from hierax.processing.color import orientation, stored_size, to_rgb
from hierax.processing.decode import decode, open_source, pillow_is_quiet, read_header
from hierax.reprs.text import dataset_repr, short_repr

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels."""
MOST_NUMBERS = 100_000
"""Numbers of classes without names are below this: larger ones are a mistake, and would fill the memory."""
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


@short_repr(changed=True)
@dataclass(frozen=True)
class ObjectAnnotation:
    """An object in an image.

    Attributes:
        box: left, top, width and height in pixels, as the data states them: it may reach outside of the image.
        label: the number of its class, from 0.
        area: its area in pixels, by which COCO tells small, medium and large objects.
        crowd: whether it is a group of objects. It is not learned, and only evaluation uses it.
        segmentation: polygons `[[x, y, x, y, …], …]` or a run-length encoding of COCO; None for a box alone.
    """

    box: Box
    label: int
    area: float
    crowd: bool = False
    segmentation: Any = None

    def inside(self, width: int, height: int) -> Box | None:
        """The part of the box that lies in an image of this size; None if it has no area."""
        left, top, wide, high = self.box
        right, bottom = min(left + wide, width), min(top + high, height)
        left, top = max(left, 0.0), max(top, 0.0)
        return None if right <= left or bottom <= top else (left, top, right - left, bottom - top)


@short_repr(changed=True)
@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its objects.

    Attributes:
        path: the file.
        id: the number of the image in its COCO file, or its position in a folder.
        width, height: pixels, in the frame of the annotations.
        objects: its objects; an image without objects is an example of background.
        as_stored: the annotations belong to the pixels as they are stored, without the rotation of EXIF.
        read: returns the content of the file, or its path, if it is a cell of a table; None reads `path`.
    """

    path: str
    id: int
    width: int
    height: int
    objects: tuple[ObjectAnnotation, ...] = ()
    as_stored: bool = False
    read: Callable[[], Any] | None = None

    def load(self, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Image.Image:
        """The pixels in RGB, in the frame of the annotations.

        Raises:
            ImageError: the image cannot be read, or has another size than its annotations.
        """
        source = self.path if self.read is None else self.read()
        if self.as_stored:
            image = to_rgb(decode(source, name=self.path, max_pixels=max_pixels), name=self.path)
        else:
            try:
                image = load_image(source, max_pixels=max_pixels)
            except ImageError as error:
                raise ImageError(self.path, error.problem) from None
        if image.size != (self.width, self.height):  # a TIFF is always upright, and files may change
            found = f"{image.width} x {image.height} pixels"
            raise ImageError(self.path, f"has {found}; its annotations are for {self.width} x {self.height}")
        return image


@dataset_repr
@dataclass(frozen=True)
class DetectionDataset:
    """Images with annotated objects.

    Attributes:
        name: the source, for messages.
        images: the images.
        classes: the names of the classes, by number.
        category_ids: the number of each class in the COCO file, or in YOLO's label files.
        unreadable: names of images that were left out, each with the reason.
    """

    name: str
    images: tuple[AnnotatedImage, ...]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    unreadable: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def objects(self) -> int:
        """The number of objects that can be learned: no crowds."""
        return sum(not found.crowd for image in self.images for found in image.objects)

    @property
    def has_masks(self) -> bool:
        """Whether an object has a polygon or mask."""
        return any(found.segmentation is not None for image in self.images for found in image.objects)

    def subset(self, indices: Sequence[int]) -> DetectionDataset:
        """The images at these positions."""
        return dataclasses.replace(self, images=tuple(self.images[i] for i in indices))

    def with_classes(self, classes: Sequence[str], category_ids: Sequence[int]) -> DetectionDataset:
        """The same images, with these classes. Classes are matched by their names.

        Raises:
            ValueError: an object has another class; the message names the class.
        """
        number = {name: i for i, name in enumerate(classes)}
        used = {found.label for image in self.images for found in image.objects}
        unknown = [self.classes[label] for label in sorted(used) if self.classes[label] not in number]
        if unknown:
            raise ValueError(
                f"{self.name} has objects of {_names(unknown)}, which {'is' if len(unknown) == 1 else 'are'} not among "
                f"the {len(number)} classes {_names(list(classes))}"
            )
        images = tuple(
            dataclasses.replace(
                image,
                objects=tuple(dataclasses.replace(o, label=number[self.classes[o.label]]) for o in image.objects),
            )
            for image in self.images
        )
        return dataclasses.replace(self, images=images, classes=tuple(classes), category_ids=tuple(category_ids))


def _names(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def image_sizes(source: Any, *, name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of an image: upright, and as stored. Only its header is read.

    Raises:
        ImageError: the file is not an image.
    """
    with open_source(source, name=name) as stream, pillow_is_quiet():
        image = read_header(stream, name=name, max_pixels=None)
        stored = stored_size(image)
        upright = (stored[1], stored[0]) if orientation(image) in _SIDEWAYS else stored
    return upright, stored


def note_boxes(name: str, images: Sequence[AnnotatedImage]) -> None:
    """Gives a notice about boxes that reach outside of their images, and about those without area."""
    cut: list[AnnotatedImage] = []
    empty: list[AnnotatedImage] = []
    for image in images:
        for found in image.objects:
            inside = found.inside(image.width, image.height)
            if inside is None:
                empty.append(image)
            elif not np.allclose(inside, found.box, atol=1.0):  # a rounded box is no fault
                cut.append(image)
    if cut:
        notify(
            f"{name}: {_boxes(len(cut))} outside of the image and {_are(len(cut))} cut at its edges, first in "
            f"{cut[0].path}"
        )
    if empty:
        where = "has" if len(empty) == 1 else "have"
        notify(
            f"{name}: {len(empty):,} {'box' if len(empty) == 1 else 'boxes'} {where} no area inside of the image and "
            f"{_are(len(empty))} not used for training, first in {empty[0].path}"
        )


def _boxes(count: int) -> str:
    return f"{count:,} {'box reaches' if count == 1 else 'boxes reach'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def note_unreadable(name: str, unreadable: Sequence[tuple[str, str]], *, total: int) -> None:
    """Gives a notice about images that are left out.

    Raises:
        ValueError: there are no others.
    """
    if not unreadable:
        return
    first, problem = unreadable[0]
    if len(unreadable) == total:
        raise ValueError(f"{name}: none of its {total:,} images can be read; the first is {first}: {problem}")
    notify(
        f"{name}: {len(unreadable):,} of {total:,} images cannot be read and {_are(len(unreadable))} left out, such as "
        f"{first}: {problem}"
    )
