"""Folders and lists as they lie on people's disks: what systems add, other programs' tables, names that look alike."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hierax.data import Dataset, open_dataset, open_splits
from hierax.notices import Notice
from samples import encoded, picture, write_pictures, write_tar


def split(source: Path, validation: Path | None = None) -> tuple[Dataset, Dataset]:
    train, held = open_splits(source, fraction=0.25, seed=0, validation=validation)
    assert held is not None
    return train, held


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "__pycache__"])
def test_folders_that_systems_make_are_no_classes_and_hold_no_samples(tmp_path: Path, extra: str) -> None:
    write_pictures(tmp_path, "a/1.png", "b/1.png", f"{extra}/1.png", f"a/{extra}/1.png/thumb.jpg")
    found = open_dataset(tmp_path)
    assert (found.classes, len(found)) == (("a", "b"), 2)


def test_they_are_none_in_shards_either(tmp_path: Path) -> None:
    image = encoded(picture())
    found = open_dataset(write_tar(tmp_path / "a.tar", {"1.png": image, "@eaDir/1.png/thumb.jpg": image}))
    assert len(found) == 1


def test_a_training_set_beside_a_folder_of_another_name_is_no_class(tmp_path: Path) -> None:
    write_pictures(tmp_path, "train/a/1.png", "train/b/1.png", "unlabeled/1.png")
    with pytest.raises(ValueError, match=r"train is the name of a training set .* but unlabeled .*--validation names"):
        split(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_pictures(tmp_path, *(f"{name}/{i}.png" for name in ("bus", "train") for i in range(4)))
    assert split(tmp_path)[0].classes == ("bus", "train")


def test_names_of_classes_are_as_folders_are_called(tmp_path: Path) -> None:
    names = ("12", "_private", "big cat", "münster", "v1.0", "日本")
    write_pictures(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(4)))
    for side in split(tmp_path):
        assert side.classes == names
        labels = side.labels()
        assert labels is not None
        assert all(f"/{names[labels[i]]}/" in side.sample(i).name for i in range(len(side)))


def test_accents_may_be_written_in_two_ways(tmp_path: Path) -> None:
    one, other = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    write_pictures(tmp_path, f"train/{one}/1.png", "train/b/1.png", f"val/{other}/1.png", "val/b/1.png")
    train, held = split(tmp_path)
    assert held.classes == train.classes == ("b", one)
    assert {Path(held.sample(i).name).parent.name: held.sample(i).label for i in range(2)} == {"b": 0, other: 1}


def test_a_space_at_the_end_of_a_name_is_seen_in_the_error(tmp_path: Path) -> None:
    write_pictures(tmp_path, "train/Cat /1.png", "train/b/1.png", "val/Cat/1.png")
    with pytest.raises(ValueError, match="unknown classes Cat; known are 'Cat ', b"):
        split(tmp_path)


def test_too_few_images_to_hold_some_out_say_what_may_be_done(tmp_path: Path) -> None:
    write_pictures(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(ValueError, match=r"leaves one of the two sets empty; validation_fraction=0 trains on all"):
        split(tmp_path)


# -- lists -------------------------------------------------------------------------------------------------------------

ROWS = "path,label\n1.png,b\n2.png,a\n"


@pytest.mark.parametrize(
    "text",
    [
        ROWS.encode(),
        ROWS.replace(",", ";").encode(),
        ROWS.replace(",", "\t").encode(),
        ROWS.encode("utf-16"),
        ROWS.replace(",", "\t").encode("utf-16"),
        ROWS.replace("\n", "\r\n").encode("utf-8-sig"),
        b"1.png;b\n2.png;a\n",
        b"image_id,x,cls\n1.png,0,b\n2.png,0,a\n",
        b"fname,label\n1.png,b\n2.png,a\n",
    ],
)
@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_tables_of_other_programs_are_read_alike(tmp_path: Path, name: str, text: bytes) -> None:
    (tmp_path / name).write_bytes(text)
    found = open_dataset(tmp_path / name)
    assert (found.classes, found.labels()) == (("a", "b"), [1, 0])
    assert found.sample(0).content == str(tmp_path / "1.png")


def test_folders_of_a_list_may_be_divided_as_on_windows(tmp_path: Path) -> None:
    write_pictures(tmp_path, "sub/1.png", r"odd\2.png")
    (tmp_path / "list.csv").write_text("path,label\nsub\\1.png,a\nodd\\2.png,b\n")
    found = open_dataset(tmp_path / "list.csv")
    assert [found.sample(i).content for i in range(2)] == [f"{tmp_path}/sub/1.png", f"{tmp_path}/odd\\2.png"]


def test_a_file_of_an_unknown_suffix_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\n1.heic2\n2.png\n")
    assert not open_dataset(tmp_path / "list.csv").videos


def test_numbers_with_a_point_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\n1.png,0.0\n2.png,10.0\n3.png,2.0\n4.png,0\n")
    found = open_dataset(tmp_path / "list.csv")
    assert (found.classes, found.labels()) == (("0", "2", "10"), [0, 2, 1, 0])


def test_nan_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\n1.png,a\n2.png,nan\n")
    with pytest.raises(ValueError, match="row 2: no label"):
        open_dataset(tmp_path / "list.csv")
    pq.write_table(pa.table({"path": ["1.png", "2.png"], "label": [1.0, float("nan")]}), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match="row 2: no label"):
        open_dataset(tmp_path / "list.parquet")


@pytest.mark.parametrize("cell", ['"[0, 1]"', "\"['a', 'b']\"", "(1)", '"{1, 2}"'])
def test_a_list_in_a_cell_is_no_class(tmp_path: Path, cell: str) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\n1.png,{cell}\n2.png,a\n")
    with pytest.raises(ValueError, match=r"line 2: the label is .*; expected one class for each file"):
        open_dataset(tmp_path / "list.csv")


@pytest.mark.parametrize("values", [[[0, 1], [1]], [["a", "b"], ["c"]], [{"x": 1}, {"x": 2}]])
def test_neither_is_one_in_a_parquet_list(tmp_path: Path, values: list[object]) -> None:
    pq.write_table(pa.table({"path": ["1.png", "2.png"], "labels": values}), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=r"row 1: the label is|no column of images"):
        open_dataset(tmp_path / "list.parquet")


def test_a_label_of_other_bytes_than_utf_8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("path,label\n1.png,é\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 2: the label .* is not UTF-8 text; save the list as UTF-8"):
        open_dataset(tmp_path / "list.csv")


@pytest.mark.parametrize("between", ["|", ";", ", "])
def test_labels_that_may_be_several_are_said(tmp_path: Path, between: str) -> None:
    (tmp_path / "list.csv").write_text(f'path,label\n1.png,"cat{between}dog"\n2.png,dog\n3.png,cat\n')
    with pytest.warns(Notice, match="is taken as one class, beside 'cat' and 'dog'"):
        assert len(open_dataset(tmp_path / "list.csv").classes) == 3


def test_a_name_with_a_comma_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('path,label\n1.png,"crane, bird"\n2.png,"crane, machine"\n')
    assert open_dataset(tmp_path / "list.csv").classes == ("crane, bird", "crane, machine")


def test_rows_that_name_one_file_are_said(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\n1.png,a\n1.png,b\n2.png,b\n2.png,b\n")
    with pytest.warns(Notice, match=r"2 rows name a file that another row names too, 1 of them with another label"):
        assert len(open_dataset(tmp_path / "list.csv")) == 4


@pytest.mark.parametrize(
    ("column", "values"),
    [("split", ("train", "val")), ("Data Set", ("TRAIN", "valid")), ("subset", ("training", "test"))],
)
def test_a_column_of_a_list_says_what_to_validate_on(tmp_path: Path, column: str, values: tuple[str, str]) -> None:
    first, second = values
    rows = f"1.png,a,{first}\n2.png,b,{second}\n3.png,b,{first}\n4.png,a,{second}\n5.png,a,extra\n"
    (tmp_path / "list.csv").write_text(f"path,label,{column}\n{rows}")
    with pytest.warns(Notice, match=f"2 rows of '{first}' to train on, 2 of '{second}' .*; 1 other rows? "):
        train, held = split(tmp_path / "list.csv")
    assert [Path(train.sample(i).name).name for i in range(len(train))] == ["1.png", "3.png"]
    assert [Path(held.sample(i).name).name for i in range(len(held))] == ["2.png", "4.png"]
    assert (train.labels(), held.labels(), held.classes) == ([0, 1], [1, 0], ("a", "b"))


def test_a_column_of_other_values_is_not_used_and_that_is_told(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,{'ab'[i % 2]},{i % 5}\n" for i in range(12))
    (tmp_path / "list.csv").write_text(f"path,label,set\n{rows}")
    with pytest.warns(Notice, match="the column of splits has '0', '1', '2', '3', …, and none of them means training"):
        assert [len(side) for side in split(tmp_path / "list.csv")] == [9, 3]


def test_numbers_of_a_list_are_names_where_the_other_has_numbers(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("path,label\n1.png,0\n2.png,1\n3.png,9\n4.png,2\n")
    (tmp_path / "val.csv").write_text("path,label\n5.png,0\n6.png,2\n7.png,1\n8.png,3\n")
    with pytest.raises(ValueError, match="unknown classes 3; known are 0, 1, 2, 9"):
        split(tmp_path / "train.csv", tmp_path / "val.csv")


def test_files_that_are_trained_on_and_validated_on_are_said(tmp_path: Path) -> None:
    write_pictures(tmp_path, "all/a/1.png", "all/b/1.png", "other/a/2.png")
    with pytest.warns(Notice, match="2 of 2 samples to validate on are in the training set too"):
        split(tmp_path / "all", tmp_path / "all")
    assert len(split(tmp_path / "all", tmp_path / "other")[1]) == 1  # without a notice, which would be an error here


def test_a_list_beside_the_images_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, "images/1.png", "images/2.png")
    (tmp_path / "labels.csv").write_text("path,label\nimages/1.png,a\n")
    with pytest.warns(Notice, match=r"1 \.csv \(if labels\.csv lists files and labels, pass it"):
        open_dataset(tmp_path)
