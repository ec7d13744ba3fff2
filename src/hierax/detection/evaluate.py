"""COCO's evaluation: average precision and recall, computed by faster-coco-eval."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from hierax.detection.build import Detector, check_packages, open_detector
from hierax.detection.dataset import AnnotatedImage, DetectionDataset
from hierax.detection.masks import encode
from hierax.detection.objects import FoundObject, check_batch_size, find_objects
from hierax.detection.recipes import TASKS, DetectionRecipe
from hierax.detection.sources import draw_validation, has_validation, open_detection
from hierax.devices import find_device
from hierax.predict.inputs import read_ahead
from hierax.processing import DEFAULT_MAX_PIXELS, ImageError
from hierax.reprs.markup import html_repr
from hierax.reprs.text import short_repr
from hierax.train.description import read_object
from hierax.train.folder import absolute_source
from hierax.train.held_out import held_out_part, run_file

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve numbers, in COCO's order."""
_AHEAD = 2  # images that are read while the model runs


@short_repr()
@dataclass(frozen=True)
class DetectionEvaluation:
    """The result of an evaluation.

    Attributes:
        numbers: COCO's twelve numbers from 0 to 1; None where there is no object of that size.
        per_class: for each class its AP (None without objects) and the number of its objects.
        masks: whether masks were compared; else boxes.
        images: number of images.
        unreadable: names and problems of images that cannot be read.
        note: a sentence about which images were evaluated, if this is not obvious.
    """

    numbers: dict[str, float | None]
    per_class: list[dict[str, Any]]
    masks: bool
    images: int
    unreadable: list[tuple[str, str]]
    note: str | None = None

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.detection.cards import detection_evaluation

        return detection_evaluation(self)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "compared": "masks" if self.masks else "boxes",
            **self.numbers,
            "images": self.images,
            "unreadable": len(self.unreadable),
            "per_class": self.per_class,
        }


def evaluate_detection(
    data: str | os.PathLike[str] | DetectionDataset,
    *,
    model: str | os.PathLike[str] | Detector,
    device: str = "auto",
    batch_size: int = 8,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    on_progress: Callable[[int, int], object] | None = None,
) -> DetectionEvaluation:
    """Measures a model of detection on annotated images. Masks are compared if it finds masks, else boxes.

    Args:
        data: what `open_detection` opens, or a data set. For a model of masks, the data set must have been opened with
            `masks=True`. Classes are matched by their names. Of the training data of the run `model`, only the images
            that the run held out are evaluated.
        model: a run, a folder of transformers, or an open model.
        device: "auto", "cpu", "cuda", ….
        batch_size: images per call of the model.
        max_pixels: larger images count as unreadable; None is no limit.
        on_progress: called with the number of images that are done and of all.

    Raises:
        ValueError: the data has no objects, or objects of classes that the model does not know, or lacks masks for a
            model of masks; or `batch_size` is below 1; or the output of the model is not finite.
    """
    check_batch_size(batch_size)
    path = None if isinstance(model, Detector) else model
    if not isinstance(model, Detector):
        model = open_detector(model)
        model.model.to(find_device(device))
    masks, note = model.task == "instances", None
    if not isinstance(data, DetectionDataset):
        data, note = _opened(data, path, masks=masks)
    data = data.with_classes(model.classes, model.category_ids)
    if not data.objects:
        raise ValueError(f"{data.name}: no objects to compare with; expected annotations")
    if masks and any(one.segmentation is None for image in data.images for one in image.objects):
        raise ValueError(f"{data.name} has objects without masks; expected open_detection(…, masks=True)")
    found, unreadable = _predict(model, data.images, batch_size, max_pixels, on_progress)
    read = [image for image in data.images if image.id in found]
    if not read:
        raise ValueError(f"{data.name}: none of its images can be read; the first is {': '.join(unreadable[0])}")
    return compare(data.subset([i for i, image in enumerate(data.images) if image.id in found]), found,
                   masks=masks, unreadable=[*data.unreadable, *unreadable], note=note)  # fmt: skip


def _opened(
    data: str | os.PathLike[str], model: str | os.PathLike[str] | None, *, masks: bool
) -> tuple[DetectionDataset, str | None]:
    """The images to evaluate: of the training data of a run, those that it held out; and a note on that."""
    values, whole = {} if model is None else _run_trained_on(data, model), open_detection(data, masks=masks)
    if not values or has_validation(data):
        return whole, None
    recipe = DetectionRecipe.from_dict(values["recipe"])
    fraction = 0.0 if values.get("validation") else recipe.validation_fraction
    train, held = draw_validation(whole, fraction, recipe.seed)
    found = {"images": len(train), "objects": train.objects, "held_out": len(held or ())}
    other = not values.get("validation") and any(values.get("facts", {}).get(key) != found[key] for key in found)
    part, note = held_out_part(data, held, changed=other)
    return (whole if part is None else part), note


