"""Which folders hold images, and which hold their masks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hierax.data.segmentation.pairs import FilePairs, pair_files
from hierax.data.split_names import kind_of
from hierax.notices import LeftOut
from hierax.processing.paths import IMAGE_SUFFIXES, find_files, is_hidden, nothing_in

IMAGE_FOLDERS = (
    "images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "photos", "photo", "pictures", "rgb", "inputs",
    "input", "frames",
)  # fmt: skip
"""Usual names of folders of images, in lower case and without marks between words."""
MASK_FOLDERS = (
    "segmentationclass", "segmentationclassaug", "gtfine", "masks", "mask", "annotations", "annotation", "annots",
    "labels", "label", "segmentations", "segmentation", "groundtruth", "gt", "targets", "target", "annot", "gtcoarse",
)  # fmt: skip
"""Usual names of folders of masks; the first one that holds images is used."""
_MASK_WORD = re.compile(r"[\W_]*(?:annotations?|annots?|masks?|labels?|gt|groundtruth)$", re.IGNORECASE)
EXPECTED = (
    "expected folders of images and of masks with the same names (images/ and masks/, each with train/ and val/ or "
    "not; or train/images/ and train/masks/), a list with columns image and mask (.csv, .jsonl), a COCO file (.json), "
    "parquet files, or hub:ID"
)


@dataclass(frozen=True)
class Place:
    """A folder of images and the folder of their masks."""

    images: Path
    masks: Path


def find_places(folder: Path) -> dict[str, Place]:
    """The folders of images and of masks below a folder, by split; "" if there are no splits.

    Raises:
        ValueError: there are none.
    """
    found = _places(folder)
    while not found and (inner := _only_folder(folder)) is not None:  # as archives contain one folder
        folder = inner
        found = _places(folder)
    if not found:
        raise ValueError(f"{folder}: no folder of images with a folder of masks; {EXPECTED}")
    return found


def _places(folder: Path) -> dict[str, Place]:
    pair = _pair_in(folder)
    if pair is not None:
        return _by_split(pair)
    names = _folders(folder)
    found: dict[str, Place] = {}
    for name in names:
        inside = _pair_in(folder / name)
        if inside is not None and kind_of(name):
            found[name] = inside
    for name in () if found else names:  # train/ and train_masks/
        beside = [other for other in names if other != name and _MASK_WORD.sub("", other) == name]
        if len(beside) == 1:
            found[name] = Place(folder / name, folder / beside[0])
    return found


def _pair_in(folder: Path) -> Place | None:
    """The folder of images and the folder of masks in a folder."""
    plain = {re.sub(r"[\W_]+", "", name).lower(): name for name in reversed(_folders(folder))}
    images = next((plain[name] for name in IMAGE_FOLDERS if name in plain), None)
    if images is None:
        return None
    masks = next((plain[name] for name in MASK_FOLDERS if name in plain and _has_images(folder / plain[name])), None)
    return None if masks is None else Place(folder / images, folder / masks)


def _by_split(place: Place) -> dict[str, Place]:
    """The splits of a pair of folders: subfolders that both have, if all of them are names of splits."""
    both = [name for name in _folders(place.images) if (place.masks / name).is_dir()]
    if both and all(map(kind_of, both)):
        return {name: Place(place.images / name, place.masks / name) for name in both}
    return {"": place}


def read_place(place: Place) -> FilePairs:
    """The pairs of images and masks of two folders. Raises `ValueError` if there are none."""
    images, masks = (list(_images(folder)) for folder in (place.images, place.masks))
    return pair_files(images, masks, image_folder=place.images, mask_folder=place.masks)


def _images(folder: Path) -> Iterable[str]:
    left = LeftOut(os.fspath(folder))
    found = list(find_files(folder, IMAGE_SUFFIXES, left=left))
    if not found:
        raise ValueError(f"{folder}: {nothing_in(left)}")
    return found


def _has_images(folder: Path) -> bool:
    return next(find_files(folder, IMAGE_SUFFIXES), None) is not None


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name))


def _only_folder(folder: Path) -> Path | None:
    """The only folder in a folder without files that are images."""
    entries = [entry for entry in os.scandir(folder) if not is_hidden(entry.name)]
    folders = [entry for entry in entries if entry.is_dir()]
    images = any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in entries)
    return Path(folders[0].path) if len(folders) == 1 and not images else None
