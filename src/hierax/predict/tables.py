"""Writes the labels of images as a table: CSV, JSON Lines or Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hierax.atomic import atomic_write, check_writable
from hierax.extras import require
from hierax.predict.classify import Classification

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def check_table(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Checks that a table can be written to this path, before the work starts.

    Raises:
        ValueError: the suffix is unknown, or the path is a folder, or the file exists and `overwrite` is False.
        ImportError: Parquet needs pyarrow; the message says what to install.
        OSError: the file cannot be written.
    """
    place = Path(path)
    if place.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{place}: expected the name of a table, with one of the suffixes {', '.join(SUFFIXES)}")
    if place.is_dir():
        raise ValueError(f"{place} is a folder; expected a file to write")
    if place.exists() and not overwrite:
        raise ValueError(f"{place} would be replaced; choose another name, or pass --overwrite")
    if place.suffix.lower() == ".parquet":
        require("a Parquet table", "pyarrow")
    check_writable(place)


def write_table(results: Sequence[Classification], path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Writes one row per image: `path`, `label`, `probability`, `label2`, `probability2`, …, `error`.

    An image that cannot be read has an `error` and no labels. In a JSON Lines file, each line is the object that
    `Classification.to_dict` returns.

    Raises:
        ValueError, ImportError: see `check_table`.
        OSError: the table cannot be written; an older file is not changed.
    """
    check_table(path, overwrite=overwrite)
    place = Path(path)
    kind = place.suffix.lower()
    with atomic_write(place) as part:
        if kind == ".jsonl":
            lines = (json.dumps(result.to_dict(per_view=True)) + "\n" for result in results)
            part.write_text("".join(lines), encoding="utf-8")
        elif kind == ".parquet":
            _write_parquet(results, part)
        else:
            with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                names = columns(results)
                writer = csv.DictWriter(file, names, dialect="excel" if kind == ".csv" else "excel-tab")
                writer.writeheader()
                writer.writerows(row(result) for result in results)


def columns(results: Sequence[Classification]) -> list[str]:
    """The names of the columns, with as many labels as the longest result, but at least one."""
    most = max((len(result.predictions) for result in results), default=1)
    numbers = ["", *(str(n) for n in range(2, most + 1))]
    return ["path", *(f"{name}{number}" for number in numbers for name in ("label", "probability")), "error"]


def row(result: Classification) -> dict[str, Any]:
    """The values of a row, by column. Columns without a value are left out."""
    values: dict[str, Any] = {"path": str(result.path)}
    for number, found in enumerate(result.predictions, start=1):
        place = "" if number == 1 else str(number)
        values |= {f"label{place}": found.label, f"probability{place}": found.probability}
    return values if result.error is None else {**values, "error": result.error.problem}


def _write_parquet(results: Sequence[Classification], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    from hierax.collection.store import path_text

    names = columns(results)
    kinds = [pa.float64() if name.startswith("probability") else pa.string() for name in names]
    rows = [row(result) for result in results]
    for one in rows:  # a file name, also in an error, may contain bytes that are not valid text
        for name in ("path", "error"):
            if name in one:
                one[name] = path_text(one[name])
    parquet.write_table(pa.Table.from_pylist(rows, pa.schema(list(zip(names, kinds, strict=True)))), path)
