"""Images and masks in files: which mask belongs to which image."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hierax.data.segmentation.masks import Mask, read_mask
from hierax.data.segmentation.turned import check_pair
from hierax.data.strings import Strings
from hierax.notices import notify

MARKS = (
    ("", ""),
    ("_leftImg8bit", "_gtFine_labelTrainIds"),
    ("_leftImg8bit", "_gtCoarse_labelTrainIds"),
    ("_leftImg8bit", "_gtFine_labelIds"),
    ("_leftImg8bit", "_gtCoarse_labelIds"),
    *(
        ("", f"_{word}")
        for word in ("mask", "masks", "label", "labels", "L", "seg", "segmentation", "gt", "annotation")
    ),
    *(("", f"-{word}") for word in ("mask", "label", "seg", "gt")),
    *((f"_{image}", f"_{word}") for image in ("image", "img", "sat", "rgb") for word in ("mask", "label", "seg", "gt")),
)
"""What names of an image and its mask end with, after what they have in common."""
STARTS = (
    *(("", f"{word}_") for word in ("mask", "label", "seg", "gt")),
    *((f"{image}_", f"{word}_") for image in ("image", "img") for word in ("mask", "label", "seg", "gt")),
)
"""What they begin with."""


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
    tries = [_match(images, masks, image_folder, mask_folder, marks, at_end=True) for marks in MARKS]
    tries += [_match(images, masks, image_folder, mask_folder, marks, at_end=False) for marks in STARTS]
    ours, theirs = max(tries, key=lambda found: len(found[0].keys() & found[1].keys()))
    keys = [key for key in ours if key in theirs]
    if not keys:
        image, mask = (
            os.path.relpath(names[0], folder) for names, folder in ((images, image_folder), (masks, mask_folder))
        )
        raise ValueError(
            f"no file in {mask_folder} has the name of an image in {image_folder}, such as {mask} and {image}; "
            "expected equal names but for the suffix (a mark such as _mask may follow); a list (.csv) with "
            "columns image and mask names any pairs"
        )
    for key in keys:
        for kind, found in (("images", ours[key]), ("masks", theirs[key])):
            if len(found) > 1:
                raise ValueError(f"{found[0]} and {found[1]}: two {kind} of the same name; expected one")
    _tell_missing("image", "mask", [ours[key][0] for key in ours if key not in theirs], len(images))
    _tell_missing("mask", "image", [theirs[key][0] for key in theirs if key not in ours], len(masks))
    return FilePairs(Strings(ours[key][0] for key in keys), Strings(theirs[key][0] for key in keys))


def _match(
    images: Iterable[str],
    masks: Iterable[str],
    image_folder: Path,
    mask_folder: Path,
    marks: tuple[str, str],
    *,
    at_end: bool,
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The images and the masks by what their names have in common."""
    found: tuple[dict[str, list[str]], dict[str, list[str]]] = {}, {}
    for names, folder, mark, kind in zip((images, masks), (image_folder, mask_folder), marks, found, strict=True):
        for path in names:
            key = _key(path, folder, mark, at_end=at_end)
            if key is not None:
                kind.setdefault(key, []).append(path)
    return found


def _key(path: str, folder: Path, mark: str, *, at_end: bool) -> str | None:
    """A path below a folder without suffix and mark, with its accents in one Unicode form; None without the mark."""
    parent, name = os.path.split(os.path.relpath(path, folder))
    stem = unicodedata.normalize("NFC", os.path.splitext(name)[0])
    if not (stem.endswith(mark) if at_end else stem.startswith(mark)) or stem == mark:
        return None
    bare = stem.removesuffix(mark) if at_end else stem.removeprefix(mark)
    return unicodedata.normalize("NFC", os.path.join(parent, bare))


def _tell_missing(kind: str, other: str, paths: Sequence[str], total: int) -> None:
    if paths:
        notify(f"{len(paths):,} of {total:,} {kind}s have no {other} and are not used, such as {paths[0]}")
