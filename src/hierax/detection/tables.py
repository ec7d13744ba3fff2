"""Reads annotated images from tables with the columns `image` and `objects`: parquet files, saved folders, and
datasets of the Hub.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierax.data.list_rows import missing_column
from hierax.data.tables import content_of, image_column, load_splits, name_of_split, undecoded
from hierax.detection.coco import check_form, note_turned, placed, read_area, read_box, read_segmentation
from hierax.detection.dataset import (
    MOST_NUMBERS,
    AnnotatedImage,
    DetectionDataset,
    ObjectAnnotation,
    note_boxes,
    note_unreadable,
)
from hierax.notices import notify
from hierax.processing import ImageError

_OBJECTS = ("objects", "annotations", "object")
_CLASSES = ("category", "category_id", "label", "labels", "class", "categories")
_EXPECTED = "expected objects with bbox [x, y, width, height] in pixels and category"


@dataclass(frozen=True)
class _Cell:
    """The image of a row, as a file."""

    rows: Any
    index: int
    column: str
    name: str

    def __call__(self) -> Any:
        return content_of(self.rows[self.index][self.column], self.name, self.column)


def table_splits(source: str, files: Sequence[Path] = ()) -> dict[str, tuple[str, Any, str, str]]:
    """The splits of a source of `hierax.data.tables.open_tables`: name, table, column of images, column of objects.

    Raises:
        MissingPackage: the package datasets is missing.
        ValueError: the data cannot be read, or has no column of images or of objects.
    """
    datasets, found = load_splits(source, files)
    splits = {}
    for split, table in found.items():
        name, columns = name_of_split(source, split, len(found)), table.features
        objects = next((column for column in _OBJECTS if column in columns), None)
        if objects is None:
            raise missing_column(name, _OBJECTS[0], tuple(columns))
        image = image_column(datasets, columns, name)
        splits[split] = (name, undecoded(datasets, table, image), image, objects)
    return splits


def read_table(name: str, table: Any, image: str, objects: str, *, masks: bool = False) -> DetectionDataset:
    """Reads a table. An object has a `bbox` [x, y, width, height] in pixels and a `category`; a cell of objects is a
    list of them, or a dict of lists, as datasets of the Hub have it. Classes are names, or numbers with names.

    Args:
        name: the source, for messages.
        image, objects: names of the columns.
        masks: whether to keep `segmentation`. Objects without it are then an error.

    Raises:
        ValueError: a row is damaged; the message names the row.
    """
    rows = [list(_entries(f"{name}[{row}]", cell)) for row, cell in enumerate(table.select_columns([objects])[objects])]
    found = [entry for entries in rows for entry in entries]
    if not found:
        raise ValueError(f"{name}: none of {len(rows):,} rows has an object in column {objects}; {_EXPECTED}")
    key = next((one for one in _CLASSES if one in found[0]), None)
    if key is None:
        raise ValueError(f"{name}: its objects have {', '.join(found[0])}, but no category; {_EXPECTED}")
    classes, number = _classes(name, [entry.get(key) for entry in found], _class_names(table.features[objects], key))
    sizes = [one for one in ("width", "height") if one in table.features]
    stated, files = table.select_columns(sizes) if sizes else None, table.select_columns([image])
    images: list[AnnotatedImage] = []
    unreadable: list[tuple[str, str]] = []
    for row, entries in enumerate(rows):
        where = f"{name}[{row}]"
        made = tuple(_object(where, entry, number[entry[key]], masks=masks) for entry in entries)
        size = stated[row] if stated is not None else {}
        try:
            images.append(placed(name, where, row, size, made, read=_Cell(files, row, image, where)))
        except ImageError as error:
            unreadable.append((where, error.problem))
    note_unreadable(name, unreadable, total=len(rows))
    note_turned(name, [one.path for one in images if one.as_stored])
    check_form(name, images)
    note_boxes(name, images)
    return DetectionDataset(name, tuple(images), classes, tuple(range(len(classes))), tuple(unreadable))


def _entries(where: str, cell: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of a cell, one by one."""
    if cell is None:
        return
    if isinstance(cell, Mapping):
        columns = {name: values for name, values in cell.items() if values is not None}
        counts = {name: len(values) for name, values in columns.items() if isinstance(values, (list, tuple))}
        if len(counts) < len(columns) or len(set(counts.values())) > 1:
            raise ValueError(f"{where}: its objects have lists of {counts or 'no'} values; expected equal lengths")
        for place in range(next(iter(counts.values()), 0)):
            yield {name: values[place] for name, values in columns.items()}
        return
    for place, entry in enumerate(cell):
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where}: object {place} is {entry!r:.60}; {_EXPECTED}")
        yield entry


def _class_names(feature: Any, key: str) -> tuple[str, ...] | None:
    """The names that the table states for the numbers of its classes."""
    inside = getattr(feature, "feature", feature)
    inside = inside[key] if isinstance(inside, Mapping) and key in inside else None
    names = getattr(getattr(inside, "feature", inside), "names", None)
    return tuple(names) if names else None


def _classes(name: str, values: Sequence[Any], names: tuple[str, ...] | None) -> tuple[tuple[str, ...], dict[Any, int]]:
    """The names of the classes, and the number of each value."""
    texts = any(isinstance(value, str) and value for value in values)
    wrong = [value for value in values if not (isinstance(value, str) and value if texts else _is_count(value))]
    if wrong:
        raise ValueError(f"{name}: category is {wrong[0]!r:.60}; expected names, or numbers from 0")
    used = set(values)
    if texts:
        classes = sorted(used)
        return tuple(classes), {value: place for place, value in enumerate(classes)}
    if names is None and max(used) >= MOST_NUMBERS:
        raise ValueError(f"{name}: category is {max(used)}, and no names of classes; expected names, or numbers below "
                         f"{MOST_NUMBERS:,}")  # fmt: skip
    if names is None:
        notify(f"{name}: no names of classes; their numbers are used")
        names = tuple(map(str, range(max(used) + 1)))
    if max(used) >= len(names):
        raise ValueError(f"{name}: category is {max(used)}, but there are {len(names)} names; expected 0 to "
                         f"{len(names) - 1}")  # fmt: skip
    return names, {value: value for value in used}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _object(where: str, entry: Mapping[str, Any], label: int, *, masks: bool) -> ObjectAnnotation:
    box = read_box(where, entry.get("bbox"))
    segmentation = read_segmentation(where, entry.get("segmentation")) if masks else None
    if masks and segmentation is None:
        raise ValueError(f"{where}: an object has no segmentation; instances need polygons or masks (--task detect "
                         "needs none)")  # fmt: skip
    return ObjectAnnotation(box, label, read_area(entry, box), bool(entry.get("iscrowd")), segmentation)
