"""Finds the sets of a source of annotated images: a COCO file, a YOLO description, annotations of Pascal VOC, a table,
or a folder that holds them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hierax.data.order import SPLIT, random_stream
from hierax.data.sources import table_files
from hierax.data.split_names import find_splits, kind_of
from hierax.detection.coco import read_coco
from hierax.detection.dataset import DetectionDataset
from hierax.detection.tables import read_table, table_splits
from hierax.detection.voc import read_voc, voc_sets
from hierax.detection.yolo import class_names, read_description, read_yolo
from hierax.notices import notify
from hierax.processing.paths import is_hidden, require_path

_Open = Callable[[bool], DetectionDataset]
"""Opens a set; the argument is whether masks are needed."""
EXPECTED = (
    "expected a COCO file (.json), a folder with COCO files (annotations/instances_train.json, "
    "train/_annotations.coco.json), a data.yaml of YOLO, a folder with images/ and labels/, "
    "Annotations/ of Pascal VOC, or a table with columns image and objects (parquet, hub:ID)"
)
_OTHER_TASKS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")
"""Beginnings of the names of COCO's files for other tasks."""


def open_detection(source: str | os.PathLike[str], *, masks: bool = False) -> DetectionDataset:
    """Opens annotated images. Of a source with several sets, the validation set is opened.

    Args:
        source: a COCO file, a `data.yaml` of YOLO, parquet files with columns image and objects, `hub:ID`, or a folder
            that holds one of these or annotations of Pascal VOC.
        masks: whether polygons or masks are needed.

    Raises:
        ValueError: there are no annotations, or they are damaged; the message names the file and what is expected.
    """
    sets = _find_sets(source)
    training, held = find_splits(list(sets), of=os.fspath(source))
    return sets[held or training or next(iter(sets))](masks)


def open_detection_splits(
    source: str | os.PathLike[str],
    *,
    validation: str | os.PathLike[str] | None = None,
    fraction: float,
    seed: int,
    masks: bool = False,
) -> tuple[DetectionDataset, DetectionDataset | None]:
    """Opens a training set and a validation set, which has the classes of training.

    The validation set is `validation`, else that of `source`, else a `fraction` of the images, drawn with `seed`.

    Raises:
        ValueError: see `open_detection`; or the validation set has objects of other classes; or one of the sets would
            be empty.
    """
    sets = _find_sets(source)
    training, held = find_splits(list(sets), of=os.fspath(source))
    if training is None and len(sets) > 1:
        raise ValueError(f"{source} holds {', '.join(sets)}, but no training set; expected a set with the name train")
    name = training or next(iter(sets))
    if training is None and kind_of(name):
        notify(f"{source} has no training set; its only set, {name}, is trained on")
    train = sets[name](masks)
    if not train.objects:
        raise ValueError(f"{train.name}: no objects to learn (crowds are not learned); expected annotations")
    if validation is not None:
        held_set = open_detection(validation, masks=masks)
    elif training is not None and held is not None:
        held_set = sets[held](masks)
    else:
        return draw_validation(train, fraction, seed)
    try:
        return train, held_set.with_classes(train.classes, train.category_ids)
    except ValueError as error:
        raise ValueError(f"validation does not fit the training set: {error}") from None


def has_validation(source: str | os.PathLike[str]) -> bool:
    """Whether a source has a validation set, which `open_detection` opens. Its annotations are not read."""
    training, held = find_splits(list(_find_sets(source)), of=os.fspath(source))
    return training is not None and held is not None


def draw_validation(
    train: DetectionDataset, fraction: float, seed: int
) -> tuple[DetectionDataset, DetectionDataset | None]:
    """The images to train on, and a `fraction` of them that is held out; None if that is none."""
    count = round(len(train) * fraction)
    if not count:
        return train, None
    order = random_stream(seed, SPLIT).permutation(len(train))
    kept = train.subset(np.sort(order[count:]).tolist())
    if not kept.objects:
        raise ValueError(
            f"validation_fraction is {fraction:g} of {len(train)} images, which leaves no objects to train on; "
            "validation_fraction=0 trains on all of them, --validation DATA names others"
        )
    return kept, train.subset(np.sort(order[:count]).tolist())


def has_boxes(source: str | os.PathLike[str]) -> bool:
    """Whether a source seems to be one of annotated images. Its annotations are not read."""
    try:
        return bool(_find_sets(source))
    except (ValueError, OSError):
        return False


def _find_sets(given: str | os.PathLike[str]) -> dict[str, _Open]:
    """The sets of a source by name; "" for the only one."""
    require_path(given, "source")
    text, source = os.fspath(given), Path(given)
    files = table_files(text) if text.startswith("hub:") or os.path.exists(source) else None
    if files is not None and not (files and source.is_dir()):  # a folder may hold more than its tables
        return _table_sets(text, files)
    if source.suffix.lower() in (".csv", ".tar", ".npy"):
        raise ValueError(f"{text}: this kind of data has no boxes that are read; {EXPECTED}")
    if not os.path.exists(source):
        raise ValueError(f"{text}: no such file or folder; {EXPECTED}")
    if source.is_dir():
        found = _yaml_sets(source) or _coco_sets(source) or _label_sets(source) or _voc_sets(source)
        if not found and files:
            return _table_sets(text, files)
        if not found:
            raise ValueError(f"{text}: no annotations of boxes in this folder; {EXPECTED}")
        return found
    if source.suffix.lower() == ".json":
        return {"": lambda masks: read_coco(source, masks=masks)}
    if source.suffix.lower() in (".yaml", ".yml"):
        found = _description_sets(source)
        if found is None:
            raise ValueError(f"{text}: names is missing; expected a data.yaml of YOLO with names, train and val")
        return found
    raise ValueError(f"{text}: not a COCO file; {EXPECTED}")


