"""Sources of samples: what a path, a pattern or a name means, and which module opens it."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hierax.data.arrays import open_array
from hierax.data.dataset import Dataset
from hierax.data.file_lists import is_list_of_files, open_list
from hierax.data.folders import ALLOWED, KINDS, FolderDataset, open_folder
from hierax.data.image_folder import METADATA, metadata_of, open_metadata
from hierax.data.list_rows import SUFFIXES as LISTS
from hierax.data.list_rows import check_columns
from hierax.data.split_names import find_splits
from hierax.data.strings import Strings
from hierax.data.tables import TableDataset, open_tables
from hierax.data.tar import COMPRESSED, open_shards
from hierax.processing.paths import check_named, check_no_collection, matches, require_path, walk

_SAVED = ("dataset_dict.json", "dataset_info.json")  # files that save_to_disk writes beside the rows


def open_dataset(
    source: str | os.PathLike[str],
    *,
    split: str | None = None,
    labels: bool = True,
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """Opens a dataset. The order of its samples depends only on names.

    Args:
        source: one of these:

            - a folder of images, or of class folders; all files in a class folder and its subfolders belong to the
              class. If it contains a list with labels, named metadata.csv or metadata.jsonl, the files and labels of
              the list are used;
            - a pattern of images (`*`, `**`, `?`, `[…]`, `{000..012}`), which then have no labels;
            - a folder or pattern of `.tar` shards or `.parquet` files; a folder that `datasets` saved;
            - a `.npy` file `[N, C, *size]`, or a folder of `.npy` files `[C, *size]`, like a folder of images;
            - `hub:ID` or `hub:ID:CONFIG` for a dataset of the Hugging Face Hub;
            - a list of images or videos (`.csv`, `.tsv`, `.txt`, `.jsonl`, `.parquet`), see
              `hierax.data.file_lists.open_list`.

            A folder or pattern may also contain videos, if it contains no images.
        split: the split of parquet files or a Hub dataset; None: "train", or the only one.
        labels: if False, no labels are read from shards, tables and arrays, and class folders may be empty.
        columns: the names of columns in a list, parquet files or a Hub dataset, if they are not usual names: {"path":
            name, "label": name}. "path" is the column of files, or of the images themselves. Lists also have "start",
            "end" and "split".

    Raises:
        ValueError: there is no readable data, or there are several kinds of data; the message names the cause.
        ImportError: parquet files and Hub datasets need the extra `data`.
    """
    require_path(source, "source")
    text = os.fspath(source)
    if not text:
        raise ValueError(f"the data is an empty string; {ALLOWED}")
    if os.path.exists(text) and not os.path.isdir(text):
        check_named(text)
    if check_columns(columns) and not has_columns(text):
        raise ValueError(
            f"{text}: columns names {', '.join(columns or ())}, but only lists (.csv, .jsonl, …), parquet files and "
            "Hub datasets have columns"
        )
    tables = tables_of(text, labels=labels, columns=columns)
    if tables is not None:
        return select_split(tables, split, name=text)
    if split is not None:
        raise ValueError(f"{text}: split is {split!r}, but only parquet files and Hub datasets have named splits")
    path = Path(text)
    if path.is_dir():
        metadata = metadata_of(path, columns) if labels else None
        return open_folder(path, labels=labels) if metadata is None else open_metadata(metadata, columns)
    if path.suffix.lower() in LISTS and path.is_file():
        return open_list(path, labels=labels, columns=columns)
    files = _files(text)
    kind = _kind_of(text, files)
    if kind == "tar shards":
        return open_shards(files, labels=labels)
    if kind == "arrays" and files == [path]:
        return open_array(path, labels=labels)
    return FolderDataset(Strings(map(str, files)), None, (), arrays=kind == "arrays", videos=kind == "videos")


def select_split(tables: dict[str, TableDataset], split: str | None, *, name: str) -> TableDataset:
    """The split with this name. Without a name, the training split, or the only split."""
    if split is None and len(tables) == 1:
        return next(iter(tables.values()))
    wanted = split or find_splits(list(tables), of=name)[0] or "train"
    if wanted not in tables:
        raise ValueError(f"{name} has no split {wanted!r}; it has {', '.join(tables)}")
    return tables[wanted]


def has_columns(text: str) -> bool:
    """Whether a source has columns that can be named: a list, a table, or a folder that contains a list."""
    path = Path(text)
    if text.startswith("hub:") or path.suffix.lower() in (*LISTS, ".parquet"):
        return True
    inside = (*METADATA, *_SAVED)
    return path.is_dir() and (any((path / name).is_file() for name in inside) or bool(_parquet_below(path)))


def tables_of(
    text: str, *, labels: bool = True, columns: Mapping[str, str] | None = None
) -> dict[str, TableDataset] | None:
    """The splits of a source for the datasets library; None for other sources."""
    if os.path.isdir(text):
        check_no_collection(text)
    files = table_files(text, columns)
    return None if files is None else open_tables(text, files, labels=labels, columns=columns)


def table_files(text: str, columns: Mapping[str, str] | None = None) -> list[Path] | None:
    """The parquet files of a source for the datasets library; none for a dataset of the Hub or a saved one. None for
    other sources.
    """
    path = Path(text)
    if text.startswith("hub:") or (path.is_dir() and any((path / name).is_file() for name in _SAVED)):
        return []
    if path.is_dir():
        return _parquet_below(path) or None
    if path.suffix.lower() == ".parquet" and not (path.is_file() and is_list_of_files(path, columns=columns)):
        return _files(text)
    return None


def _parquet_below(folder: Path) -> list[Path]:
    """The parquet files in a folder; none if there is another kind of data. It stops at the first such file, because
    there may be a million images.
    """
    files: list[Path] = []
    for parent, names in walk(folder):
        for name in names:
            kind = KINDS.get(os.path.splitext(name)[1].lower())
            if kind == "parquet files":
                files.append(Path(parent, name))
            elif kind is not None:
                return []
    return files


def _files(text: str) -> list[Path]:
    """The files of a path or a pattern, sorted; shards of a range in the order of the range."""
    if Path(text).exists():
        return [Path(text)]
    span = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if span:
        first, last = span.groups()
        if int(first) > int(last):
            raise ValueError(f"{text}: the range {span[0]} is empty; expected the lower number first")
        texts = [
            text[: span.start()] + str(number).zfill(len(first)) + text[span.end() :]
            for number in range(int(first), int(last) + 1)
        ]
        return [file for part in texts for file in _files(part)]
    if not glob.has_magic(text):
        raise ValueError(f"{text}: no such file or folder; {ALLOWED}")
    files = [Path(name) for name in matches(text) if not os.path.isdir(name)]
    files = [file for file in files if file.suffix.lower() in KINDS]
    if not files:
        raise ValueError(f"{text}: no file matches this pattern; {ALLOWED}")
    return files


def _kind_of(text: str, files: Sequence[Path]) -> str:
    kinds = {KINDS.get(file.suffix.lower(), file.suffix) for file in files}
    if len(kinds) > 1:
        raise ValueError(f"{text} matches {' and '.join(sorted(kinds))}; expected one kind")
    (kind,) = kinds
    if text.endswith(COMPRESSED):
        raise ValueError(f"{text}: a compressed shard; unpack it to a plain .tar, which can be read in any order")
    if kind not in KINDS.values():
        raise ValueError(f"{text}: a {kind or 'unnamed'} file; {ALLOWED}")
    return kind
