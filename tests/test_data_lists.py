"""Lists of pictures and videos with their classes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hierax.data import open_dataset
from hierax.data.dataset import Dataset, VideoSegment
from hierax.data.file_lists import open_list


def listed(path: Path, text: str | dict[str, Any]) -> Dataset:
    """The dataset of a list that holds this: a text, or columns of a parquet file."""
    if isinstance(text, dict):
        pq.write_table(pa.table(text), path)
    else:
        path.write_text(text)
    return open_dataset(path)


def test_a_list_names_parts_of_videos(tmp_path: Path) -> None:
    found = listed(
        tmp_path / "list.csv", "path,start,end,label\njump/a.mp4,0.5,2,jump\nrun/a.mp4,,,run\njump/a.mp4,1,,run\n"
    )
    assert (found.classes, found.labels(), found.videos, found.arrays) == (("jump", "run"), [0, 1, 1], True, False)
    parts = [found.sample(i).content for i in range(3)]
    assert [(p.start, p.end) for p in parts] == [(Fraction(1, 2), Fraction(2)), (None, None), (Fraction(1), None)]
    assert found.sample(0).name == f"{tmp_path}/jump/a.mp4 from 0.5 s"
    assert parts[1] == VideoSegment(str(tmp_path / "run/a.mp4"))


def test_a_parquet_list_is_as_a_text(tmp_path: Path) -> None:
    columns = {"video": ["a.mp4", "b.mp4"], "start": [0.1, None], "end": [None, 2.5], "action": ["run", "jump"]}
    found = listed(tmp_path / "list.parquet", columns)
    assert (found.classes, found.labels()) == (("jump", "run"), [1, 0])
    assert found.sample(0).content == VideoSegment(str(tmp_path / "a.mp4"), Fraction(1, 10), None)
    assert found.sample(1).content == VideoSegment(str(tmp_path / "b.mp4"), None, Fraction(5, 2))


def test_labels_of_a_parquet_list_may_be_numbers(tmp_path: Path) -> None:
    found = listed(tmp_path / "list.parquet", {"path": ["a.mp4", "b.mp4"], "label": [10, 9]})
    assert (found.classes, found.labels()) == (("9", "10"), [1, 0])


@pytest.mark.parametrize(
    ("text", "paths", "labels"),
    [
        ("a b.mp4 1\nc.avi 0\n", ["a b.mp4", "c.avi"], [1, 0]),
        ("Walk/a.mp4,Walk\nc.mp4,Run\n", ["Walk/a.mp4", "c.mp4"], [1, 0]),
        ("a.mp4\n\nb c.mp4\n", ["a.mp4", "b c.mp4"], None),
        ("a.mp4\t0\nb.mp4\t1", ["a.mp4", "b.mp4"], [0, 1]),
        ('"a, b.mp4","x"\n"c ""d"".mp4", "w"\n', ["a, b.mp4", 'c "d".mp4'], [1, 0]),
        ('"a.mp4"\n"b.mp4"\n', ["a.mp4", "b.mp4"], None),
    ],
)
def test_a_list_may_have_no_names_of_columns(
    tmp_path: Path, text: str, paths: list[str], labels: list[int] | None
) -> None:
    """As the lists of Kinetics and UCF101 have none."""
    found = listed(tmp_path / "list.txt", text)
    assert [found.sample(i).content.video for i in range(len(found))] == [str(tmp_path / name) for name in paths]
    assert found.labels() == labels


def test_a_list_may_name_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    found = listed(tmp_path / "list.tsv", "file\tclass\na.png\tred\n")
    assert (found.videos, found.classes, found.labels()) == (False, ("red",), [0])
    assert found.sample(0).content == str(tmp_path / "a.png")


@pytest.mark.parametrize(
    "text",
    [
        '"path", "label"\n"a, b.png", "c, d"\n"e.png", "f"\n',
        'label; path\n"c, d"; "a, b.png"\n"f"; "e.png"\n',
        '\n \npath,label\n"a, b.png","c, d"\n\ne.png,f\n',
    ],
)
def test_blanks_before_quotes_and_blank_lines_are_no_part_of_cells(tmp_path: Path, text: str) -> None:
    found = listed(tmp_path / "list.csv", text)
    assert (found.classes, found.labels()) == (("c, d", "f"), [0, 1])
    assert [found.sample(i).content for i in range(2)] == [str(tmp_path / name) for name in ("a, b.png", "e.png")]


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    assert listed(tmp_path / "list.csv", "video,class\na.mp4,10\nb.mp4,9\n").classes == ("9", "10")


def test_labels_that_are_of_no_use_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\na.mp4,\nb.mp4,x\n")
    assert open_dataset(tmp_path / "list.csv", labels=False).labels() is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name,run\n", "its first line is name, run; expected names of columns, with path among them, or a file"),
        ("path,label\n", "no rows below the column names"),
        ("path,label\na.mp4,\nb.mp4,x\n", "row 1: no label"),
        ("path,start\na.mp4,soon\n", "line 2: start is 'soon'; expected seconds, 0 or more"),
        ("path,start\na.mp4,-1\n", "line 2: start is '-1'"),
        ("path,start\na.mp4,inf\n", "line 2: start is 'inf'"),
        ("path,start,end\na.mp4,2,1\n", "line 2 ends at 1 s, but starts at 2 s"),
        ("path,end\na.mp4,0\n", "line 2 ends at 0 s, but starts at 0 s"),
        ("path,label\n,x\n", "line 2: no path"),
        ("a.mp4 0\nb.mp4 riding a bike\n", "line 2: 'b.mp4 riding a bike'; expected a file, or a file and a label"),
        ("path\na.mp4\nb.png\n", "holds images and videos, such as b.png and a.mp4; expected one kind"),
        ("path,start\nb.png,1\n", "line 2: b.png is an image; start and end are only for videos"),
        ("url,label\nhttps://h/a.png,x\ns3://b/c.png,y\n", "lists URLs, such as https://h/a.png; expected files"),
    ],
)
def test_what_is_wrong_with_a_list_is_said_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"list.csv.*{problem}"):
        listed(tmp_path / "list.csv", text)


def test_what_is_wrong_with_a_parquet_list_is_said_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"list.parquet, row 2: no path"):
        listed(tmp_path / "list.parquet", {"path": ["a.mp4", None]})


@pytest.mark.parametrize(
    ("header", "row"),
    [("image_path,category", "a.png,red"), ("class_name,img", "red,a.png"), ("Category Name,File-Name", "red,a.png")],
)
def test_columns_have_the_names_that_people_write(tmp_path: Path, header: str, row: str) -> None:
    found = listed(tmp_path / "list.csv", f"{header}\n{row}\n")
    assert (found.sample(0).content, found.classes) == (str(tmp_path / "a.png"), ("red",))


def test_columns_of_other_names_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,foto,klasse\nwrong.png,a.png,rot\n")
    found = open_list(tmp_path / "list.csv", columns={"path": "foto", "label": "klasse"})
    assert (found.sample(0).content, found.classes) == (str(tmp_path / "a.png"), ("rot",))
    with pytest.raises(ValueError, match=r"list.csv: no column 'bild'; there are: path, foto, klasse"):
        open_list(tmp_path / "list.csv", columns={"path": "bild"})
    with pytest.raises(ValueError, match="columns names 'class'; expected one of path, label, start, end"):
        open_list(tmp_path / "list.csv", columns={"class": "klasse"})


def test_a_damaged_parquet_list_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": [f"{n:06}.jpg" for n in range(50_000)]}), tmp_path / "list.parquet")
    content = bytearray((tmp_path / "list.parquet").read_bytes())
    content[40:4000] = bytes(3960)
    (tmp_path / "list.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"list.parquet: damaged, or not a parquet file"):
        open_list(tmp_path / "list.parquet")
