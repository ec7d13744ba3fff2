"""Objects that a model finds: from the outputs of transformers' models to boxes and masks in pixels of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from hierax.detection.build import Detector
from hierax.detection.masks import box_of, encode
from hierax.reprs.text import short_repr

MOST = 100
"""Objects of an image that are kept: those with the highest scores, as many as COCO's evaluation looks at."""


@short_repr()
@dataclass(frozen=True)
class FoundObject:
    """An object that a model found.

    Attributes:
        box: left, top, width and height in pixels of the image.
        label: the number of its class.
        score: from 0 to 1.
        mask: the run-length encoding of its mask; None if the model finds boxes alone.
    """

    box: tuple[float, float, float, float]
    label: int
    score: float
    mask: Any = None


def check_batch_size(batch_size: int) -> None:
    """Raises `ValueError` if a number of images per call of the model is below 1."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; expected 1 or more")


@torch.no_grad()
def find_objects(
    detector: Detector, images: Sequence[Image.Image], *, threshold: float = 0.0, most: int = MOST
) -> list[list[FoundObject]]:
    """The objects in each RGB image with at least this score, the highest scores first.

    Raises:
        ValueError: the output of the model is not finite.
    """
    model = detector.model
    pixels = torch.stack([detector.pixels.whole(image) for image in images]).to(model.device)
    outputs = model(pixel_values=pixels)
    logits: Tensor = outputs.logits if detector.task == "detect" else outputs.class_queries_logits
    if not logits.isfinite().all():
        raise ValueError("the output of the model is not finite; its weights may be damaged")
    sizes = [image.size for image in images]
    read = _boxes if detector.task == "detect" else _instances
    return [read(outputs, place, size, threshold, most) for place, size in enumerate(sizes)]


def _boxes(outputs: Any, place: int, size: tuple[int, int], threshold: float, most: int) -> list[FoundObject]:
    """Every pair of a query and a class is a candidate, as in RT-DETR's own evaluation."""
    scores: Tensor = outputs.logits[place].float().sigmoid()
    classes = scores.shape[1]
    best = scores.flatten().topk(min(most, scores.numel()))
    kept = best.values >= threshold
    indices = best.indices[kept]
    x, y, wide, high = outputs.pred_boxes[place].float()[indices // classes].unbind(-1)
    width, height = size
    corners = torch.stack([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2], -1).clamp(0, 1)
    corners = corners * torch.tensor([width, height, width, height], device=corners.device)
    found = []
    for score, label, (left, top, right, bottom) in zip(
        best.values[kept].tolist(), (indices % classes).tolist(), corners.tolist(), strict=True
    ):
        found.append(FoundObject((left, top, right - left, bottom - top), label, score))
    return found


def _instances(outputs: Any, place: int, size: tuple[int, int], threshold: float, most: int) -> list[FoundObject]:
    """The score of a mask is that of its class times the mean probability of its pixels, as in Mask2Former.

    Masks are enlarged one after the other, so that a large image with many queries needs little memory.
    """
    scores: Tensor = outputs.class_queries_logits[place].float().softmax(-1)[:, :-1]
    classes = scores.shape[1]
    best = scores.flatten().topk(min(most, scores.numel()))
    found: list[FoundObject] = []
    for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        logits: Tensor = outputs.masks_queries_logits[place, index // classes].float()
        inside = logits > 0
        quality = float((logits.sigmoid() * inside).sum() / inside.sum().clamp(min=1))
        if score * quality < threshold or not inside.any():
            continue
        width, height = size
        whole = F.interpolate(logits[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]
        mask = (whole > 0).cpu().numpy()
        box = box_of(mask)
        if box is not None:
            found.append(FoundObject(box, index % classes, score * quality, encode(mask)))
    return sorted(found, key=lambda one: -one.score)
