"""What a path means: folders of pairs, lists, COCO files and tables, and the classes that are stated beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hierax.data.list_rows import SUFFIXES as LISTS
from hierax.data.segmentation import cityscapes
from hierax.data.segmentation.class_tables import Entry, find_table
from hierax.data.segmentation.coco import find_coco, open_coco
from hierax.data.segmentation.dataset import MaskedImages
from hierax.data.segmentation.layouts import EXPECTED, find_places, inner_folder, nothing_found, read_place
from hierax.data.segmentation.lists import mask_list_in, open_mask_list
from hierax.data.segmentation.tables import open_mask_tables
from hierax.data.sources import table_files
from hierax.notices import notify
from hierax.processing.paths import check_named, check_no_collection


@dataclass(frozen=True, eq=False)
class OpenedMasks:
    """Images and masks by split, and what is stated about their classes.

    Attributes:
        splits: by the name of the split; "" for data without splits.
        table: the file that names the classes, and its entries; None if nothing is stated.
        values: the class of each value of the masks; None: the values are the classes.
        by_name: whether the numbers of the classes are ours, so that given classes are matched by name.
    """

    splits: Mapping[str, MaskedImages]
    table: tuple[str, list[Entry]] | None = None
    values: np.ndarray | None = None
    by_name: bool = False


def open_masks(text: str, columns: Mapping[str, str]) -> OpenedMasks:
    """Opens a source of `hierax.data.open_segmentation`.

    Raises:
        ValueError: there are no images with masks, or `columns` is given for data without columns.
    """
    if not text:
        raise ValueError(f"the data is an empty string; {EXPECTED}")
    path = Path(text)
    if path.is_dir():
        check_no_collection(path)
    elif path.exists():
        check_named(text)
    found = _with_columns(text, path, columns)
    if found is not None:
        return found
    if columns:
        raise ValueError(f"{text}: columns names {', '.join(columns)}, but only lists and tables have columns")
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() == ".json" and path.is_file():
        return _open_coco_files({"": path})
    problem = "no file or folder of this name" if not path.exists() else f"a {path.suffix or 'nameless'} file"
    raise ValueError(f"{text}: {problem}; {EXPECTED}")


def _with_columns(text: str, path: Path, columns: Mapping[str, str]) -> OpenedMasks | None:
    """A list or a table; None for other sources."""
    files = table_files(text, columns)
    if files is not None:
        splits = open_mask_tables(text, files, columns)
        beside = _file_of_hub(text) if text.startswith("hub:") else [path if path.is_dir() else path.parent]
        return OpenedMasks(splits, _table_beside(beside))
    listed = mask_list_in(path, columns) if path.is_dir() else path if path.suffix.lower() in LISTS else None
    if listed is None or not listed.is_file():
        return None
    return OpenedMasks(open_mask_list(listed, columns), _table_beside([listed.parent]))


def _open_folder(folder: Path) -> OpenedMasks:
    inner = inner_folder(folder)
    places = find_places(inner)
    if not places:
        files = find_coco(inner)
        if not files:
            raise nothing_found(folder)
        return _open_coco_files(files)
    splits = {name: read_place(place) for name, place in places.items()}
    beside = [one for place in places.values() for one in (place.masks.parent, place.masks)]
    table = _table_beside([inner, folder, *dict.fromkeys(beside)])
    first = os.path.splitext(next(iter(splits.values())).mask_name(0))[0]
    if table is None and first.endswith(("_labelTrainIds", "_labelIds")):
        values = cityscapes.VALUES if first.endswith("_labelIds") else None
        if values is not None:
            notify(f"{folder}: the masks ..._labelIds of Cityscapes are read as its 19 classes for training")
        return OpenedMasks(splits, ("Cityscapes", cityscapes.ENTRIES), values)
    return OpenedMasks(splits, table)


def _open_coco_files(files: Mapping[str, Path]) -> OpenedMasks:
    """COCO files of several splits, whose categories must be the same."""
    opened = {name: open_coco(path) for name, path in files.items()}
    first, entries = next((files[name], entries) for name, (_, entries) in opened.items())
    for name, (_, others) in opened.items():
        if others != entries:
            raise ValueError(f"{files[name]} has other categories than {first}; expected the same in both")
    return OpenedMasks({name: masks for name, (masks, _) in opened.items()}, (str(first), entries), by_name=True)


def _file_of_hub(text: str) -> list[Path]:
    """The folder of `id2label.json` of a dataset of the Hub, if it has this file."""
    from huggingface_hub import hf_hub_download

    name = text.removeprefix("hub:").partition(":")[0]
    try:
        return [Path(hf_hub_download(name, "id2label.json", repo_type="dataset")).parent]
    except (OSError, ValueError):  # there is none, or the Hub does not answer now: the rows were read from the cache
        return []


def _table_beside(folders: list[Path]) -> tuple[str, list[Entry]] | None:
    found = find_table([folder for folder in folders if folder.is_dir()])
    return None if found is None else (str(found[0]), found[1])
