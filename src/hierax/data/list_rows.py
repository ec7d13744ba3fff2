"""Rows of lists: text with separators, plain lines, JSON Lines and parquet."""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from hierax.processing.paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
"""Suffixes of files that may be lists."""

PATHS = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path",
    "image_file", "image_name", "image_filename", "picture", "photo", "video", "video_path", "video_file", "clip",
    "url", "image_url", "img_url", "uri", "fname", "filepaths", "imagepath", "imgpath", "imagename", "image_id",
)  # fmt: skip
"""Names of columns of paths, in upper or lower case. The first one in a file is used. A space or hyphen counts as an
underscore.
"""

LABELS = (
    "label", "class", "labels", "label_name", "class_name", "classname", "class_label", "category", "category_name",
    "action", "target", "label_id", "class_id", "category_id", "cls",
)  # fmt: skip
"""Names of columns of classes."""

SPLITS = ("split", "subset", "set", "data_set", "dataset", "partition")
"""Names of columns that name the split of each row; used only if their values are names of splits."""

_FIRST = 1 << 16  # characters of a text that are looked at first; its first line has no more

COLUMNS = {"path": PATHS, "label": LABELS, "start": ("start",), "end": ("end",), "split": SPLITS}
"""The columns that are read, and their usual names."""


class NoPathColumn(ValueError):
    """A list has no column of files."""


class EmptyList(ValueError):
    """The error for a list without rows.

    Attributes:
        problem: the error without the name of the list.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.problem = problem


def check_columns(given: Mapping[str, str] | None) -> Mapping[str, str]:
    """The names of columns that the caller states; an empty mapping for None.

    Raises:
        ValueError: a name is for a column that is not read.
    """
    for kind in given or {}:
        if kind not in COLUMNS:
            raise ValueError(f"columns names {kind!r}; expected one of {', '.join(COLUMNS)}")
    return given or {}


def missing_column(name: object, column: str, columns: Sequence[str]) -> ValueError:
    """The error for a list or table without a column that the caller named."""
    return ValueError(f"{name}: no column {column!r}; there are: {', '.join(columns) or 'none'}")


def read_rows(
    path: Path, given: Mapping[str, str] | None, *, any_entry: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows with path, label, start, end, and their place in the file. Each row has a path, a text that is not blank.

    Empty lines, and rows of a text whose cells are all empty, are not rows.

    Args:
        any_entry: the lines of a `.txt` without names of columns may be files of any suffix, or URLs.

    Raises:
        EmptyList: there are no rows.
        ValueError: a column is missing, or a row has no path or cannot be read; names file and line.
    """
    count = 0
    for count, (where, row) in enumerate(_rows(path, given, any_entry=any_entry), start=1):  # noqa: B007
        row["path"] = _path(row.get("path"), where)
        yield where, row
    if not count:
        names = path.suffix.lower() not in (".txt", ".jsonl")
        wanted = "no rows below the column names" if names else "an empty list; expected one path on each line"
        raise EmptyList(path, wanted)


def column_names(path: Path) -> tuple[str, ...]:
    """The names of the columns of a list, as they are written; those of the first object of a `.jsonl`. A text whose
    first line names files has none, but its cells are returned.

    Raises:
        ValueError: the list cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        return tuple(pq.read_schema(path).names)
    with open_text(path, newline="") as file:
        first = next((line for line in file if line.strip()), "").rstrip("\r\n")
    if suffix == ".jsonl":
        try:
            row = json.loads(first)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line 1: {error}; expected a JSON object in each line") from None
        return tuple(map(str, row)) if isinstance(row, dict) else ()
    return tuple(next(csv.reader([first], delimiter=_delimiter(path, first)), ()))


def _rows(path: Path, given: Mapping[str, str] | None, *, any_entry: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(path, given)
        return
    if suffix == ".jsonl":
        yield from _json_rows(path, given)
        return
    with open_text(path, newline="") as file:
        head = file.read(_FIRST)
        first = next((line for line in re.split(r"[\r\n]+", head) if line.strip()), "")
        file.seek(0)
        any_line = any_entry and suffix == ".txt" and not _names_columns(path, first)
        plain = any_line or file_and_label(first) is not None or (suffix == ".txt" and not first.strip())
        if given or not plain:
            delimiter = _delimiter(path, first)
            spaced = f'{delimiter} "' in head  # a blank before a quote, which would else be part of the cell
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=spaced, strict=True)
            yield from _table_rows(path, reader, delimiter, given)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield where, _plain_row(line.rstrip("\r\n"), where, any_entry=any_line)


def _path(value: Any, where: str) -> str:
    """The path of a row, as it is written."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value == "" or value != value or isinstance(value, str):
        raise ValueError(f"{where}: no path; expected one in each row")
    raise ValueError(f"{where}: the path is {str(value)[:60]}; expected text")


def _names_columns(path: Path, first: str) -> bool:
    """Whether the first line of a text has names of columns, and is no file beside the text."""
    names = map(normalize_column, first.split(_delimiter(path, first)))
    return any(name in PATHS for name in names) and not os.path.lexists(path.parent / first)


