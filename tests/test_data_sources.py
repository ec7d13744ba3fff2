"""Folders, patterns, shards, tables and arrays as lists of samples, and what is said of those that are none."""

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hierax.data import Dataset, open_dataset
from hierax.data.labels import read_labels
from hierax.data.packed import Strings
from samples import encoded, picture, write_parquet, write_pictures, write_tar

PNG = encoded(picture())


def names(dataset: Dataset, folder: Path) -> list[str]:
    return [os.path.relpath(dataset.sample(i).name, folder) for i in range(len(dataset))]


def labels(dataset: Dataset) -> list[Any]:
    found = [dataset.sample(i).label for i in range(len(dataset))]
    return [label.tolist() if isinstance(label, np.ndarray) else label for label in found]


# -- folders ----------------------------------------------------------------------------------------------------------


def test_class_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, "dog/2.png", "dog/1.jpg", "cat/x.png", "Ant/deep/er/y.png", "Ant/z.PNG")
    found = open_dataset(folder)
    assert found.classes == ("Ant", "cat", "dog")
    assert names(found, folder) == ["Ant/z.PNG", "Ant/deep/er/y.png", "cat/x.png", "dog/1.jpg", "dog/2.png"]
    assert labels(found) == found.labels() == [0, 0, 1, 2, 2]
    assert not found.arrays


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, "b.png", "a.jpg")
    (folder / "notes.txt").write_text("no picture")
    found = open_dataset(str(folder) + "/")
    assert names(found, folder) == ["a.jpg", "b.png"]
    assert found.classes == ()
    assert found.labels() is None
    assert labels(found) == [None, None]


def test_what_is_hidden_is_left_out(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, "cat/1.png", ".cache/2.png", "cat/.3.png")
    assert names(open_dataset(folder), folder) == ["cat/1.png"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_pictures(tmp_path, "elsewhere/1.png", "data/dog/2.png")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "dog" / "up").symlink_to(tmp_path / "data")
    found = open_dataset(tmp_path / "data")
    assert names(found, tmp_path / "data") == ["cat/1.png", "dog/2.png"]


def test_a_pattern_takes_pictures_without_classes(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, "1.png", "deep/2.png", "deep/er/3.png", "deep/4.jpg")
    (folder / "deep" / "notes.txt").write_text("no picture")
    found = open_dataset(f"{folder}/**/*")
    assert names(found, folder) == ["1.png", "deep/2.png", "deep/4.jpg", "deep/er/3.png"]
    assert found.classes == ()
    assert names(open_dataset(f"{folder}/*/*.jpg"), folder) == ["deep/4.jpg"]


def test_a_folder_whose_name_looks_like_a_pattern_is_a_folder(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "photos [2024] {1..2}", "1.png")
    assert names(open_dataset(folder), folder) == ["1.png"]


