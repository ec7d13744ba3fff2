"""Lists of files in tables: images, or videos and parts of them, with their classes.

Training and embedding read the same files of a list, and have the same errors. One thing differs, and a notice says so.
If several rows name one file, training has a sample for each row, because repeating a file gives it more weight. A
collection has one row for it, because its rows are identified by their paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hierax.data.dataset import Sample, VideoSegment
from hierax.data.labels import number_names
from hierax.data.list_rows import PATHS, normalize_column, read_rows
from hierax.data.strings import Strings
from hierax.notices import notify
from hierax.processing.paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES

_FINE = 1_000_000  # units per second of times
_NONE = -1
_WHOLE = re.compile(r"\d+(?:\.0+)?")
_LIST = re.compile(r"[\[({].*[\])}]", re.DOTALL)
_BETWEEN = re.compile(r"[|;,]")


@dataclass(frozen=True, eq=False)
class FileList:
    """The files of a list, in its order: images, or segments of videos.

    Attributes:
        paths: paths of the files.
        parts: int64 `[N, 2]`, start and end of each segment in microseconds; -1 means the start or end of the file.
            None without videos.
        targets: int64 `[N]`, or None without labels.
        classes: names of the classes.
        splits: the split of each row; None if the list does not state it.
    """

    paths: Strings
    parts: np.ndarray | None
    targets: np.ndarray | None
    classes: tuple[str, ...]
    splits: tuple[str, ...] | None = None
    arrays: bool = False

    @property
    def videos(self) -> bool:
        """See `Dataset`."""
        return self.parts is not None

    def __len__(self) -> int:
        return len(self.paths)

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        path = self.paths[index]
        label = None if self.targets is None else int(self.targets[index])
        if self.parts is None:
            return Sample(path, path, label)
        start, end = (None if moment == _NONE else Fraction(int(moment), _FINE) for moment in self.parts[index])
        part = "" if start is None else f" from {float(start):g} s"
        return Sample(path + part, VideoSegment(path, start, end), label)

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        return None if self.targets is None else self.targets.tolist()

    def select(self, rows: np.ndarray) -> FileList:
        """The list of some rows, with the classes that these have."""
        targets, classes = self.targets, self.classes
        if targets is not None:
            used, targets = np.unique(targets[rows], return_inverse=True)
            classes = tuple(classes[number] for number in used)
        parts = None if self.parts is None else self.parts[rows]
        splits = None if self.splits is None else tuple(self.splits[row] for row in rows)
        return FileList(Strings(self.paths[row] for row in rows), parts, targets, classes, splits, self.arrays)


def open_list(path: Path, *, labels: bool = True, columns: Mapping[str, str] | None = None) -> FileList:
    """Opens a list of files, one per row: `.csv`, `.tsv`, `.txt`, `.jsonl` (one object per line) or `.parquet`.

    The columns are `path` (or another name of `hierax.data.list_rows.PATHS`), relative to the folder of the list;
    `label` (or another name of `LABELS`), the name or number of the class; for videos `start` and `end` in seconds,
    which may be empty; and `split` (or another name of `SPLITS`), such as train or val. If the first line of a text is
    a file, the text has no names of columns: each line has a path, or a path and a label after a comma, semicolon, tab
    or space. Texts are UTF-8, or UTF-16 with a byte order mark.

    Args:
        path: the list.
        labels: whether to read the labels.
        columns: the names in this list of "path", "label", "start", "end" or "split".

    Raises:
        ValueError: a column is missing, there are no rows (`EmptyList`), a row has no path or cannot be read, images
            and videos are mixed, or all rows are URLs; names file and line.
        ImportError: parquet without the extra `data`.
    """
    names: list[str] = []
    paths: list[str] = []
    parts: list[tuple[int, int]] = []
    splits: list[str] = []
    kinds: dict[bool, str] = {}
    urls: list[str] = []
    for where, row in read_rows(path, columns):
        entry = row["path"].strip()
        urls += [entry] if "://" in entry else []
        start, end = (_microseconds(row.get(name), name, where) for name in ("start", "end"))
        if end != _NONE and end <= max(start, 0):
            raise ValueError(f"{where} ends at {end / _FINE:g} s, but starts at {max(start, 0) / _FINE:g} s")
        suffix = os.path.splitext(entry)[1].lower()
        is_image = suffix in IMAGE_SUFFIXES
        if is_image and (start, end) != (_NONE, _NONE):
            raise ValueError(f"{where}: {entry} is an image; start and end are only for videos")
        # an unknown suffix counts as an image
        is_image = suffix not in VIDEO_SUFFIXES and (start, end) == (_NONE, _NONE)
        kinds.setdefault(is_image, entry)
        paths.append(resolve_entry(str(path.parent), row["path"]))
        parts.append((start, end))
        names.append(_label(row.get("label"), where) if labels else "")
        splits.append(_text(row.get("split")))
    if len(urls) == len(paths):
        raise ValueError(f"{path} lists URLs, such as {urls[0]}; expected files (only hierax embed reads URLs)")
    if len(kinds) > 1:
        some = f"{kinds[True]} and {kinds[False]}"
        raise ValueError(f"{path} holds images and videos, such as {some}; expected one kind")
    targets, classes = _classes(path, names)
    if True in kinds:
        _notify_of_repeats(path, paths, targets)
    times = None if True in kinds else np.array(parts, np.int64)
    return FileList(Strings(paths), times, targets, classes, tuple(splits) if any(splits) else None)


def listed_paths(path: Path, *, columns: Mapping[str, str] | None = None) -> Iterator[str]:
    """The entries of a list, row by row, as they are written: files of any suffix, or URLs.

    A `.txt` has one entry per line, or files and labels. For other lists, see `open_list`. Entries stand for whole
    files: a `Notice` tells that `start` and `end` are not used.

    Raises:
        EmptyList, ValueError: see `open_list`.
        ImportError: parquet without pyarrow.
    """
    parts = 0
    for _, row in read_rows(path, columns, any_entry=True):
        parts += bool(_text(row.get("start")) or _text(row.get("end")))
        yield row["path"]
    if parts:
        notify(
            f"{path}: start and end are not used in {parts:,} {'row' if parts == 1 else 'rows'}; whole files are read"
        )


def resolve_entry(folder: str, entry: str) -> str:
    """The path of an entry of a list in `folder`. If there is no such file, blanks around it are removed, and the
    backslashes of a list that was written on Windows stand between folders.
    """
    place = os.path.join(folder, entry)
    if entry == entry.strip() and "\\" not in entry:
        return place
    bare = entry.strip()
    tries = (entry, bare, bare.replace("\\", "/"))
    return next(
        (there for one in tries if os.path.lexists(there := os.path.join(folder, one))), os.path.join(folder, tries[2])
    )


def is_list_of_files(path: Path, *, columns: Mapping[str, str] | None = None) -> bool:
    """Whether a parquet file names files in a column and contains no files itself."""
    try:
        import pyarrow.parquet as pq

        schema = pq.read_schema(path)
    except (ImportError, OSError, ValueError):  # opening it as a table raises the right error
        return False
    if columns and "path" in columns:
        name = columns["path"]
        return name in schema.names and not _holds_files(str(schema.field(name).type))
    kinds = {normalize_column(field.name): str(field.type) for field in schema}
    inside = any(map(_holds_files, kinds.values()))
    return not inside and any(name in kinds and "string" in kinds[name] for name in PATHS)


def _holds_files(kind: str) -> bool:
    """Whether a column of this type holds files, such as images, not their paths."""
    return kind.startswith(("struct", "binary", "large_binary"))


def _classes(path: Path, names: Sequence[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Class number of each row, and the names of the classes; names that are numbers are sorted as numbers."""
    found = set(names)
    if found == {""}:
        return None, ()
    if "" in found:
        raise ValueError(f"{path}, row {names.index('') + 1}: no label; expected a label in every row, or in no row")
    if all(_WHOLE.fullmatch(name) for name in found):  # tables write integers as 1.0 if some are missing
        names = [name.partition(".")[0] for name in names]
        found = set(names)
    _notify_of_joined_labels(path, found)
    return number_names(names)


