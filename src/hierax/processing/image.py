"""The image processor, which converts images to `pixel_values`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from PIL import Image

from hierax.processing.arrays import is_tensor, to_numpy
from hierax.processing.batch import BatchFeature
from hierax.processing.decode import DEFAULT_MAX_PIXELS
from hierax.processing.errors import ImageError
from hierax.processing.normalize import write_pixels
from hierax.processing.processor import RecordedProcessor, resolve_fast
from hierax.processing.reading import ImageInput, check_values, read_image, source_name
from hierax.processing.record import IMAGENET, MOST_PIXELS, Preprocessing
from hierax.processing.resize import Geometry, geometry, resize_crop, resize_crop_fast
from hierax.reprs.text import never_raises
from hierax.transformers_arguments import token_of, without_foreign

if TYPE_CHECKING:
    import torch

    from hierax.checkpoint.opened import Checkpoint


class HieraImageProcessor(RecordedProcessor):
    """Resizes, crops, rescales and normalizes images, according to the record of a checkpoint.

    The pixels are equal, bit for bit, to those of `BitImageProcessor` of transformers with Pillow.

    Args:
        record: the preprocessing record; None: that of Hiera on ImageNet.
        fast: if True, JPEGs are decoded by simplejpeg (extra `fast`; without it, by Pillow), and images are reduced by
            torch. This is three to ten times faster; photos differ by at most one gray level. None means False, because
            checkpoints were measured with the exact pixels. (For videos, None means True.)
        max_pixels: larger images are refused before they are decoded; None: no limit.
        overrides: fields of `Preprocessing` that replace those of the record.

    Raises:
        TypeError: an override is not a field.
        ValueError: a field has a wrong value.
    """

    def __init__(
        self,
        record: Preprocessing | None = None,
        *,
        fast: bool | None = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        **overrides: Any,
    ) -> None:
        if max_pixels is not None and (not isinstance(max_pixels, int) or max_pixels <= 0):
            raise ValueError(f"max_pixels is {max_pixels!r}; expected a whole number above 0, or None")
        if record is not None and not isinstance(record, Preprocessing):
            raise TypeError(
                f"record is a {type(record).__name__}; expected a Preprocessing (from_pretrained takes names)"
            )
        fast = bool(resolve_fast(overrides, fast))
        super().__init__((IMAGENET if record is None else record).replace(**without_foreign(overrides)))
        self.fast = fast
        self.max_pixels = max_pixels

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput | Sequence[ImageInput]],
        *,
        return_tensors: Literal["pt", "np"] | None = "pt",
        input_data_format: Literal["channels_first", "channels_last"] | None = None,
        data_format: Literal["channels_first", "channels_last"] = "channels_first",
        device: str | torch.device | None = None,
        **overrides: Any,
    ) -> BatchFeature:
        """Converts images to pixels.

        An image is

        - a path, or the bytes of a file: PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, …; the first frame of an animation;
        - a Pillow image of any mode. The EXIF orientation of these and of files is applied, transparency is laid over
          white, 16-bit gray is scaled to 8 bits. One from `PIL.Image.open` that is not decoded yet is checked as a file
          is. Whether data are missing cannot be known of one that is decoded (`load`) or copied (`convert`, …): Pillow
          fills some missing parts without an error;
        - an array or tensor [height, width, channels], [channels, height, width] or, gray, [height, width]: integers
          in gray levels 0..255, uint16 in 257ths of one, or floats in 0..1. If the record does not rescale, the values
          are taken as they are.

        Args:
            images: an image, a list of images, or a batch of images as a 4-D array or tensor. Lists of lists of images
                are flattened.
            return_tensors: "pt": a torch tensor; "np": a numpy array; None: a list of arrays [C, H, W], which may
                differ in size if the record does not crop.
            input_data_format: where the channels of arrays are, if both axes fit.
            data_format: "channels_last" returns [B, H, W, C].
            device: the device of torch tensors.
            overrides: fields of `Preprocessing`, such as `do_rescale=False`, that replace those of the record in this
                call. A field that is None is ignored.

        Returns:
            `{"pixel_values": [B, C, H, W]}` in float32.

        Raises:
            ImageError: (a ValueError) an image cannot be read; the message names it.
            ValueError: the list is empty, or a field has a wrong value.
            TypeError: an override is not a field.
        """
        changed = {name: value for name, value in without_foreign(overrides).items() if value is not None}
        if changed:
            other = HieraImageProcessor(self.record.replace(**changed), fast=self.fast, max_pixels=self.max_pixels)
            return other(
                images,
                return_tensors=return_tensors,
                input_data_format=input_data_format,
                data_format=data_format,
                device=device,
            )
        if data_format not in ("channels_first", "channels_last"):
            raise ValueError(f"data_format is {data_format!r}; expected 'channels_first' or 'channels_last'")
        if return_tensors not in ("pt", "np", None):
            raise ValueError(f"return_tensors is {return_tensors!r}; expected 'pt', 'np' or None")
        if device is not None and return_tensors != "pt":
            raise ValueError(f"device is {device!r}; expected None unless return_tensors is 'pt'")
        pictures, names = _with_names(images)
        if input_data_format is not None:
            pictures = [_channels_last(image, input_data_format) for image in pictures]
        pixels = self._batch(pictures, names)
        if data_format == "channels_last":
            pixels = [np.ascontiguousarray(one.transpose(1, 2, 0)) for one in pixels]
        if return_tensors is None:
            return BatchFeature(pixel_values=list(pixels))
        if isinstance(pixels, list):
            pixels = _stack(pixels, names)
        if return_tensors == "np":
            return BatchFeature(pixel_values=pixels)
        import torch

        batch = BatchFeature(pixel_values=torch.from_numpy(pixels))
        return batch if device is None else batch.to(device)

    preprocess = __call__  # its name in transformers

    def _batch(self, pictures: list[ImageInput], names: list[str]) -> np.ndarray | list[np.ndarray]:
        """One array [B, C, H, W] if the record sets a fixed size, otherwise a list of arrays [C, H, W]."""
        if not self.record.do_center_crop:
            return [self._pixels(image, name) for image, name in zip(pictures, names, strict=True)]
        size = (self.record.crop_size["height"], self.record.crop_size["width"])
        if size[0] * size[1] > MOST_PIXELS:
            problem = f"the record's crop_size is {size[1]} x {size[0]} pixels; expected at most {MOST_PIXELS:,}"
            raise ImageError(names[0], problem)
        batch = np.empty((len(pictures), self.record.num_channels, *size), np.float32)
        for image, name, out in zip(pictures, names, batch, strict=True):
            self._pixels(image, name, out=out)
        return batch

    def decoded(
        self, images: ImageInput | Sequence[ImageInput], *, names: Sequence[str] | None = None
    ) -> Iterator[tuple[Image.Image | np.ndarray, Geometry]]:
        """Yields each image, upright and with the channels of the record, and how to resize and crop it.

        It is for callers that compute the pixels themselves. `names` are the names of the images in errors. The errors
        are those of a call.
        """
        pictures, own = _with_names(images)
        for image, name in zip(pictures, names or own, strict=True):
            yield self._read(image, name)

    def levels(self, picture: Image.Image | np.ndarray, plan: Geometry) -> np.ndarray:
        """An image that `decoded` returned, resized and cropped, `[height, width, channels]`: what `normalized` takes.
        The crop must lie within the image.
        """
        return (resize_crop_fast if self.fast else resize_crop)(picture, plan, resample=self.record.resample)

    def normalized(self, levels: np.ndarray) -> np.ndarray:
        """The pixels `[C, h, w]` in float32 of a part of the `levels` of an image."""
        out = np.empty((self.record.num_channels, *levels.shape[:2]), np.float32)
        write_pixels(levels, out, self.record, self._table)
        return out

    def _read(self, source: ImageInput, name: str) -> tuple[Image.Image | np.ndarray, Geometry]:
        record = self.record
        image = read_image(
            source,
            channels=record.num_channels,
            name=name,
            convert=record.do_convert_rgb,
            fast=self.fast,
            unit=record.do_rescale,
            max_pixels=self.max_pixels,
        )
        if not (isinstance(source, np.ndarray) or is_tensor(source)):
            check_values(image, record, name=name)
        width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
        plan = geometry(record, height=height, width=width)
        _check_resized(plan, height, width, name)
        return image, plan

    def _pixels(self, source: ImageInput, name: str, out: np.ndarray | None = None) -> np.ndarray:
        """The pixels [C, H, W] of one image; written into `out`, if it is given."""
        record, (image, plan) = self.record, self._read(source, name)
        if out is None:
            out = np.empty((record.num_channels, plan.height, plan.width), np.float32)
        write_part(image, plan, out, record=record, table=self._table, fast=self.fast)
        return out

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | Checkpoint,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        fast: bool | None = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        **overrides: Any,
    ) -> HieraImageProcessor:
        """The processor of a checkpoint.

        For code that was written for transformers, `use_fast=True` and `backend="torchvision"` mean `fast=True`;
        `use_fast=False` and `backend="pil"` mean `fast=False`.

        Args:
            source: a folder, a file, a name on the Hub, or an open checkpoint.
            revision, cache_dir, token, local_files_only: see `hierax.load`.
            fast, max_pixels: see the class.
            overrides: fields of `Preprocessing` that replace those of the checkpoint's record.

        Raises:
            ValueError, OSError: see `hierax.load`. Also TypeError: an override is not a field.
        """
        from hierax.checkpoint import load_preprocessing

        token = token_of(overrides, token)
        record = load_preprocessing(
            source, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        return cls(record, fast=fast, max_pixels=max_pixels, **overrides)

    @never_raises
    def __repr__(self) -> str:
        """The arguments that differ from their defaults; they create an equal processor."""
        values = [
            (entry.name, getattr(self.record, entry.name), getattr(IMAGENET, entry.name)) for entry in fields(IMAGENET)
        ]
        values += [("fast", self.fast, False), ("max_pixels", self.max_pixels, DEFAULT_MAX_PIXELS)]
        shown = [f"{name}={value!r}" for name, value, usual in values if value != usual]
        return f"{type(self).__name__}({', '.join(shown)})"


def write_part(
    picture: Image.Image | np.ndarray,
    plan: Geometry,
    out: np.ndarray,
    *,
    record: Preprocessing,
    table: np.ndarray,
    fast: bool,
) -> None:
    """Writes the crop of the resized image into `out` `[C, H, W]` as pixels. Outside of the image, it is black."""
    region = (resize_crop_fast if fast else resize_crop)(picture, plan, resample=record.resample)
    if region.shape[:2] != (plan.height, plan.width):
        write_pixels(np.zeros((plan.height, plan.width, record.num_channels), np.uint8), out, record, table)
        (top, bottom), (left, right) = plan.rows, plan.columns
        out = out[:, top - plan.top : bottom - plan.top, left - plan.left : right - plan.left]
    write_pixels(region, out, record, table)


def _as_list(images: ImageInput | Sequence[ImageInput | Sequence[ImageInput]]) -> list[ImageInput]:
    if isinstance(images, (list, tuple)):
        nested = [part if isinstance(part, (list, tuple)) else [part] for part in images]
        return [cast("ImageInput", one) for part in nested for one in part]
    if (is_tensor(images) or isinstance(images, np.ndarray)) and cast("np.ndarray", images).ndim == 4:
        return list(cast("np.ndarray", images))
    return [cast("ImageInput", images)]


def _channels_last(picture: ImageInput, form: str) -> ImageInput:
    """An array whose channels are on the axis that `form` names, as [H, W, C]; other images are not changed."""
    if form not in ("channels_first", "channels_last"):
        raise ValueError(f"input_data_format is {form!r}; expected 'channels_first', 'channels_last' or None")
    if not (isinstance(picture, np.ndarray) or is_tensor(picture)) or cast("np.ndarray", picture).ndim != 3:
        return picture
    array = to_numpy(picture)
    return np.moveaxis(array, 0, 2) if form == "channels_first" else array


def _with_names(images: ImageInput | Sequence[ImageInput | Sequence[ImageInput]]) -> tuple[list[ImageInput], list[str]]:
    """The images as a list, and their names in errors."""
    pictures = _as_list(images)
    if not pictures:
        raise ValueError("images is empty; expected at least one image")
    alone = not isinstance(images, (list, tuple))
    return pictures, [source_name(p, default="image" if alone else f"images[{i}]") for i, p in enumerate(pictures)]


def _check_resized(plan: Geometry, height: int, width: int, name: str) -> None:
    if plan.resized_height * plan.resized_width > max(MOST_PIXELS, height * width):
        resized = f"{plan.resized_width} x {plan.resized_height}"
        problem = f"{width} x {height} pixels would become {resized}; expected at most {MOST_PIXELS:,} pixels"
        raise ImageError(name, problem)


def _stack(pixels: list[np.ndarray], names: list[str]) -> np.ndarray:
    for name, one in zip(names, pixels, strict=True):
        if one.shape != pixels[0].shape:
            raise ValueError(
                f"{name} has pixels {list(one.shape)} and {names[0]} {list(pixels[0].shape)}; "
                "one tensor needs one size: set do_center_crop, or return_tensors=None"
            )
    return np.stack(pixels)
