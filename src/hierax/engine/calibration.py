"""Pictures to calibrate int8 on, and to compare an engine with the model it was made from."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import torch
from torch import Tensor

from hierax.config import HieraConfig
from hierax.processing import HieraImageProcessor, Picture, load_image

if TYPE_CHECKING:
    from PIL import Image

Pictures: TypeAlias = Union[str, "os.PathLike[str]", Tensor, Sequence[Picture]]
"""A folder of pictures, a list of them, or pixels `[N, C, *size]` that are ready."""

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def crops(pictures: Sequence[Image.Image], count: int, *, seed: int = 0) -> list[Image.Image]:
    """`count` square crops of `pictures` in turn: from a quarter of the short side to all of it, anywhere."""
    draw, found = random.Random(seed), []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        short = min(picture.size)
        side = draw.randint(max(short // 4, 1), short)
        left, top = draw.randint(0, picture.width - side), draw.randint(0, picture.height - side)
        found.append(picture.crop((left, top, left + side, top + side)))
    return found


def sample_pixels(
    source: Pictures | None, count: int, *, config: HieraConfig, processor: HieraImageProcessor, seed: int = 0
) -> Tensor:
    """`count` inputs `[count, C, *size]` for a model: crops of the pictures of `source`.

    Args:
        source: pictures; ready pixels are taken in turn as they are; None takes the photo that comes with hierax.

    Raises:
        ValueError: a model that does not take pictures, without ready pixels; a folder without pictures.
    """
    if isinstance(source, Tensor):
        if source.ndim != config.axes + 2 or source.shape[1] != config.num_channels or not len(source):
            shape = f"[N, {config.num_channels}, {', '.join(map(str, config.image_size))}]"
            raise ValueError(f"calibration has shape {list(source.shape)}; expected {shape}")
        return source[torch.arange(count) % len(source)].float()
    if config.axes != 2 or config.num_channels != 3:
        kind = "clips" if config.is_video else f"{config.num_channels} channels on {config.axes} axes"
        raise ValueError(f"this model takes {kind}: pass ready pixels [N, {config.num_channels}, …] to calibrate on")
    return processor(crops(_pictures(source), count, seed=seed)).pixel_values


def _pictures(source: str | os.PathLike[str] | Sequence[Picture] | None) -> list[Image.Image]:
    if source is None:
        return [load_image((files("hierax") / "assets" / "cat.jpg").read_bytes())]
    if isinstance(source, (str, os.PathLike)):
        folder = Path(source)
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES) if folder.is_dir() else [folder]
        if not paths:
            raise ValueError(f"{folder}: no pictures in this folder (PNG, JPEG, WebP, … are read)")
        step = max(len(paths) // 1000, 1)  # spread over the folder, and not all in memory
        return [load_image(path) for path in paths[::step]]
    if not source:
        raise ValueError("no pictures were given; at least one is expected")
    return [load_image(picture) for picture in source]
