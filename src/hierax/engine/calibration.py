"""Images for calibrating int8, and for comparing an engine with its model."""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.engine.pool import Shape
from hierax.model.config import HieraConfig
from hierax.notices import LeftOut
from hierax.processing import HieraImageProcessor, ImageInput, load_image
from hierax.processing.paths import IMAGE_SUFFIXES, find_files, nothing_in

if TYPE_CHECKING:
    from PIL import Image

ImageInputs: TypeAlias = Union[str, "os.PathLike[str]", Tensor, Sequence[ImageInput]]
"""A folder of images, a list of images, or preprocessed pixels `[N, C, *size]`."""

_CALIBRATED = 80  # images to calibrate on; the last ones are held out for a comparison
_MOST = 200  # images that are used from a folder: all images may not fit in memory
_log = logging.getLogger("hierax.engine")


def crops(pictures: Sequence[Image.Image], count: int, *, seed: int = 0) -> list[Image.Image]:
    """`count` random square crops of `pictures` in turn; their sides are a quarter to all of the short side."""
    draw, found = random.Random(seed), []
    for number in range(count):
        image = pictures[number % len(pictures)]
        short = min(image.size)
        side = draw.randint(max(short // 4, 1), short)
        left, top = draw.randint(0, image.width - side), draw.randint(0, image.height - side)
        found.append(image.crop((left, top, left + side, top + side)))
    return found


def sample_pixels(
    source: ImageInputs | None, count: int, *, config: HieraConfig, processor: HieraImageProcessor, seed: int = 0
) -> Tensor:
    """`count` inputs `[count, C, *size]` for a model: crops of the images of `source`.

    Args:
        source: images; or preprocessed pixels, used in turn unchanged; None is the photo that is part of hierax.

    Raises:
        ValueError: the model does not take images and `source` is not pixels, or a folder has no images.
    """
    if isinstance(source, Tensor):
        if tuple(source.shape[1:]) != (config.num_channels, *config.image_size) or not len(source):
            shape = f"[N, {config.num_channels}, {', '.join(map(str, config.image_size))}]"
            raise ValueError(f"calibration has shape {list(source.shape)}; expected {shape}")
        if not source.is_floating_point():
            raise ValueError(f"calibration has dtype {source.dtype}; expected normalized floating-point pixels")
        return source[torch.arange(count) % len(source)].cpu().float()
    if config.axes != 2 or config.num_channels != 3:
        kind = "clips" if config.is_video else f"{config.num_channels} channels on {config.axes} axes"
        raise ValueError(f"this model takes {kind}: pass ready pixels [N, {config.num_channels}, …] to calibrate on")
    pixels = processor(crops(_load_images(source, processor.max_pixels), count, seed=seed)).pixel_values
    if tuple(pixels.shape[2:]) != config.image_size:  # the size of the record differs from the model's
        pixels = F.interpolate(pixels, config.image_size, mode="bicubic", antialias=True)
    return pixels


def calibration_batches(
    source: ImageInputs | None, shape: Shape, *, config: HieraConfig, processor: HieraImageProcessor
) -> list[tuple[Tensor, ...]]:
    """Inputs of one image each to calibrate int8 on, for an MAE model with random visible units."""
    if source is None:
        _log.warning(
            "int8 is calibrated on crops of one photo that is part of hierax; calibration= takes your own images"
        )
    pixels = sample_pixels(source, _CALIBRATED, config=config, processor=processor)
    if shape.kept is None:
        return [(one,) for one in pixels.split(1)]
    count = torch.Size(config.unit_grid(shape.size)).numel()
    draw = torch.Generator().manual_seed(0)
    shown = [torch.randperm(count, generator=draw)[: shape.kept].sort().values[None] for _ in range(len(pixels))]
    return list(zip(pixels.split(1), shown, strict=True))


def source_digest(source: ImageInputs | None) -> str:
    """A digest of the calibration data. For files, it covers paths, sizes and times, so that no file is read."""
    digest = hashlib.sha256()
    sources = [source] if isinstance(source, (str, os.PathLike, Tensor)) or source is None else source
    for entry in sources:
        if isinstance(entry, (str, os.PathLike)):
            for path in images_of(entry, most=_MOST):
                stat = path.stat()
                digest.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        elif entry is not None:
            entry = entry.detach().cpu().float() if isinstance(entry, Tensor) else entry
            array = entry if isinstance(entry, bytes) else np.ascontiguousarray(np.asarray(entry))
            digest.update(array if isinstance(array, bytes) else array.tobytes())
    return digest.hexdigest()


def images_of(source: str | os.PathLike[str], *, most: int) -> list[Path]:
    """At most `most` images of a folder, sorted and spread over all of them; or the file itself.

    Raises:
        ValueError: the folder has no images.
    """
    if not os.path.isdir(source):
        return [Path(source)]
    left = LeftOut(os.fspath(source))
    paths = sorted(map(Path, find_files(source, IMAGE_SUFFIXES, left=left)))
    if not paths:
        raise ValueError(f"{source}: {nothing_in(left)}")
    return paths[:: -(-len(paths) // most)]


def check_images(images: ImageInputs | None, *, max_pixels: int | None) -> None:
    """Reads the first image, if `images` is a path, so that a wrong path is an error before the model is converted.

    Raises:
        ValueError: an image is missing or cannot be read.
    """
    if isinstance(images, (str, os.PathLike)):
        load_image(images_of(images, most=1)[0], max_pixels=max_pixels)


def _load_images(
    source: str | os.PathLike[str] | Sequence[ImageInput] | None, max_pixels: int | None
) -> list[Image.Image]:
    if source is None:
        return [load_image((files("hierax") / "assets" / "cat.jpg").read_bytes())]
    if isinstance(source, (str, os.PathLike)):
        return [load_image(path, max_pixels=max_pixels) for path in images_of(source, most=_MOST)]
    if not source:
        raise ValueError("no images were given; expected at least one")
    return [load_image(image, max_pixels=max_pixels) for image in source]
