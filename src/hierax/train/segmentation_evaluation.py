"""Evaluation of a segmentation model on images with masks, for the command and for Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hierax.checkpoint.opened import Checkpoint, open_checkpoint
from hierax.data.dataset import Dataset
from hierax.data.split import with_validation
from hierax.data.view import EvaluationView
from hierax.model.pretrained import Pretrained
from hierax.model.segmentation import HieraForSemanticSegmentation
from hierax.processing import DEFAULT_MAX_PIXELS
from hierax.processing.defaults import preprocessing_for
from hierax.processing.frames import FIRST_ONLY
from hierax.reprs.markup import html_repr
from hierax.reprs.text import never_raises
from hierax.train.evaluation import run_trained_on, source_of, summary_of, worker_count
from hierax.train.held_out import held_out_part
from hierax.train.parallel import open_world
from hierax.train.pixels import pixel_mean_and_std
from hierax.train.plots import draw_confusion
from hierax.train.predictions import Inputs
from hierax.train.progress import explain_failures
from hierax.train.request import Classes, Colors, MaskOptions, PathOrHubId, open_masks
from hierax.train.segmentation import SegmentationEngine, SegmentationResult, segment_dataset
from hierax.train.settings import Recipe

_EXPECTED = "expected a segmentation model, as hierax finetune --task segment makes them"


@dataclass(frozen=True)
class SegmentationEvaluation:
    """The comparison of a segmentation model with the masks of a dataset.

    Attributes:
        result: the confusion matrix of all pixels, the loss, and the images that could not be read.
        labels: names of the classes.
        note: a sentence about which images were evaluated, if this is not obvious.
    """

    result: SegmentationResult
    labels: tuple[str, ...]
    note: str | None = None

    @never_raises
    def __repr__(self) -> str:
        return summary_of(self, "images")

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.train.cards import segmentation_evaluation

        return segmentation_evaluation(self)

    @property
    def count(self) -> int:
        """Number of images that were evaluated."""
        return self.result.images

    @property
    def metrics(self) -> dict[str, float]:
        """loss, mean_iou, frequency_weighted_iou, pixel_accuracy and mean_accuracy."""
        return {name: value for name, value in self.result.metrics().items() if name != "score"}

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """Label, iou, recall, precision and pixels of each class that occurs or is predicted."""
        return self.result.matrix.per_class(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """The values as a dict that can be written as JSON."""
        return {
            **self.metrics,
            "samples": self.count,
            "pixels": self.result.matrix.pixels,
            "unreadable": len(self.result.bad),
            "classes": self.per_class,
        }

    def draw_confusion(self, path: Path) -> Path:
        """Draws the confusion matrix in percent of the true class, and returns the path. It needs matplotlib."""
        return draw_confusion(self.result.matrix.counts.numpy(), self.labels, path, pixels=True)


def evaluate_segmentation(
    data: PathOrHubId,
    *,
    model: PathOrHubId | Checkpoint | HieraForSemanticSegmentation | SegmentationEngine,
    device: str = "auto",
    workers: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    columns: Mapping[str, str] | None = None,
    classes: Classes | None = None,
    reduce_labels: bool = False,
    colors: Colors | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> SegmentationEvaluation:
    """Compares the class that a model predicts for each pixel with the masks of `data`. All images count in one
    confusion matrix; pixels with the value 255 do not count.

    The image is resized as the preprocessing of the model says, and the logits are enlarged to the size of the mask.

    Args:
        data: a source for `hierax.data.open_segmentation`. If it has a validation set, that is used. Of the training
            data of a run, the images that the run held out are used.
        model: a segmentation model, or a checkpoint (also an open one) or run to load one from; or a `hierax.Engine`.
        device: "auto", "cpu", "cuda" or "mps", to which a model is moved; an engine runs where it is.
        workers: number of decoding processes; None is 0 for few images, otherwise the number of cores minus one.
        max_pixels: images with more pixels count as unreadable; None is no limit.
        columns, classes, reduce_labels, colors: see `hierax.data.open_segmentation`. For the training data of a run,
            they are those of the run if none is given. Without classes, those of the model.
        on_progress: is called with the number of finished images, and with the number of all images.

    Raises:
        ValueError: the model is not for segmentation, or the data has other classes, or no pixel with a class.
        TrainingStopped: memory ran out, or a worker or another rank ended.
    """
    network = _segmentation_model(model) if isinstance(model, (str, os.PathLike, Checkpoint)) else model
    if isinstance(network, Pretrained) and not isinstance(network, HieraForSemanticSegmentation):
        raise ValueError(f"the model is a {type(network).__name__}; {_EXPECTED}")
    if not isinstance(network, Pretrained) and network.task != "segmentation":
        raise ValueError(f"the model is for {network.task}; {_EXPECTED}")
    fixed = not isinstance(network, Pretrained) and network.exported is not None
    config = network.config
    labels = tuple(config.id2label[i] for i in range(config.num_labels))
    masks = MaskOptions.of(classes=classes, reduce_labels=reduce_labels, colors=colors)
    trained = run_trained_on(data, source_of(model))
    if trained:
        masks = masks or MaskOptions.read(trained.get("masks"))
        columns = trained.get("columns") if columns is None else columns
    masks = masks or MaskOptions()
    masks = replace(masks, classes=masks.classes or labels)  # the data may state the same classes in another order
    dataset, note = _evaluated(data, masks, columns, trained, labels)
    with open_world(device) as world:
        if isinstance(network, Pretrained):
            network = network.to(world.device).eval()
        inputs = segmentation_inputs(dataset, network, max_pixels=max_pixels)
        workers = worker_count(dataset) if workers is None else workers
        notices = FIRST_ONLY.report_at_end(gather=world.all_gather, here=world.is_main)
        with explain_failures(lambda: "nothing was written"), notices:
            found = segment_dataset(network, inputs, world, fixed=fixed, workers=workers, on_progress=on_progress)
    if not found.matrix.pixels:
        raise ValueError(f"{data}: no pixel of the masks has a class, so there is nothing to measure; 255 is none")
    return SegmentationEvaluation(found, labels, note)


def _segmentation_model(source: PathOrHubId | Checkpoint) -> HieraForSemanticSegmentation:
    """The segmentation model of a checkpoint or run.

    Raises:
        ValueError: it is a model of another task.
    """
    opened = open_checkpoint(source)
    if opened.task != "segmentation":
        raise ValueError(f"{opened.name} is a model for {opened.task}; {_EXPECTED}")
    model = opened.model()
    assert isinstance(model, HieraForSemanticSegmentation)
    return model


def segmentation_inputs(
    dataset: Dataset, model: HieraForSemanticSegmentation | SegmentationEngine, *, max_pixels: int | None
) -> Inputs:
    """The images of a dataset as inputs of a model: whole images, with the aspect ratio that its record keeps."""
    config = model.config
    record = preprocessing_for(config, model.preprocessing if isinstance(model, Pretrained) else model.record)
    record = record.whole() if record.do_center_crop else record
    view = EvaluationView(dataset, record, size=config.image_size, max_pixels=max_pixels)
    return Inputs(view, *pixel_mean_and_std(record))


def _evaluated(
    data: PathOrHubId,
    masks: MaskOptions,
    columns: Mapping[str, str] | None,
    trained: Mapping[str, Any],
    labels: tuple[str, ...],
) -> tuple[Dataset, str | None]:
    """The images to evaluate: the validation set, what a run held out, or all; and a note on that."""
    train, validation = open_masks(data, None, masks, columns)
    note = None
    if validation is None and trained:
        recipe = Recipe.from_dict(trained["recipe"])
        fraction = 0.0 if trained.get("validation") else recipe.validation_fraction
        rest, held = with_validation(train, None, fraction=fraction, seed=recipe.seed)
        then = trained.get("facts", {})
        other = (len(rest), len(held or ())) != (then.get("samples"), then.get("held_out"))
        validation, note = held_out_part(data, held, changed=other and not trained.get("validation"))
    return _with_classes(train if validation is None else validation, labels), note


def _with_classes(dataset: Dataset, labels: tuple[str, ...]) -> Dataset:
    """The dataset, if its classes are those of the model.

    Raises:
        ValueError: they are not.
    """
    own = dataset.classes
    if own == labels:
        return dataset
    listed = [", ".join(names[:8]) + (", …" if len(names) > 8 else "") for names in (own, labels)]
    raise ValueError(
        f"the data has the classes {listed[0]}; the model {listed[1]}; expected the same classes in the same order "
        "(--classes, in Python classes, states the names of numbers in masks)"
    )
