"""Opens data for segmentation: its classes, and how its masks are read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from hierax.console import quantity
from hierax.data.dataset import IGNORE, Dataset
from hierax.data.segmentation.class_tables import (
    Entry,
    color_table,
    is_ignored,
    names_of_table,
    palette_of_colors,
    read_class_names,
    read_colors,
)
from hierax.data.segmentation.dataset import SegmentationDataset
from hierax.data.segmentation.lists import check_segmentation_columns
from hierax.data.segmentation.numbering import MAX_CLASSES, Colors, Numbering
from hierax.data.segmentation.opening import OpenedMasks, open_masks
from hierax.data.segmentation.survey import Survey, are_gray_levels, is_binary, survey
from hierax.data.split import stratified_split
from hierax.data.split_names import find_splits, kind_of
from hierax.notices import notify

ClassNames: TypeAlias = "Sequence[str] | str | os.PathLike[str] | None"
"""Names of classes in the order of their numbers, or a file with them."""
ClassColors: TypeAlias = "Mapping[str, Any] | str | os.PathLike[str] | None"
"""The color of each class by name, or a file with them."""

_MANY = 2000
"""Above this number of masks, a notice says that all of them are read."""


def open_segmentation(
    source: str | os.PathLike[str],
    *,
    split: str | None = None,
    classes: ClassNames = None,
    columns: Mapping[str, str] | None = None,
    reduce_labels: bool = False,
    colors: ClassColors = None,
    binary: bool | None = None,
) -> SegmentationDataset:
    """Opens images whose pixels have classes. The order of the samples depends only on names.

    Masks are images whose values are numbers of classes: gray or palette images of 1 to 16 bits. 255, and 65535 in
    masks of 16 bits, is the value of pixels without a class. Masks of 0 and 255 alone are read as 0 and 1.

    Args:
        source: one of these:

            - a folder with a folder of images (`images`, `JPEGImages`, `leftImg8bit`, …) and one of masks (`masks`,
              `annotations`, `SegmentationClass`, `gtFine`, …) of the same names. `train` and `val` are folders inside
              of both, or around them, or lists as of Pascal VOC. Images and masks may also lie side by side;
            - a list (`.csv`, `.tsv`, `.txt`, `.jsonl`, `.parquet`) with columns of images, masks and perhaps splits;
            - a COCO file (`.json`) or a folder with such files: class 0 is the background, the categories follow;
            - a folder or pattern of `.parquet` files, a folder that `datasets` saved, or `hub:ID` or `hub:ID:CONFIG`,
              with columns of images and masks.
        split: the split to open; None: the training set, or the only one.
        classes: names of the classes, in the order of their numbers, or a file with them (see `read_class_names`).
            None: as a file beside the data states (`classes.txt`, `id2label.json`, `labelmap.txt`, …), otherwise the
            numbers that the masks hold, up to the largest one.
        columns: the names of columns, if they are not usual names: {"path": name, "mask": name, "split": name}.
        reduce_labels: whether 0 in masks means that a pixel has no class, and class k is stored as k + 1.
        colors: for masks in color, the color of each class by name, such as {"road": (128, 64, 128)}, or a file with
            them (see `read_colors`). Gray levels are possible too: {"road": 0, "tree": 128}.
        binary: whether 255 is class 1, as in masks of 0 and 255; None: if the masks hold nothing else.

    Returns:
        The dataset. Its samples have a `target`, uint8 `[H, W]`.

    Raises:
        ValueError: there are no pairs of images and masks, or masks cannot mean classes; the message names the cause.
        ImportError: parquet files and Hub datasets need the extra `data`.
    """
    text = os.fspath(source)
    opened = open_masks(text, check_segmentation_columns(columns))
    name = _wanted(list(opened.splits), split, of=text)
    stated = _stated(opened, classes, colors, reduce=reduce_labels)
    return _datasets(opened, [name], stated, binary=binary, name=text)[0]


def open_segmentation_splits(
    source: str | os.PathLike[str],
    *,
    fraction: float,
    seed: int,
    classes: ClassNames = None,
    columns: Mapping[str, str] | None = None,
    reduce_labels: bool = False,
    colors: ClassColors = None,
    binary: bool | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Opens a training set and a validation set, with the same classes.

    The validation set is the one that the data states; otherwise a `fraction` of the images, drawn with `seed`.

    Args:
        source, classes, columns, reduce_labels, colors, binary: see `open_segmentation`.
        fraction: fraction of the images to draw; 0: no validation set.
        seed: seed of the random numbers.

    Returns:
        The training set, and the validation set or None.

    Raises:
        ValueError, ImportError: see `open_segmentation`.
    """
    text = os.fspath(source)
    opened = open_masks(text, check_segmentation_columns(columns))
    training = _wanted(list(opened.splits), None, of=text)
    held = find_splits([name for name in opened.splits if name], of=text)[1]
    names = [training] if held in (None, training) else [training, held]
    stated = _stated(opened, classes, colors, reduce=reduce_labels)
    train, *rest = _datasets(opened, names, stated, binary=binary, name=text)
    return (train, rest[0]) if rest else stratified_split(train, fraction=fraction, seed=seed)


