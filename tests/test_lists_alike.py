"""A list of paths means the same files, and has the same errors, for embedding and for training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hierax.data import open_dataset
from hierax.embedding.sources import list_sources
from hierax.notices import Notice

TEXT = 'path,n\na.png,1\n"b, c.png",2\né.png,3\n'
Listed = Callable[[Path], list[str]]
NAMES = ["a.png", "b, c.png", "é.png"]


def by_embed(path: Path) -> list[str]:
    return [Path(source.path).name for source in list_sources([str(path)])]


def by_training(path: Path) -> list[str]:
    found = open_dataset(path, labels=False)
    return [Path(found.sample(index).name).name for index in range(len(found))]


@pytest.mark.parametrize("listed", [by_embed, by_training])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("utf8.csv", TEXT.encode(), NAMES),
        ("mark.csv", TEXT.encode("utf-8-sig"), NAMES),
        ("utf16.csv", TEXT.encode("utf-16"), NAMES),
        ("windows.csv", TEXT.replace("\n", "\r\n").encode(), NAMES),
        ("semicolons.csv", b"path;n\na.png;1\nb, c.png;2\n", NAMES[:2]),
        ("tabs.tsv", b"path\tn\na.png\t1\nb, c.png\t2\n", NAMES[:2]),
        ("upper.csv", b"FILE\na.png\n", NAMES[:1]),
        ("lines.txt", "a.png\nb, c.png\n\né.png\n".encode(), NAMES),
        ("objects.jsonl", b'{"path": "a.png"}\n{"path": "b, c.png"}\n', NAMES[:2]),
        ("names.txt", b"path,n\na.png,1\n", NAMES[:1]),
        ("blank.txt", b"\na.png\n \n", NAMES[:1]),
        ("labels.txt", b"a.png 1\nb, c.png,\n", NAMES[:2]),
        ("blanks.csv", b"path,n\n a.png,1\n,\n\n", NAMES[:1]),
        ("more.csv", b"path\na.png,,\n", NAMES[:1]),
        ("two_lines.csv", b'path,n\na.png,"1\n2"\n', NAMES[:1]),
        ("backslashes.csv", b"path\nd\\a.png\n", NAMES[:1]),
        ("later.jsonl", b'{"path": "a.png"}\n{"path": "b, c.png", "label": "x", "file": "none.png"}\n', NAMES[:2]),
    ],
)
def test_a_list_means_the_same_files(
    name: str, content: bytes, expected: list[str], listed: Listed, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    for file in (*NAMES, "d/a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / file)
    (tmp_path / name).write_bytes(content)
    assert listed(tmp_path / name) == expected


@pytest.mark.parametrize("listed", [by_embed, by_training])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", b"x,y\n1,2\n", "its first line is x, y; expected names of columns, with path among them"),
        ("empty.csv", b"", "its first line is empty; expected names of columns"),
        ("half.jsonl", b'{"path":\n', "half.jsonl, line 1: .* expected a JSON object in each line"),
        ("rows.jsonl", b"[1]\n", r"rows.jsonl, line 1: \[1\]; expected a JSON object in each line"),
        ("header.csv", b"path,n\n", "header.csv: no rows below the column names"),
        ("header.txt", b"path\n", "header.txt: an empty list; expected one path on each line"),
        ("blank.txt", b"\n \n", "blank.txt: an empty list; expected one path on each line"),
        ("empty.jsonl", b"", "empty.jsonl: an empty list; expected one path on each line"),
        ("blank.csv", b"path,n\na.png,1\n ,2\n", "blank.csv, line 3: no path; expected one in each row"),
        ("short.csv", b"n,path\n1,a.png\n\n2\n", "short.csv, line 4: no path; expected one in each row"),
        (
            "other.jsonl",
            b'{"path": "a.png"}\n{"file": "b.png"}\n',
            "other.jsonl, line 2: no path; expected one in each",
        ),
        ("null.jsonl", b'{"path": null}\n', "null.jsonl, line 1: no path; expected one in each row"),
        ("kind.jsonl", b'{"path": ["a.png"]}\n', r"kind.jsonl, line 1: the path is \['a.png'\]; expected text"),
        ("open.csv", b'path\na.png\n"b.png\nc.png\n', r'open.csv, line 3: a quote \("\) that is never closed'),
        ("open_name.csv", b'"path\na.png\n', r'open_name.csv, line 1: a quote \("\) that is never closed'),
        ("open_label.csv", b'path,n\na.png,"1\n', r'open_label.csv, line 2: a quote \("\) that is never closed'),
        ("after.csv", b'path\n"a"b.png\n', r'after.csv, line 2: text after a closing quote \("\)'),
        ("long.csv", b'path\n"a.png\n' + b"b.png\n" * 30_000, r'long.csv, line 2: .* a quote \("\) may not be closed'),
        ("cells.csv", b"path,n\nb, c.png,1\n", "cells.csv, line 2: 3 cells below 2 column names; expected quotes"),
    ],
)
def test_a_list_has_the_same_errors(name: str, content: bytes, message: str, listed: Listed, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        listed(tmp_path / name)


@pytest.mark.parametrize("listed", [by_embed, by_training])
@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("null.parquet", {"path": ["a.png", None]}, "null.parquet, row 2: no path; expected one in each row"),
        ("none.parquet", {"path": pa.array([], pa.string())}, "none.parquet: no rows below the column names"),
    ],
)
def test_a_parquet_list_has_the_same_errors(
    name: str, table: dict[str, Any], message: str, listed: Listed, tmp_path: Path
) -> None:
    pq.write_table(pa.table(table), tmp_path / name)
    with pytest.raises(ValueError, match=message):
        listed(tmp_path / name)


def test_a_repeated_file_is_told_by_both(tmp_path: Path) -> None:
    """It is one row of a collection, and two samples of training."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "twice.csv").write_text("path\na.png\na.png\n")
    with pytest.warns(Notice, match="twice.csv: 1 entry is named before; a collection has each source once"):
        assert by_embed(tmp_path / "twice.csv") == ["a.png"]
    with pytest.warns(Notice, match="twice.csv: 1 row names a file that another row names too"):
        assert by_training(tmp_path / "twice.csv") == ["a.png", "a.png"]


def test_times_that_embedding_does_not_use_are_told(tmp_path: Path) -> None:
    (tmp_path / "parts.csv").write_text("path,start\na.mp4,1\n")
    with pytest.warns(Notice, match="parts.csv: start and end are not used in 1 row; whole files are read"):
        assert by_embed(tmp_path / "parts.csv") == ["a.mp4"]