def _yaml_sets(folder: Path) -> dict[str, _Open]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".yaml", ".yml") and path.is_file() and not is_hidden(path.name):
            found = _description_sets(path)
            if found:
                return found
    return {}


def _description_sets(file: Path) -> dict[str, _Open] | None:
    description = read_description(file)
    if description is None:
        return None
    if not description.sets:
        raise ValueError(f"{file}: train is missing; expected the folder of the training images")
    return {
        name: partial(_open_yolo, places, description.classes, f"{file} ({name})", pose=description.pose)
        for name, places in description.sets.items()
    }


def _open_yolo(
    places: tuple[Path, ...], classes: tuple[str, ...] | None, name: str, masks: bool, *, pose: int = 0
) -> DetectionDataset:
    return read_yolo(places, classes, name=name, masks=masks, pose=pose)


def _coco_sets(folder: Path) -> dict[str, _Open]:
    """COCO files in a folder, in its `annotations/`, or one in each of its folders."""
    for place in (folder, folder / "annotations"):
        if found := _coco_files(place):
            return _by_split(folder, found)
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    each = {path.name: files for path in inside if (files := _coco_files(path))}
    for name, files in each.items():
        if len(files) > 1:
            raise ValueError(
                f"{folder / name} holds {len(files)} COCO files, {_names(files)}; expected one, or pass it"
            )
    if len(each) > 1 and not any(map(kind_of, each)):
        raise ValueError(f"{folder}: COCO files in {', '.join(each)}; expected train and val, or pass one file")
    return {name: partial(_open_coco, files[0]) for name, files in each.items()}


def _open_coco(file: Path, masks: bool) -> DetectionDataset:
    return read_coco(file, masks=masks)


def _coco_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".json" and not is_hidden(p.name) and p.is_file())
    files = [file for file in files if not file.name.startswith(_OTHER_TASKS)]
    instances = [file for file in files if file.name.startswith("instances")]
    return instances or files


def _by_split(folder: Path, files: list[Path]) -> dict[str, _Open]:
    if len(files) == 1:
        return {"": partial(_open_coco, files[0])}
    named = {_split_of(file): file for file in files}
    unclear = [file for file in files if kind_of(_split_of(file)) is None]
    if unclear or len(named) < len(files):
        raise ValueError(
            f"{folder} holds {len(files)} JSON files, {_names(files)}; expected one COCO file, or one for each of "
            "train and val; pass the file that you mean (--validation names another)"
        )
    return {name: partial(_open_coco, file) for name, file in named.items()}


def _split_of(file: Path) -> str:
    """The part of the name of a file that names its set: "train2017" of instances_train2017.json."""
    words = file.stem.replace(".", "_").replace("-", "_").split("_")
    return next((word for word in words if kind_of(word) is not None), file.stem)


def _names(files: list[Path], most: int = 4) -> str:
    return ", ".join(file.name for file in files[:most]) + (", …" if len(files) > most else "")


def _label_sets(folder: Path) -> dict[str, _Open]:
    """A YOLO folder without a description: images/ and labels/, with the sets in them or above them."""
    images, labels = folder / "images", folder / "labels"
    if images.is_dir() and labels.is_dir():
        inside = [p for p in sorted(images.iterdir()) if p.is_dir() and kind_of(p.name) and (labels / p.name).is_dir()]
        names = class_names(folder, labels)
        sets = {place.name: place for place in inside} or {"": images}
        return {name: partial(_open_yolo, (place,), names, str(place)) for name, place in sets.items()}
    parts = [p for p in sorted(folder.iterdir()) if p.is_dir() and (p / "images").is_dir() and (p / "labels").is_dir()]
    return {
        part.name: partial(_open_yolo, (part / "images",), class_names(folder, part, part / "labels"), str(part))
        for part in parts
        if kind_of(part.name)
    }


def _voc_sets(folder: Path) -> dict[str, _Open]:
    return {
        name: partial(_open_voc, files, f"{folder} ({name})" if name else str(folder))
        for name, files in voc_sets(folder).items()
    }


def _open_voc(files: list[Path], name: str, masks: bool) -> DetectionDataset:
    return read_voc(files, name=name, masks=masks)


def _table_sets(source: str, files: Sequence[Path]) -> dict[str, _Open]:
    return {split: partial(_open_table, *parts) for split, parts in table_splits(source, files).items()}


def _open_table(name: str, table: Any, image: str, objects: str, masks: bool) -> DetectionDataset:
    return read_table(name, table, image, objects, masks=masks)
