"""Weights of the classes in the loss: by their frequency, or as the recipe states them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hierax.data.dataset import IGNORE, Dataset
from hierax.train.settings import Recipe

_MOST = 1000  # images whose pixels are counted


def class_weights_for(recipe: Recipe, dataset: Dataset, *, pixels: bool) -> Tensor | None:
    """The weights that a recipe asks for, float32 `[classes]`; None if it asks for none.

    Args:
        recipe: the recipe; its `class_weights`.
        dataset: the training set.
        pixels: whether each pixel has a class, not each image.

    Raises:
        ValueError: a name is no class of the data, or the classes cannot be counted.
    """
    wanted = recipe.class_weights
    if wanted is None:
        return None
    if isinstance(wanted, Mapping):
        unknown = [name for name in wanted if name not in dataset.classes]
        if unknown:
            listed = ", ".join(dataset.classes[:20]) + (", …" if len(dataset.classes) > 20 else "")
            raise ValueError(f"class_weights names {unknown[0]!r}; expected classes of the data: {listed}")
        return torch.tensor([wanted.get(name, 1.0) for name in dataset.classes], dtype=torch.float32)
    if pixels:
        return balanced_pixel_weights(pixel_counts(dataset))
    labels = dataset.labels()
    if labels is None:
        raise ValueError("class_weights is 'balanced', but samples have none or several labels")
    return balanced_class_weights(labels, len(dataset.classes))


def balanced_class_weights(labels: Sequence[int], classes: int) -> Tensor:
    """Weights `[classes]`, inverse to the frequency of each class; their mean over the samples is 1."""
    counts = np.bincount(np.asarray(labels), minlength=classes).clip(1)
    return torch.tensor(len(labels) / (classes * counts), dtype=torch.float32)


def balanced_pixel_weights(counts: np.ndarray) -> Tensor:
    """Weights `[classes]` for classes of pixels: 1 / ln(1.02 + share of the pixels), from 1.4 to 50 (ENet, Paszke et
    al., 2016). A class without pixels has the weight 1, because its frequency is not known.
    """
    share = counts / max(counts.sum(), 1)
    return torch.tensor(np.where(counts > 0, 1 / np.log(1.02 + share), 1.0), dtype=torch.float32)


def pixel_counts(dataset: Dataset) -> np.ndarray:
    """The number of pixels of each class, int64 `[classes]`, over up to 1,000 samples spread over the dataset.

    Samples that cannot be read are left out.
    """
    classes = len(dataset.classes)
    counts = np.zeros(classes, np.int64)
    for index in range(0, len(dataset), -(-len(dataset) // _MOST)):
        try:
            target = dataset.sample(index).target
        except (OSError, ValueError):
            continue
        if target is not None:
            counts += np.bincount(target[target != IGNORE].ravel(), minlength=classes)[:classes]
    return counts