def _table_rows(
    path: Path, reader: Any, delimiter: str, given: Mapping[str, str] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a text whose first line that is not blank has names of columns. `reader` is that of the module csv."""
    names: list[str] = []
    places: dict[str, int] = {}
    while True:
        number = reader.line_num + 1  # where the row begins; a text in quotes may have several lines
        where = f"{path}, line {number}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{where}: {_quote_problem(str(error))}") from None
        if not places:
            if cells is not None and not any(cell.strip() for cell in cells):
                continue
            names = cells or []
            places = {kind: names.index(name) for kind, name in _columns(path, names, given).items()}
        elif cells is None:
            return
        elif any(cell.strip() for cell in cells):
            if any(cell.strip() for cell in cells[len(names) :]):
                raise ValueError(
                    f"{where}: {len(cells)} cells below {len(names)} column names; expected quotes around a text with "
                    f"{delimiter!r} in it"
                )
            yield where, {kind: cells[place] if place < len(cells) else None for kind, place in places.items()}


def _quote_problem(error: str) -> str:
    if "unexpected end" in error:
        return 'a quote (") that is never closed'
    if "expected after" in error:
        return 'text after a closing quote ("); expected the end of the cell, or two quotes for one'
    return f'{error}; a quote (") may not be closed' if "limit" in error else error


def _plain_row(line: str, where: str, *, any_entry: bool) -> dict[str, Any]:
    """The path and label of a line of a list that has no names of columns."""
    if _is_file(line) or (any_entry and "://" in line):
        return {"path": line, "label": ""}
    found = file_and_label(line)
    if found is None and any_entry:
        found = line, ""
    if found is None:
        given = line.strip()[:80]
        raise ValueError(
            f"{where}: {given!r}; expected a file, or a file and a label after comma, semicolon, tab or space"
        )
    return {"path": found[0], "label": found[1]}


def file_and_label(line: str) -> tuple[str, str] | None:
    """The path and label of a line; None if it does not begin with an image or a video."""
    if _is_file(line):
        return line.strip(), ""
    for mark in ("\t", ",", ";", " "):
        entry, found, label = line.rpartition(mark)
        if found and _is_file(entry):
            return entry.strip(), label.strip()
    return _quoted(line) if line.lstrip().startswith('"') else None


def _quoted(line: str) -> tuple[str, str] | None:
    """The path and label of a line whose path is in quotes; None if there is more, or no image or video."""
    for mark in ("\t", ",", ";"):
        with contextlib.suppress(csv.Error):
            cells = next(csv.reader([line.strip()], delimiter=mark, skipinitialspace=True, strict=True))
            if len(cells) <= 2 and _is_file(cells[0]):
                return cells[0], cells[1].strip() if len(cells) == 2 else ""
    return None


def _is_file(text: str) -> bool:
    suffix = os.path.splitext(text.strip())[1].lower()
    return suffix in IMAGE_SUFFIXES or suffix in VIDEO_SUFFIXES


def _columns(path: Path, names: Sequence[str], given: Mapping[str, str] | None) -> dict[str, str]:
    """The name in this file of each column that is read."""
    found = {normalize_column(name): name for name in reversed(names)}  # the first of two similar names
    columns = {kind: next((found[name] for name in known if name in found), None) for kind, known in COLUMNS.items()}
    for kind, name in check_columns(given).items():
        if name not in names:
            raise missing_column(path, name, names)
        columns[kind] = name
    if columns["path"] is None:
        raise NoPathColumn(
            f"{path}: its first line is {', '.join(names) or 'empty'}; expected names of columns, with path among "
            "them, or a file (a column of paths may also be called file, image, img, video, url, …; "
            "--columns path=NAME names another one)"
        )
    return {kind: name for kind, name in columns.items() if name is not None}


def _json_rows(path: Path, given: Mapping[str, str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """One object a line; the first one says which columns there are, and later ones may add others."""
    columns: dict[str, str] = {}
    known: dict[str, None] = {}
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: {error}; expected a JSON object in each line") from None
            if not isinstance(row, dict):
                raise ValueError(f"{where}: {line.strip()[:60]}; expected a JSON object in each line")
            if not row.keys() <= known.keys():
                known.update(dict.fromkeys(row))
                columns = {**_columns(path, tuple(known), given), **columns}
            yield where, {kind: row.get(name) for kind, name in columns.items()}


def _parquet_rows(path: Path, given: Mapping[str, str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow.names, given)
            number = 0
            for batch in file.iter_batches(columns=list(columns.values())):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", {name: row[column] for name, column in columns.items()}
    except (OSError, ValueError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: damaged, or not a parquet file: {error}") from None


@contextlib.contextmanager
def open_text(path: Path, *, newline: str | None = None, strict: bool = False) -> Iterator[TextIO]:
    """Opens the text of a list: UTF-8, with any bytes in names of files; or UTF-16, as Windows saves tables.

    With `strict`, for names that are no files, such as those of classes, text that is not valid is a `ValueError`.
    """
    with path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding, errors = ("utf-16", "strict") if wide else ("utf-8-sig", "strict" if strict else "surrogateescape")
    with path.open(newline=newline, encoding=encoding, errors=errors) as text:
        try:
            yield text
        except UnicodeError as error:
            raise ValueError(f"{path}: not valid {encoding} text: {error}") from None


def _delimiter(path: Path, first: str) -> str:
    """The separator: comma or tab, by the suffix. If the first line does not contain it, another usual separator."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    return next((mark for mark in (usual, ",", ";", "\t") if mark in first), usual)


def normalize_column(name: str) -> str:
    """The name of a column for comparison: in lower case, with underscores."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")