def test_names_that_are_no_valid_text_survive(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff\xe4.png")
    Path(odd).write_bytes(PNG)
    assert open_dataset(tmp_path).sample(0).name == odd


def refused(source: Any, *parts: str, **options: Any) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (what it says is looked at below)
        open_dataset(source, **options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_what_cannot_be_opened_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_pictures(tmp_path / "mixed", "1.png", "cat/2.png")
    write_pictures(tmp_path / "hollow", "cat/2.png")
    (tmp_path / "hollow" / "dog").mkdir()
    write_pictures(tmp_path / "kinds", "cat/1.png")
    write_tar(tmp_path / "kinds" / "backup.tar", {"1.png": PNG})
    write_pictures(tmp_path / "sides", "train/cat/1.png", "val/cat/1.png")
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped" / "0.tar.gz").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("text")
    refused(tmp_path / "missing", "missing: no such file or folder", "expected pictures")
    refused(tmp_path / "empty", "empty: nothing to read", "expected pictures (.jpg, .png, .webp, …), .tar shards")
    refused(tmp_path / "mixed", "holds 1 file(s) beside folders", "1.png beside cat", "mixed/**/*'")
    refused(tmp_path / "hollow", "dog has no pictures (1 such)", "some in every class folder")
    refused(tmp_path / "kinds", "holds 1 pictures and 1 tar shards", "expected one kind")
    refused(tmp_path / "sides", "holds a training set in train/", "sides/train")
    refused(tmp_path / "zipped", "1 compressed shard(s)", "unpacked to plain .tar")
    refused(tmp_path / "zipped" / "0.tar.gz", "0.tar.gz: a compressed shard; unpack it")
    refused(tmp_path / "notes.txt", "notes.txt: a .txt file; expected pictures")
    refused(tmp_path / "*.jpg", "*.jpg: no file matches")
    refused(f"{tmp_path}/*/**/*", "expected one kind")
    refused(tmp_path / "mixed", "only parquet files and Hub datasets have named splits", split="val")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything may be read")
def test_a_folder_that_must_not_be_listed_is_not_passed_over(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, "cat/1.png", "dog/2.png")
    (folder / "dog").chmod(0)
    with pytest.raises(PermissionError, match="dog"):
        open_dataset(folder)
    (folder / "dog").chmod(0o700)


# -- tar shards -------------------------------------------------------------------------------------------------------


def test_members_of_a_shard_are_samples_by_name(tmp_path: Path) -> None:
    other = encoded(picture(seed=5), "JPEG")
    members = {
        "a/1.jpg": other,
        "a/1.cls": 2,
        "a/1.txt": "caption",
        "b/1.cls": b"0\n",
        "b/1.png": PNG,
        "b/1.seg.png": 0,
    }
    found = open_dataset(write_tar(tmp_path / "0.tar", members))
    assert [found.sample(i).content for i in range(2)] == [other, PNG]
    assert found.sample(1).name == f"{tmp_path}/0.tar:b/1.png"
    assert labels(found) == found.labels() == [2, 0]
    assert found.classes == ("0", "1", "2")


def test_a_range_of_shards_is_read_in_order(tmp_path: Path) -> None:
    for number in (10, 9, 11):
        write_tar(tmp_path / f"s-{number:03}.tar", {f"{number}.png": PNG, f"{number}.cls": number})
    assert open_dataset(f"{tmp_path}/s-{{009..011}}.tar").labels() == [9, 10, 11]
    assert open_dataset(f"{tmp_path}/s-*.tar").labels() == open_dataset(tmp_path).labels() == [9, 10, 11]
    refused(f"{tmp_path}/s-{{009..012}}.tar", "s-012.tar: no such file")
    refused(f"{tmp_path}/s-{{011..009}}.tar", "the range {011..009} is empty")


def test_json_beside_a_picture_may_name_its_class(tmp_path: Path) -> None:
    members = {"1.png": PNG, "1.json": {"label": 1, "class_name": "dog"}, "2.png": PNG, "2.json": {"label": "0"}}
    found = open_dataset(write_tar(tmp_path / "0.tar", members))
    assert (found.classes, labels(found)) == (("0", "dog"), [1, 0])


def test_json_may_hold_several_labels(tmp_path: Path) -> None:
    members = {"1.png": PNG, "1.json": {"label": [0, 2]}, "2.png": PNG, "2.json": {"label": []}}
    found = open_dataset(write_tar(tmp_path / "0.tar", members))
    assert labels(found) == [[1, 0, 1], [0, 0, 0]]
    assert found.labels() is None
    assert found.classes == ("0", "1", "2")


def test_names_of_any_length_are_read(tmp_path: Path) -> None:
    long = "deep/" * 40 + "ä" * 30
    found = open_dataset(write_tar(tmp_path / "0.tar", {f"{long}.png": PNG, f"{long}.cls": 3}))
    assert (found.sample(0).content, found.sample(0).label) == (PNG, 3)


def test_shards_without_labels_have_no_classes(tmp_path: Path) -> None:
    found = open_dataset(write_tar(tmp_path / "0.tar", {"1.png": PNG, "1.json": {"caption": "a cat"}}))
    assert (found.classes, found.labels(), found.sample(0).label) == ((), None, None)


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"1.png": PNG, "1.jpg": PNG}, "1.png and 1.jpg are two pictures of one sample"),
        ({"1.png": PNG, "1.cls": "cat"}, "1.cls holds 'cat'; expected the number of a class"),
        ({"1.png": PNG, "1.json": {"label": "cat"}}, "label in 1.json holds 'cat'"),
        ({"1.png": PNG, "1.json": b"{'label': 1}"}, "1.json is not JSON"),
        ({"1.png": PNG, "1.cls": 1, "2.png": PNG}, "1 of 2 samples have no label, such as sample 1"),
        ({"1.txt": "text"}, "no pictures in 1 shard(s)"),
    ],
)
def test_a_shard_of_bad_samples_is_named(tmp_path: Path, members: dict[str, Any], problem: str) -> None:
    refused(write_tar(tmp_path / "0.tar", members), "0.tar", problem)


