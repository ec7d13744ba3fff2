"""Images and masks in files: which mask belongs to which image."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hierax.data.list_rows import open_text
from hierax.data.segmentation.masks import Mask, read_mask
from hierax.data.segmentation.turned import check_pair
from hierax.data.strings import Strings
from hierax.notices import notify

_WORDS = ("mask", "masks", "label", "labels", "L", "seg", "segmentation", "gt", "annotation")
_IMAGE_WORDS = ("image", "img", "sat", "rgb")


@dataclass(frozen=True)
class Marks:
    """What the names of an image and of its mask begin or end with, beside what they have in common."""

    image: str
    mask: str
    at_end: bool = True

    def of_image(self, stem: str) -> str | None:
        """The name of an image without its mark; None if it lacks the mark."""
        return self._bare(stem, self.image)

    def of_mask(self, stem: str) -> str | None:
        """The name of a mask without its mark; None if it lacks the mark."""
        return self._bare(stem, self.mask)

    def _bare(self, stem: str, mark: str) -> str | None:
        if stem == mark or not (stem.endswith(mark) if self.at_end else stem.startswith(mark)):
            return None
        return stem.removesuffix(mark) if self.at_end else stem.removeprefix(mark)


MARKS = (
    Marks("_leftImg8bit", "_gtFine_labelTrainIds"),
    Marks("_leftImg8bit", "_gtCoarse_labelTrainIds"),
    Marks("_leftImg8bit", "_gtFine_labelIds"),
    Marks("_leftImg8bit", "_gtCoarse_labelIds"),
    *(Marks("", f"{mark}{word}") for word in _WORDS for mark in "_-."),
    *(Marks(f"_{image}", f"_{word}") for image in _IMAGE_WORDS for word in _WORDS),
    *(Marks("", f"{word}_", at_end=False) for word in _WORDS),
    *(Marks(f"{image}_", f"{word}_", at_end=False) for image in _IMAGE_WORDS for word in _WORDS),
)
"""The usual marks of images and masks; those of Cityscapes come first."""
_EQUAL = Marks("", "")
_PHOTOS = (".jpg", ".jpeg")


@dataclass(frozen=True, eq=False)
class FilePairs:
    """Images and masks in files."""

    images: Strings
    masks: Strings

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """See `MaskedImages`."""
        return self.images[index]

    def mask_name(self, index: int) -> str:
        """See `MaskedImages`."""
        return self.masks[index]

    def image(self, index: int) -> str:
        """See `MaskedImages`."""
        return self.images[index]

    def mask(self, index: int) -> Mask:
        """See `MaskedImages`."""
        found = read_mask(self.masks[index], name=self.masks[index])
        check_pair(self.images[index], found, name=self.images[index])
        return found


def pair_files(images: Sequence[str], masks: Sequence[str], *, image_folder: Path, mask_folder: Path) -> FilePairs:
    """The pairs of images and masks that have the same path below their folders, but for suffixes and usual marks such
    as `_mask`.

    A notice counts images without a mask and masks without an image.

    Raises:
        ValueError: no mask fits an image, or two files of the same name fit one.
    """
    files, others = _named(images, image_folder), _named(masks, mask_folder)
    ours, theirs = _match(files, others, _EQUAL)
    if 2 * len(ours.keys() & theirs.keys()) < min(len(images), len(masks)):
        tries = [(ours, theirs), *(_match(files, others, marks) for marks in MARKS)]
        ours, theirs = max(tries, key=lambda found: len(found[0].keys() & found[1].keys()))
    keys = [key for key in ours if key in theirs]
    if not keys:
        image, mask = os.path.relpath(images[0], image_folder), os.path.relpath(masks[0], mask_folder)
        raise ValueError(
            f"no file in {mask_folder} has the name of an image in {image_folder}, such as {mask} and {image}; "
            "expected equal names but for the suffix (a mark such as _mask may follow); a list (.csv) with "
            "columns image and mask names any pairs"
        )
    _tell_missing("image", "mask", [ours[key][0] for key in ours if key not in theirs], len(images))
    _tell_missing("mask", "image", [theirs[key][0] for key in theirs if key not in ours], len(masks))
    return _pairs(keys, ours, theirs)


def _pairs(keys: Sequence[str], images: dict[str, list[str]], masks: dict[str, list[str]]) -> FilePairs:
    for key in keys:
        for kind, found in (("images", images[key]), ("masks", masks[key])):
            if len(found) > 1:
                raise ValueError(f"{found[0]} and {found[1]}: two {kind} of the same name; expected one")
    return FilePairs(Strings(images[key][0] for key in keys), Strings(masks[key][0] for key in keys))


def pair_stems(
    images: Sequence[str], masks: Sequence[str], *, names: Path, image_folder: Path, mask_folder: Path
) -> FilePairs:
    """The pairs whose names are on the lines of a text, as of Pascal VOC.

    Raises:
        ValueError: the text is empty, or a name has no image or no mask.
    """
    with open_text(names) as file:
        lines = [unicodedata.normalize("NFC", line.strip()) for line in file if line.strip()]
    if not lines:
        raise ValueError(f"{names}: an empty list; expected the name of an image on each line")
    ours, theirs = _match(_named(images, image_folder), _named(masks, mask_folder), _EQUAL)
    # some lists have a number or a second file after the name, or its suffix
    keys = list(dict.fromkeys(line if line in ours else os.path.splitext(line.split()[0])[0] for line in lines))
    for kind, found, folder in (("image", ours, image_folder), ("mask", theirs, mask_folder)):
        lost = [key for key in keys if key not in found]
        if lost:
            raise ValueError(
                f"{names}: no {kind} in {folder} for {len(lost):,} of {len(keys):,} names, such as {lost[0]}"
            )
    return _pairs(keys, ours, theirs)


def split_flat(files: Sequence[str], folder: Path) -> tuple[list[str], list[str]]:
    """The images and the masks among the files of one folder: masks have a mark such as `_mask` that their images lack,
    or are the files beside a JPEG of the same name.
    """
    named = _named(files, folder)
    for marks in MARKS:
        masks = [one for one in named if marks.of_mask(one.stem) is not None]
        if not masks:
            continue
        others = [one for one in named if marks.of_mask(one.stem) is None]
        ours, theirs = _match(others, masks, marks)
        if ours.keys() & theirs.keys():
            return [one.path for one in others], [one.path for one in masks]
    photos = [one for one in named if os.path.splitext(one.path)[1].lower() in _PHOTOS]
    others = [one for one in named if os.path.splitext(one.path)[1].lower() not in _PHOTOS]
    ours, theirs = _match(photos, others, _EQUAL)
    fit = ours.keys() & theirs.keys()
    return ([one.path for one in photos], [one.path for one in others]) if fit else ([], [])


class _File(NamedTuple):
    """A file: its path, its folder below the folder that is searched, and its name without the suffix."""

    path: str
    parent: str
    stem: str


def _named(paths: Iterable[str], folder: Path) -> list[_File]:
    skip = len(os.path.join(folder, ""))
    return [_File(path, *os.path.split(os.path.splitext(path[skip:])[0])) for path in paths]


def _match(
    images: Iterable[_File], masks: Iterable[_File], marks: Marks
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The images and the masks by what their names have in common."""
    found: tuple[dict[str, list[str]], dict[str, list[str]]] = {}, {}
    for files, bare, kind in ((images, marks.of_image, found[0]), (masks, marks.of_mask, found[1])):
        for file in files:
            name = bare(file.stem)
            if name is not None:  # accents may be written in two ways
                key = unicodedata.normalize("NFC", os.path.join(file.parent, name))
                kind.setdefault(key, []).append(file.path)
    return found


def _tell_missing(kind: str, other: str, paths: Sequence[str], total: int) -> None:
    if paths:
        notify(f"{len(paths):,} of {total:,} {kind}s without {other}, which are not used, such as {paths[0]}")
