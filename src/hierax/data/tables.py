"""Datasets of the Hugging Face library `datasets`: parquet files, saved folders, and datasets of the Hub."""

from __future__ import annotations

import contextlib
import glob
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hierax.data.dataset import Sample
from hierax.data.labels import Labels, read_labels
from hierax.data.list_rows import LABELS, missing_column
from hierax.data.split_names import find_splits, kind_of
from hierax.extras import load
from hierax.reprs.text import dataset_repr

LABEL_COLUMNS = tuple(dict.fromkeys(("label", "labels", "class", "fine_label", "target", *LABELS)))
"""Names of columns of classes. The first one in a table is used."""
_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture")
_SPLIT = re.compile(r"[A-Za-z]+(?:[_-](?:set|split))?(?![A-Za-z])")  # the beginning of a name


@dataset_repr
@dataclass(frozen=True, eq=False)
class TableDataset:
    """Rows with an image and, if there are labels, a label. `columns` are all columns of the table."""

    name: str
    rows: Any
    image: str
    values: Labels | None
    classes: tuple[str, ...]
    arrays: bool = False
    videos: bool = False
    columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        name = f"{self.name}[{index}]"
        content = content_of(self.rows[index][self.image], name, self.image)
        return Sample(name, content, None if self.values is None else self.values[index])

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        single = None if self.values is None else self.values.single()
        return None if single is None else single.tolist()


def open_tables(
    source: str, files: Sequence[Path] = (), *, labels: bool = True, columns: Mapping[str, str] | None = None
) -> dict[str, TableDataset]:
    """Opens the splits of `hub:ID`, `hub:ID:CONFIG`, a folder that `save_to_disk` wrote, or parquet `files`.

    Args:
        source: the source, or its name in errors if `files` is given.
        files: parquet files.
        labels: if False, labels are not read.
        columns: the names of the columns of images ("path") and classes ("label"), if they are not usual names.

    Returns:
        The datasets, by the name of their split.

    Raises:
        ImportError: the package datasets is missing.
        ValueError: the data cannot be read, has no column of images, or has labels of an unknown kind.
    """
    datasets, found = load_splits(source, files)
    return {
        split: _table(datasets, name_of_split(source, split, len(found)), table, labels=labels, given=columns or {})
        for split, table in found.items()
    }


def load_splits(source: str, files: Sequence[Path] = ()) -> tuple[Any, dict[str, Any]]:
    """The package datasets, and the tables of a source of `open_tables` by the name of their split.

    Raises:
        ImportError: the package datasets is missing.
        ValueError: the data cannot be read.
    """
    datasets = load(f"{source} (a parquet or Hub dataset)", "datasets")
    try:
        found = _load(datasets, source, files)
    except Exception as error:  # the library raises all kinds of errors
        reason = error.__cause__ or error
        raise ValueError(f"{source}: cannot be read as a dataset: {type(reason).__name__}: {reason}") from error
    if not isinstance(found, Mapping):
        found = {"train": found}
    return datasets, {str(split): table for split, table in found.items()}


def name_of_split(source: str, split: str, splits: int) -> str:
    """The name of a split in errors: that of the source, if it is the only one."""
    return source if splits == 1 else f"{source}/{split}"


def _load(datasets: Any, source: str, files: Sequence[Path]) -> Any:
    if source.startswith("hub:") and not files:
        name, _, config = source.removeprefix("hub:").partition(":")
        return datasets.load_dataset(name, config or None)  # with progress bars: a download may take long
    with _without_bars(datasets):
        if not files:
            return datasets.load_from_disk(source)
        parts = {split: [glob.escape(str(file)) for file in part] for split, part in by_split(files).items()}
        return datasets.load_dataset("parquet", data_files=parts)


@contextlib.contextmanager
def _without_bars(datasets: Any) -> Iterator[None]:
    """Turns off the progress bars of the library, unless an environment variable turns them on."""
    if datasets.are_progress_bars_disabled():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning that the environment variable has priority
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if datasets.are_progress_bars_disabled():
            datasets.enable_progress_bars()


def by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Groups files by split. The split is the beginning of the name of the file or its folder. If there are not both a
    training and a validation set, all files are "train".

    Raises:
        ValueError: there are several splits, but a file belongs to none.
    """
    found: dict[str, list[Path]] = {}
    for file in files:
        starts = [match[0] for match in map(_SPLIT.match, (file.name, file.parent.name)) if match]
        found.setdefault(next((start for start in starts if kind_of(start)), ""), []).append(file)
    if None in find_splits([name for name in found if name], of=str(files[0].parent)):
        return {"train": list(files)}
    if "" in found:
        raise ValueError(
            f"{found[''][0]} is not named after a split, but other files are; expected a name such as train-0.parquet"
        )
    return found


def _table(datasets: Any, name: str, table: Any, *, labels: bool, given: Mapping[str, str]) -> TableDataset:
    columns = table.features
    for column in (given[kind] for kind in ("path", "label") if kind in given):
        if column not in columns:
            raise missing_column(name, column, tuple(columns))
    image = given.get("path") or image_column(datasets, columns, name)
    table = undecoded(datasets, table, image)
    label = given.get("label") or next((c for c in LABEL_COLUMNS if c in columns), None)
    label = label if labels else None
    values, classes = None, ()
    if label is not None:
        values = _labels(table, label, f"{name}, column {label}")
        classes = _class_names(columns[label], values)
        if values is not None and len(classes) > values.classes and values.shares is None:
            values = Labels(len(classes), values.numbers, values.ends)  # the last classes may have no samples
    return TableDataset(name, table.select_columns([image]), image, values, classes, columns=tuple(columns))


def image_column(datasets: Any, columns: Mapping[str, Any], name: str) -> str:
    """The column of images among the features of a table. Raises `ValueError` if there is none."""
    image = next((c for c in _IMAGE_COLUMNS if c in columns), None)
    image = image or next((c for c, f in columns.items() if isinstance(f, datasets.Image)), None)
    if image is None:
        raise ValueError(
            f"{name}: no column of images among {', '.join(columns)}; expected one of type Image, or named "
            + ", ".join(_IMAGE_COLUMNS)
            + "; --columns path=NAME names another one"
        )
    return image


def undecoded(datasets: Any, table: Any, column: str) -> Any:
    """The table with a column of images as files: hierax decodes them, so that errors name them."""
    if isinstance(table.features[column], datasets.Image):
        return table.cast_column(column, datasets.Image(decode=False))
    return table


def content_of(value: Any, name: str, column: str) -> Any:
    """The bytes or the path in a cell of images. Raises `ValueError` if it is empty."""
    content = (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value
    if content is None:
        raise ValueError(f"{name}: no image in column {column}")
    return content


def _labels(table: Any, label: str, name: str) -> Labels | None:
    column = table.select_columns([label]).with_format("arrow")[:].column(label)
    if str(column.type).startswith(("int", "uint")) and not column.null_count:
        return read_labels(np.asarray(column.to_numpy()), name=name)
    return read_labels(column.to_pylist(), name=name)


def _class_names(feature: Any, values: Labels | None) -> tuple[str, ...]:
    if values is None:
        return ()
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return tuple(names or values.class_names)
