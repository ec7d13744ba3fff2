"""A list of paths means the same files, and has the same errors, for embedding and for training."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hierax.data import open_dataset
from hierax.embedding.sources import list_sources

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
    ],
)
def test_a_list_means_the_same_files(
    name: str, content: bytes, expected: list[str], listed: Listed, tmp_path: Path
) -> None:
    for file in NAMES:
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
    ],
)
def test_a_list_has_the_same_errors(name: str, content: bytes, message: str, listed: Listed, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        listed(tmp_path / name)