def test_a_damaged_shard_is_never_read_in_part(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {f"{i}.png": PNG for i in range(4)})
    whole = path.read_bytes()
    step = whole.index(b"1.png\0")
    for damaged in (whole[: step + 700], whole[:step] + b"\x01" * 512 + whole[step + 512 :], b"no tar file" * 99, b""):
        path.write_bytes(damaged)
        refused(path, "0.tar: a damaged tar file, or none")
    path.write_bytes(whole.rstrip(b"\0") + b"\0" * (-len(whole.rstrip(b"\0")) % 512))
    assert len(open_dataset(path)) == 4  # some writers leave out the blocks of zeros at the end
    path.write_bytes(gzip.compress(whole))
    refused(path, "0.tar: compressed by gzip; expected a plain tar file")


# -- tables -----------------------------------------------------------------------------------------------------------


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
    refused(folder, "more.parquet belongs to no split")


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
        (rows(2, label=["cat", "dog"]), "column label: the label of sample 0 is 'cat'; expected the number"),
        (rows(2, label=[1, None]), "1 of 2 samples have no label, such as sample 1"),
    ],
)
def test_a_table_of_bad_columns_is_named(tmp_path: Path, columns: dict[str, list[Any]], problem: str) -> None:
    refused(write_parquet(tmp_path / "0.parquet", columns), "0.parquet", problem)


@pytest.mark.usefixtures("features")
def test_what_the_datasets_library_cannot_read_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "0.parquet").write_bytes(b"no parquet file")
    refused(tmp_path / "0.parquet", "0.parquet: cannot be read as a dataset")


# -- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 8, 32), (4, 5, 16, 16), (4, 1, 8, 8, 8)])
def test_a_file_of_arrays_is_one_sample_per_row(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.save(tmp_path / "x.npy", array)
    found = open_dataset(tmp_path / "x.npy")
    assert (len(found), found.arrays, found.classes) == (4, True, ())
    assert found.sample(3).name == f"{tmp_path}/x.npy[3]"
    assert np.array_equal(found.sample(3).content, array[3])


def test_labels_of_an_array_lie_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2, 4)))
    np.save(tmp_path / "x.labels.npy", np.array([0, 2, 1]))
    found = open_dataset(tmp_path / "x.npy")
    assert (labels(found), found.classes) == ([0, 2, 1], ("0", "1", "2"))
    np.save(tmp_path / "x.labels.npy", np.array([[0, 1.0], [1, 1], [0, 0]]))
    assert labels(open_dataset(tmp_path / "x.npy")) == [[0, 1], [1, 1], [0, 0]]
    np.save(tmp_path / "x.labels.npy", np.array([0, 1]))
    refused(tmp_path / "x.npy", "x.labels.npy holds 2 labels for 3 samples")


def test_files_of_arrays_have_classes_as_pictures_have(tmp_path: Path) -> None:
    for name in ("up/1.npy", "up/2.npy", "down/1.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, np.ones((2, 8)))
    found = open_dataset(tmp_path)
    assert (found.arrays, found.classes, found.labels()) == (True, ("down", "up"), [0, 1, 1])
    assert found.sample(0).content.shape == (2, 8)


def test_arrays_that_are_none_are_named(tmp_path: Path) -> None:
    arrays = {"flat": np.zeros((3, 4)), "empty": np.zeros((0, 3, 4)), "text": np.full((3, 3, 4), "a")}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "none.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([None, {}]), allow_pickle=True)
    refused(tmp_path / "flat.npy", "flat.npy holds an array of shape [3, 4]; expected [N, channels, *size]")
    refused(tmp_path / "empty.npy", "empty.npy holds an array of shape [0, 3, 4]")
    refused(tmp_path / "text.npy", "text.npy: holds <U1; expected an array of numbers")
    refused(tmp_path / "none.npy", "none.npy: not an array that numpy can map")
    refused(tmp_path / "objects.npy", "objects.npy: not an array that numpy can map")


# -- labels and names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2, 0], [2, 0]),
        (np.array([2, 0], np.int32), [2, 0]),
        ([[2], [0, 1]], [[0, 0, 1], [1, 1, 0]]),
        ([[0.0, 0.25], [1, 0]], [[0, 0.25], [1, 0]]),
        ([[True, False], [True, True]], [[1, 0], [1, 1]]),
        ([np.array([0, 1]), np.array([1])], [[1, 1], [0, 1]]),
    ],
)
def test_labels_are_numbers_lists_of_numbers_or_shares(values: Any, expected: list[Any]) -> None:
    found = read_labels(values, name="x")
    assert found is not None
    assert len(found) == 2
    assert [np.asarray(found[i]).tolist() for i in range(2)] == expected


