"""Folders, patterns, shards and arrays as lists of samples, and what is said of those that are none."""

import gzip
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hierax.data import open_dataset
from hierax.notices import Notice
from opening import PNG, labels, names, refused, survives
from samples import encoded, picture, write_pictures, write_tar


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
    with pytest.warns(Notice, match=r"1 file left out: 1 \.txt"):
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
    refused(tmp_path / "missing", "missing: no such file or folder", "expected images")
    refused(
        tmp_path / "empty",
        "empty: no images in this folder",
        "and no videos, .tar shards, .parquet files or .npy arrays",
    )
    refused(tmp_path / "mixed", "holds 1 file beside class folders", "1.png beside cat", "mixed/**/*'")
    refused(tmp_path / "hollow", "dog has no images (1 such)", "some in each class folder")
    refused(tmp_path / "kinds", "holds 1 images and 1 tar shards", "expected one kind")
    refused(tmp_path / "sides", "holds a training set in train/", "sides/train")
    refused(tmp_path / "zipped", "1 compressed shard;", "unpack them to plain .tar")
    refused(tmp_path / "zipped" / "0.tar.gz", "0.tar.gz: a compressed shard; unpack it")
    refused(
        tmp_path / "notes.txt", "notes.txt: its first line is text; expected names of columns, with path among them"
    )
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
    with pytest.warns(Notice, match=r"0.tar: 1 file left out: 1 more of a sample \(b/1.seg.png\)"):
        found = open_dataset(write_tar(tmp_path / "0.tar", members))
    assert [found.sample(i).content for i in range(2)] == [other, PNG]
    assert found.sample(1).name == f"{tmp_path}/0.tar:b/1.png"
    assert labels(found) == found.labels() == [2, 0]
    assert found.classes == ("0", "1", "2")


def test_names_with_several_dots_are_samples_with_their_labels(tmp_path: Path) -> None:
    names = ("IMG.2020.01.02.jpg", "IMG.2020.01.03.jpg", "22.0/1.1.png", "cat.jpg", "cat.png")
    found = open_dataset(write_tar(tmp_path / "0.tar", dict.fromkeys(names, PNG)))
    assert [found.sample(i).name.partition("0.tar:")[2] for i in range(5)] == list(names)
    labeled = {"IMG.2020.01.02.cls": 2, "IMG.cls": 1, "22.0/1.json": {"label": 0}, "cat.cls": 3, "cat.json": b"{}"}
    found = open_dataset(write_tar(tmp_path / "1.tar", {**dict.fromkeys(names, PNG), **labeled}))
    assert found.labels() == [2, 1, 0, 3, 3], "the longest name counts, of two files the .cls"


def test_several_views_of_a_sample_have_its_label(tmp_path: Path) -> None:
    members = {"1.left.png": PNG, "1.right.png": PNG, "1.cls": 0, "2.left.png": PNG, "2.right.png": PNG, "2.cls": 1}
    assert open_dataset(write_tar(tmp_path / "0.tar", members)).labels() == [0, 0, 1, 1]


def test_links_in_a_shard_are_what_they_lead_to(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.png": PNG, "data": b"other"})
    with tarfile.open(tmp_path / "0.tar", "a") as shard:
        for name, kind, target in (
            ("b.png", tarfile.LNKTYPE, "a.png"), ("c/d.jpg", tarfile.SYMTYPE, "../data"),
            ("e.png", tarfile.SYMTYPE, "nowhere"),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            shard.addfile(member)
    with pytest.warns(Notice, match=r"0.tar: 2 files left out: 1 without a suffix, 1 a link to nothing \(e.png\)"):
        found = open_dataset(tmp_path / "0.tar")
    assert [found.sample(i).content for i in range(len(found))] == [PNG, PNG, b"other"]


def test_a_member_that_ends_behind_its_shard_is_named(tmp_path: Path) -> None:
    member = tarfile.TarInfo("a.png")
    member.size = 10**15
    (tmp_path / "0.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + PNG)
    refused(tmp_path / "0.tar", "0.tar: damaged, or not a tar file: a.png extends past the end of the file")


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


def test_shards_may_name_their_classes(tmp_path: Path) -> None:
    texts = {"1.png": PNG, "1.cls": "sea lion", "2.png": PNG, "2.json": {"label": "ant"}}
    found = open_dataset(write_tar(tmp_path / "0.tar", texts))
    assert (found.classes, found.labels()) == (("ant", "sea lion"), [1, 0])
    lists = {"1.png": PNG, "1.json": {"label": ["cat", "ant"]}, "2.png": PNG, "2.json": {"label": ["cat"]}}
    several = open_dataset(write_tar(tmp_path / "1.tar", lists))
    assert (several.classes, labels(several)) == (("ant", "cat"), [[1, 1], [0, 1]])


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"1.png": PNG, "1.cls": "0, 3"}, "1.cls holds '0, 3'; expected the number or the name of a class"),
        ({"1.png": PNG, "1.json": {"label": "-1"}}, "label in 1.json holds '-1'"),
        ({"1.png": PNG, "1.cls": 1, "2.png": PNG, "2.cls": "cat"}, "the label of sample 0 is 1, but others are texts"),
        ({"1.png": PNG, "1.json": b"{'label': 1}"}, "1.json is not JSON"),
        ({"1.png": PNG, "1.cls": 1, "2.png": PNG}, "1 of 2 samples have no label, such as sample 1"),
        ({"1.txt": "text"}, "no images in 1 shard;"),
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
        refused(path, "0.tar: damaged, or not a tar file")
    path.write_bytes(whole.rstrip(b"\0") + b"\0" * (-len(whole.rstrip(b"\0")) % 512))
    assert len(open_dataset(path)) == 4  # some writers leave out the blocks of zeros at the end
    path.write_bytes(gzip.compress(whole))
    refused(path, "0.tar: compressed by gzip; expected a plain tar file")


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


def test_every_dataset_can_be_sent_to_another_process(tmp_path: Path) -> None:
    """Where processes are not forked but started afresh."""
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8)))
    survives(write_pictures(tmp_path / "folder", "a/1.png", "b/2.png"))
    survives(write_tar(tmp_path / "0.tar", {"1.png": PNG, "1.cls": 1, "2.png": PNG, "2.cls": 0}))
    survives(tmp_path / "x.npy")


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
    refused(folder, "bird has no images (1 such)")
    assert len(open_dataset(folder, labels=False)) == 2
    np.save(folder / "x.npy", np.zeros((3, 2, 4)))
    np.save(folder / "x.labels.npy", np.array([None, {}]), allow_pickle=True)
    assert open_dataset(folder / "x.npy", labels=False).classes == ()
    refused(folder / "x.npy", "x.labels.npy: not an array")
