"""Reads YOLO folders: for each image a text file with a line `class x y width height` per object.

Numbers are relative to the image. A line with more numbers is a polygon `class x y x y …`. The names of the classes are
in `data.yaml` or `classes.txt`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierax.data.list_rows import open_text
from hierax.detection.dataset import (
    MOST_NUMBERS,
    AnnotatedImage,
    DetectionDataset,
    ObjectAnnotation,
    image_sizes,
    note_boxes,
    note_unreadable,
)
from hierax.extras import load
from hierax.notices import LeftOut, notify
from hierax.processing import ImageError
from hierax.processing.paths import IMAGE_SUFFIXES, check_named, find_files, opened_regular

_NAMES = ("classes.txt", "obj.names", "labels.txt")
_BOX = 4  # numbers of a box
_SLACK = 0.01  # by which rounded numbers may leave the range from 0 to 1
_LINE = "class x y width height, or class and the points x y of a polygon, all relative to the image (0 to 1)"


@dataclass(frozen=True)
class YoloDescription:
    """The content of a `data.yaml`.

    Attributes:
        classes: names by number.
        sets: folders, lists or files of each set, such as "train" and "val".
        pose: how many numbers of key points stand after each box, if the labels are those of poses; else 0.
    """

    classes: tuple[str, ...]
    sets: Mapping[str, tuple[Path, ...]]
    pose: int = 0


def read_description(file: Path) -> YoloDescription | None:
    """Reads a `data.yaml`; returns None if a YAML file is about something else.

    Raises:
        ValueError: it is damaged, or names nothing that exists.
    """
    yaml: Any = load("a data.yaml", "yaml")
    try:
        with opened_regular(file) as stream:
            content = stream.read()
        values, texts = yaml.safe_load(content), yaml.load(content, yaml.BaseLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file}: not a YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict) or "names" not in values:
        return None
    classes = _names_of(file, texts["names"])  # not of `values`, in which a class called "no" is False
    count = values.get("nc")
    if isinstance(count, int) and count != len(classes):
        raise ValueError(f"{file}: nc is {count}, but there are {len(classes)} names; expected one name per class")
    sets: dict[str, tuple[Path, ...]] = {}
    for name in ("train", "val", "valid", "test"):
        given = values.get(name)
        if not given:
            continue
        listed = given if isinstance(given, list) else [given]
        if not all(isinstance(place, str) for place in listed):
            raise ValueError(f"{file}: {name} is {given!r:.60}; expected a folder or a list of folders")
        places = [_place(file, values.get("path"), place) for place in listed]
        missing = [place for place, found in zip(listed, places, strict=True) if found is None]
        if missing and name != "test":
            raise ValueError(f"{file}: {name} names {missing[0]}, which does not exist (looked in {file.parent})")
        sets[name] = tuple(found for found in places if found is not None)
    pose = _key_points(file, values.get("kpt_shape"))
    return YoloDescription(classes, {name: places for name, places in sets.items() if places}, pose)


def _key_points(file: Path, shape: Any) -> int:
    """The numbers of the key points of an object, of which a description states the shape: points, and values each."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"{file}: kpt_shape is {shape!r:.60}; expected the number of key points and of values of each")
    return shape[0] * shape[1]


def _names_of(file: Path, given: Any) -> tuple[str, ...]:
    if isinstance(given, dict):
        if set(given) != {str(number) for number in range(len(given))}:
            raise ValueError(
                f"{file}: the numbers in names are {', '.join(given):.80}; expected 0, 1, 2, … without gaps"
            )
        given = [given[str(number)] for number in range(len(given))]
    names = tuple(map(str, given)) if isinstance(given, list) else ()
    if not names:
        raise ValueError(f"{file}: names is {str(given)[:60]}; expected the names of the classes")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{file}: two classes have the name {twice[0]!r}; expected one of each name")
    return names


def _place(file: Path, root: object, given: str) -> Path | None:
    """The place that a description names.

    Some tools write `../train/images` for `train/images` beside the description, so that place comes first.
    """
    roots = [Path(file.parent, root)] if isinstance(root, str) else []
    plain = given.replace("\\", "/")
    while plain.startswith(("../", "./")):
        plain = plain.partition("/")[2]
    for base in (*roots, file.parent):
        for path in (base / plain, base / given):
            if path.exists():
                return path
    return None


def class_names(*folders: Path) -> tuple[str, ...] | None:
    """The names in a `classes.txt` of one of these folders; None if there is none."""
    for folder in folders:
        for name in _NAMES:
            if (folder / name).is_file():
                with open_text(folder / name, strict=True) as file:
                    lines = [line.strip() for line in file.read().splitlines()]
                while lines and not lines[-1]:
                    lines.pop()
                return _names_of(folder / name, lines)
    return None


