"""Semantic segmentation: its objective, and its evaluation against targets of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.data.dataset import IGNORE
from hierax.data.loader import Batch
from hierax.model.class_map import class_map
from hierax.model.config import HieraConfig
from hierax.model.pretrained import Pretrained
from hierax.predict.sliding import OVERLAP, Box, axis, default_window, merged_rows
from hierax.processing import Preprocessing
from hierax.train.objective import Objective
from hierax.train.parallel import World
from hierax.train.predictions import Inputs, never_stop, normalize, run_on_samples
from hierax.train.segmentation_metrics import SegmentationMatrix, count_pixels
from hierax.train.settings import Recipe


class Segmentation(Objective):
    """Learns a class for each pixel."""

    class_weights: Tensor | None

    def __init__(
        self,
        model: Pretrained,
        recipe: Recipe,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(model, recipe, mean=mean, std=std)
        self.register_buffer("class_weights", class_weights, persistent=False)

    def prepare_inputs(self, batch: Batch, device: torch.device, *, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """Normalized pixels, and the class of each pixel."""
        if batch.targets is None:
            raise ValueError("the data has no masks; segmentation learns from a class for each pixel")
        pixels = self.normalize(batch.pixels.to(device, non_blocking=True))
        return pixels, batch.targets.to(device, non_blocking=True).long()

    def forward(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """The loss, in float32 (float64 stays)."""
        return self.segmentation_loss(self.model(pixels).logits, targets)

    def segmentation_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy over the pixels that are not ignored, in which each pixel has the weight of its class. It
        is 0 if all pixels are ignored.

        Args:
            logits: `[B, classes, H, W]`.
            targets: int64 `[B, H, W]`.
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        smoothing = self.recipe.label_smoothing
        total = F.cross_entropy(
            logits, targets, weight=weights, ignore_index=IGNORE, label_smoothing=smoothing, reduction="sum"
        )
        kept = targets != IGNORE
        if weights is None:
            return total / kept.sum().clamp(min=1)
        of_pixels = weights[torch.where(kept, targets, 0)] * kept
        return total / of_pixels.sum().clamp(min=torch.finfo(logits.dtype).tiny)


class Segmenter(Protocol):
    """What predicts a class for each pixel: `HieraForSemanticSegmentation`, or `hierax.Engine` with such a model."""

    @property
    def config(self) -> HieraConfig:
        """The configuration."""
        ...

    @property
    def device(self) -> torch.device:
        """The device on which its outputs are."""
        ...

    @property
    def coarse_logits(self) -> Callable[..., Tensor]:
        """Gives logits `[B, classes, rows, columns]` on the grid of stage 1 for `pixel_values=`."""
        ...


class SegmentationEngine(Segmenter, Protocol):
    """A segmentation model that is not a module: `hierax.Engine`, with a checkpoint or an export.

    Attributes:
        task: as in `hierax.load`.
        record: the preprocessing record, or None.
        source: the origin of the weights, or None if it is unknown.
        exported: the export, which takes one size alone; None for other models.
    """

    exported: object
    task: str
    record: Preprocessing | None
    source: str | None


@dataclass
class SegmentationResult:
    """The evaluation of a segmentation model on a dataset.

    Attributes:
        matrix: the confusion matrix of all pixels.
        loss: mean cross entropy over the pixels that are not ignored, at the size of the model's input.
        images: number of images that could be read.
        bad: names and problems of the others.
    """

    matrix: SegmentationMatrix
    loss: float
    images: int
    bad: list[tuple[str, str]] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """The loss, and the metrics of the matrix."""
        return {"loss": self.loss, **self.matrix.metrics()}


@torch.no_grad()
def segment_dataset(
    model: Segmenter,
    inputs: Inputs,
    world: World,
    *,
    fixed: bool = False,
    workers: int = 0,
    stop: Callable[[], bool] = never_stop,
    on_progress: Callable[[int, int], object] | None = None,
) -> SegmentationResult:
    """Compares the predicted class of each pixel with the target, at the size of the target. Images are computed one by
    one, because each has its own size. Those that are much longer than the model's size are cut into windows, as
    `hierax.segment` does it. The counts of all ranks are added.

    Args:
        fixed: whether the model takes its own size alone, as exports do. Then all images are cut into windows.

    Raises:
        ValueError: no sample can be read, samples have no target, or a target has a label that is no class.
        Interrupted: `stop` returned True on one of the ranks.
    """
    classes, stride = model.config.num_labels, model.config.stage_stride(0)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    losses = LossSum()
    images = 0

    def measure(part: Batch) -> None:
        nonlocal counts, images
        if part.targets is None:
            raise ValueError("the data has no masks; the evaluation of a segmentation needs a class for each pixel")
        pixels = normalize(part.pixels, model, inputs.mean, inputs.std)
        coarse, target = _coarse_logits(model, pixels, fixed=fixed), part.targets[0].long()
        found = class_map(coarse[0], pixels=pixels.shape[2:], size=target.shape, stride=stride)
        counts = counts + count_pixels(found.long(), target, classes)
        losses.add(coarse, target, pixels.shape[2:], stride)
        images += 1

    problems = run_on_samples(measure, inputs.view, world, batch=1, workers=workers, stop=stop, on_progress=on_progress)
    summed = torch.tensor(world.all_reduce_sum(*counts.flatten().tolist()), dtype=torch.float64)  # exact to 2^53 pixels
    total, pixels, number = world.all_reduce_sum(losses.total, losses.pixels, float(images))
    matrix = SegmentationMatrix(summed.long().view(classes, classes))
    return SegmentationResult(matrix, total / max(pixels, 1), int(number), problems)


def _coarse_logits(model: Segmenter, pixels: Tensor, *, fixed: bool) -> Tensor:
    """The coarse logits `[1, classes, rows, columns]` of an image, in windows if it is large."""
    config = model.config
    window = config.image_size if fixed else default_window(config.image_size, config.unit_pixels)
    rows, columns = (
        axis(length, stride=step, window=side, overlap=OVERLAP, fixed=fixed)
        for length, step, side in zip(pixels.shape[2:], config.stage_stride(0), window, strict=True)
    )

    def logits_of(boxes: Sequence[Box]) -> Iterator[Tensor]:
        for down, across in boxes:
            part = pixels[:, :, down, across]
            below, right = down.stop - down.start - part.shape[2], across.stop - across.start - part.shape[3]
            yield model.coarse_logits(pixel_values=F.pad(part, (0, right, 0, below)))[0]

    return torch.cat([logits for _, logits in merged_rows(rows, columns, logits_of)], 1)[None]


@dataclass
class LossSum:
    """The cross entropy of images at the size of the model's input, as in training; masks are resized to it.

    Attributes:
        total: the sum over the pixels that are not ignored.
        pixels: their number.
    """

    total: float = 0.0
    pixels: float = 0.0

    def add(self, coarse: Tensor, target: Tensor, size: Sequence[int], stride: Sequence[int]) -> None:
        """Adds an image: coarse logits `[1, classes, rows, columns]`, and the class of each pixel, `[H, W]`."""
        height, width = size
        whole = [cells * step for cells, step in zip(coarse.shape[2:], stride, strict=True)]
        exact = coarse if coarse.dtype == torch.float64 else coarse.float()
        logits = F.interpolate(exact, whole, mode="bilinear", align_corners=False)[..., :height, :width]
        wanted = F.interpolate(target[None, None].double(), (height, width), mode="nearest-exact")[:, 0].long()
        wanted = wanted.to(logits.device)
        self.total += F.cross_entropy(logits, wanted, ignore_index=IGNORE, reduction="sum").item()
        self.pixels += (wanted != IGNORE).sum().item()
