"""The metrics of a semantic segmentation, from one confusion matrix over all pixels of a dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hierax.data.dataset import IGNORE
from hierax.reprs.text import short_repr


@short_repr()
@dataclass(frozen=True)
class SegmentationMatrix:
    """A confusion matrix of pixels, and the metrics that follow from it.

    IoU is intersection over union: the pixels that are of a class and were predicted as it, divided by the pixels for
    which one of both holds. A class without any such pixel has no IoU, and is left out of the mean.

    Attributes:
        counts: int64 `[classes, classes]`; rows are true classes, columns are predicted ones.
    """

    counts: Tensor

    @property
    def pixels(self) -> int:
        """Number of pixels that are not ignored."""
        return int(self.counts.sum())

    @property
    def iou(self) -> Tensor:
        """IoU of each class, float64 `[classes]`; NaN for a class that neither occurs nor is predicted."""
        table = self.counts.double()
        hits = table.diagonal()
        return hits / (table.sum(0) + table.sum(1) - hits)

    @property
    def recall(self) -> Tensor:
        """The share of the pixels of each class that is found, float64 `[classes]`; NaN for a class without pixels."""
        table = self.counts.double()
        return table.diagonal() / table.sum(1)

    def metrics(self) -> dict[str, float]:
        """By name: "mean_iou", "frequency_weighted_iou" (each class has the weight of its share of the pixels),
        "pixel_accuracy" and "mean_accuracy" (mean recall of the classes that occur). The "score" is the mean IoU.

        All are NaN if there is no pixel.
        """
        table = self.counts.double()
        total, share = table.sum(), table.sum(1) / table.sum()
        iou, recall = self.iou, self.recall
        mean_iou = iou.nanmean().item()
        return {
            "mean_iou": mean_iou,
            "frequency_weighted_iou": (share * iou).nansum().item() if total else math.nan,
            "pixel_accuracy": (table.diagonal().sum() / total).item(),
            "mean_accuracy": recall.nanmean().item(),
            "score": mean_iou,
        }

    def per_class(self, labels: tuple[str, ...]) -> list[dict[str, Any]]:
        """Label, IoU, recall, precision and the number of true pixels of each class that occurs or is predicted."""
        rows = []
        for index, label in enumerate(labels):
            true, said = int(self.counts[index].sum()), int(self.counts[:, index].sum())
            hits = int(self.counts[index, index])
            if true or said:
                rows.append(
                    {
                        "label": label,
                        "iou": hits / (true + said - hits),
                        "recall": hits / true if true else None,
                        "precision": hits / said if said else None,
                        "pixels": true,
                    }
                )
        return rows


def count_pixels(predicted: Tensor, target: Tensor, classes: int, *, ignore: int = IGNORE) -> Tensor:
    """The confusion matrix of one class map: int64 `[classes, classes]`, true classes in rows.

    Args:
        predicted: classes of any shape, 0 to `classes` - 1.
        target: classes of the same shape; `ignore` does not count.
        classes: number of classes.
        ignore: the label that does not count.

    Raises:
        ValueError: a label is no class and not `ignore`.
    """
    kept = target != ignore
    true, said = target[kept].long(), predicted[kept].long()
    if true.numel() and not 0 <= int(true.min()) <= int(true.max()) < classes:
        wrong = int(true.max()) if int(true.max()) >= classes else int(true.min())
        raise ValueError(
            f"a pixel has the label {wrong}; expected 0 to {classes - 1}, or {ignore} for pixels to ignore"
        )
    return torch.bincount(true * classes + said, minlength=classes**2).view(classes, classes)
