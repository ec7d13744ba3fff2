"""The labels of the data: whether there are any, and where to put them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from hierax.data.arrays import ArrayDataset
from hierax.data.dataset import Dataset, Sample, Subset
from hierax.data.file_lists import FileList
from hierax.data.list_rows import LABELS
from hierax.data.segmentation.layouts import IMAGE_FOLDERS, MASK_FOLDERS
from hierax.data.tables import LABEL_COLUMNS, TableDataset
from hierax.train.settings import Recipe

_NUMBER = re.compile(r"[-+]?(\d+[.,]?\d*|[.,]\d+)(e[-+]?\d+)?", re.IGNORECASE)


def check_labels(recipe: Recipe, dataset: Dataset, first: Sample) -> None:
    """Raises `ValueError` if the labels of the data are not enough to learn from."""
    if not dataset.classes:
        teacher = "" if dataset.arrays else ", or a teacher (--teacher)"
        raise ValueError(f"the data has no classes; {labels_beside(dataset)}{teacher}")
    if _are_masks(dataset.classes):
        raise ValueError(
            f"the classes would be {' and '.join(dataset.classes)}, which look like images and their masks; "
            "--task segment (in Python task='segment') learns a class for each pixel from them. If they are classes, "
            "rename one of the folders"
        )
    if not recipe.label_weight:
        raise ValueError("label_weight is 0 and there is no teacher, so there is nothing to learn; expected above 0")
    if len(dataset.classes) < 2 and not is_multi_label(first):
        raise ValueError(
            f"the data has one class, {', '.join(dataset.classes)}; fine-tuning takes two or more "
            "(if the classes are folders inside of that one, pass it)"
        )
    _check_no_measurements(dataset)


def _check_no_measurements(dataset: Dataset) -> None:
    """Raises `ValueError` if the names of the classes are fractional numbers that hardly repeat: a regression."""
    names, count = dataset.classes, len(dataset)
    if not count < 2 * len(names) or not all(_NUMBER.fullmatch(name) for name in names):
        return
    fraction = next((name for name in names if not float(name.replace(",", ".")).is_integer()), None)
    if fraction is not None:
        raise ValueError(
            f"the labels are numbers such as {fraction}, and {len(names):,} of {count:,} differ: regression is not "
            "available. If each is a class, write it as a name, such as level-1"
        )


def _are_masks(classes: tuple[str, ...]) -> bool:
    """Whether two class folders have the names of folders of images and of masks."""
    names = {re.sub(r"[\W_]+", "", name).lower() for name in classes}
    return len(classes) == 2 and not names.isdisjoint(IMAGE_FOLDERS) and not names.isdisjoint(MASK_FOLDERS)


def check_targets(dataset: Dataset, first: Sample) -> None:
    """Raises `ValueError` if the samples do not state a class for each pixel."""
    if dataset.arrays or dataset.videos:
        raise ValueError(
            f"the data are {'arrays' if dataset.arrays else 'videos'}; segmentation takes images with masks"
        )
    if first.target is None:
        raise ValueError("the data has no masks; segmentation learns from a class for each pixel")
    if len(dataset.classes) < 2:
        raise ValueError(f"the masks have {len(dataset.classes)} class; segmentation takes two or more")


def is_multi_label(sample: Sample) -> bool:
    """Whether a sample may have several classes."""
    return isinstance(sample.label, np.ndarray)


def labels_beside(dataset: Dataset) -> str:
    """A sentence that says where data of this kind has its labels."""
    whole = dataset.base if isinstance(dataset, Subset) else dataset
    if isinstance(whole, ArrayDataset):
        return f"fine-tuning takes labels from {Path(whole.path).stem}.labels.npy beside {whole.path}"
    if isinstance(whole, TableDataset):
        known = f"labels are in a column that is called {', '.join(LABEL_COLUMNS)} (--columns label=NAME names another)"
        return f"its columns are {', '.join(whole.columns)}; {known}"
    if isinstance(whole, FileList):
        names = ", ".join(LABELS)
        return f"labels are in a column of the list that is called {names} (--columns label=NAME names another)"
    return (
        "fine-tuning takes a folder of class folders, shards with labels, or a list (.csv) with columns path and label"
    )
