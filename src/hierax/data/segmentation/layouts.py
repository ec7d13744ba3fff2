"""Which folders hold images, and which hold their masks."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hierax.data.folders import KINDS
from hierax.data.segmentation.folder_names import IMAGE_FOLDERS, MASK_FOLDERS, plain_name
from hierax.data.segmentation.pairs import FilePairs, pair_files, pair_stems, split_flat
from hierax.data.split_names import kind_of
from hierax.notices import LeftOut, notify
from hierax.processing.paths import IMAGE_SUFFIXES, find_files, is_hidden, nothing_in, suffix_of, walk

EXPECTED = (
    "expected folders of images and of masks with the same names (images/ and masks/, each with train/ and val/ or "
    "not; or train/images/ and train/masks/), a list with columns image and mask (.csv, .jsonl), a COCO file (.json), "
    "parquet files, or hub:ID"
)
_MASK_WORD = re.compile(r"[\W_]*(?:annotations?|annots?|masks?|labels?|gt|groundtruth)$", re.IGNORECASE)
_LISTS = ("ImageSets/Segmentation", "ImageSets")  # of Pascal VOC, and of CVAT


@dataclass(frozen=True)
class Place:
    """Where the images and the masks of a split are.

    Attributes:
        images, masks: their folders; the same one if they are side by side.
        names: a text with the names of the images to use, one on each line, as of Pascal VOC; None: all.
    """

    images: Path
    masks: Path
    names: Path | None = None


def inner_folder(folder: Path) -> Path:
    """The folder itself, or the only folder in it if it holds nothing else, as archives often do."""
    while (inner := _only_folder(folder)) is not None:
        folder = inner
    return folder


def find_places(folder: Path) -> dict[str, Place]:
    """The folders of images and of masks in a folder, by split; "" if there are no splits. Empty if there are none."""
    pair = _pair_in(folder)
    if pair is not None:
        return _by_list(folder, pair) or _by_split(pair)
    names = _folders(folder)
    found: dict[str, Place] = {}
    for name in filter(kind_of, names):
        inside = _pair_in(folder / name)
        beside = [other for other in names if other != name and _MASK_WORD.sub("", other) == name]
        if inside is not None:
            found[name] = inside
        elif len(beside) == 1:  # train/ and train_masks/
            found[name] = Place(folder / name, folder / beside[0])
        elif _is_flat(folder / name):
            found[name] = Place(folder / name, folder / name)
    return found or ({"": Place(folder, folder)} if _is_flat(folder) else {})


def nothing_found(folder: Path) -> ValueError:
    """The error for a folder without images that have masks; it names what the folder holds."""
    masks = [name for name in _folders(folder.parent) if plain_name(name) in MASK_FOLDERS]
    if masks and plain_name(folder.name) in IMAGE_FOLDERS:
        return ValueError(f"{folder}: images without masks; pass {folder.parent}, which holds {masks[0]}/ too")
    kinds: Counter[str] = Counter()
    for _, names in walk(folder):
        kinds.update(KINDS[suffix_of(name)] for name in names if suffix_of(name) in KINDS)
    held = ", ".join(f"{kind} ({count:,})" for kind, count in kinds.most_common()) or "no images"
    return ValueError(f"{folder} holds {held}, but no masks beside images; {EXPECTED}")


def read_place(place: Place) -> FilePairs:
    """The pairs of images and masks of a split. Raises `ValueError` if there are none."""
    if place.images == place.masks:
        images, masks = split_flat(_images(place.images), place.images)
    else:
        images, masks = _images(place.images), _images(place.masks)
    if place.names is not None:
        return pair_stems(images, masks, names=place.names, image_folder=place.images, mask_folder=place.masks)
    return pair_files(images, masks, image_folder=place.images, mask_folder=place.masks)


def _pair_in(folder: Path) -> Place | None:
    """The folder of images and the folder of masks in a folder."""
    plain = {plain_name(name): name for name in reversed(_folders(folder))}
    images = next((plain[name] for name in IMAGE_FOLDERS if name in plain), None)
    if images is None:
        return None
    masks = next((plain[name] for name in MASK_FOLDERS if name in plain and _has_images(folder / plain[name])), None)
    return None if masks is None else Place(folder / images, folder / masks)


def _by_list(folder: Path, place: Place) -> dict[str, Place]:
    """The splits that texts beside the folders list."""
    lists = next((folder / name for name in _LISTS if (folder / name).is_dir()), None)
    texts = [] if lists is None else sorted(lists.glob("*.txt"))
    named = [text for text in texts if kind_of(text.stem)]
    if not named and len(texts) == 1:
        return {"": Place(place.images, place.masks, texts[0])}
    return {text.stem: Place(place.images, place.masks, text) for text in named}


def _by_split(place: Place) -> dict[str, Place]:
    """The splits of a pair of folders: subfolders that both have, if all of them are names of splits, or if there are
    a training and a validation set. Others are left out then: they may be parts of these.
    """
    both = [name for name in _folders(place.images) if (place.masks / name).is_dir()]
    named = {name: kind_of(name) for name in both if kind_of(name)}
    if named and (len(named) == len(both) or len(set(named.values())) > 1):
        if others := [name for name in both if name not in named]:
            notify(f"{place.images}: {', '.join(others)} left out, beside {', '.join(named)}")
        return {name: Place(place.images / name, place.masks / name) for name in named}
    return {"": place}


def _is_flat(folder: Path) -> bool:
    """Whether a folder holds images and their masks side by side."""
    files = [entry.path for entry in os.scandir(folder) if suffix_of(entry.name) in IMAGE_SUFFIXES]
    return all(split_flat(sorted(files), folder))


def _images(folder: Path) -> list[str]:
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
    entries = [entry for entry in os.scandir(folder) if not is_hidden(entry.name)]
    folders = [entry for entry in entries if entry.is_dir()]
    others = any(not entry.is_dir() and suffix_of(entry.name) not in (".txt", ".md", "") for entry in entries)
    return Path(folders[0].path) if len(folders) == 1 and not others else None