def _wanted(splits: Sequence[str], split: str | None, *, of: str) -> str:
    """The name of the split to open: the training set, or the only one."""
    if split is None and len(splits) == 1:
        return splits[0]
    alike = [name for name in splits if split and kind_of(name) and kind_of(name) == kind_of(split)]
    wanted = split or find_splits([name for name in splits if name], of=of)[0] or "train"
    if wanted not in splits and len(alike) == 1:  # "val" for validation/
        return alike[0]
    if wanted not in splits:
        raise ValueError(f"{of} has no split {wanted!r}; it has {', '.join(filter(None, splits)) or 'none'}")
    return wanted


def _datasets(
    opened: OpenedMasks, splits: Sequence[str], stated: _Stated, *, binary: bool | None, name: str
) -> list[SegmentationDataset]:
    """Splits of one dataset, which are read in the same way."""
    parts, names, numbering = [opened.splits[split] for split in splits], stated.names, stated.numbering
    total = sum(map(len, parts))
    if names is None and total > _MANY:
        notify(f"{name}: all {total:,} masks are read to find the classes; stating their names (--classes) saves this")
    found = survey(parts, numbering, whole=names is None)
    if not found.names and found.problems:
        raise ValueError(
            f"none of {quantity(len(found.problems), 'image')} with masks can be used; the first: {found.problems[0]}"
        )
    if found.problems:
        looked = len(found.names) + len(found.problems)
        notify(
            f"{len(found.problems):,} of {quantity(looked, 'image')} with masks cannot be used; the first: "
            f"{found.problems[0]}"
        )
    count = None if names is None else len(names)
    if binary is None and numbering.colors is None and numbering.values is None and is_binary(found.found, count):
        if not found.complete:
            found = survey(parts, numbering, whole=True)
        binary = is_binary(found.found, count)
        if binary:
            notify(f"{name}: the masks hold only 0 and 255; 255 is taken as class 1, not as pixels without a class")
    numbering = replace(numbering, binary=bool(binary))
    if names is None:
        names = tuple(map(str, range(_count(found, numbering, name))))
    numbering = replace(numbering, count=len(names))
    _check_values(found, numbering, stated.source)
    palette = _palette(found, numbering, len(names))
    return [SegmentationDataset(part, numbering, names, palette) for part in parts]


@dataclass(frozen=True)
class _Stated:
    """What the user or the data states.

    Attributes:
        names: of the classes; None if they are not stated.
        numbering: how masks are read.
        source: where the names are from.
    """

    names: tuple[str, ...] | None
    numbering: Numbering
    source: str


