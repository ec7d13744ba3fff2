"""Usual names of folders of images and of masks."""

from __future__ import annotations

import re
from collections.abc import Sequence

IMAGE_FOLDERS = (
    "images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "photos", "photo", "pictures", "rgb", "inputs",
    "input", "frames", "data",
)  # fmt: skip
"""Usual names of folders of images, in lower case and without marks between words."""
MASK_FOLDERS = (
    "segmentationclass", "segmentationclassaug", "gtfine", "masks", "mask", "annotations", "annotation", "annots",
    "labels", "label", "segmentations", "segmentation", "groundtruth", "gt", "targets", "target", "annot", "gtcoarse",
)  # fmt: skip
"""Usual names of folders of masks; the first one that holds images is used."""


def plain_name(name: str) -> str:
    """A name in lower case, without marks between words."""
    return re.sub(r"[\W_]+", "", name).lower()


def are_images_and_masks(names: Sequence[str]) -> bool:
    """Whether two folders have the names of images and of their masks."""
    plain = sorted(map(plain_name, names), key=lambda name: name not in IMAGE_FOLDERS)
    return len(plain) == 2 and plain[0] in IMAGE_FOLDERS and plain[1] in MASK_FOLDERS
