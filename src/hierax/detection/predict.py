"""Finds objects in images with a model of detection, and writes them as a COCO file with an overlay of each image."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from hierax.atomic import atomic_write
from hierax.detection.build import Detector, open_detector
from hierax.detection.drawing import draw_objects
from hierax.detection.masks import decode
from hierax.detection.objects import FoundObject, check_batch_size, find_objects
from hierax.devices import find_device
from hierax.predict.features import output_names
from hierax.predict.inputs import Overwrite, check_outputs, image_paths, read_ahead, without_written
from hierax.predict.unfinished import unfinished_path
from hierax.processing import DEFAULT_MAX_PIXELS, ImageError, load_image
from hierax.reprs.markup import html_repr
from hierax.reprs.text import short_repr

RESULTS = "detections.json"
"""The name of the COCO file in the output folder."""
THRESHOLD = 0.5
_AHEAD = 2  # images that are read while the model runs


@short_repr(changed=True)
@dataclass(frozen=True)
class Detection:
    """The objects in an image, or the error if it cannot be read.

    Attributes:
        path: the image.
        width, height: pixels of the upright image.
        objects: the objects, the highest scores first.
        classes: the names of the classes of the model.
        overlay: the image with the objects drawn on it, if that was written.
        error: why the image cannot be read.
    """

    path: Path
    width: int = 0
    height: int = 0
    objects: tuple[FoundObject, ...] = ()
    classes: tuple[str, ...] = ()
    overlay: Path | None = None
    error: ImageError | None = None

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.detection.cards import detection

        return detection(self)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        if self.error is not None:
            return {"path": str(self.path), "error": self.error.problem}
        objects = [
            {"label": self.classes[one.label], "score": round(one.score, 4), "bbox": [round(n, 2) for n in one.box]}
            for one in self.objects
        ]
        overlay = {} if self.overlay is None else {"overlay": str(self.overlay)}
        return {"path": str(self.path), "width": self.width, "height": self.height, "objects": objects, **overlay}


def stored(found: Detection) -> dict[str, Any]:
    """All that was found in an image, unrounded, as JSON values without the names of files and classes."""
    return {"size": [found.width, found.height], "objects": [astuple(one) for one in found.objects]}


def detection_from(path: Path, values: Mapping[str, Any], classes: Sequence[str], overlay: Path) -> Detection:
    """The result of which `stored` made these values."""
    width, height = values["size"]
    objects = tuple(FoundObject(tuple(box), *rest) for box, *rest in values["objects"])
    return Detection(path, width, height, objects, tuple(classes), overlay)


def detect(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    model: str | os.PathLike[str] | Detector,
    threshold: float = THRESHOLD,
    device: str = "auto",
    batch_size: int = 1,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Iterator[Detection]:
    """Yields the objects in each image.

    Args:
        images: paths of images.
        model: a run of `finetune_detection`, a folder of transformers, or an open model.
        threshold: least score of an object.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images per call of the model.
        max_pixels: larger images are an error; None is no limit.

    Raises:
        ValueError: the model is none of detection, or its files are damaged; or `batch_size` is below 1.
    """
    check_batch_size(batch_size)
    paths = image_paths(images)
    if not isinstance(model, Detector):
        model = open_detector(model)
        model.model.to(find_device(device))
    found = detections(model, paths, threshold=threshold, batch_size=batch_size, max_pixels=max_pixels)
    return (one for one, _ in found)


def detections(
    detector: Detector,
    paths: Sequence[Path],
    *,
    threshold: float = THRESHOLD,
    batch_size: int = 1,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Iterator[tuple[Detection, Image.Image | None]]:
    """Like `detect`, with an open model. Each result comes with the upright image in RGB; None if it cannot be read."""
    waiting = read_ahead(paths, partial(load_image, max_pixels=max_pixels), ahead=batch_size + _AHEAD)
    while batch := list(islice(waiting, batch_size)):
        images = [image for _, image in batch if isinstance(image, Image.Image)]
        found = iter(find_objects(detector, images, threshold=threshold) if images else ())
        for path, image in batch:
            if isinstance(image, ImageError):
                yield Detection(path, error=image), None
            else:
                yield Detection(path, *image.size, tuple(next(found)), detector.classes), image


@dataclass(frozen=True)
class DetectionFiles:
    """The files that `hierax detect` writes: the COCO file, and an overlay for each image."""

    results: Path
    overlays: tuple[Path, ...]


def detection_files(
    paths: Sequence[Path], output: str | os.PathLike[str], *, overwrite: Overwrite = False
) -> DetectionFiles:
    """The paths that are written for these images.

    Raises:
        ValueError: see `hierax.predict.inputs.check_outputs`.
    """
    overlays = tuple(Path(output, f"{name}.png") for name in output_names(paths))
    results = Path(output, RESULTS)
    check_outputs([results, *overlays], paths, overwrite=overwrite)
    return DetectionFiles(results, overlays)


def without_overlays(images: Sequence[Path], named: Collection[str]) -> list[Path]:
    """The images that are not overlays of an earlier `hierax detect`, see `without_written`."""
    overlays = cache(_overlays_in)
    return without_written(
        images,
        named,
        lambda path: path.suffix == ".png" and overlays(path.parent)(path.name),
        "overlays that hierax detect wrote",
    )


def _overlays_in(folder: Path) -> Callable[[str], bool]:
    """Tells whether a PNG file of a folder, by its name, is an overlay of the results in it."""
    if unfinished_path(folder / RESULTS).exists():
        return lambda _: True
    try:
        values = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        names = {entry.get("overlay") for entry in values["images"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return lambda _: False
    return names.__contains__


def write_overlays(
    found: Iterable[tuple[Detection, Image.Image | None]], overlays: Sequence[Path], classes: Sequence[str]
) -> Iterator[Detection]:
    """Writes an overlay for each result of `detections`, and yields it with the path."""
    for (one, image), overlay in zip(found, overlays, strict=True):
        if image is None:
            yield one
            continue
        with atomic_write(overlay, sync=False) as part:
            draw_objects(image, one.objects, classes).save(part)
        yield replace(one, overlay=overlay)


def write_results(detector: Detector, detections: Sequence[Detection], path: Path) -> None:
    """Writes the results of the images that could be read as a COCO file, with their paths relative to its folder."""
    values = coco_form(detector, [one for one in detections if one.error is None], folder=path.parent)
    with atomic_write(path) as part:
        part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def coco_form(detector: Detector, detections: Sequence[Detection], *, folder: Path | None = None) -> dict[str, Any]:
    """Detections as a COCO file. Each annotation has a score too, each image the name of its overlay, and the numbers
    of the categories are those of the training data.

    Args:
        folder: the folder that paths of images are relative to; None keeps them as they are.
    """
    images, annotations = [], list[dict[str, Any]]()
    for number, found in enumerate(detections, start=1):
        name = str(found.path) if folder is None else _relative(found.path, folder)
        overlay = {} if found.overlay is None else {"overlay": found.overlay.name}
        images.append({"id": number, "file_name": name, "width": found.width, "height": found.height, **overlay})
        for one in found.objects:
            box = [round(value, 2) for value in one.box]
            entry = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": detector.category_ids[one.label],
                "bbox": box,
                "area": round(box[2] * box[3], 2),
                "iscrowd": 0,
                "score": round(one.score, 5),
            }
            if one.mask is not None:
                entry["segmentation"] = one.mask
                entry["area"] = int(decode(one.mask, found.height, found.width).sum())
            annotations.append(entry)
    names = zip(detector.category_ids, detector.classes, strict=True)
    return {
        "info": {"description": "objects found by hierax detect"},
        "images": images,
        "categories": [{"id": key, "name": name} for key, name in names],
        "annotations": annotations,
    }


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return str(path.resolve())
