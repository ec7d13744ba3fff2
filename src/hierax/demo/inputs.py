"""Pixels of the demonstration's photos, as the models take them: square crops of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from hierax.model.tasks import HieraForImageClassification, HieraForPreTraining
    from hierax.processing import Preprocessing

    Model = HieraForImageClassification | HieraForPreTraining


def preprocessing_at(model: Model, size: int) -> Preprocessing:
    """The model's preprocessing for square images of `size` pixels."""
    from hierax.processing.defaults import preprocessing_for

    return preprocessing_for(model.config, model.preprocessing).at(size)


def pixels_of(pictures: Sequence[Image.Image], model: Model, size: int) -> Tensor:
    """The model's input `[B, 3, size, size]` for these photos."""
    from hierax.processing import HieraImageProcessor

    return HieraImageProcessor(preprocessing_at(model, size))(list(pictures)).pixel_values


def pooled(model: HieraForImageClassification, pictures: Sequence[Image.Image], size: int) -> Tensor:
    """Pooled features `[B, C]` at `size` pixels."""
    import torch

    with torch.inference_mode():
        parts = (pictures[start : start + 32] for start in range(0, len(pictures), 32))
        return torch.cat([model.pooled(pixels_of(part, model, size)) for part in parts])
