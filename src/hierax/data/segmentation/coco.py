"""Polygons and run lengths of COCO files as masks: class 0 is the background, the categories are 1 and up."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hierax.console import quantity
from hierax.data.segmentation.class_tables import Entry
from hierax.data.segmentation.masks import Mask
from hierax.data.segmentation.numbering import MAX_CLASSES
from hierax.data.segmentation.polygons import area_of, draw_outline
from hierax.data.segmentation.turned import check_pair
from hierax.data.split_names import kind_of
from hierax.data.strings import Strings
from hierax.notices import notify
from hierax.processing import ImageError
from hierax.processing.paths import differ_without_folders, walk

_BACKGROUND = ("background", "_background_", "__background__")


@dataclass(frozen=True, eq=False)
class CocoMasks:
    """The images of a COCO file and the masks that its polygons and run lengths draw.

    Attributes:
        file: the COCO file.
        paths: of each image.
        sizes: height and width of each image, as the file states them; None if it does not.
        objects: of each image, the class and the outline of its objects, as JSON: worker processes would copy lists.
    """

    file: str
    paths: Strings
    sizes: Sequence[tuple[int, int] | None]
    objects: Strings

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """See `MaskedImages`."""
        return self.paths[index]

    def mask_name(self, index: int) -> str:
        """See `MaskedImages`."""
        return f"{self.file}, {self.paths[index]}"

    def image(self, index: int) -> str:
        """See `MaskedImages`."""
        return self.paths[index]

    def mask(self, index: int) -> Mask:
        """See `MaskedImages`. Smaller objects are drawn over larger ones."""
        size = self.sizes[index]
        if size is None:
            raise ImageError(self.mask_name(index), "no height and width of the image; expected both, in pixels")
        values = np.zeros(size, np.uint8)
        try:
            objects = [(number, outline, area_of(outline)) for number, outline in json.loads(self.objects[index])]
            for number, outline, _ in sorted(objects, key=lambda one: -one[2]):
                draw_outline(values, outline, number)
        except (ValueError, OverflowError) as error:
            raise ImageError(self.mask_name(index), str(error)) from None
        found = Mask(values)
        check_pair(self.paths[index], found, name=self.paths[index])
        return found


def open_coco(path: Path) -> tuple[CocoMasks, list[Entry]]:
    """The images of a COCO file with their masks, and their classes: the background and the categories, by id.

    Raises:
        ValueError: the file is no COCO file with outlines, or its images are not found.
    """
    content = _read(path)
    categories = sorted(content["categories"], key=lambda one: (isinstance(one["id"], str), one["id"]))
    names = [str(one["name"]) for one in categories]
    first = 0 if names and names[0].lower() in _BACKGROUND else 1
    if len(names) + first > MAX_CLASSES:
        raise ValueError(f"{path}: {len(names)} categories; expected at most {MAX_CLASSES - 1}")
    number = {one["id"]: place + first for place, one in enumerate(categories)}
    entries = [Entry("background", 0)] * first + [Entry(name, place + first) for place, name in enumerate(names)]
    objects: dict[Any, list[tuple[int, Any]]] = {one["id"]: [] for one in content["images"]}
    without = 0
    for one in content["annotations"]:
        outline = one.get("segmentation")
        if not outline:
            without += 1
            continue
        image, category = _id(one.get("image_id")), _id(one.get("category_id"))
        if category not in number or image not in objects:
            raise ValueError(
                f"{path}: the annotation {one.get('id')} names image {one.get('image_id')!r:.60} and category "
                f"{one.get('category_id')!r:.60}; expected an image and a category of the file"
            )
        objects[image].append((number[category], outline))
    if without == len(content["annotations"]):
        raise ValueError(
            f"{path}: none of {without} annotations has an outline (segmentation); expected polygons or run lengths "
            "(boxes alone are for detection)"
        )
    if without:
        verb = "has only a box and is" if without == 1 else "have only a box and are"
        notify(f"{path}: {quantity(without, 'annotation')} {verb} not drawn")
    return _masks(path, content["images"], objects), entries


def _masks(path: Path, images: Sequence[Mapping[str, Any]], objects: Mapping[Any, list[tuple[int, Any]]]) -> CocoMasks:
    folders = _image_folders(path)
    images = sorted(images, key=lambda one: str(one["file_name"]))
    bare = differ_without_folders(str(one["file_name"]) for one in images)
    places = [_find(str(one["file_name"]), folders, bare=bare) for one in images]
    lost = [str(one["file_name"]) for one, place in zip(images, places, strict=True) if place is None]
    if len(lost) == len(images):
        raise ValueError(
            f"{path}: none of its {quantity(len(images), 'image')} is found, such as {lost[0] if lost else 'none'}; "
            f"expected them in {', '.join(str(folder) for folder in folders[:4])}"
        )
    if lost:
        verb = "is" if len(lost) == 1 else "are"
        count = f"{len(lost):,} of {quantity(len(images), 'image')}"
        notify(f"{path}: {count} {verb} not found and not used, such as {lost[0]}")
    used = [(one, place) for one, place in zip(images, places, strict=True) if place is not None]
    empty = sum(not objects[one["id"]] for one, _ in used)
    if empty:
        notify(f"{path}: {empty:,} of {len(used):,} images have no objects; all of their pixels are background")
    return CocoMasks(
        file=str(path),
        paths=Strings(place for _, place in used),
        sizes=[_size(one) for one, _ in used],
        objects=Strings(json.dumps(objects[one["id"]]) for one, _ in used),
    )


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    sides = image.get("height"), image.get("width")
    height, width = (side if isinstance(side, int) and 0 < side <= 1 << 20 else None for side in sides)
    return None if height is None or width is None else (height, width)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    wanted = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in wanted):
        raise ValueError(f"{path}: no COCO file; expected JSON with lists of {', '.join(wanted)}")
    if any(not isinstance(one, dict) for one in content["annotations"]):
        raise ValueError(f"{path}: an annotation that is no JSON object")
    if any("segments_info" in one for one in content["annotations"][:1]):
        raise ValueError(f"{path}: a panoptic COCO file; expected one of instances, with polygons or run lengths")
    for name, keys in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
        known = set[Any]()
        for one in content[name]:
            if not isinstance(one, dict) or not all(isinstance(one.get(key), (int, str, float)) for key in keys):
                raise ValueError(f"{path}: an entry of {name} is {str(one)[:60]}; expected {' and '.join(keys)}")
            one["id"] = _id(one["id"])
            if one["id"] in known:
                raise ValueError(f"{path}: two {name} have the id {one['id']}; expected one")
            known.add(one["id"])
    return content


def _id(value: Any) -> Any:
    """An id, as a number also if a tool wrote it as text; None for what is no id."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, (int, str, float)) else None


