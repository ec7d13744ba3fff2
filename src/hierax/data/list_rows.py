"""Rows of lists: text with separators, plain lines, JSON Lines and parquet."""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import os
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
"""Names of columns of paths, upper or lower case; the first one found is used. A space or hyphen counts as an
underscore.
"""

LABELS = (
    "label", "class", "labels", "label_name", "class_name", "classname", "class_label", "category", "category_name",
    "action", "target", "label_id", "class_id", "category_id", "cls",
)  # fmt: skip
"""Names of columns of classes."""

SPLITS = ("split", "subset", "set", "data_set", "dataset", "partition")
"""Names of columns that name the split of each row; used only if their values are names of splits."""

_FIRST = 1 << 16  # bytes: limit of the first line of a text

COLUMNS = {"path": PATHS, "label": LABELS, "start": ("start",), "end": ("end",), "split": SPLITS}
"""The columns that are read, and their usual names."""

Row = Mapping[str, Any]


class NoPathColumn(ValueError):
    """The error for a list without a column of files."""


def check_columns(given: Mapping[str, str] | None) -> Mapping[str, str]:
    """The caller's names of columns, none for None.

    Raises:
        ValueError: one is for a column that is not read.
    """
    for kind in given or {}:
        if kind not in COLUMNS:
            raise ValueError(f"columns names {kind!r}; expected one of {', '.join(COLUMNS)}")
    return given or {}


def missing_column(name: object, column: str, columns: Sequence[str]) -> ValueError:
    """The error for a list or table without a column that the caller named."""
    return ValueError(f"{name}: no column {column!r}; there are: {', '.join(columns) or 'none'}")


def read_rows(path: Path, given: Mapping[str, str] | None) -> Iterator[tuple[str, Row]]:
    """Rows with path, label, start, end, and their place in the file."""
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path, given)
        return
    if path.suffix.lower() == ".jsonl":
        yield from _json_rows(path, given)
        return
    with open_text(path, newline="") as file:
        first = file.readline(_FIRST).rstrip("\r\n")
        file.seek(0)
        if not given and file_and_label(first) is not None:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", _plain_row(line, f"{path}, line {number}")
            return
        rows = csv.DictReader(file, delimiter=_delimiter(path, first))
        columns = _columns(path, rows.fieldnames or (), given)
        try:
            for row in rows:
                yield f"{path}, line {rows.line_num}", {name: row.get(column) for name, column in columns.items()}
        except csv.Error as error:
            raise ValueError(f"{path}: after line {rows.line_num}: {error}") from None


def _plain_row(line: str, where: str) -> Row:
    """The path and label of a line of a list without names of columns."""
    found = file_and_label(line.rstrip("\r\n"))
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
    return None


def _is_file(text: str) -> bool:
    suffix = os.path.splitext(text.strip())[1].lower()
    return suffix in IMAGE_SUFFIXES or suffix in VIDEO_SUFFIXES


def _columns(path: Path, names: Sequence[str], given: Mapping[str, str] | None) -> dict[str, str]:
    """The file's name of each column that is read."""
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


def _json_rows(path: Path, given: Mapping[str, str] | None) -> Iterator[tuple[str, Row]]:
    """One object a line; the first one says which columns there are."""
    columns: dict[str, str] | None = None
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
            columns = _columns(path, tuple(row), given) if columns is None else columns
            yield where, {kind: row.get(name) for kind, name in columns.items()}


def _parquet_rows(path: Path, given: Mapping[str, str] | None) -> Iterator[tuple[str, Row]]:
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
def open_text(path: Path, *, newline: str | None = None) -> Iterator[TextIO]:
    """The text of a list: UTF-8, with any bytes in names of files; or UTF-16, as Windows saves tables."""
    with path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding, errors = ("utf-16", "strict") if wide else ("utf-8-sig", "surrogateescape")
    with path.open(newline=newline, encoding=encoding, errors=errors) as text:
        try:
            yield text
        except UnicodeError as error:
            raise ValueError(f"{path}: not valid {encoding} text: {error}") from None


def _delimiter(path: Path, first: str) -> str:
    """Comma or tab, by the suffix; if the first line does not contain it, another separator that programs write."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    return next((mark for mark in (usual, ",", ";", "\t") if mark in first), usual)


def normalize_column(name: str) -> str:
    """A column's name as it is compared: in lower case, with underscores."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")
