"""Training and validation set: as defined by the data, or drawn by class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hierax.console import quantity
from hierax.data.dataset import Dataset, Subset, relabel
from hierax.data.file_lists import FileList
from hierax.data.folders import FolderDataset, split_folders
from hierax.data.image_folder import metadata_of
from hierax.data.order import SPLIT, random_stream
from hierax.data.sources import has_columns, open_dataset, select_split, tables_of
from hierax.data.split_names import find_splits
from hierax.notices import notify
from hierax.processing.paths import require_path


def open_splits(
    source: str | os.PathLike[str],
    *,
    fraction: float,
    seed: int,
    validation: str | os.PathLike[str] | None = None,
    labels: bool = True,
    columns: Mapping[str, str] | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Opens a training set and a validation set.

    The validation set is `validation`, if it is given. Otherwise it is the folder `val/` (or `validation/`, `dev/`,
    `test/`, and other usual names) next to `train/`, or such a split of a Hub dataset. Otherwise it is a `fraction` of
    the samples, which is drawn with `seed`, by class if there are classes. Its classes have the same numbers as in
    training. It may lack some classes, or all labels.

    Args:
        source: see `open_dataset`.
        fraction: fraction of the samples to draw; 0: no validation set.
        seed: seed of the random numbers.
        validation: the source of a validation set.
        labels, columns: see `open_dataset`. Without labels, the validation set may have any classes.

    Returns:
        The training set, and the validation set or None.

    Raises:
        ValueError: see `open_dataset`; or the validation set has classes that the training set lacks.
    """
    train, validation_data = open_train_and_validation(source, validation=validation, labels=labels, columns=columns)
    return with_validation(train, validation_data, fraction=fraction, seed=seed)


def with_validation(
    train: Dataset, validation_data: Dataset | None, *, fraction: float, seed: int
) -> tuple[Dataset, Dataset | None]:
    """The training and validation set. If there is no validation set, a `fraction` of the samples is drawn by class."""
    return (
        (train, validation_data)
        if validation_data is not None
        else stratified_split(train, fraction=fraction, seed=seed)
    )


def open_train_and_validation(
    source: str | os.PathLike[str],
    *,
    validation: str | os.PathLike[str] | None = None,
    labels: bool = True,
    columns: Mapping[str, str] | None = None,
) -> tuple[Dataset, Dataset | None]:
    """The training set, and the validation set with the class numbers of training, or None. `columns` is used for each
    of the two that has columns.

    Raises:
        ValueError: see `open_dataset`; or the validation set has classes that the training set lacks.
    """
    mine = columns if validation is None or has_columns(os.fspath(source)) else None
    train, validation_data = predefined_splits(source, labels=labels, columns=mine)
    if validation is not None:
        theirs = columns if mine is None or has_columns(os.fspath(validation)) else None
        validation_data = open_dataset(validation, labels=labels, columns=theirs)
        _notify_of_shared_files(train, validation_data)
    if validation_data is None or not labels or not train.classes:
        return train, validation_data
    try:
        return train, relabel(validation_data, train.classes, numbered=not isinstance(validation_data, FolderDataset))
    except ValueError as error:
        raise ValueError(f"validation does not fit the training set: {error}") from None


def _notify_of_shared_files(train: Dataset, validation_data: Dataset) -> None:
    """Gives a notice if the validation set shares files with the training set, because scores would be too good."""
    if (
        not (isinstance(train, (FolderDataset, FileList)) and isinstance(validation_data, (FolderDataset, FileList)))
        or validation_data.videos
    ):
        return
    if train.classes and not validation_data.classes:  # this is refused
        return
    notify_of_shared(train.paths, validation_data.paths)


def notify_of_shared(train: Iterable[str], validation: Iterable[str]) -> None:
    """Gives a notice if files to validate on are among the files to train on."""
    places = {os.path.realpath(path) for path in train}
    known = [os.path.realpath(path) in places for path in validation]
    if any(known):
        notify(
            f"{sum(known):,} of {len(known):,} samples to validate on are in the training set too: the scores "
            "are better than for other images"
        )


