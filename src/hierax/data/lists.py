"""Lists of files: pictures, or videos and parts of them, with their classes, as a table names them."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hierax.data.dataset import Extract, Sample
from hierax.data.packed import Strings
from hierax.processing.decode import IMAGE_SUFFIXES, VIDEO_SUFFIXES

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
"""Of files that may be lists."""

_PATHS = ("path", "video", "video_path", "file", "filename", "file_name", "clip", "image")
_LABELS = ("label", "class", "labels", "action", "target")
_FINE = 1_000_000  # moments are kept in parts of a second, so many
_NONE = -1
_FIRST = 1 << 16  # bytes of a text that must hold its first line

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class FileList:
    """Files that a list names, in its order: pictures, or parts of videos.

    Attributes:
        paths: of the files.
        parts: int64 `[N, 2]`, beginning and end of each in microseconds, -1 for that of the file; None without videos.
        targets: int64 `[N]`, or None without labels.
        classes: their names.
    """

    paths: Strings
    parts: np.ndarray | None
    targets: np.ndarray | None
    classes: tuple[str, ...]
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
        return Sample(path + part, Extract(path, start, end), label)

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        return None if self.targets is None else self.targets.tolist()


def open_list(path: Path, *, labels: bool = True) -> FileList:
    """The files that a list names, a row each: `.csv`, `.tsv`, `.txt` or `.parquet`.

    Columns: `path` (or video, file, filename, clip, image), relative to the list's folder; `label` (or class, action,
    target), the name or number of its class; of videos `start` and `end` in seconds, empty for those of the video. A
    text whose first line is already a file has paths, or paths and labels between which are a comma, tab or space.

    Raises:
        ValueError: no such columns, no rows, a row that cannot be read, pictures and videos in one list; names file
            and line.
        ImportError: parquet without the extra `data`.
    """
    names: list[str] = []
    paths: list[str] = []
    parts: list[tuple[int, int]] = []
    kinds: dict[bool, str] = {}
    for where, row in _rows(path):
        entry = _text(row.get("path"))
        if not entry:
            raise ValueError(f"{where}: no path")
        start, end = (_moment(row.get(name), name, where) for name in ("start", "end"))
        if end != _NONE and end <= max(start, 0):
            raise ValueError(f"{where}: it ends at {end / _FINE:g} s, but starts at {max(start, 0) / _FINE:g} s")
        picture = os.path.splitext(entry)[1].lower() in IMAGE_SUFFIXES
        if picture and (start, end) != (_NONE, _NONE):
            raise ValueError(f"{where}: {entry} is a picture; start and end are of videos")
        kinds.setdefault(picture, entry)
        paths.append(os.path.join(path.parent, entry))
        parts.append((start, end))
        names.append(_text(row.get("label")) if labels else "")
    if not paths:
        raise ValueError(f"{path}: no rows below the names of the columns")
    if len(kinds) > 1:
        some = f"{kinds[True]} and {kinds[False]}"
        raise ValueError(f"{path} holds pictures and videos, such as {some}; expected one kind")
    targets, classes = _classes(path, names)
    return FileList(Strings(paths), None if True in kinds else np.array(parts, np.int64), targets, classes)


def names_files(path: Path) -> bool:
    """Whether a parquet file names files in a column, and holds none itself."""
    try:
        import pyarrow.parquet as pq

        schema = pq.read_schema(path)
    except (ImportError, OSError, ValueError):  # whoever opens it as a table says what is wrong
        return False
    kinds = {field.name.strip().lower(): str(field.type) for field in schema}
    inside = any(kind.startswith(("struct", "binary", "large_binary")) for kind in kinds.values())
    return not inside and any(name in kinds and "string" in kinds[name] for name in _PATHS)


def _classes(path: Path, names: Sequence[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Numbers of the classes, and their names; numbers are in their order."""
    found = set(names)
    if found == {""}:
        return None, ()
    if "" in found:
        raise ValueError(f"{path}, row {names.index('') + 1}: no label; expected one in every row, or none at all")
    numeric = all(name.isdecimal() for name in found)
    classes = tuple(sorted(found, key=lambda name: (int(name), name) if numeric else (0, name)))
    number = {name: i for i, name in enumerate(classes)}
    return np.fromiter((number[name] for name in names), np.int64, len(names)), classes


# -- rows --------------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows with path, label, start, end, and where each stands."""
    if path.suffix.lower() == ".parquet":
        yield from _of_parquet(path)
        return
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        first = file.readline(_FIRST).rstrip("\r\n")
        file.seek(0)
        if _file_and_label(first) is not None:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", _plain_row(line, f"{path}, line {number}")
            return
        rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        columns = _columns(path, rows.fieldnames or ())
        try:
            for row in rows:
                yield f"{path}, line {rows.line_num}", {name: row.get(column) for name, column in columns.items()}
        except csv.Error as error:
            raise ValueError(f"{path}: after line {rows.line_num}: {error}") from None


def _plain_row(line: str, where: str) -> Row:
    """A line of a list without names of columns."""
    found = _file_and_label(line.rstrip("\r\n"))
    if found is None:
        given = line.strip()[:80]
        raise ValueError(f"{where}: {given!r}; expected a file, or a file and a label after comma, tab or space")
    return {"path": found[0], "label": found[1]}


def _file_and_label(line: str) -> tuple[str, str] | None:
    """The two of a line; None where it begins with no picture or video."""
    if _is_file(line):
        return line.strip(), ""
    for mark in ("\t", ",", " "):
        entry, found, label = line.rpartition(mark)
        if found and _is_file(entry):
            return entry.strip(), label.strip()
    return None


def _is_file(text: str) -> bool:
    suffix = os.path.splitext(text.strip())[1].lower()
    return suffix in IMAGE_SUFFIXES or suffix in VIDEO_SUFFIXES


def _columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    """What each column that is read is called in the file."""
    found = {name.strip().lower(): name for name in names}
    place = next((found[name] for name in _PATHS if name in found), None)
    if place is None:
        raise ValueError(
            f"{path}: its first line is {', '.join(names) or 'empty'}; expected names of columns, with path among "
            "them, or a file"
        )
    label = next((found[name] for name in _LABELS if name in found), None)
    given = {"path": place, "label": label, "start": found.get("start"), "end": found.get("end")}
    return {name: column for name, column in given.items() if column is not None}


def _of_parquet(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        columns = _columns(path, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(columns=list(columns.values())):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", {name: row[column] for name, column in columns.items()}


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _moment(value: Any, name: str, where: str) -> int:
    """Microseconds; -1 for none."""
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
