"""Lists with an image and its mask in each row."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hierax.data.file_lists import resolve_entry
from hierax.data.image_folder import METADATA
from hierax.data.list_rows import PATHS, SPLITS, column_names, missing_column, normalize_column, open_text, read_rows
from hierax.data.segmentation.pairs import FilePairs
from hierax.data.split_names import kind_of
from hierax.data.strings import Strings
from hierax.notices import notify
from hierax.processing.paths import IMAGE_SUFFIXES

MASK_COLUMNS = (
    "mask", "masks", "segmentation_mask", "mask_path", "mask_file", "mask_file_name", "mask_filename", "mask_name",
    "mask_image", "segmentation", "segmentation_path", "segmentation_file_name", "seg", "seg_map", "segmap",
    "annotation", "annotations", "annotation_path", "annotation_file_name", "label_image", "label_path", "label_file",
    "label_file_name", "labels_file_name", "gt", "ground_truth", "target", "label", "labels",
)  # fmt: skip
"""Names of columns of masks, in lists and tables. The first one in a file is used."""


def check_segmentation_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    """The names of columns that the caller states; "label" is another word for "mask".

    Raises:
        ValueError: a name is for a column that is not read, or there are two for the masks.
    """
    given = dict(columns or {})
    for kind in given:
        if kind not in ("path", "mask", "label", "split"):
            raise ValueError(f"columns names {kind!r}; expected one of path, mask, split")
    if "label" in given:
        if given.setdefault("mask", given["label"]) != given["label"]:
            raise ValueError(f"columns names {given['mask']!r} and {given['label']!r} for masks; expected one")
        del given["label"]
    return given


def mask_list_in(folder: Path, columns: Mapping[str, str]) -> Path | None:
    """The list in a folder that names masks beside images: metadata.csv, metadata.jsonl or metadata.parquet."""
    for name in METADATA:
        path = folder / name
        if path.is_file() and (columns or _column(MASK_COLUMNS[:-2], column_names(path)) is not None):
            return path
    return None


def open_mask_list(path: Path, columns: Mapping[str, str]) -> dict[str, FilePairs]:
    """The pairs of a list by split; "" without splits. See `hierax.data.file_lists.open_list` for its formats.

    A list without names of columns has an image and its mask on each line, after a comma, semicolon, tab or space.

    Raises:
        ValueError: there is no column of masks, or an image has several masks; names file and line.
    """
    pairs: dict[str, dict[str, str]] = {}
    count = missing = 0
    for count, (where, image, mask, split) in enumerate(_rows(path, columns), start=1):  # noqa: B007
        if not mask:
            missing += 1
            continue
        part = pairs.setdefault(split if kind_of(split) else "", {})
        image, mask = _place(path.parent, image), _place(path.parent, mask)
        if part.setdefault(image, mask) != mask:
            raise ValueError(
                f"{where}: {mask} is another mask of {image}, beside {part[image]}; expected one mask for each image, "
                "with all of its classes"
            )
    if not pairs:
        raise ValueError(f"{path}: no row has a mask; expected an image and its mask in each row")
    if missing:
        notify(f"{path}: {missing:,} of {count:,} rows without mask, which are not used")
    if len(pairs) > 1 and "" in pairs:
        raise ValueError(
            f"{path}: {len(pairs['']):,} rows without a known split; expected a split in each row, or in none"
        )
    return {split: FilePairs(Strings(part), Strings(part.values())) for split, part in pairs.items()}


def _rows(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Place, image, mask and split of each row."""
    names = column_names(path)
    if not columns and any(_is_image(name) for name in names):
        yield from _plain_rows(path)
        return
    given = {
        "path": columns.get("path") or _column(PATHS, names),
        "split": columns.get("split") or _column(SPLITS, names),
    }
    given["label"] = columns.get("mask") or _column(MASK_COLUMNS, names)
    for column in columns.values():
        if column not in names:
            raise missing_column(path, column, names)
    for kind, wanted in (("path", "image"), ("label", "mask")):
        if given[kind] is None:
            raise ValueError(
                f"{path}: no column of {wanted}s among {', '.join(names) or 'none'}; expected one called {wanted} "
                f"(--columns {'path' if kind == 'path' else 'mask'}=NAME names another one)"
            )
    for where, row in read_rows(path, {kind: name for kind, name in given.items() if name is not None}):
        yield where, row["path"], _text(row.get("label"), where), _text(row.get("split"), where)


def _plain_rows(path: Path) -> Iterator[tuple[str, str, str, str]]:
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                found = _two_files(line.strip())
                if found is None:
                    raise ValueError(
                        f"{where}: {line.strip()[:80]!r}; expected an image and its mask, with a comma, semicolon, tab "
                        "or space between them"
                    )
                yield where, *found, ""


def _two_files(line: str) -> tuple[str, str] | None:
    for mark in ("\t", ",", ";", " "):
        parts = line.split(mark)
        for place in range(1, len(parts)):
            image, mask = mark.join(parts[:place]).strip(), mark.join(parts[place:]).strip()
            if _is_image(image) and _is_image(mask):
                return image, mask
    return None


def _is_image(text: str) -> bool:
    return os.path.splitext(text.strip())[1].lower() in IMAGE_SUFFIXES


def _column(known: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    found = {normalize_column(name): name for name in reversed(names)}
    return next((found[name] for name in known if name in found), None)


def _text(value: Any, where: str) -> str:
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError(f"{where}: the mask is {str(value)[:60]}; expected the path of an image")
    text = "" if value is None else str(value).strip()
    return "" if text.lower() == "nan" else text


def _place(folder: Path, entry: str) -> str:
    """The path of an entry; one with a leading slash may be below the folder of the list."""
    below = os.path.join(folder, entry.lstrip("/"))
    return below if entry.startswith("/") and not os.path.exists(entry) else resolve_entry(os.fspath(folder), entry)
