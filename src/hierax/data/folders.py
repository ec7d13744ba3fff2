"""Folders of files: the classes are its subfolders, or there are none."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hierax.console import quantity
from hierax.data.arrays import map_array
from hierax.data.dataset import Dataset, Sample, VideoSegment
from hierax.data.image_folder import METADATA
from hierax.data.segmentation.folder_names import are_images_and_masks
from hierax.data.split_names import find_splits, kind_of
from hierax.data.strings import Strings
from hierax.data.tar import COMPRESSED, open_shards
from hierax.notices import LeftOut, notify
from hierax.processing.paths import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    count_left_out,
    is_hidden,
    nothing_in,
    suffix_of,
    walk,
)
from hierax.reprs.text import dataset_repr

KINDS = (
    dict.fromkeys(IMAGE_SUFFIXES, "images")
    | dict.fromkeys(VIDEO_SUFFIXES, "videos")
    | {".tar": "tar shards", ".parquet": "parquet files", ".npy": "arrays"}
)
"""Kinds of files with samples, by suffix."""
ALLOWED = (
    "expected images (.jpg, .png, .webp, …), videos (.mp4, …), .tar shards, .parquet files, .npy arrays or a list "
    "(.csv, .txt)"
)
_OTHERS = "videos, .tar shards, .parquet files or .npy arrays"  # in a folder without images


@dataset_repr
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
        content: Any = map_array(path) if self.arrays else VideoSegment(path) if self.videos else path
        return Sample(path, content, None if self.targets is None else int(self.targets[index]))

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        return None if self.targets is None else np.asarray(self.targets).tolist()


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


def open_folder(folder: Path, *, labels: bool) -> Dataset:
    """The files in a folder and below it; its top folders are the classes. See `hierax.data.sources.open_dataset`."""
    parts = split_folders(folder)
    if parts is not None:
        raise ValueError(f"{folder} holds a training set in {parts[0].name}/; expected one dataset, such as {parts[0]}")
    found = _read(folder, labels=labels)
    kind = _one_kind(folder, found)
    found.left.tell()
    paths, tops = found.paths[kind], found.tops[kind]
    if kind == "tar shards":
        return open_shards([Path(path) for path in paths], labels=labels)
    if not labels and 0 < tops.count("") < len(paths):  # all of them, in any folder
        return FolderDataset(Strings(paths), None, (), arrays=kind == "arrays", videos=kind == "videos")
    if labels:
        _check_classes(folder, found.inside)
    return _by_class(folder, paths, tops, found.inside if labels else set(tops), kind=kind)


@dataclass(frozen=True)
class _Contents:
    """What a folder holds.

    Attributes:
        paths: files by kind.
        tops: of each of these files, the folder at the top below which it lies; "" for none.
        inside: the folders at the top, and the names of the folders in them.
        left: other files.
    """

    left: LeftOut
    paths: dict[str, list[str]] = field(default_factory=dict)
    tops: dict[str, list[str]] = field(default_factory=dict)
    inside: dict[str, set[str]] = field(default_factory=dict)


def _read(folder: Path, *, labels: bool) -> _Contents:
    found, compressed = _Contents(LeftOut(os.fspath(folder))), 0
    skip = len(os.path.join(os.fspath(folder), ""))
    for parent, names in walk(folder):
        top, *below = parent[skip:].split(os.sep)[:2]
        found.inside.setdefault(top, set()).update(below)
        for name in names:
            kind = KINDS.get(suffix_of(name))
            if kind is None:
                _leave_out(found.left, name, may_list=labels and not top)
            else:
                found.paths.setdefault(kind, []).append(os.path.join(parent, name))
                found.tops.setdefault(kind, []).append(top)
            compressed += name.endswith(COMPRESSED)
    if not found.paths:
        also = f"; {quantity(compressed, 'compressed shard')}; unpack them to plain .tar files" if compressed else ""
        raise ValueError(f"{folder}: {nothing_in(found.left, others=_OTHERS)}{also}")
    return found


def _leave_out(left: LeftOut, name: str, *, may_list: bool) -> None:
    """Counts a file that is no sample. If it may list the files and labels, the notice says how to use it."""
    if may_list and name in METADATA:
        left.add(suffix_of(name), example=f"if {name} has labels, --columns label=NAME names their column")
    elif may_list and suffix_of(name) in (".csv", ".tsv"):
        left.add(suffix_of(name), example=f"if {name} lists files and labels, pass it, not the folder")
    else:
        count_left_out(left, name)


def _one_kind(folder: Path, found: _Contents) -> str:
    """The kind of the files. Of images and videos, which cameras leave in one folder, the images are meant."""
    kinds = set(found.paths)
    if kinds == {"images", "videos"}:
        for path in found.paths["videos"]:
            count_left_out(found.left, path)
        return "images"
    if len(kinds) > 1:
        counts = " and ".join(f"{len(found.paths[kind])} {kind}" for kind in sorted(kinds))
        raise ValueError(
            f"{folder} holds {counts}; expected one kind: pass the folder of one kind, or a pattern such as "
            f"'{folder / '**' / '*.jpg'}'"
        )
    return kinds.pop()


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


def _by_class(folder: Path, paths: list[str], tops: list[str], folders: Collection[str], *, kind: str) -> Dataset:
    """Files below one folder; its top folders are the classes."""
    flat, how = tops.count(""), {"arrays": kind == "arrays", "videos": kind == "videos"}
    if flat == len(paths):
        return FolderDataset(Strings(paths), None, (), **how)
    classes = tuple(sorted(name for name in folders if name))
    if flat:
        raise ValueError(
            f"{folder} holds {quantity(flat, 'file')} beside class folders, such as {paths[tops.index('')]} beside "
            f"{classes[0]}; expected only files, or only class folders ('{folder / '**' / '*'}' takes all, without "
            "classes)"
        )
    filled = set(tops)
    empty = [name for name in classes if name not in filled]
    if empty:
        raise ValueError(f"{folder / empty[0]} has no {kind} ({len(empty)} such); expected some in each class folder")
    if are_images_and_masks(classes):
        notify(
            f"{folder}: {classes[0]} and {classes[1]} are read as two classes of images; if they are images and masks, "
            "--task segment (in Python: open_segmentation) reads the classes of pixels"
        )
    number = {name: i for i, name in enumerate(classes)}
    return FolderDataset(Strings(paths), np.fromiter((number[t] for t in tops), np.int64, len(tops)), classes, **how)
