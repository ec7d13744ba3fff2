"""Reads Pascal VOC: for each image an XML file with the corners of its objects in pixels."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from hierax.data.list_rows import open_text
from hierax.data.split_names import kind_of
from hierax.detection.coco import note_turned, placed
from hierax.detection.dataset import AnnotatedImage, DetectionDataset, ObjectAnnotation, note_boxes, note_unreadable
from hierax.processing import ImageError
from hierax.processing.paths import IMAGE_SUFFIXES, is_hidden, opened_regular

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_EXPECTED = "expected <annotation> with <filename>, and for each <object> its <name> and <bndbox>"
_ENCODING = re.compile(rb"""<\?xml[^>]*encoding=["']([\w.:-]+)["']""")
_FOLDERS = ("JPEGImages", "images", "Images", "")
"""Where the images of a folder of annotations are."""


@dataclass(frozen=True)
class _Annotation:
    """The content of an XML file: the stated name and size of the image, and names and corners of its objects."""

    file: Path
    image: str
    size: Mapping[str, int]
    objects: tuple[tuple[str, tuple[float, ...]], ...]


def voc_sets(folder: Path) -> dict[str, list[Path]]:
    """The XML files of a folder by set; "" for the only set; empty if the folder is not one of Pascal VOC.

    Sets are the lists of `ImageSets/Main`, or folders with the names of sets. Without a list of images to train on,
    these are all that no other list has.

    Raises:
        ValueError: a list names an image that has no XML file.
    """
    annotations = folder / "Annotations"
    if files := _xml_files(annotations):
        lists = {path.stem: path for path in (folder / "ImageSets" / "Main").glob("*.txt")}
        found = {name: _listed(lists[name], annotations) for name in ("train", "val") if name in lists}
        if "train" not in found and "trainval" in lists:
            held = set(found.get("val", ()))
            found["train"] = [path for path in _listed(lists["trainval"], annotations) if path not in held]
        elif "train" not in found and "val" in found:
            held = {*found["val"], *(_paths(lists["test"], annotations) if "test" in lists else ())}
            found["train"] = [path for path in files if path not in held]
        return {name: paths for name, paths in found.items() if paths} or {"": files}
    if files := _xml_files(folder):
        return {"": files}
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and kind_of(path.name))
    found = {path.name: _xml_files(path / "Annotations") or _xml_files(path) for path in inside}
    return {name: files for name, files in found.items() if files}


def _xml_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".xml" and not is_hidden(path.name))


def _listed(file: Path, annotations: Path) -> list[Path]:
    """The XML files of a list of names.

    Raises:
        ValueError: one does not exist.
    """
    paths = _paths(file, annotations)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"{file}: {missing[0].stem} is in the list, but {missing[0]} does not exist")
    return paths


def _paths(file: Path, annotations: Path) -> list[Path]:
    """The paths for a list of names, which may have spaces; a number may follow."""
    with open_text(file) as stream:
        lines = [line.strip() for line in stream if line.strip()]
    whole = (annotations / f"{line}.xml" for line in lines)
    first = (annotations / f"{line.split()[0]}.xml" for line in lines)
    return [path if path.is_file() else other for path, other in zip(whole, first, strict=True)]