def _label(value: Any, where: str) -> str:
    """The name of a class; "" if there is none, or if it is written as nan.

    Raises:
        ValueError: there are several classes, or bytes that are not text.
    """
    text = _text(value)
    if not isinstance(value, (str, int, float, bool, type(None))) or _LIST.fullmatch(text):
        raise ValueError(
            f"{where}: the label is {text[:60]}; expected one class for each file (tar shards, and parquet files that "
            "hold the images, may name several)"
        )
    if not text.isprintable() and any("\udc80" <= letter <= "\udcff" for letter in text):
        raise ValueError(f"{where}: the label {text!a} is not UTF-8 text; save the list as UTF-8")
    return "" if text.lower() == "nan" else text


def _notify_of_joined_labels(path: Path, names: set[str]) -> None:
    """Gives a notice if a class name may be a list of several classes."""
    for name in sorted(names):
        parts = [part.strip() for part in _BETWEEN.split(name)]
        if len(parts) > 1 and all(part in names for part in parts):
            notify(
                f"{path}: {name!r} is taken as one class, beside {parts[0]!r} and {parts[1]!r}; "
                "a list of files names one class in each row"
            )
            return


def _notify_of_repeats(path: Path, paths: list[str], targets: np.ndarray | None) -> None:
    """Gives a notice if several rows name the same file."""
    first: dict[str, int] = {}
    again = [(index, place) for index, place in enumerate(paths) if first.setdefault(place, index) != index]
    if not again:
        return
    others = [place for index, place in again if targets is not None and targets[index] != targets[first[place]]]
    example = others[0] if others else again[0][1]
    rows = "1 row names" if len(again) == 1 else f"{len(again):,} rows name"
    label = f", {len(others):,} of them with another label" if others else ""
    notify(f"{path}: {rows} a file that another row names too{label}, such as {example}; each row counts as a sample")


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _microseconds(value: Any, name: str, where: str) -> int:
    """A time in microseconds; -1 if there is none."""
    text = _text(value)
    if not text or text == "nan":
        return _NONE
    try:
        seconds = Decimal(text)
        if seconds >= 0 and seconds.is_finite():
            return int(seconds * _FINE)
    except InvalidOperation:
        pass
    raise ValueError(f"{where}: {name} is {text!r}; expected seconds, 0 or more")