def _image_folders(path: Path) -> list[Path]:
    """The folders in which the images of a COCO file may be."""
    split = path.stem.rpartition("_")[2]  # instances_train2017.json
    here, above = path.parent, path.parent.parent
    names = [split, f"images/{split}", "images", f"{split}/images"]
    return [here, *(here / name for name in names), above, *(above / name for name in names)]


def _find(name: str, folders: Sequence[Path], *, bare: bool) -> str | None:
    """The path of an image; with `bare` also without the folders in its name, which may be those of another machine."""
    name = name.replace("\\", "/")
    tries = [name, os.path.basename(name)] if "/" in name and bare else [name]
    return next((str(folder / one) for one in tries for folder in folders if (folder / one).is_file()), None)


def find_coco(folder: Path) -> dict[str, Path]:
    """The COCO files in a folder, by split; "" for one without a name of a split.

    Raises:
        ValueError: there are several that may be meant.
    """
    found: dict[str, list[Path]] = {}
    for parent, names in walk(folder):
        for name in names:
            path = Path(parent, name)
            if name.lower().endswith(".json") and _looks_like_coco(path):
                parts = (path.stem.rpartition("_")[2], path.stem, path.parent.name)
                found.setdefault(next((part for part in parts if kind_of(part)), ""), []).append(path)
    chosen: dict[str, Path] = {}
    for split, paths in found.items():
        best = [path for path in paths if path.name.startswith("instances")] or paths
        if len(best) > 1:
            raise ValueError(f"{folder} holds {best[0].name} and {best[1].name}; expected one COCO file: pass it")
        chosen[split] = best[0]
    return chosen


def _looks_like_coco(path: Path) -> bool:
    """Whether a JSON file begins like one of COCO; its large lists may come in any order."""
    with path.open("rb") as file:
        start = file.read(1 << 12)
        file.seek(max(os.path.getsize(path) - (1 << 12), 0))
        end = file.read()
    return start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and any(
        f'"{name}"'.encode() in start + end for name in ("images", "annotations", "categories", "licenses")
    )
