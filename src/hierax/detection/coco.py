"""Reads COCO files: `images`, `annotations` with boxes in pixels, and `categories`, whose ids may have gaps."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hierax.console import quantity
from hierax.detection.dataset import (
    AnnotatedImage,
    Box,
    DetectionDataset,
    ObjectAnnotation,
    image_sizes,
    note_boxes,
    note_unreadable,
)
from hierax.detection.masks import decode
from hierax.notices import notify
from hierax.processing import ImageError
from hierax.processing.paths import differ_without_folders, opened_regular

_FAR = 10  # sides of an image by which a polygon may reach outside of it
_TRIED = 20  # images that are looked for to find their folder
_DIGITS = 30  # of an id that is a text
_PREFIX = re.compile(r"^(?:instances|annotations|_annotations|labels)[_.-]?")
_EXPECTED = "expected a COCO file with images, annotations and categories"


class _Names:
    """The names of the images of a file.

    Folders in them may belong to another machine. They are ignored if the names differ without them too; otherwise
    several images of one name would become one file. Overlays, which `hierax detect` writes beside its file, are not
    the images.
    """

    def __init__(self, names: Sequence[str], overlays: Collection[str]) -> None:
        self.all = names
        self._bare = differ_without_folders(names)
        self._overlays = overlays

    def find(self, folder: str, name: str) -> str | None:
        """The path of an image in a folder; None if it is not there."""
        plain = name.replace("\\", "/")
        last = plain.rpartition("/")[2]
        for candidate in (name, plain, *([last] if self._bare and last not in self._overlays else ())):
            path = os.path.join(folder, candidate)
            if candidate and os.path.isfile(path):
                return path
        return None


def read_coco(file: Path, *, images: Path | None = None, masks: bool = False) -> DetectionDataset:
    """Reads a COCO file.

    The classes are numbered in the order of the ids of the categories. Images without annotations stay. Boxes are kept
    as they are stated, also outside of their image.

    Args:
        file: the JSON file.
        images: the folder of the images; None looks for it beside the file, under the usual names.
        masks: whether to keep polygons and masks. Objects without them are then left out.

    Raises:
        ValueError: the file is not a COCO file; the message names the file, the annotation and what is expected.
        OSError: it cannot be read.
    """
    values = _read(file)
    ids, classes = _categories(file, values["categories"])
    number = {category: label for label, category in enumerate(ids)}
    rows = _images(file, values["images"])
    objects = _annotations(file, values["annotations"], rows, number, masks=masks)
    names = _Names([row["file_name"] for row in rows.values()], {str(row.get("overlay")) for row in rows.values()})
    folder = _image_folder(file, names, images)
    found: list[AnnotatedImage] = []
    unreadable: list[tuple[str, str]] = []
    turned: list[str] = []
    of_path: dict[str, int] = {}
    for key, row in rows.items():
        path = names.find(folder, row["file_name"]) or os.path.join(folder, row["file_name"])
        if (other := of_path.setdefault(path, key)) != key:
            raise ValueError(f"{file}: two images are the file {path}, with the ids {other} and {key}; expected one "
                             "entry with all objects of the image")  # fmt: skip
        try:
            image = placed(file, path, key, row, tuple(objects.get(key, ())))
        except ImageError as error:
            unreadable.append((path, error.problem))
            continue
        turned += [path] if image.as_stored else []
        found.append(image)
    note_unreadable(str(file), unreadable, total=len(rows))
    note_turned(str(file), turned)
    check_form(str(file), found)
    note_boxes(str(file), found)
    return DetectionDataset(str(file), tuple(found), classes, ids, tuple(unreadable))


def is_coco(values: object) -> bool:
    """Whether the content of a JSON file is that of a COCO file."""
    return isinstance(values, dict) and values.keys() >= {"images", "annotations", "categories"}


def _read(file: Path) -> dict[str, Any]:
    try:
        with opened_regular(file) as stream:
            values = json.loads(stream.read())
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{file}: not a JSON file ({reason}); {_EXPECTED}") from None
    if isinstance(values, list):
        raise ValueError(f"{file}: a list, as results have it; {_EXPECTED}")
    if not isinstance(values, dict):
        raise ValueError(f"{file}: its content is of the type {type(values).__name__}; {_EXPECTED}")
    for name in ("images", "annotations", "categories"):
        if not isinstance(values.get(name), list):
            state = f"is a {type(values[name]).__name__}, not a list" if name in values else "is missing"
            raise ValueError(f"{file}: {name} {state}; {_EXPECTED}")
        for place, entry in enumerate(values[name]):
            if not isinstance(entry, dict):
                raise ValueError(f"{file}: {name}[{place}] is {_short(entry)}; expected an object")
    return values


def _categories(file: Path, entries: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The ids, in ascending order, and the names."""
    named: dict[int, str] = {}
    for place, entry in enumerate(entries):
        key, name = _id(file, f"categories[{place}]", entry, "id"), entry.get("name")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{file}: categories[{place}]: name is {_short(name)}; expected a text")
        if key in named:
            raise ValueError(f"{file}: two categories have the id {key}, {named[key]!r} and {name!r}; expected one")
        named[key] = name.strip()
    names = [named[key] for key in sorted(named)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{file}: two categories have the name {twice[0]!r}; expected one of each name")
    if not names:
        raise ValueError(f"{file}: categories is empty; expected at least one category")
    return tuple(sorted(named)), tuple(names)


def _images(file: Path, entries: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """The entries of images by id."""
    rows: dict[int, Mapping[str, Any]] = {}
    for place, entry in enumerate(entries):
        key = _id(file, f"images[{place}]", entry, "id")
        name = entry.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError(f"{file}: images[{place}]: file_name is {_short(name)}; expected the name of a file")
        if key in rows:
            raise ValueError(f"{file}: two images have the id {key}, {rows[key]['file_name']} and {name}; expected one")
        rows[key] = entry
    if not rows:
        raise ValueError(f"{file}: images is empty; expected at least one image")
    return rows


def _annotations(
    file: Path, entries: Sequence[Mapping[str, Any]], rows: Mapping[int, Any], number: Mapping[int, int], *, masks: bool
) -> dict[int, list[ObjectAnnotation]]:
    """The objects by the ids of their images."""
    objects: dict[int, list[ObjectAnnotation]] = {}
    without: list[str] = []
    for place, entry in enumerate(entries):
        where = f"annotations[{place}]" + (f" (id {entry['id']})" if isinstance(entry.get("id"), int) else "")
        image, category = (_id(file, where, entry, name) for name in ("image_id", "category_id"))
        if image not in rows:
            raise ValueError(f"{file}: {where}: image_id is {image}, but no image has this id")
        if category not in number:
            raise ValueError(
                f"{file}: {where}: category_id is {category}, but no category has this id; there are "
                f"{_some(sorted(number))}"
            )
        box = read_box(f"{file}: {where}", entry.get("bbox"))
        segmentation = read_segmentation(f"{file}: {where}", entry.get("segmentation")) if masks else None
        if masks and segmentation is None:
            without.append(where)
            continue
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1, None):
            raise ValueError(f"{file}: {where}: iscrowd is {_short(crowd)}; expected 0 or 1")
        area = read_area(entry, box)
        objects.setdefault(image, []).append(ObjectAnnotation(box, number[category], area, bool(crowd), segmentation))
    if without and not objects:
        raise ValueError(
            f"{file}: no annotation has a segmentation; expected polygons or masks (--task detect needs none)"
        )
    if without:
        notify(f"{file}: {len(without):,} of {len(entries):,} annotations have no segmentation and are left out, such "
               f"as {without[0]}")  # fmt: skip
    return objects


def _id(file: Path, where: str, entry: Mapping[str, Any], name: str) -> int:
    value = entry.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.isdecimal() and len(value) <= _DIGITS:  # of tools that write all ids as text
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        state = f"is {_short(value)}" if name in entry else "is missing"
        raise ValueError(f"{file}: {where}: {name} {state}; expected a whole number")
    return value


def _is_number(value: object) -> bool:
    """Whether it is a number that a float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def read_box(where: str, value: object) -> Box:
    """A box of COCO, checked. `where` names it in errors."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)) or min(value[2:]) < 0:
        raise ValueError(
            f"{where}: bbox is {_short(value)}; expected [x, y, width, height] in pixels, with no negative size"
        )
    left, top, wide, high = map(float, value)
    return left, top, wide, high


def read_area(entry: Mapping[str, Any], box: Box) -> float:
    """The area of an object as stated, else that of its box."""
    given: Any = entry.get("area")
    return float(given) if _is_number(given) and given >= 0 else box[2] * box[3]


def read_segmentation(where: str, value: object) -> Any:
    """Polygons or a run-length encoding, checked; None if there is none."""
    if not value:
        return None
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        sides = isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)
        runs = isinstance(counts, list) and all(isinstance(n, int) and n >= 0 for n in counts)
        if sides and isinstance(size, list) and (isinstance(counts, str) or (isinstance(counts, list) and runs)):
            if isinstance(counts, list) and sum(counts) != size[0] * size[1]:
                raise ValueError(
                    f"{where}: the counts of the segmentation have {sum(counts)} pixels; expected "
                    f"{size[0]} x {size[1]}, its size"
                )
            return value
        raise ValueError(f"{where}: the segmentation has size {_short(size)} and counts {_short(counts)}; "
                         "expected [height, width] and run lengths")  # fmt: skip
    polygons = [value] if isinstance(value, list) and all(map(_is_number, value)) else value
    if isinstance(polygons, list) and all(isinstance(p, list) and all(map(_is_number, p)) for p in polygons):
        odd = [polygon for polygon in polygons if len(polygon) % 2]
        if odd:
            raise ValueError(
                f"{where}: a polygon has {len(odd[0])} numbers; expected x and y of each point, an even number"
            )
        return [polygon for polygon in polygons if len(polygon) >= 6] or None  # fewer points have no area
    raise ValueError(f"{where}: segmentation is {_short(value)}; expected polygons [[x, y, …]] or run lengths")


