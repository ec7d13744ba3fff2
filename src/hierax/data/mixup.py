"""Mixup and cutmix of a batch with itself in reverse order, with the matching targets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def soft_targets(labels: Tensor, classes: int, *, smoothing: float = 0.0) -> Tensor:
    """Target probabilities `[B, classes]` for class numbers `[B]`, with label smoothing."""
    off = smoothing / classes
    return torch.full((len(labels), classes), off, device=labels.device).scatter_(
        1, labels[:, None], 1 - smoothing + off
    )


def mix_batch(
    pixels: Tensor, targets: Tensor, random: np.random.Generator, *, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Mixes `pixels` `[B, C, *size]` and `targets` `[B, classes]` with the batch in reverse order.

    Mixup blends whole samples with a weight that is drawn from Beta(mixup, mixup). Cutmix pastes a box, and draws its
    fraction of the volume from Beta(cutmix, cutmix). If both are on, each is chosen with probability 1/2. 0 turns one
    off.
    """
    if (not mixup and not cutmix) or len(pixels) < 2:
        return pixels, targets
    cut = bool(cutmix) and (not mixup or random.random() < 0.5)
    weight = float(random.beta(cutmix, cutmix) if cut else random.beta(mixup, mixup))
    other = pixels.flip(0)
    if cut:
        box: list[slice] = [slice(None), slice(None)]
        share = 1.0
        for length in pixels.shape[2:]:
            side = length * (1 - weight) ** (1 / (pixels.ndim - 2))
            center = random.integers(length)
            first, last = (int(np.clip(round(center + d * side / 2), 0, length)) for d in (-1, 1))
            box.append(slice(first, last))
            share *= (last - first) / length
        pixels, weight = pixels.clone(), 1 - share
        pixels[tuple(box)] = other[tuple(box)]
    else:
        pixels = pixels.lerp(other, 1 - weight)
    return pixels, targets * weight + targets.flip(0) * (1 - weight)