def predefined_splits(
    source: str | os.PathLike[str], *, labels: bool = True, columns: Mapping[str, str] | None = None
) -> tuple[Dataset, Dataset | None]:
    """The training set at `source`, and its validation set, or None."""
    require_path(source, "data")
    tables = tables_of(os.fspath(source), labels=labels, columns=columns)
    if tables is not None:
        training, other = find_splits(list(tables), of=os.fspath(source))
        validation_data = tables[other] if training is not None and other is not None else None
        return select_split(tables, None, name=os.fspath(source)), validation_data
    folders = split_folders(Path(source))
    if folders is None:
        whole = open_dataset(source, labels=labels, columns=columns)
        return splits_of_list(whole, name=os.fspath(source)) or (whole, None)
    metadata = metadata_of(Path(source)) if labels else None
    if metadata is not None:
        notify(f"{metadata} is not read, because {folders[0]} is beside it; to use its labels, pass the list itself")
    validation_data = None if folders[1] is None else open_dataset(folders[1], labels=labels, columns=columns)
    return open_dataset(folders[0], labels=labels, columns=columns), validation_data


def splits_of_list(whole: Dataset, *, name: str) -> tuple[Dataset, Dataset] | None:
    """The rows of a list to train on and to validate on, if a column states the split; otherwise None.

    Raises:
        ValueError: the column names rows to train on, and other rows by words that are not understood.
    """
    if not isinstance(whole, FileList) or whole.splits is None:
        return None
    found = sorted(set(whole.splits))
    training, validation_data = find_splits(found, of=name)
    if training is None or validation_data is None:
        _check_one_set(found, training, name=name)
        return None
    of = np.array(whole.splits)
    parts = [whole.select(np.flatnonzero(of == split)) for split in (training, validation_data)]
    others = len(whole) - sum(map(len, parts))
    left = f"; {others:,} other {'row is' if others == 1 else 'rows are'} not used" if others else ""
    notify(
        f"{name}: {quantity(len(parts[0]), 'row')} of {training!r} to train on, "
        f"{len(parts[1]):,} of {validation_data!r} to validate on{left}"
    )
    return parts[0], parts[1]


def _check_one_set(splits: Sequence[str], training: str | None, *, name: str) -> None:
    """Raises `ValueError` if a list whose rows will be one set names rows to train on and others. Gives a notice if it
    states several splits, none of them to train on.
    """
    if len(splits) < 2:
        return
    listed = ", ".join(repr(split) for split in splits[:4]) + (", …" if len(splits) > 4 else "")
    if training is not None:
        raise ValueError(
            f"{name}: the column of splits has {listed}; expected a name such as val, valid, dev or test for the rows "
            "to validate on"
        )
    notify(f"{name}: the column of splits has {listed}, and none of them means training; all rows are used")


def stratified_split(whole: Dataset, *, fraction: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """Divides a dataset into a training set and a validation set, which is a `fraction` of the samples (0: none).

    The same fraction of every class is drawn with `seed`, rounded down. The samples that are still missing are taken
    from the classes with the largest remainders. At least one sample of each class stays in the training set.

    Raises:
        ValueError: one of the two sets would be empty.
    """
    if fraction <= 0:
        return whole, None
    random = random_stream(seed, SPLIT)
    labels = np.asarray(whole.labels() or np.zeros(len(whole), np.int64))
    order = random.permutation(len(whole))
    order = order[np.argsort(labels[order], kind="stable")]  # sorted by class, in random order inside each class
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    counts = _counts(sizes, fraction, random)
    validation_data = np.concatenate([order[start : start + count] for start, count in zip(first, counts, strict=True)])
    if not 0 < len(validation_data) < len(whole):
        raise ValueError(
            f"validation_fraction is {fraction:g} of {len(whole)} samples, which leaves one of the two sets empty; "
            "validation_fraction=0 trains on all of them, --validation DATA names others"
        )
    is_held = np.zeros(len(whole), bool)
    is_held[validation_data] = True
    return Subset(whole, np.flatnonzero(~is_held)), Subset(whole, np.flatnonzero(is_held))


def _counts(sizes: np.ndarray, fraction: float, random: np.random.Generator) -> np.ndarray:
    """The number of samples to draw from classes of these sizes."""
    most = np.maximum(sizes - 1, 0) if fraction < 1 else sizes
    exact = sizes * fraction
    counts = np.minimum(np.floor(exact + 1e-9).astype(np.int64), most)
    owed = exact - counts
    total = max(round(float(exact.sum())), 1)
    for index in sorted(range(len(sizes)), key=lambda i: (-round(owed[i], 9), random.random())):
        if counts.sum() >= total:
            break
        counts[index] += counts[index] < most[index]
    return counts