def _run_trained_on(data: str | os.PathLike[str], model: str | os.PathLike[str]) -> dict[str, Any]:
    """The description of the run `model`, if that was fine-tuned on `data`; else empty."""
    record = run_file(model)
    values = {} if record is None else read_object(record)
    return values if values.get("mode") in TASKS and values.get("data") == absolute_source(data) else {}


def _predict(
    model: Detector,
    images: Sequence[AnnotatedImage],
    batch_size: int,
    max_pixels: int | None,
    on_progress: Callable[[int, int], object] | None,
) -> tuple[dict[int, list[FoundObject]], list[tuple[str, str]]]:
    """The objects that the model finds, by the ids of the images; and what cannot be read."""
    found: dict[int, list[FoundObject]] = {}
    unreadable: list[tuple[str, str]] = []
    model.model.eval()
    waiting, done = read_ahead(images, lambda image: image.load(max_pixels=max_pixels), ahead=batch_size + _AHEAD), 0
    while batch := list(islice(waiting, batch_size)):
        unreadable += [(image.path, read.problem) for image, read in batch if isinstance(read, ImageError)]
        good = [(image.id, read) for image, read in batch if not isinstance(read, ImageError)]
        objects = find_objects(model, [read for _, read in good]) if good else ()
        found.update(zip((key for key, _ in good), objects, strict=True))
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(images))
    return found, unreadable


def ground_truth(data: DetectionDataset, *, masks: bool) -> dict[str, Any]:
    """A data set as the content of a COCO file.

    The annotations are numbered from 1: COCO's evaluation takes 0 for "no annotation", so an object with the id 0
    would never be found.
    """
    annotations = []
    for image in data.images:
        for found in image.objects:
            entry = {
                "id": len(annotations) + 1,
                "image_id": image.id,
                "category_id": data.category_ids[found.label],
                "bbox": list(found.box),
                "area": found.area,
                "iscrowd": int(found.crowd),
            }
            if masks:
                entry["segmentation"] = found.segmentation
            annotations.append(entry)
    return {
        "info": {},
        "images": [{"id": image.id, "width": image.width, "height": image.height} for image in data.images],
        "categories": [{"id": k, "name": n} for k, n in zip(data.category_ids, data.classes, strict=True)],
        "annotations": annotations,
    }


def results(
    found: Mapping[int, Sequence[FoundObject]], category_ids: Sequence[int], *, masks: bool
) -> list[dict[str, Any]]:
    """Objects by the ids of their images, in the form of COCO's results: each has its mask, or its box.

    If one has both, COCO's evaluation takes the area of the box for that of the mask.
    """
    listed = []
    for key, objects in found.items():
        for one in objects:
            place = {"segmentation": one.mask} if masks else {"bbox": list(one.box)}
            listed.append({"image_id": key, "category_id": category_ids[one.label], "score": one.score, **place})
    return listed


def compare(
    data: DetectionDataset,
    found: Mapping[int, Sequence[FoundObject]],
    *,
    masks: bool,
    unreadable: Sequence[tuple[str, str]] = (),
    note: str | None = None,
) -> DetectionEvaluation:
    """COCO's numbers for objects that were found, by the ids of the images."""
    check_packages("an evaluation of detection")
    from faster_coco_eval import COCO, COCOeval_faster

    truth, listed = COCO(ground_truth(data, masks=masks)), results(found, data.category_ids, masks=masks)
    counts = np.zeros(len(data.classes), int)
    for image in data.images:
        for one in image.objects:
            counts[one.label] += not one.crowd
    evaluation: Any = COCOeval_faster(
        truth, truth.loadRes(listed or [_nothing(data)]), "segm" if masks else "bbox", print_function=lambda *_: None
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    numbers = {name: _or_none(value) for name, value in zip(NUMBERS, evaluation.stats, strict=False)}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # of thresholds, recalls and classes
    each = [_mean(precision[:, :, number]) for number in range(len(data.classes))]
    per_class = [
        {"label": name, "AP": value, "objects": int(count)}
        for name, value, count in zip(data.classes, each, counts, strict=True)
    ]
    return DetectionEvaluation(numbers, per_class, masks, len(data), list(unreadable), note)


def _nothing(data: DetectionDataset) -> dict[str, Any]:
    """A result that matches no object, because the package does not take an empty list."""
    image = data.images[0]
    empty = encode(np.zeros((image.height, image.width), bool))
    return {
        "image_id": image.id,
        "category_id": data.category_ids[0],
        "bbox": [0, 0, 0, 0],
        "score": 0,
        "segmentation": empty,
    }


def _mean(values: np.ndarray) -> float | None:
    stated = values[values > -1]
    return float(stated.mean()) if stated.size else None


def _or_none(value: float) -> float | None:
    return None if value < 0 else float(value)
