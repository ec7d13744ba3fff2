"""The preprocessing of a model whose checkpoint may state none: one answer for all parts of hierax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hierax.processing.record import IMAGENET, Preprocessing, published

if TYPE_CHECKING:
    from hierax.model.config import HieraConfig


def preprocessing_for(config: HieraConfig, stated: Preprocessing | None) -> Preprocessing:
    """Like `Preprocessing.for_model`, but if nothing was published, returns `default_preprocessing` for images and
    clips, and the record of ImageNet for other inputs.
    """
    record = Preprocessing.for_model(config, stated)
    if record is None and (config.is_video or config.axes == 2):
        return default_preprocessing(config.image_size, config.num_channels)
    return record or IMAGENET


def default_preprocessing(size: Sequence[int], channels: int) -> Preprocessing:
    """The published preprocessing for images or clips of `size` pixels; if they are not RGB, with mean and standard
    deviation 0.5.
    """
    record = published(size, 3)
    if record is None:
        raise ValueError(f"the model takes inputs of {len(size)} axis; expected a model of images or clips")
    return record if channels == 3 else record.replace(image_mean=(0.5,) * channels, image_std=(0.5,) * channels)