def _stated(opened: OpenedMasks, classes: ClassNames, colors: ClassColors, *, reduce: bool) -> _Stated:
    if isinstance(classes, (str, os.PathLike)):
        names = read_class_names(_file(classes, "classes", "a list of names, or a file with them"))
    else:
        names = None if classes is None else tuple(classes)
    if names is not None:
        _check_names(names)
    where = "" if names is None else "the classes that were given"
    table = opened.table
    known: Colors | None = None
    if colors is not None:
        if isinstance(colors, (str, os.PathLike)):
            colors = read_colors(_file(colors, "colors", "a color for each name, or a file with them"))
        known, names = color_table(colors, names, required=True)
        where = where or "the table of colors"
    values = opened.values
    if table is not None:
        theirs = names_of_table(table[1], name=table[0], reduce=reduce)
        if names is None:
            names, where = theirs, table[0]
            if not reduce and min((entry.number or 0 for entry in table[1]), default=0) == 1:
                notify(
                    f"{where} names classes from 1 on, so 0 is a class of its own; if 0 means that a pixel has no "
                    "class, as in ADE20K, --reduce-labels (in Python: reduce_labels) says so"
                )
        elif colors is None and (opened.by_name or (set(theirs) <= set(names) and theirs != names[: len(theirs)])):
            values = _by_name(theirs, names, values, reduce=reduce, of=table[0])
        elif colors is None and theirs != names[: len(theirs)]:
            notify(f"the classes of {table[0]} ({_few(theirs)}) are taken for {_few(names)}, by their numbers")
        if known is None and set(theirs) <= set(names):
            known = _colors_beside(table[1], names)
    return _Stated(names, Numbering(colors=known, values=values, reduce=reduce), where)


def _file(path: str | os.PathLike[str], argument: str, expected: str) -> str | os.PathLike[str]:
    if not os.path.isfile(path):
        raise ValueError(f"{argument} is {os.fspath(path)!r}, which is no file; expected {expected}")
    return path


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _check_names(names: Sequence[str]) -> None:
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"classes names {twice!r} twice; expected different names")
    if not 1 <= len(names) <= MAX_CLASSES:
        raise ValueError(f"classes holds {len(names)} names; expected 1 to {MAX_CLASSES}")


def _colors_beside(entries: Sequence[Entry], names: Sequence[str]) -> Colors | None:
    """The colors of a table beside the data, for masks in color."""
    colors = {entry.name: entry.color for entry in entries if entry.color is not None}
    needed = [entry for entry in entries if not is_ignored(entry)]
    if not colors or any(entry.color is None for entry in needed) or len(set(colors.values())) < len(colors):
        return None
    return color_table(colors, names, required=False)[0]


def _by_name(
    theirs: Sequence[str], names: Sequence[str], values: np.ndarray | None, *, reduce: bool, of: str
) -> np.ndarray:
    """The given number of each class of the data, before 1 is subtracted."""
    unknown = [name for name in theirs if name not in names]
    if unknown:
        raise ValueError(f"{of}: the class {unknown[0]!r} is none of {', '.join(names)}")
    numbers = np.array([names.index(name) for name in theirs], np.int64)
    if reduce:
        numbers = np.concatenate([[0], numbers + 1])
    if values is None:
        return numbers
    return np.where(values == IGNORE, IGNORE, numbers[np.where(values == IGNORE, 0, values)])


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
            f"{found.first_with(wrong)}: the value {wrong}; expected class numbers from 0 to {MAX_CLASSES - 1}, and "
            "255 for pixels without a class (larger values often number objects or colors, not classes)"
        )
    return numbers[-1] + 1


def _check_values(found: Survey, numbering: Numbering, where: str) -> None:
    """Raises `ValueError` for a mask with a number that is no class. Gives a notice if masks were reduced before."""
    for name, values in zip(found.names, found.values, strict=True):
        numbering.check(np.array(values), name=name, where=where)
    if numbering.reduce and IGNORE in found.found:
        notify(
            f"{found.first_with(IGNORE)} holds 255 already: masks whose labels were reduced before must not be "
            "reduced again, because their class 0 would be lost; reduce_labels is for masks in which 0 means no class"
        )


def _palette(found: Survey, numbering: Numbering, count: int) -> np.ndarray | None:
    """The colors of the classes: of the table of colors, or of the palette of the masks."""
    if numbering.colors is not None:
        return palette_of_colors(numbering.colors, count)
    if found.palette is None or numbering.values is not None:
        return None
    places = np.array([0, IGNORE]) if numbering.binary else np.arange(count) + numbering.reduce
    if places[-1] >= len(found.palette):
        return None
    colors = found.palette[places]
    return None if (np.ptp(colors, axis=1) == 0).all() else colors  # gray levels are no colors to be seen
