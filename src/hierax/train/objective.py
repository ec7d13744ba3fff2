"""What a step minimises: the MAE's loss, or the classifier's with mixup, cutmix and smoothed labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierax.config import HieraConfig
from hierax.data.loader import Batch
from hierax.data.mix import mix, targets_of
from hierax.train.recipe import Recipe

_MIX = 2  # the stream of random numbers that mixes batches


class Objective(nn.Module):
    """A model and its loss as one module, so that it can be wrapped, compiled and called as one.

    Mean and standard deviation are in grey levels of 0 to 255 for pictures, in the array's units for arrays.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, recipe: Recipe, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.config: HieraConfig = model.config  # type: ignore[assignment]
        shape = (1, -1, *[1] * self.config.axes)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(shape), persistent=False)

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 or float pixels with the dataset's mean and deviation taken out."""
        kind = torch.float64 if self.recipe.precision == "fp64" else torch.float32
        return (pixels.to(kind) - self.mean) / self.std

    def prepared(self, batch: Batch, device: torch.device, *, key: tuple[int, ...]) -> tuple[Tensor, ...]:
        """What `forward` takes, on the device; `key` (step, part, rank) decides how the batch is mixed."""
        raise NotImplementedError


class Pretraining(Objective):
    """Masked image modelling."""

    def prepared(self, batch: Batch, device: torch.device, *, key: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Pixels and noise."""
        assert batch.noise is not None
        pixels = batch.pixels.to(device, non_blocking=True)
        return self.normalised(pixels), batch.noise.to(device, non_blocking=True)

    def forward(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """The loss, in float32."""
        return self.model(pixels, noise=noise).loss


class Finetuning(Objective):
    """Classification; with several true labels, binary cross entropy of each."""

    class_weights: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(model, recipe, mean=mean, std=std)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.several = self.config.problem_type == "multi_label_classification"

    def prepared(self, batch: Batch, device: torch.device, *, key: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Pixels and targets, mixed."""
        assert batch.labels is not None
        recipe, labels = self.recipe, batch.labels.to(device)
        pixels = self.normalised(batch.pixels.to(device, non_blocking=True))
        if labels.ndim == 1:
            targets = targets_of(
                labels, self.config.num_labels, smoothing=0 if self.several else recipe.label_smoothing
            )
        else:
            targets = labels
        seeds: Any = np.array([recipe.seed << 8 | _MIX, hash_key(key)], dtype=np.uint64)
        return mix(
            pixels, targets.to(pixels.dtype), np.random.Generator(np.random.Philox(key=seeds)),
            mixup=recipe.mixup, cutmix=recipe.cutmix,
        )  # fmt: skip

    def forward(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """The loss, in float32 (float64 stays)."""
        logits = self.model(pixels).logits
        logits = logits if logits.dtype == torch.float64 else logits.float()
        weights = self.class_weights
        if self.several:
            return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), weight=weights)
        per_class = targets.to(logits.dtype) * logits.log_softmax(-1)
        if weights is not None:
            per_class = per_class * weights.to(logits.dtype)
        return -per_class.sum(-1).mean()


def hash_key(key: tuple[int, ...]) -> int:
    """One number below 2^63 for (step, part, rank)."""
    number = 0
    for value in key:
        number = (number * 1_000_003 + value + 1) % (1 << 63)
    return number


def balanced(labels: Sequence[int], classes: int) -> Tensor:
    """Weights `[classes]` that are inverse to the classes' frequencies, with mean 1 over the samples."""
    counts = np.bincount(np.asarray(labels), minlength=classes).clip(1)
    return torch.tensor(len(labels) / (classes * counts), dtype=torch.float32)