def note_turned(name: str, turned: Sequence[str]) -> None:
    """Gives a notice about images whose annotations belong to the stored pixels."""
    if turned:
        notify(
            f"{name}: {quantity(len(turned), 'image')} with an EXIF rotation that the annotations do not follow, such "
            f"as {turned[0]} (width and height are those of the stored pixels); used as stored"
        )


def placed(
    file: Path | str,
    path: str,
    key: int,
    row: Mapping[str, Any],
    objects: tuple[ObjectAnnotation, ...],
    *,
    read: Callable[[], Any] | None = None,
) -> AnnotatedImage:
    """The image with its size, which is that of the annotations; `row` states its `width` and `height`, or not. `read`
    returns its file, if it is not at `path`.

    Raises:
        ValueError: the image has another size.
        ImageError: it cannot be read.
    """
    upright, stored = image_sizes(path if read is None else read(), name=path)
    given = tuple(row.get(name) for name in ("width", "height"))
    for found in objects:
        _check_mask(f"{file}: a mask of image {key}, {path},", found.segmentation, upright, stored)
    if all(value is None or value == 0 for value in given) or given == upright:
        return AnnotatedImage(path, key, *upright, objects, read=read)
    if given == stored:
        return AnnotatedImage(path, key, *stored, objects, as_stored=True, read=read)
    also = f" ({stored[0]} x {stored[1]} as stored)" if stored != upright else ""
    raise ValueError(
        f"{file}: image {key}, {path}, is {upright[0]} x {upright[1]} pixels{also}, but its width and height in the "
        f"file are {_short(given[0])} x {_short(given[1])}; expected the image that was annotated"
    )


