"""Parquet files and what the datasets library saved, as lists of samples."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hierax.cli import main
from hierax.data import open_dataset, open_splits
from opening import labels, refused, survives
from samples import encoded, picture, write_parquet


def rows(count: int, **columns: list[Any]) -> dict[str, list[Any]]:
    return {"image": [{"bytes": encoded(picture(seed=i)), "path": None} for i in range(count)], **columns}


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])}


def test_rows_of_a_parquet_file_are_samples(tmp_path: Path, features: dict[str, Any]) -> None:
    path = write_parquet(tmp_path / "0.parquet", rows(3, label=[1, 0, 1]), features)
    for source in (path, f"{tmp_path}/*.parquet"):
        found = open_dataset(source)
        assert found.sample(2).content == encoded(picture(seed=2))
        assert labels(found) == found.labels() == [1, 0, 1]
        assert found.classes == ("ant", "bee", "cat")


def test_files_that_are_named_by_splits_are_kept_apart(tmp_path: Path, features: dict[str, Any]) -> None:
    folder = tmp_path / "data"
    write_parquet(folder / "train-0.parquet", rows(3, label=[0, 1, 2]), features)
    write_parquet(folder / "test-0.parquet", rows(1, label=[1]), features)
    assert len(open_dataset(folder)) == 3
    assert len(open_dataset(folder, split="test")) == 1
    refused(folder, "has no split 'val'; it has test, train", split="val")
    write_parquet(folder / "more.parquet", rows(1, label=[1]), features)
    refused(folder, "more.parquet is not named after a split")


@pytest.mark.usefixtures("features")
def test_lists_in_a_column_are_several_labels(tmp_path: Path) -> None:
    for column, expected in (([[0, 2], [1]], [[1, 0, 1], [0, 1, 0]]), ([[0.5, 0.0], [1.0, 1.0]], [[0.5, 0], [1, 1]])):
        path = write_parquet(tmp_path / f"{len(expected[0])}.parquet", rows(2, labels=column))
        found = open_dataset(path)
        assert (labels(found), found.labels()) == (expected, None)
        assert found.classes == tuple(map(str, range(len(expected[0]))))


def test_held_back_labels_of_the_hub_are_no_labels(tmp_path: Path, features: dict[str, Any]) -> None:
    found = open_dataset(write_parquet(tmp_path / "0.parquet", rows(2, label=[-1, -1]), features))
    assert (found.labels(), found.classes) == (None, ())


def test_a_folder_that_the_datasets_library_saved_is_read(tmp_path: Path, features: dict[str, Any]) -> None:
    import datasets

    one = datasets.Dataset.from_dict(rows(2, label=[2, 0]), features=datasets.Features(features))
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "validation": one.select([0])}).save_to_disk(tmp_path / "two")
    assert open_dataset(tmp_path / "one").labels() == open_dataset(tmp_path / "two").labels() == [2, 0]
    assert open_dataset(tmp_path / "two", split="validation").labels() == [2]


@pytest.mark.usefixtures("features")
@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"text": ["a"]}, "no column of images among text; expected one of type Image, or named image"),
        (rows(2, label=["cat", ""]), "column label: 1 of 2 samples have no label, such as sample 1"),
        (rows(2, label=[1, None]), "1 of 2 samples have no label, such as sample 1"),
    ],
)
def test_a_table_of_bad_columns_is_named(tmp_path: Path, columns: dict[str, list[Any]], problem: str) -> None:
    refused(write_parquet(tmp_path / "0.parquet", columns), "0.parquet", problem)


@pytest.mark.usefixtures("features")
def test_names_of_classes_are_labels(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    write_parquet(folder / "train-0.parquet", rows(3, label=["dog", "bee", "cat"]))
    write_parquet(folder / "validation-0.parquet", rows(2, label=["cat", "dog"]))
    train, validation = open_splits(folder, fraction=0, seed=0)
    assert validation is not None
    assert (train.classes, train.labels()) == (("bee", "cat", "dog"), [2, 0, 1])
    assert (validation.classes, validation.labels()) == (train.classes, [1, 2])
    several = open_dataset(write_parquet(tmp_path / "0.parquet", rows(2, label=[["dog", "bee"], ["dog"]])))
    assert (several.classes, several.labels()) == (("bee", "dog"), None)
    label = several.sample(1).label
    assert isinstance(label, np.ndarray)
    assert label.tolist() == [0, 1]


@pytest.mark.usefixtures("features")
def test_what_the_datasets_library_cannot_read_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "0.parquet").write_bytes(b"no parquet file")
    refused(tmp_path / "0.parquet", "0.parquet: cannot be read as a dataset")


@pytest.mark.usefixtures("features")
def test_a_row_without_a_picture_is_one_that_cannot_be_read(tmp_path: Path) -> None:
    columns = rows(2, label=["cat", "dog"])
    columns["image"][1] = None
    found = open_dataset(write_parquet(tmp_path / "0.parquet", columns), labels=False)
    assert found.sample(0).label is None
    with pytest.raises(ValueError, match=r"0\.parquet\[1\]: no image in column image"):
        found.sample(1)


def test_a_table_can_be_sent_to_another_process(tmp_path: Path, features: dict[str, Any]) -> None:
    survives(write_parquet(tmp_path / "0.parquet", rows(2, label=[0, 1]), features))


@pytest.mark.parametrize("shown", [True, False])
def test_opening_shows_no_bars_of_the_library_and_leaves_its_setting(tmp_path: Path, shown: bool) -> None:
    code = (
        "import sys, datasets\n"
        "from hierax.data import open_dataset\n"
        f"{'datasets.enable_progress_bars()' if shown else 'datasets.disable_progress_bars()'}\n"
        f"assert len(open_dataset({str(tmp_path / '0.parquet')!r})) == 2\n"
        f"assert datasets.are_progress_bars_disabled() is {not shown}\n"
    )
    write_parquet(tmp_path / "0.parquet", rows(2))
    environment = {k: v for k, v in os.environ.items() if k != "HF_DATASETS_DISABLE_PROGRESS_BARS"}
    environment |= {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_DATASETS_OFFLINE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["finetune", "evaluate"])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("t.parquet", "its columns are image, species; labels are in a column that is called label, labels, class, "),
        ("l.csv", "labels are in a column of the list that is called label, class, labels, "),
    ],
)
def test_a_table_without_labels_says_which_columns_are_read(
    command: str, name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    Image.new("RGB", (40, 40)).save("0.png")
    pq.write_table(pa.table({"image": [Path("0.png").read_bytes()] * 4, "species": ["a", "b"] * 2}), "t.parquet")
    Path("l.csv").write_text("file,species\n0.png,a\n0.png,b\n")
    assert main([command, name, "--device", "cpu", *(["-o", "run"] if command == "finetune" else [])]) == 2
    assert problem in capsys.readouterr().err
