"""Sources of samples: folders, patterns and arrays; other modules read tar shards and tables."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hierax.data.dataset import Dataset, Sample, VideoSegment
from hierax.data.file_lists import is_list_of_files, open_list
from hierax.data.image_folder import METADATA, metadata_of, open_metadata
from hierax.data.labels import Labels, read_labels
from hierax.data.list_rows import SUFFIXES as LISTS
from hierax.data.list_rows import check_columns
from hierax.data.split_names import find_splits, kind_of
from hierax.data.strings import Strings
from hierax.data.tables import TableDataset, open_tables
from hierax.data.tar import COMPRESSED, open_shards
from hierax.notices import LeftOut
from hierax.processing.paths import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    check_named,
    check_no_collection,
    check_regular,
    count_left_out,
    is_hidden,
    matches,
    nothing_in,
    suffix_of,
    walk,
)

_KINDS = (
    dict.fromkeys(IMAGE_SUFFIXES, "images")
    | dict.fromkeys(VIDEO_SUFFIXES, "videos")
    | {".tar": "tar shards", ".parquet": "parquet files", ".npy": "arrays"}
)
_SAVED = ("dataset_dict.json", "dataset_info.json")  # files that save_to_disk writes beside the rows
_ALLOWED = (
    "expected images (.jpg, .png, .webp, …), videos (.mp4, …), .tar shards, .parquet files, .npy arrays or a list "
    "(.csv, .txt)"
)
_OTHERS = "videos, .tar shards, .parquet files or .npy arrays"  # in a folder without images


@dataclass(frozen=True, eq=False)
class FolderDataset:
    """Images, videos, or arrays `[C, *size]`, in files: with classes if all are in subfolders, else without labels."""

    paths: Strings | Sequence[str]
    targets: Sequence[int] | np.ndarray | None
    classes: tuple[str, ...]
    arrays: bool = False
    videos: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        path = self.paths[index]
        content: Any = _mapped(path) if self.arrays else VideoSegment(path) if self.videos else path
        return Sample(path, content, None if self.targets is None else int(self.targets[index]))

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        return None if self.targets is None else np.asarray(self.targets).tolist()


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """An array `[N, C, *size]` in a `.npy` file, memory-mapped; labels in `NAME.labels.npy` beside `NAME.npy`."""

    path: str
    count: int
    values: Labels | None = None
    arrays: bool = True
    videos: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """See `Dataset`: their numbers."""
        return () if self.values is None else tuple(map(str, range(self.values.classes)))

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        label = None if self.values is None else self.values[index]
        return Sample(f"{self.path}[{index}]", _mapped(self.path)[index], label)

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        single = None if self.values is None else self.values.single()
        return None if single is None else single.tolist()


def _mapped(path: str | Path) -> np.ndarray:
    check_regular(path)
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"not an array that numpy can map: {' '.join(str(error).split())}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise ValueError(f"holds {getattr(array, 'dtype', 'several arrays')}; expected an array of numbers")
    return array


def open_dataset(
    source: str | os.PathLike[str],
    *,
    split: str | None = None,
    labels: bool = True,
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """The dataset at `source`, in an order that depends only on names.

    Args:
        source: a folder of class folders (a class is all that is below), or of images; a pattern (`*`, `**`, `?`,
            `[…]`, `{000..012}`) of images, which have no labels then; a folder or pattern of `.tar` shards or
            `.parquet` files; a folder that `datasets` saved; a `.npy` file `[N, C, *size]`, or folders of `.npy` files
            `[C, *size]` as of images; `hub:ID` or `hub:ID:CONFIG` for a dataset of the Hugging Face Hub. Videos: as
            images, if there are no images beside them. Or a list of images or videos (`.csv`, `.tsv`, `.txt`,
            `.jsonl`, `.parquet`): see `hierax.data.file_lists.open_list`. If a folder of images holds such a list with
            labels, named metadata.csv or metadata.jsonl, its files and labels are used.
        split: of parquet files and Hub datasets; None is "train", or the only one.
        labels: False if they are not needed: then none are read from shards, tables and arrays, and class folders may
            be empty.
        columns: the names of columns in a list, parquet files or a Hub dataset, if they are not usual ones: {"path":
            name, "label": name}. "path" is the column of files, or of the images themselves; lists also have "start",
            "end" and "split".

    Raises:
        ValueError: there is no readable data, or data of several kinds; names the cause.
        ImportError: parquet and Hub datasets without the extra `data`.
    """
    text = os.fspath(source)
    if not text:
        raise ValueError(f"the data is an empty string; {_ALLOWED}")
    if os.path.exists(text) and not os.path.isdir(text):
        check_named(text)
    if check_columns(columns) and not has_columns(text):
        raise ValueError(
            f"{text}: columns names {', '.join(columns or ())}, but only lists (.csv, .jsonl, …), parquet files and "
            "Hub datasets have columns"
        )
    tables = tables_of(text, labels=labels, columns=columns)
    if tables is not None:
        return chosen(tables, split, name=text)
    if split is not None:
        raise ValueError(f"{text}: split is {split!r}, but only parquet files and Hub datasets have named splits")
    path = Path(text)
    if path.is_dir():
        metadata = metadata_of(path, columns) if labels else None
        return _folder(path, labels=labels) if metadata is None else open_metadata(metadata, columns)
    if path.suffix.lower() in LISTS and path.is_file():
        return open_list(path, labels=labels, columns=columns)
    files = _files(text)
    kind = _kind_of(text, files)
    if kind == "tar shards":
        return open_shards(files, labels=labels)
    if kind == "arrays" and files == [path]:
        return _array(path, labels=labels)
    return FolderDataset(Strings(map(str, files)), None, (), arrays=kind == "arrays", videos=kind == "videos")


def chosen(tables: dict[str, TableDataset], split: str | None, *, name: str) -> TableDataset:
    """The split of this name; without a name, the training split or the only one."""
    if split is None and len(tables) == 1:
        return next(iter(tables.values()))
    wanted = split or find_splits(list(tables), of=name)[0] or "train"
    if wanted not in tables:
        raise ValueError(f"{name} has no split {wanted!r}; it has {', '.join(tables)}")
    return tables[wanted]


def has_columns(text: str) -> bool:
    """Whether a source has columns that can be named: a list, tables, or a folder with a list in it."""
    path = Path(text)
    if text.startswith("hub:") or path.suffix.lower() in (*LISTS, ".parquet"):
        return True
    inside = (*METADATA, *_SAVED)
    return path.is_dir() and (any((path / name).is_file() for name in inside) or bool(_parquet_below(path)))


def tables_of(
    text: str, *, labels: bool = True, columns: Mapping[str, str] | None = None
) -> dict[str, TableDataset] | None:
    """The splits of a source for the datasets library; None for other sources."""
    path = Path(text)
    if path.is_dir():
        check_no_collection(path)
    if text.startswith("hub:") or (path.is_dir() and any((path / name).is_file() for name in _SAVED)):
        return open_tables(text, labels=labels, columns=columns)
    if path.is_dir():
        files = _parquet_below(path)
        return open_tables(text, files, labels=labels, columns=columns) if files else None
    if path.suffix.lower() == ".parquet" and not (path.is_file() and is_list_of_files(path, columns=columns)):
        return open_tables(text, _files(text), labels=labels, columns=columns)
    return None


def _parquet_below(folder: Path) -> list[Path]:
    """The parquet files in a folder. Stops with none at the first other file, because there may be a million images."""
    files: list[Path] = []
    for parent, names in walk(folder):
        for name in names:
            kind = _KINDS.get(os.path.splitext(name)[1].lower())
            if kind == "parquet files":
                files.append(Path(parent, name))
            elif kind is not None:
                return []
    return files


def split_folders(folder: Path) -> tuple[Path, Path | None] | None:
    """`train/` in a folder, and the validation set beside it; None if `train` may be a class like the others.

    All usual names of splits are known, in any case (`hierax.data.split_names`).
    """
    if not folder.is_dir():
        return None
    names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name)]
    train, held = find_splits(names, of=str(folder))
    if train is None or (held is None and names != [train]):
        return None
    return folder / train, None if held is None else folder / held


def _folder(folder: Path, *, labels: bool) -> Dataset:
    parts = split_folders(folder)
    if parts is not None:
        raise ValueError(f"{folder} holds a training set in {parts[0].name}/; expected one dataset, such as {parts[0]}")
    found: dict[str, list[str]] = {}
    tops: dict[str, list[str]] = {}  # the folder at the top below which each file lies; "" for none
    top_folders: dict[str, int] = {}
    inside: dict[str, set[str]] = {}  # of the folders at the top, those in them
    left = LeftOut(os.fspath(folder))
    compressed = 0
    skip = len(os.path.join(os.fspath(folder), ""))
    for parent, names in walk(folder):
        top, *below = parent[skip:].split(os.sep)[:2]
        top_folders.setdefault(top, 0)
        inside.setdefault(top, set()).update(below)
        for name in names:
            kind = _KINDS.get(suffix_of(name))
            if kind is None and labels and not top and name in METADATA:
                left.add(suffix_of(name), example=f"if {name} has labels, --columns label=NAME names their column")
            elif kind is None and labels and not top and suffix_of(name) in (".csv", ".tsv"):
                left.add(suffix_of(name), example=f"if {name} lists files and labels, pass it, not the folder")
            elif kind is None:
                count_left_out(left, name)
            else:
                found.setdefault(kind, []).append(os.path.join(parent, name))
                tops.setdefault(kind, []).append(top)
                top_folders[top] += 1
            compressed += name.endswith(COMPRESSED)
    if not found:
        also = f"; {compressed} compressed shard(s); unpack them to plain .tar files" if compressed else ""
        raise ValueError(f"{folder}: {nothing_in(left, others=_OTHERS)}{also}")
    if set(found) == {"images", "videos"}:  # what a camera leaves in one folder: the images are meant
        for top, path in zip(tops.pop("videos"), found.pop("videos"), strict=True):
            top_folders[top] -= 1
            count_left_out(left, path)
    if len(found) > 1:
        counts = " and ".join(f"{len(paths)} {kind}" for kind, paths in sorted(found.items()))
        raise ValueError(
            f"{folder} holds {counts}; expected one kind: pass the folder of one kind, or a pattern such as "
            f"'{folder / '**' / '*.jpg'}'"
        )
    ((kind, paths),) = found.items()
    left.tell()
    if kind == "tar shards":
        return open_shards([Path(path) for path in paths], labels=labels)
    if not labels and 0 < top_folders[""] < len(paths):  # all of them, in any folder
        return FolderDataset(Strings(paths), None, (), arrays=kind == "arrays", videos=kind == "videos")
    if labels:
        _check_classes(folder, inside)
    else:
        top_folders = {top: count for top, count in top_folders.items() if count or not top}
    return _by_class(folder, paths, tops[kind], top_folders, kind=kind)


def _check_classes(folder: Path, inside: dict[str, set[str]]) -> None:
    """Raises `ValueError` if the top folders contain folders of the same names: either level may be the classes."""
    train = next((top for top in sorted(inside) if kind_of(top) == "training" and len(inside[top]) > 1), "")
    beside = [top for top in sorted(inside) if train and top not in ("", train) and _is_alike(inside, train, top)]
    if beside:
        raise ValueError(
            f"{folder}: {train} is the name of a training set and holds folders, but {beside[0]} beside it is no name "
            f"of a set to validate on. Pass {folder / train} to train on that alone (--validation names another "
            f"set); if they are classes, pass a list (.csv) with columns path and label"
        )
    same: dict[tuple[str, ...], list[str]] = {}
    for top, below in sorted(inside.items()):
        if top and below:
            same.setdefault(tuple(sorted(below)), []).append(top)
    for below, tops in same.items():
        if len(tops) > 1:
            both, inner = " and ".join(tops[:2]), ", ".join(below[:3]) + (", …" if len(below) > 3 else "")
            raise ValueError(
                f"{folder}: {both} hold folders of the same names ({inner}), so it is not clear which are the "
                f"classes. If {both} are a training set and a validation set: pass {folder / tops[0]}, and the other "
                f"with --validation, or rename them to train and val. If they are classes: pass a list (.csv) with "
                f"columns path and label"
            )


def _is_alike(inside: dict[str, set[str]], train: str, other: str) -> bool:
    """Whether a folder beside a possible training set is not a class of the same level: it holds only files, or some of
    its folders have the names of the other's folders.
    """
    return not inside[other] or bool(inside[other] & inside[train])


def _by_class(folder: Path, paths: list[str], tops: list[str], folders: dict[str, int], *, kind: str) -> Dataset:
    """Files below one folder; its top folders are the classes."""
    flat, how = folders[""], {"arrays": kind == "arrays", "videos": kind == "videos"}
    if flat == len(paths):
        return FolderDataset(Strings(paths), None, (), **how)
    classes = tuple(sorted(name for name in folders if name))
    if flat:
        raise ValueError(
            f"{folder} holds {flat} file(s) beside class folders, such as {paths[tops.index('')]} beside "
            f"{classes[0]}; expected only files, or only class folders ('{folder / '**' / '*'}' takes all, without "
            "classes)"
        )
    empty = [name for name in classes if not folders[name]]
    if empty:
        raise ValueError(f"{folder / empty[0]} has no {kind} ({len(empty)} such); expected some in each class folder")
    number = {name: i for i, name in enumerate(classes)}
    return FolderDataset(Strings(paths), np.fromiter((number[t] for t in tops), np.int64, len(tops)), classes, **how)


def _array(path: Path, *, labels: bool) -> ArrayDataset:
    try:
        array = _mapped(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if array.ndim < 3 or not array.size:
        raise ValueError(
            f"{path} holds an array of shape {list(array.shape)}; expected [N, channels, *size], with samples in it"
        )
    beside = path.with_name(f"{path.stem}.labels.npy")
    if not labels or not beside.is_file():
        return ArrayDataset(str(path), len(array))
    try:
        values = np.atleast_1d(np.load(beside))
    except (ValueError, EOFError) as error:
        raise ValueError(f"{beside}: not an array: {' '.join(str(error).split())}") from None
    if len(values) != len(array):
        raise ValueError(f"{beside} holds {len(values)} labels for {len(array)} samples")
    return ArrayDataset(str(path), len(array), read_labels(values, name=str(beside)))


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
        raise ValueError(f"{text}: no such file or folder; {_ALLOWED}")
    files = [Path(name) for name in matches(text) if os.path.isfile(name)]
    files = [file for file in files if file.suffix.lower() in _KINDS]
    if not files:
        raise ValueError(f"{text}: no file matches this pattern; {_ALLOWED}")
    return files


def _kind_of(text: str, files: Sequence[Path]) -> str:
    kinds = {_KINDS.get(file.suffix.lower(), file.suffix) for file in files}
    if len(kinds) > 1:
        raise ValueError(f"{text} matches {' and '.join(sorted(kinds))}; expected one kind")
    (kind,) = kinds
    if text.endswith(COMPRESSED):
        raise ValueError(f"{text}: a compressed shard; unpack it to a plain .tar, which can be read in any order")
    if kind not in _KINDS.values():
        raise ValueError(f"{text}: a {kind or 'unnamed'} file; {_ALLOWED}")
    return kind