@pytest.mark.parametrize("values", [[None, None], [-1, -1], []])
def test_labels_that_nobody_gave_are_none(values: list[Any]) -> None:
    assert read_labels(values, name="x") is None


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([0, -1], "the label of sample 1 is -1; expected the number of its class"),
        ([0, "cat"], "the label of sample 1 is 'cat'"),
        ([0, [1]], "some labels are numbers, others lists; expected one kind for all samples"),
        (["cat"], "the label of sample 0 is 'cat'"),
        ([[0, 1, 0]], r"the label of sample 0 is \[0, 1, 0\], with a number twice or below 0"),
        ([[-1]], "a number twice or below 0"),
        ([[0.5], [0.5, 0.5]], "that of sample 0"),
        ([[0.5, 1.5]], r"\[0.5, 1.5\]; expected .* floats 0 to 1"),
        ([[float("nan")]], "nan"),
        ([0.5, 1.0], "the label of sample 0 is 0.5"),
    ],
)
def test_labels_that_mean_nothing_are_named(values: list[Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^x: .*{problem}"):
        read_labels(values, name="x")


def test_every_dataset_can_be_sent_to_another_process(tmp_path: Path, features: dict[str, Any]) -> None:
    """Where processes are not forked but started afresh."""
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8)))
    sources = [
        write_pictures(tmp_path / "folder", "a/1.png", "b/2.png"),
        write_tar(tmp_path / "0.tar", {"1.png": PNG, "1.cls": 1, "2.png": PNG, "2.cls": 0}),
        write_parquet(tmp_path / "0.parquet", rows(2, label=[0, 1]), features),
        tmp_path / "x.npy",
    ]
    for source in sources:
        there = open_dataset(source)
        here = pickle.loads(pickle.dumps(there))
        assert (len(here), here.classes, here.labels()) == (2, there.classes, there.labels())
        assert np.array_equal(here.sample(1).content, there.sample(1).content)


def test_packed_strings_are_a_list_of_them() -> None:
    strings = ["", "a", "ä/ö", "\udcff", "a" * 1000, ""]
    packed = pickle.loads(pickle.dumps(Strings(strings)))
    assert (list(packed), packed[-2], len(packed)) == (strings, "a" * 1000, 6)
    assert len(Strings([])) == 0
    for index in (6, -7):
        with pytest.raises(IndexError, match="out of range: there are 6"):
            packed[index]


# -- what must not stop those who use no labels -----------------------------------------------------------------------


def test_folders_that_link_to_each_other_are_walked_once(tmp_path: Path) -> None:
    write_pictures(tmp_path, "data/a/1.png", "data/b/2.png")
    (tmp_path / "data" / "a" / "x").symlink_to(tmp_path / "data" / "b")
    (tmp_path / "data" / "b" / "y").symlink_to(tmp_path / "data" / "a")
    found = open_dataset(tmp_path / "data")
    assert names(found, tmp_path / "data") == ["a/1.png", "a/x/2.png", "b/2.png", "b/y/1.png"]


@pytest.mark.parametrize(
    "members",
    [
        {"1.png": PNG, "1.cls": "cat"},
        {"1.png": PNG, "1.json": b"{'label': 1}"},
        {"1.png": PNG, "1.cls": 1, "2.png": PNG},
    ],
)
def test_labels_that_are_not_asked_for_may_be_anything(tmp_path: Path, members: dict[str, Any]) -> None:
    found = open_dataset(write_tar(tmp_path / "0.tar", members), labels=False)
    assert (len(found), found.classes, found.labels()) == (sum(n.endswith("png") for n in members), (), None)


def test_class_folders_may_be_empty_where_labels_are_not_asked_for(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, "cat/1.png", "dog/2.png")
    (folder / "bird").mkdir()
    refused(folder, "bird has no pictures (1 such)")
    assert len(open_dataset(folder, labels=False)) == 2
    np.save(folder / "x.npy", np.zeros((3, 2, 4)))
    np.save(folder / "x.labels.npy", np.array([None, {}]), allow_pickle=True)
    assert open_dataset(folder / "x.npy", labels=False).classes == ()
    refused(folder / "x.npy", "x.labels.npy: not an array")


@pytest.mark.usefixtures("features")
def test_a_row_without_a_picture_is_one_that_cannot_be_read(tmp_path: Path) -> None:
    columns = rows(2, label=["cat", "dog"])
    columns["image"][1] = None
    found = open_dataset(write_parquet(tmp_path / "0.parquet", columns), labels=False)
    assert found.sample(0).label is None
    with pytest.raises(ValueError, match=r"0\.parquet\[1\]: no picture in column image"):
        found.sample(1)
