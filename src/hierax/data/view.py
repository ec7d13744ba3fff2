"""Converts samples to the input of a model: decodes, crops and augments them. Random numbers depend on seed, epoch and
sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hierax.data.augment import COLOR_OPERATIONS, OPERATIONS, center_crop, erase, jitter_crop, rand_augment, random_crop
from hierax.data.clips import evaluation_clips, training_clip
from hierax.data.dataset import IGNORE, Dataset, Sample
from hierax.data.labels import Label
from hierax.data.order import MASK, SampleKey
from hierax.data.partial_decode import Box, Crop, read_part
from hierax.data.segmentation.dataset import check_size, has_targets
from hierax.processing import DEFAULT_MAX_PIXELS, HieraVideoProcessor, ImageError, Preprocessing, geometry
from hierax.processing.reading import check_values, read_image
from hierax.processing.record import MOST_PIXELS
from hierax.processing.resize import resize_crop_fast
from hierax.processing.sampling import Sampling
from hierax.reprs.text import short_repr

_MAX_SCALE = 4  # of a crop, as a fraction of the area of the image
_NEIGHBORS = 64  # number of further samples to try if no sample of a micro-batch can be read


@short_repr()
@dataclass(frozen=True)
class Augmentation:
    """The settings of augmentation for training. All frames of a video are augmented in the same way. Arrays are only
    cropped and mirrored. The classes of pixels are cropped and mirrored with their image, by nearest neighbor; such
    images are neither erased nor moved by RandAugment, which then changes only colors.

    Attributes:
        size: pixels per axis of the result.
        channels: number of color channels, or of channels of an array.
        crop_scale: minimum and maximum fraction of the area for a random resized crop; its aspect ratio is 3/4 to 4/3
            of that of `size`. None: the largest part with the aspect ratio of `size`, at the center. For arrays, a part
            of `size` is used: at a random position, or for None at the center. For images whose pixels have classes,
            fractions up to 4 are possible: the image is then smaller than the crop, and the rest has the mean color
            and no class.
        flip: mirror along the last axis with probability 1/2.
        rand_augment: magnitude (0 to 10) and its standard deviation, or None.
        erasing: probability of random erasing.
        mask_units: number of random values for the mask that are drawn per sample; 0 for none.
        exact: whether images are read with the values of their files, in float32, not as 8-bit gray levels.
        max_pixels: larger images count as unreadable; None: no limit.
        sampling: which frames of a video are used; their number is the first entry of `size`. None for other data.

    Raises:
        ValueError: a value is out of range, or RandAugment is used for images that are neither RGB nor gray.
    """

    size: tuple[int, ...]
    channels: int = 3
    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    flip: bool = True
    rand_augment: tuple[float, float] | None = None
    erasing: float = 0.0
    mask_units: int = 0
    exact: bool = False
    max_pixels: int | None = DEFAULT_MAX_PIXELS
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= _MAX_SCALE:
            raise ValueError(
                f"crop_scale is {self.crop_scale}; expected two numbers above 0 and at most 1, the lower one first "
                f"(at most {_MAX_SCALE} for segmentation)"
            )
        if self.rand_augment is not None:
            magnitude, std = self.rand_augment
            if not 0 <= magnitude <= 10 or std < 0:
                raise ValueError(
                    f"rand_augment is {self.rand_augment}; expected a magnitude from 0 to 10, and a standard deviation"
                )
            if self.channels not in (1, 3):
                raise ValueError(f"rand_augment needs 1 or 3 channels, not {self.channels}; expected rand_augment=none")
        if not 0 <= self.erasing <= 1:
            raise ValueError(f"erasing is {self.erasing}; expected a number from 0 to 1")


@dataclass(frozen=True)
class Example:
    """A sample after decoding and augmentation: the input of a model.

    Attributes:
        pixels: uint8 `[C, H, W]` (float32 with `exact`). For videos `[C, T, H, W]`, or `[views, C, T, H, W]` if several
            views are requested. For arrays float32 `[C, *size]`.
        label: as in `Sample`.
        noise: float32 `[mask_units]`, or None.
        name, index: name and number of the sample.
        target: the class of each pixel, uint8 or int64 `[H, W]`, 255 for none; or None. In evaluation it has the size
            of the image in its file, not that of `pixels`.
    """

    pixels: np.ndarray
    label: Label | None
    noise: np.ndarray | None
    name: str
    index: int
    target: np.ndarray | None = None


@dataclass(frozen=True)
class Unreadable:
    """A sample that could not be read, and why."""

    name: str
    index: int
    problem: str


@dataclass(frozen=True)
class MicroBatch:
    """The examples that a rank computes in one call, and the samples that could not be read. Those are replaced by
    other samples; if this is impossible, there are no examples.
    """

    examples: list[Example]
    bad: list[Unreadable]


class TrainingView:
    """The examples of a dataset for training, by `SampleKey`.

    Raises:
        ValueError: the model does not take inputs with as many axes as the data has, or crops are larger than images
            without classes of pixels.
    """

    def __init__(self, dataset: Dataset, augmentation: Augmentation, *, seed: int) -> None:
        check_axes(dataset, augmentation.size)
        scale = augmentation.crop_scale
        if scale is not None and scale[1] > 1 and not has_targets(dataset):
            raise ValueError(f"crop_scale is {scale}; expected numbers of at most 1 for data without masks")
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed

    def __getitem__(self, key: SampleKey) -> Example | Unreadable:
        sample = None
        try:
            sample = self.dataset.sample(key.index)
            pixels, target = self._example(sample, key.random(self.seed))
        except (OSError, ValueError) as error:  # an ImageError is a ValueError
            return _unreadable(sample, key.index, error)
        units = self.augmentation.mask_units
        noise = key.random(self.seed, MASK).random(units, dtype=np.float32) if units else None
        return Example(pixels, sample.label, noise, sample.name, key.index, target)

    def __getitems__(self, keys: Sequence[SampleKey]) -> MicroBatch:
        """A micro-batch. A sample that cannot be read is replaced by the next one in the micro-batch, the last by the
        first.

        If none of them can be read, the next samples of the dataset are tried. So a bad file does not stop a run with
        micro-batches of single samples.
        """
        items = [self[key] for key in keys]
        bad = [item for item in items if isinstance(item, Unreadable)]
        following = next((item for item in items if isinstance(item, Example)), None)
        for step in range(1, min(_NEIGHBORS, len(self.dataset) - 1) + 1):
            if following is not None:
                break
            last = keys[-1]
            other = self[SampleKey((last.index + step) % len(self.dataset), last.epoch, last.repeat)]
            following = other if isinstance(other, Example) else None
            bad += [other] if isinstance(other, Unreadable) else []
        if following is None:
            return MicroBatch([], bad)
        examples = []
        for item in reversed(items):
            following = item if isinstance(item, Example) else following
            examples.append(following)
        return MicroBatch(examples[::-1], bad)

    def _example(self, sample: Sample, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """The pixels and the target of an example."""
        if not self.dataset.arrays and self.augmentation.sampling is None:
            return self._image(sample, random)
        if sample.target is not None:
            raise ValueError("arrays and videos have no masks; expected images")
        return self._pixels(sample, random), None

    def _pixels(self, sample: Sample, random: np.random.Generator) -> np.ndarray:
        """The pixels of an array or a video."""
        how = self.augmentation
        if self.dataset.arrays:
            mirror = how.flip and random.random() < 0.5
            pixels = _array_part(sample, how.size, how.channels, None if how.crop_scale is None else random)
            return np.ascontiguousarray(pixels[..., ::-1] if mirror else pixels)
        assert how.sampling is not None
        height, width = how.size[-2:]
        return training_clip(
            sample,
            random,
            sampling=how.sampling,
            size=(height, width),
            crop_scale=how.crop_scale,
            flip=how.flip,
            augment=how.rand_augment,
            erasing=how.erasing,
        )

    def _image(self, sample: Sample, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """The pixels and the target of an image: one part of both, mirrored or not. Only colors change further."""
        how = self.augmentation
        crop = self._crop(sample, random)
        pixels = crop.pixels
        target = None if sample.target is None else crop.of_target(sample.target, fill=IGNORE)
        if how.flip and random.random() < 0.5:
            pixels = pixels[:, ::-1]
            target = None if target is None else np.ascontiguousarray(target[:, ::-1])
        if how.rand_augment is not None:
            image = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]))
            magnitude, std = how.rand_augment
            names = tuple(OPERATIONS) if target is None else COLOR_OPERATIONS
            changed = np.asarray(rand_augment(image, random, magnitude=magnitude, std=std, names=names))
            pixels = changed if changed.ndim == 3 else changed[:, :, None]
        if how.erasing and target is None:
            pixels = erase(pixels, random, probability=how.erasing)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)), target

    def _crop(self, sample: Sample, random: np.random.Generator) -> Crop:
        """A part of an image, anywhere or at its center."""
        how = self.augmentation
        height, width = how.size[-2:]
        aspect = width / height

        def part(rows: int, columns: int) -> Box:
            check_size(sample, rows, columns)
            if how.crop_scale is None:
                return center_crop(rows, columns, aspect=aspect)
            crop = random_crop if how.crop_scale[1] <= 1 else jitter_crop
            return crop(random, rows, columns, scale=how.crop_scale, ratio=(3 / 4 * aspect, 4 / 3 * aspect))

        return read_part(
            sample.content,
            channels=how.channels,
            name=sample.name,
            part=part,
            size=(height, width),
            exact=how.exact,
            max_pixels=how.max_pixels,
        )


class EvaluationView:
    """The examples of a dataset for evaluation, by index. Images are resized and cropped according to the record. For
    videos, the clip in the middle is used, or several `views` (clips, and crops of each clip). For arrays, the center
    of `size` is used. Images whose pixels have classes may have any size after preprocessing; their targets have the
    size of the image in its file.

    Raises:
        ValueError: other images have another size than `size` after preprocessing; or several views are requested, but
            the data is not videos.
    """

    def __init__(
        self,
        dataset: Dataset,
        record: Preprocessing,
        *,
        size: tuple[int, ...],
        views: tuple[int, int] = (1, 1),
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
    ) -> None:
        check_axes(dataset, size)
        if views != (1, 1) and not dataset.videos:
            raise ValueError(f"views are only for videos; the data is {'arrays' if dataset.arrays else 'images'}")
        self.dataset, self.record, self.size, self.views = dataset, record, size, views
        self.max_pixels = max_pixels
        self.channels = _channels(dataset) if dataset.arrays else None
        if dataset.arrays or has_targets(dataset):
            return
        edges = record.crop_size if record.do_center_crop else record.size if record.do_resize else {}
        if (edges.get("height"), edges.get("width")) != tuple(size[-2:]):
            raise ValueError(
                f"the images have {edges or 'any size'} after preprocessing; expected height and width {size[-2:]}"
            )
        if dataset.videos:
            # pixels stay gray levels, as for images; they are normalized on the device of the model
            self.processor = HieraVideoProcessor(record, num_frames=size[0], do_rescale=False, do_normalize=False)

    def __getitem__(self, index: int) -> Example | Unreadable:
        sample = None
        try:
            sample = self.dataset.sample(index)
            if self.dataset.arrays:
                pixels = np.ascontiguousarray(_array_part(sample, self.size, self.channels, None))
            elif self.dataset.videos:
                pixels = evaluation_clips(sample, self.processor, views=self.views)
                pixels = pixels[0] if self.views == (1, 1) else pixels
            else:
                pixels = self._pixels(sample)
        except (OSError, ValueError) as error:
            return _unreadable(sample, index, error)
        return Example(pixels, sample.label, None, sample.name, index, sample.target)

    def _pixels(self, sample: Sample) -> np.ndarray:
        exact = not self.record.do_rescale
        image = read_image(
            sample.content,
            channels=self.record.num_channels,
            name=sample.name,
            fast=True,
            unit=not exact,
            max_pixels=self.max_pixels,
        )
        check_values(image, self.record, name=sample.name)
        width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
        check_size(sample, height, width)
        plan = geometry(self.record, height=height, width=width)
        if plan.resized_height * plan.resized_width > max(MOST_PIXELS, height * width):
            raise ImageError(sample.name, f"{width} x {height} pixels; this is too long and narrow to be resized")
        part = resize_crop_fast(image, plan, resample=self.record.resample)
        if part.dtype != np.uint8 and not exact:  # an array of floats, 0 to 1
            part = np.rint(part.clip(0, 1) * 255).astype(np.uint8)
        whole = np.zeros((plan.height, plan.width, part.shape[2]), part.dtype)
        (top, bottom), (left, right) = plan.rows, plan.columns
        whole[top - plan.top : bottom - plan.top, left - plan.left : right - plan.left] = part
        return np.ascontiguousarray(whole.transpose(2, 0, 1))


def check_axes(dataset: Dataset, size: tuple[int, ...]) -> None:
    """Checks that a model for inputs of `size` can use the samples of the dataset.

    Raises:
        ValueError: it takes inputs of another number of axes.
    """
    if dataset.videos and len(size) != 3:
        raise ValueError(f"the data is videos; the model takes {len(size)} axes ({size})")
    if not dataset.arrays and not dataset.videos and len(size) != 2:
        raise ValueError(f"the data is images; the model takes {len(size)} axes ({size}); expected arrays (.npy)")


def _channels(dataset: Dataset) -> int | None:
    """The number of channels of the first array, which all arrays must have. None if it cannot be read."""
    try:
        return len(dataset.sample(0).content)
    except (OSError, ValueError, TypeError):  # TypeError: an array without axes
        return None


def _unreadable(sample: Sample | None, index: int, error: Exception) -> Unreadable:
    """What cannot be read, by the name of the sample or of the file, such as its mask, that is the reason."""
    name = sample.name if sample else error.source if isinstance(error, ImageError) else f"sample {index}"
    text = error.problem if isinstance(error, ImageError) else str(error)
    return Unreadable(name, index, " ".join(text.split()) or type(error).__name__)


def _array_part(
    sample: Sample, size: tuple[int, ...], channels: int | None, random: np.random.Generator | None
) -> np.ndarray:
    """A part of an array, float32 `[C, *size]`: at a random position if `random` is given, otherwise at the center."""
    array = sample.content
    if array.ndim != len(size) + 1 or array.shape[0] != (channels or array.shape[0]):
        expected = ", ".join(map(str, (channels or "channels", *size)))
        raise ValueError(f"an array of shape {list(array.shape)}; expected [{expected}] or larger along the last axes")
    part: list[slice] = [slice(None)]
    for axis, (have, want) in enumerate(zip(array.shape[1:], size, strict=True), start=1):
        if have < want:
            raise ValueError(
                f"an array of shape {list(array.shape)}; expected at least {want} on axis {axis}, as image_size says"
            )
        start = (have - want) // 2 if random is None else int(random.integers(have - want + 1))
        part.append(slice(start, start + want))
    values = np.array(array[tuple(part)], dtype=np.float32)  # only this part of a memory-mapped file is read
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not finite")
    return values
