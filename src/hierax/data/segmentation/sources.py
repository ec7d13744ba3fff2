"""Opens data for segmentation: what a path means, its classes, and how its masks are read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hierax.data.dataset import IGNORE, Dataset
from hierax.data.segmentation.dataset import MaskedImages, SegmentationDataset
from hierax.data.segmentation.layouts import EXPECTED, find_places, read_place
from hierax.data.segmentation.numbering import MAX_CLASSES, Numbering
from hierax.data.segmentation.survey import Survey, are_gray_levels, is_binary, survey
from hierax.data.split import stratified_split
from hierax.data.split_names import find_splits
from hierax.notices import notify
from hierax.processing.paths import check_no_collection


def open_segmentation(
    source: str | os.PathLike[str],
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    reduce_labels: bool = False,
    colors: Mapping[str, Sequence[int]] | None = None,
) -> SegmentationDataset:
    """Opens images whose pixels have classes. The order of the samples depends only on names.

    Args:
        source: a folder with a folder of images and a folder of masks of the same names.
        split: the split to open; None: the training set, or the only one.
        classes: names of the classes, in the order of their numbers; None: as the data states, otherwise the numbers
            that the masks hold, up to the largest one.
        columns: names of columns.
        reduce_labels: whether 0 in masks means that a pixel has no class, and class k is stored as k + 1.
        colors: the color of each class, by name.

    Raises:
        ValueError: there are no pairs of images and masks, or masks cannot mean classes; the message names the cause.
    """
    found = _open_splits(os.fspath(source))
    name = _wanted(list(found), split, of=os.fspath(source))
    return _datasets([found[name]], classes=classes, reduce_labels=reduce_labels, name=os.fspath(source))[0]


def open_segmentation_splits(
    source: str | os.PathLike[str],
    *,
    fraction: float,
    seed: int,
    classes: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    reduce_labels: bool = False,
    colors: Mapping[str, Sequence[int]] | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Opens a training set and a validation set, with the same classes.

    The validation set is the one that the data states; otherwise a `fraction` of the images, drawn with `seed`.

    Args:
        source, classes, columns, reduce_labels, colors: see `open_segmentation`.
        fraction: fraction of the images to draw; 0: no validation set.
        seed: seed of the random numbers.

    Returns:
        The training set, and the validation set or None.

    Raises:
        ValueError: see `open_segmentation`.
    """
    found = _open_splits(os.fspath(source))
    training = _wanted(list(found), None, of=os.fspath(source))
    held = find_splits([name for name in found if name], of=os.fspath(source))[1]
    parts = [found[name] for name in ([training] if held in (None, training) else [training, held])]
    train, *rest = _datasets(parts, classes=classes, reduce_labels=reduce_labels, name=os.fspath(source))
    return (train, rest[0]) if rest else stratified_split(train, fraction=fraction, seed=seed)


def _open_splits(text: str) -> dict[str, MaskedImages]:
    path = Path(text)
    if not path.is_dir():
        raise ValueError(f"{text}: no such folder; {EXPECTED}")
    check_no_collection(path)
    return {name: read_place(place) for name, place in find_places(path).items()}


def _wanted(splits: Sequence[str], split: str | None, *, of: str) -> str:
    """The name of the split to open: the training set, or the only one."""
    if split is None and len(splits) == 1:
        return splits[0]
    wanted = split or find_splits([name for name in splits if name], of=of)[0] or "train"
    if wanted not in splits:
        raise ValueError(f"{of} has no split {wanted!r}; it has {', '.join(filter(None, splits)) or 'none'}")
    return wanted


def _datasets(
    parts: Sequence[MaskedImages], *, classes: Sequence[str] | None, reduce_labels: bool, name: str
) -> list[SegmentationDataset]:
    """The splits of one dataset, read in the same way."""
    names = None if classes is None else tuple(classes)
    count = None if names is None else len(names)
    found = survey(parts, Numbering(), whole=count is None)
    if not found.names and found.problems:
        raise ValueError(f"none of {len(found.problems)} masks can be used; the first: {found.problems[0]}")
    numbering = Numbering(count=count, reduce=reduce_labels)
    if is_binary(found.found, count) and not found.complete:
        found = survey(parts, Numbering(), whole=True)
    if is_binary(found.found, count):
        notify(f"{name}: the masks hold only 0 and 255; 255 is taken as class 1, not as pixels without a class")
        numbering = replace(numbering, binary=True)
    if names is None:
        names = tuple(map(str, range(_count(found, numbering, name))))
    return [SegmentationDataset(part, replace(numbering, count=len(names)), names) for part in parts]


def _count(found: Survey, numbering: Numbering, name: str) -> int:
    """The number of classes of masks without names of classes."""
    if numbering.binary:
        return 2
    numbers = found.found
    if are_gray_levels(numbers):
        raise ValueError(
            f"{name}: the masks hold only {', '.join(map(str, numbers))}, which look like gray levels, not numbers of "
            "classes; --colors FILE (in Python: colors) states the class of each gray level; if they are numbers of "
            "classes, --classes states the names"
        )
    numbers = [number for number in numbers if number != IGNORE]
    if numbering.reduce:
        numbers = [number - 1 for number in numbers if number]
    if not numbers:
        raise ValueError(f"{name}: no pixel of the masks has a class")
    if not 0 <= numbers[0] <= numbers[-1] < MAX_CLASSES:
        wrong = numbers[0] if numbers[0] < 0 else numbers[-1]
        raise ValueError(
            f"{found.first_with(wrong)}: the value {wrong}; expected class numbers from 0 to {MAX_CLASSES - 1}"
        )
    return numbers[-1] + 1