def read_voc(files: Sequence[Path], *, name: str, masks: bool = False) -> DetectionDataset:
    """Reads annotations of Pascal VOC.

    Corners are pixels that belong to the object, counted from 1. If a corner is 0, all are taken as counted from 0, as
    some tools write them. The classes are the names of the objects, in alphabetical order. Objects that are marked as
    difficult count like others.

    Args:
        files: the XML files.
        name: the source, for messages.
        masks: whether masks are needed.

    Raises:
        ValueError: a file is damaged, or masks are needed; the message names the file.
    """
    if masks:
        raise ValueError(f"{name}: annotations of Pascal VOC have boxes alone; instances need polygons or masks")
    read = [_annotation(file) for file in files]
    corners = [corner for one in read for _, corner in one.objects]
    first = 0 if any(min(corner[:2]) < 1 for corner in corners) else 1
    classes = sorted({label for one in read for label, _ in one.objects})
    number = {label: place for place, label in enumerate(classes)}
    images: list[AnnotatedImage] = []
    unreadable: list[tuple[str, str]] = []
    of_image: dict[str, Path] = {}
    for key, one in enumerate(read, start=1):
        objects = tuple(_object(corner, number[label], first) for label, corner in one.objects)
        path = _image_of(one)
        if os.path.isfile(path):
            _check_apart(of_image, path, one.file)
            of_image[path] = one.file
        try:
            images.append(placed(one.file, path, key, one.size, objects))
        except ImageError as error:
            unreadable.append((path, error.problem))
    note_unreadable(name, unreadable, total=len(read))
    if not classes:
        raise ValueError(f"{name}: none of {len(read):,} XML files has an object")
    note_turned(name, [image.path for image in images if image.as_stored])
    note_boxes(name, images)
    return DetectionDataset(name, tuple(images), tuple(classes), tuple(range(len(classes))), tuple(unreadable))


def _object(corner: Sequence[float], label: int, first: int) -> ObjectAnnotation:
    left, top, right, bottom = corner
    box = (left - first, top - first, right - left + first, bottom - top + first)
    return ObjectAnnotation(box, label, box[2] * box[3])


def _annotation(file: Path) -> _Annotation:
    with opened_regular(file) as stream:
        content = stream.read()
    try:
        declared = _ENCODING.match(content)
        if declared is not None:  # the parser does not know all encodings, such as gb2312
            with contextlib.suppress(LookupError):
                content = content.decode(declared[1].decode())
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"{file}: not an XML file ({error}); {_EXPECTED}") from None
    if root.tag != "annotation":
        raise ValueError(f"{file}: its root is <{root.tag}>; {_EXPECTED}")
    size = {name: int(_number(file, f"size/{name}", root.findtext(f"size/{name}"))) for name in ("width", "height")
            if root.findtext(f"size/{name}")}  # fmt: skip
    objects = []
    for place, found in enumerate(root.findall("object"), start=1):
        label = (found.findtext("name") or "").strip()
        if not label:
            raise ValueError(f"{file}: object {place} has no name; {_EXPECTED}")
        corner = tuple(_number(file, f"object {place}: {edge}", found.findtext(f"bndbox/{edge}")) for edge in _CORNERS)
        if corner[2] < corner[0] or corner[3] < corner[1]:
            raise ValueError(f"{file}: object {place}: xmin, ymin, xmax, ymax are {corner}; expected the smaller first")
        objects.append((label, corner))
    return _Annotation(file, (root.findtext("filename") or "").strip(), size, tuple(objects))


def _number(file: Path, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        state = "is missing" if text is None else f"is {text!r:.40}"
        raise ValueError(f"{file}: {name} {state}; expected a number of pixels")
    return value


def _image_of(one: _Annotation) -> str:
    """The path of the image with the name of the XML file, else with the stated name; stated folders are ignored.

    The stated name comes second, because it often stays when files are renamed.
    """
    stated = one.image.replace("\\", "/").rpartition("/")[2]
    root = one.file.parent.parent if one.file.parent.name == "Annotations" else one.file.parent
    suffixes = [Path(stated).suffix, *sorted(IMAGE_SUFFIXES)]
    names = [*(f"{one.file.stem}{end}" for suffix in suffixes if suffix for end in (suffix, suffix.upper())), stated]
    for name in names:
        for place in _FOLDERS:
            path = os.path.join(root, place, name)
            if name and os.path.isfile(path):
                return path
    return os.path.join(root, _FOLDERS[0] if root != one.file.parent else "", stated or f"{one.file.stem}.jpg")


def _check_apart(paths: Mapping[str, Path], path: str, file: Path) -> None:
    """Raises `ValueError` if an image has annotations in another file too."""
    if path in paths:
        raise ValueError(
            f"{file} and {paths[path]} both are annotations of {path}; expected one file for each image, with the name "
            "of the image"
        )
