"""Images and objects as a model gets them. One geometry is applied to an image, its boxes and its masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from hierax.data.augment import random_crop
from hierax.data.order import random_stream
from hierax.detection.dataset import AnnotatedImage, ObjectAnnotation
from hierax.detection.masks import decode
from hierax.detection.recipes import DetectionRecipe

_BILINEAR, _NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
_AUGMENT = 0x0B0E  # the purpose of these random numbers
_LEAST = 2.0  # pixels of the side of a box that can be learned


@dataclass(frozen=True)
class Pixels:
    """How images become tensors: squares of `size` pixels, normalized with mean and deviation per channel."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def whole(self, image: Image.Image) -> Tensor:
        """The whole image `[3, size, size]`; its aspect ratio is not kept."""
        return self.normalized(image.resize((self.size, self.size), _BILINEAR))

    def normalized(self, image: Image.Image) -> Tensor:
        """The pixels of an RGB image `[3, H, W]`."""
        values = np.asarray(image, np.float32) / 255
        values = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


@dataclass(frozen=True)
class Geometry:
    """Where a part of an image lies in a square.

    Attributes:
        source: left, top, right and bottom of the part, in pixels of the image.
        place: left, top, width and height in the square.
        size: the side of the square.
        flip: whether the square is mirrored.
    """

    source: tuple[float, float, float, float]
    place: tuple[int, int, int, int]
    size: int
    flip: bool = False

    def image(self, image: Image.Image, *, fill: Any, resample: Image.Resampling = _BILINEAR) -> Image.Image:
        """The square; what is outside of the image has the color `fill`."""
        left, top, wide, high = self.place
        square = image.resize((wide, high), resample, box=self.source)
        if (wide, high) != (self.size, self.size):
            canvas = Image.new(image.mode, (self.size, self.size), fill)
            canvas.paste(square, (left, top))
            square = canvas
        return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else square

    def points(self, values: np.ndarray) -> np.ndarray:
        """Points `[N, 2]` of the image (x, y) as points of the square."""
        left, top, right, bottom = self.source
        x, y, wide, high = self.place
        moved = (values - (left, top)) * (wide / (right - left), high / (bottom - top)) + (x, y)
        if self.flip:
            moved[:, 0] = self.size - moved[:, 0]
        return moved

    def box(self, found: ObjectAnnotation, width: int, height: int) -> np.ndarray | None:
        """Left, top, right and bottom of the visible part of a box; None if its center, or nearly all of it, is
        outside.
        """
        inside = found.inside(width, height)
        if inside is None:
            return None
        left, top, wide, high = inside
        corners = np.sort(self.points(np.array([[left, top], [left + wide, top + high]], float)), 0)
        x, y, w, h = self.place
        if self.flip:
            x = self.size - x - w
        center = corners.mean(0)
        if not (x <= center[0] <= x + w and y <= center[1] <= y + h):
            return None
        corners = corners.clip((x, y), (x + w, y + h))
        return None if (corners[1] - corners[0]).min() < min(_LEAST, wide, high) else corners.reshape(4)

    def mask(self, segmentation: Any, width: int, height: int) -> np.ndarray:
        """A mask as booleans `[size, size]`."""
        if not isinstance(segmentation, dict):
            polygons = [self.points(np.reshape(p, (-1, 2))).reshape(-1).tolist() for p in segmentation]
            return decode(polygons, self.size, self.size)
        whole = Image.fromarray(decode(segmentation, height, width).astype(np.uint8))
        return np.asarray(self.image(whole, fill=0, resample=_NEAREST)).astype(bool)


def whole_image(image: AnnotatedImage, size: int) -> Geometry:
    """The whole image in the whole square."""
    return Geometry((0, 0, image.width, image.height), (0, 0, size, size), size)


def random_geometry(image: AnnotatedImage, recipe: DetectionRecipe, random: np.random.Generator) -> Geometry:
    """A random crop, or the image shrunk on a background, or the whole image, mirrored in half of the cases."""
    size, kind = recipe.image_size, random.random()
    flip = bool(recipe.flip and random.random() < 0.5)
    plain = whole_image(image, size)
    if kind < 0.5 and recipe.crop < 1:
        top, left, high, wide = random_crop(random, image.height, image.width, scale=(recipe.crop, 1.0))
        return Geometry((left, top, left + wide, top + high), plain.place, size, flip)
    if kind > 0.75 and recipe.zoom_out > 1:
        side = round(size / random.uniform(1, recipe.zoom_out))
        x, y = (int(n) for n in random.integers(0, size - side + 1, 2))
        return Geometry(plain.source, (x, y, side, side), size, flip)
    return Geometry(plain.source, plain.place, size, flip)


def target(image: AnnotatedImage, geometry: Geometry, *, masks: bool) -> dict[str, Tensor]:
    """What a model learns of an image: `class_labels` `[N]`, and `boxes` `[N, 4]` (center, width and height relative to
    the square) or `mask_labels` `[N, size, size]`. Crowds are not learned.
    """
    labels, boxes, planes = list[int](), list[np.ndarray](), list[np.ndarray]()
    for found in image.objects:
        corners = None if found.crowd else geometry.box(found, image.width, image.height)
        if corners is None:
            continue
        if masks:
            plane = geometry.mask(found.segmentation, image.width, image.height)
            if not plane.any():
                continue
            planes.append(plane)
        left, top, right, bottom = corners / geometry.size
        boxes.append(np.array([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]))
        labels.append(found.label)
    made = {"class_labels": torch.tensor(labels, dtype=torch.long)}
    if masks:
        size = geometry.size
        stacked = np.stack(planes) if planes else np.zeros((0, size, size), bool)
        return {**made, "mask_labels": torch.from_numpy(stacked.astype(np.float32))}
    return {**made, "boxes": torch.from_numpy(np.reshape(boxes, (-1, 4)).astype(np.float32))}


def recolored(image: Image.Image, change: float, random: np.random.Generator) -> Image.Image:
    """The image with another brightness, contrast and saturation, each changed by at most `change`."""
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(random.uniform(1 - change, 1 + change))
    return image


@dataclass(frozen=True)
class TrainingView:
    """Makes the sample that a step sees. Randomness depends on seed and number only, so a resumed run sees the same."""

    recipe: DetectionRecipe
    pixels: Pixels

    def sample(self, image: AnnotatedImage, number: int) -> dict[str, Tensor]:
        """`pixel_values` `[3, size, size]` and the target of an image.

        Args:
            number: counts the samples of a run, from 0.

        Raises:
            ImageError: the image cannot be read.
        """
        recipe, random = self.recipe, random_stream(self.recipe.seed, _AUGMENT, number)
        content, geometry = image.load(max_pixels=recipe.max_pixels), random_geometry(image, recipe, random)
        fill = tuple(round(255 * value) for value in self.pixels.mean)
        square = geometry.image(content, fill=fill)
        if recipe.color:
            square = recolored(square, recipe.color, random)
        made = target(image, geometry, masks=recipe.task == "instances")
        return {"pixel_values": self.pixels.normalized(square), **made}


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch as the models of transformers take it, and the names of images that could not be read."""
    batch: dict[str, Any] = {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples])}
    if "boxes" in samples[0]:
        batch["labels"] = [{name: sample[name] for name in ("class_labels", "boxes")} for sample in samples]
    else:
        batch |= {name: [sample[name] for sample in samples] for name in ("class_labels", "mask_labels")}
    batch["unreadable"] = [text for sample in samples for text in sample.get("unreadable", ())]
    return batch