def read_yolo(
    places: Sequence[Path], classes: Sequence[str] | None, *, name: str, masks: bool = False, pose: int = 0
) -> DetectionDataset:
    """Reads images and their label files.

    The label file of `images/…/a.jpg` is `labels/…/a.txt`, or `a.txt` beside the image. An image without one has no
    objects. Coordinates belong to the upright image.

    Args:
        places: folders of images, or text files that list images.
        classes: names by number; None takes the numbers as names.
        name: the source, for messages.
        masks: whether to keep polygons. Lines with a box alone are then an error.
        pose: see `YoloDescription`; key points are ignored.

    Raises:
        ValueError: a label file is damaged; the message names file and line. Or there are no images or no objects.
    """
    paths = [path for place in places for path in _images_at(place)]
    if not paths:
        raise ValueError(f"{name}: no images in {', '.join(map(str, places))}")
    found: list[AnnotatedImage] = []
    unreadable: list[tuple[str, str]] = []
    missing, highest = 0, -1
    for number, path in enumerate(paths, start=1):
        try:
            (width, height), _ = image_sizes(path, name=path)
        except ImageError as error:
            unreadable.append((path, error.problem))
            continue
        labels = label_file(path)
        missing += labels is None
        objects = () if labels is None else _objects(labels, width, height, classes, masks=masks, pose=pose)
        highest = max([highest, *(o.label for o in objects)])
        found.append(AnnotatedImage(path, number, width, height, objects))
    note_unreadable(name, unreadable, total=len(paths))
    if highest < 0:
        raise ValueError(
            f"{name}: none of {len(paths):,} images has an object in a label file; expected "
            f"labels/{Path(paths[0]).stem}.txt for {paths[0]}"
        )
    if missing:
        notify(f"{name}: {missing:,} of {len(paths):,} images without a label file, which are used as background")
    if classes is None:
        classes = [str(number) for number in range(highest + 1)]
        notify(f"{name}: no names of classes (data.yaml or classes.txt); their numbers are used")
    note_boxes(name, found)
    ids = tuple(range(len(classes)))
    return DetectionDataset(name, tuple(found), tuple(classes), ids, tuple(unreadable))


def _images_at(place: Path) -> list[str]:
    if place.is_dir():
        left = LeftOut(str(place))
        paths = sorted(find_files(place, IMAGE_SUFFIXES, left=left))
        for kind in (".txt", ".yaml", ".yml", ".cache", ".md"):  # label files and descriptions
            left.counts.pop(kind, None)
        left.tell()
        return paths
    check_named(place)
    with open_text(place) as file:
        lines = [line.strip() for line in file.read().splitlines()]
    return [path if os.path.exists(path := os.path.join(place.parent, line)) else line for line in lines if line]


def label_file(image: str) -> Path | None:
    """The label file of an image; None if there is none."""
    stem = os.path.splitext(image)[0]
    parts = Path(stem).parts
    for place in reversed(range(len(parts) - 1)):
        if parts[place].lower() == "images":
            path = Path(*parts[:place], "labels", *parts[place + 1 :])
            if (found := path.with_name(f"{path.name}.txt")).is_file():
                return found
    beside = Path(f"{stem}.txt")
    return beside if beside.is_file() else None


def _objects(
    file: Path, width: int, height: int, classes: Sequence[str] | None, *, masks: bool, pose: int
) -> tuple[ObjectAnnotation, ...]:
    try:
        with opened_regular(file) as stream:
            lines = stream.read().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file}: not a text file; expected lines of {_LINE}") from None
    found = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            words = line.split()
            if pose and len(words) == 1 + _BOX + pose:
                words = words[: 1 + _BOX]
            found[_object(f"{file}:{number}", words, width, height, classes, masks=masks)] = None
    return tuple(
        ObjectAnnotation(box, label, area, segmentation=[list(p) for p in polygons] if masks else None)
        for box, label, area, polygons in found
    )


_Key = tuple[tuple[float, float, float, float], int, float, tuple[tuple[float, ...], ...]]


def _object(
    where: str, words: Sequence[str], width: int, height: int, classes: Sequence[str] | None, *, masks: bool
) -> _Key:
    """Box, class, area and polygons of a line. A line that stands twice counts once."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{where}: {' '.join(words)!r:.60} is not a line of numbers; expected {_LINE}") from None
    label, values = numbers[0], numbers[1:]
    if not all(map(math.isfinite, numbers)) or not label.is_integer() or label < 0:
        raise ValueError(f"{where}: {' '.join(words)!r:.60}; expected {_LINE}")
    if classes is not None and label >= len(classes):
        raise ValueError(
            f"{where}: class {label:.0f}, but there are {len(classes)} names; expected 0 to {len(classes) - 1}"
        )
    if classes is None and label >= MOST_NUMBERS:
        raise ValueError(
            f"{where}: class {label:.0f}, and no names of classes; expected numbers below {MOST_NUMBERS:,}, or a "
            "data.yaml or classes.txt with names"
        )
    if len(values) == 5:
        raise ValueError(f"{where}: 6 numbers, as predictions with a score have them; expected {_LINE}")
    if len(values) < 4 or (len(values) > 4 and len(values) % 2):
        raise ValueError(f"{where}: {len(numbers)} numbers; expected {_LINE}")
    if max(values) > 2:
        raise ValueError(f"{where}: {max(values):g} is far above 1, so it seems to be in pixels; expected {_LINE}")
    if min(values) < -1:
        raise ValueError(f"{where}: {min(values):g} is far below 0; expected {_LINE}")
    if len(values) == 4:
        if masks:
            raise ValueError(f"{where}: a box; instances need polygons (--task detect takes boxes and polygons)")
        x, y, wide, high = values
        if min(wide, high) < 0:
            raise ValueError(f"{where}: a box of negative size, {wide:g} x {high:g}; expected {_LINE}")
        if min(x, y) < -_SLACK or max(x, y) > 1 + _SLACK:
            raise ValueError(f"{where}: the center of the box is at {x:g} {y:g}; expected numbers from 0 to 1")
        box = ((x - wide / 2) * width, (y - high / 2) * height, wide * width, high * height)
        return box, int(label), box[2] * box[3], ()
    xs, ys = [x * width for x in values[::2]], [y * height for y in values[1::2]]
    box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    points = tuple(value for point in zip(xs, ys, strict=True) for value in point)
    turned = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    area = abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in turned)) / 2
    return box, int(label), area, (points,)