def _check_mask(where: str, segmentation: Any, upright: tuple[int, int], stored: tuple[int, int]) -> None:
    """Raises `ValueError` for run lengths that do not fit the image, and for polygons far outside of it, which would
    take too long to draw.
    """
    if isinstance(segmentation, dict):
        if segmentation["size"] not in ([*upright[::-1]], [*stored[::-1]]):
            raise ValueError(
                f"{where} has the size {segmentation['size']}; expected [height, width] of the image, "
                f"{[*upright[::-1]]}"
            )
        try:
            decode(segmentation, *segmentation["size"])
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{where} has damaged run lengths ({error})") from None
        return
    for polygon in segmentation or ():
        if (most := max(map(abs, polygon))) > _FAR * max(upright):
            raise ValueError(
                f"{where} has a point at {most:g}; expected pixels of the image, which has {upright[0]} x {upright[1]}"
            )


def check_form(file: str, images: Sequence[AnnotatedImage]) -> None:
    """Raises `ValueError` if the boxes are not left, top, width and height in pixels."""
    boxes = [(image, o.box) for image in images for o in image.objects]
    if len(boxes) < 3:  # one object may be anywhere
        return
    if all(max(box) <= 1 for _, box in boxes) and any(0 < min(box[2:]) < 1 for _, box in boxes):
        raise ValueError(
            f"{file}: all boxes lie between 0 and 1, such as {list(boxes[0][1])}, so they seem to be relative to the "
            "image; COCO states x, y, width, height in pixels"
        )
    outside = sum(x + w > image.width + 1 or y + h > image.height + 1 for image, (x, y, w, h) in boxes)
    corners = all(x < w <= image.width + 1 and y < h <= image.height + 1 for image, (x, y, w, h) in boxes)
    if corners and outside > len(boxes) / 10:
        raise ValueError(
            f"{file}: {outside} of {len(boxes)} boxes reach outside of their images, and all fit as two corners x1, "
            f"y1, x2, y2, such as {list(boxes[0][1])}; COCO states x, y, width, height"
        )


def _image_folder(file: Path, names: _Names, given: Path | None) -> str:
    """The folder that holds the images of a file."""
    split = _PREFIX.sub("", file.stem)
    split = re.sub(r"[_.-]?(?:annotations|coco|labels)$", "", split)
    here, above = file.parent, file.parent.parent
    places = [given] if given is not None else [
        place / name for place in (here, above) for name in ("", "images", split, f"images/{split}", f"{split}/images")
    ]  # fmt: skip
    tried = list(islice(names.all, _TRIED))
    counts = [sum(names.find(str(place), name) is not None for name in tried) for place in places]
    best = max(range(len(places)), key=lambda i: (counts[i], -i))
    if not counts[best]:
        looked = dict.fromkeys(str(place) for place in places if place.is_dir())
        raise ValueError(
            f"{file}: its images, such as {names.all[0]}, are not in {', '.join(looked) or given}; expected them "
            "beside the file, in images/, or in a folder with the name of the split"
        )
    return str(places[best])


def _some(values: Sequence[int], most: int = 10) -> str:
    return ", ".join(map(str, values[:most])) + (", …" if len(values) > most else "")


def _short(value: object) -> str:
    return f"{value!r:.60}"
