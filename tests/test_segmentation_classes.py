"""Names and colors of classes: files beside the data, and files that the user names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax.data import open_segmentation
from hierax.data.segmentation.class_tables import read_class_names, read_colors
from hierax.notices import Notice
from samples import picture

NAMES = {
    "classes.txt": "sky\nrose garden\n\nwall\n",
    "numbered.txt": "0: sky\n1: rose garden\n2: wall\n",
    "colors.txt": "0 0 0 sky\n1 2 3 rose garden\n9 9 9\twall\n",
    "last.txt": "sky 0 0 0\nrose garden 1 2 3\nwall 9 9 9\n",
    "names.csv": "name\nsky\nrose garden\nwall\n",
    "plain.csv": "sky,0,0,0\nrose garden,1,2,3\nwall,9,9,9\n",
    "class_dict.csv": "name,r,g,b\nsky,0,0,0\nrose garden,1,2,3\nwall,9,9,9\n",
    "_classes.csv": "Pixel Value, Class\n0, sky\n1, rose garden\n2, wall\n",
    "list.json": json.dumps(["sky", "rose garden", "wall"]),
    "id2label.json": json.dumps({"0": "sky", "2": "wall", "1": "rose garden"}),
    "label2id.json": json.dumps({"sky": 0, "wall": 2, "rose garden": 1}),
    "config.json": json.dumps({"id2label": {"0": "sky", "1": "rose garden", "2": "wall"}}),
    "meta.json": json.dumps({"classes": [{"title": "sky"}, {"title": "rose garden"}, {"title": "wall"}]}),
    "labelmap.txt": "# label:color_rgb:parts:actions\nsky:0,0,0::\nrose garden:1,2,3::\nwall:9,9,9::\n",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_classes_are_read_from_usual_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(NAMES[name])
    assert read_class_names(tmp_path / name) == ("sky", "rose garden", "wall")


COLORED = [name for name, text in NAMES.items() if "1,2,3" in text or "1 2 3" in text]


@pytest.mark.parametrize("name", COLORED)
def test_so_are_colors(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(NAMES[name])
    assert read_colors(tmp_path / name) == {"sky": (0, 0, 0), "rose garden": (1, 2, 3), "wall": (9, 9, 9)}


def test_json_states_colors_as_numbers_texts_or_gray_levels(tmp_path: Path) -> None:
    path = tmp_path / "colors.json"
    path.write_text(json.dumps({"sky": [0, 0, 0], "rose": "#ff0080"}))
    assert read_colors(path) == {"sky": (0, 0, 0), "rose": (255, 0, 128)}
    path.write_text(json.dumps({"sky": 0, "rose": 128}))
    assert read_colors(path) == {"sky": (0, 0, 0), "rose": (128, 128, 128)}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no names of classes; expected a name on each line"),
        ("sky\nsky\n", "the class 'sky' twice"),
        ("0: sky\n0: sea\n", "the number 0; expected each from 0 to 254 once"),
        ("\n".join(f"class {i}" for i in range(300)), "300 classes; expected at most 255"),
    ],
)
def test_names_that_cannot_be_are_refused_with_their_file(text: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path}: {error}"):
        read_class_names(path)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("x.txt", "sky\nsea\n", "no color for 'sky'; expected a line 'name,red,green,blue'"),
        ("x.csv", "sky,0,0,0\nsky,1,1,1\n", "'sky' twice"),
        ("x.csv", "name,r,g,b\nsky,0,0,300\n", "a color is"),
        ("x.csv", "a,b\n1,2\n", "the columns a, b; expected name"),
        ("x.json", "{", "not valid JSON"),
        ("x.json", "3", "expected a name on each line"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:0,0::\n", "'sky:0,0::'; expected name:red,green,blue"),
    ],
)
def test_colors_that_cannot_be_are_refused_with_their_file(name: str, text: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path}: .*{error}|{path}: {error}"):
        read_colors(path)


def write(folder: Path, values: object) -> Path:
    array = np.asarray(values, np.uint8)
    for name, image in (("images/a.jpg", picture(*array.shape[:2])), ("masks/a.png", Image.fromarray(array))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    return folder


def test_a_file_of_names_beside_the_data_is_used(tmp_path: Path) -> None:
    folder = write(tmp_path, [[0, 1]])
    (folder / "classes.txt").write_text("sky\nrose\nwall\n")
    assert open_segmentation(folder).classes == ("sky", "rose", "wall")
    (folder / "classes.txt").write_text("a.jpg\nb.jpg\n")  # a list of files is none of names
    assert open_segmentation(folder).classes == ("0", "1")


def test_names_without_the_background_are_an_error_that_says_what_may_be_meant(tmp_path: Path) -> None:
    folder = write(tmp_path, [[0, 1, 2]])
    (folder / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(
        ValueError, match=r"a.png: class 2, but there are 2 classes \(.*classes.txt\).*is the background, name"
    ):
        open_segmentation(folder)
    assert open_segmentation(folder, reduce_labels=True).classes == ("cat", "dog")


def test_given_names_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    """As those of a training set, for a validation set with its own table."""
    folder = write(tmp_path, [[0, 1]])
    (folder / "classes.txt").write_text("sky\nrose\n")
    data = open_segmentation(folder, classes=["wall", "rose", "sky"])
    assert data.sample(0).target.tolist() == [[2, 1]]  # type: ignore[union-attr]
    with pytest.warns(Notice, match=r"\(sky, rose\) are taken for Himmel, Rosen, by their numbers"):
        data = open_segmentation(folder, classes=["Himmel", "Rosen"])
    assert data.sample(0).target.tolist() == [[0, 1]]  # type: ignore[union-attr]


def test_a_label_map_of_cvat_is_all_that_its_export_needs(tmp_path: Path) -> None:
    for name in ("JPEGImages/a.jpg", "SegmentationClass/a.png", "ImageSets/Segmentation/default.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    picture(1, 2).save(tmp_path / "JPEGImages" / "a.jpg")
    Image.fromarray(np.array([[[0, 0, 0], [250, 50, 83]]], np.uint8)).save(tmp_path / "SegmentationClass" / "a.png")
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text("a\n")
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n")
    data = open_segmentation(tmp_path)
    assert data.classes == ("background", "cat")
    assert data.palette.tolist() == [[0, 0, 0], [250, 50, 83]]  # type: ignore[union-attr]
    assert data.sample(0).target.tolist() == [[0, 1]]  # type: ignore[union-attr]


def test_a_table_of_ade20k_counts_from_1(tmp_path: Path) -> None:
    folder = write(tmp_path, [[0, 1, 2]])
    (folder / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t.1\t1\t1\t1\twall\n2\t.1\t1\t1\t1\tsky\n"
    )
    with pytest.warns(Notice, match=r"objectInfo150.txt names classes from 1 on, so 0 is a class of its own"):
        assert open_segmentation(folder).classes == ("0", "wall", "sky")
    data = open_segmentation(folder, reduce_labels=True)
    assert data.classes == ("wall", "sky")
    assert data.sample(0).target.tolist() == [[255, 0, 1]]  # type: ignore[union-attr]


def test_a_file_of_names_or_colors_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, [[0, 1]])
    with pytest.raises(
        ValueError, match=r"classes is 'sky,sea', which is no file; expected a list of names, or a file"
    ):
        open_segmentation(folder, classes="sky,sea")
    with pytest.raises(ValueError, match=r"colors is 'lost.csv', which is no file; expected a color for each name"):
        open_segmentation(folder, colors="lost.csv")


def test_names_in_another_encoding_than_unicode_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    """Otherwise, the model could not be saved after training."""
    path = tmp_path / "classes.txt"
    path.write_text("Löwe\nTür\n", "utf-16")
    assert read_class_names(path) == ("Löwe", "Tür")
    path.write_bytes("Löwe\nTür\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes\.txt: not valid utf-8-sig text"):
        read_class_names(path)


def test_a_mask_in_color_that_is_all_gray_is_read_by_color(tmp_path: Path) -> None:
    """Such as the black part of a large mask: black is the last class here, not class 0."""
    (tmp_path / "label_colors.txt").write_text("64 128 64 animal\n128 128 128 sky\n0 0 0 other\n")
    for name, color in (("a", (64, 128, 64)), ("b", (0, 0, 0)), ("c", (128, 128, 128))):
        for folder, values in (("images", (9, 9, 9)), ("masks", color)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.new("RGB", (2, 2), values).save(tmp_path / folder / f"{name}.png")
    Image.new("L", (2, 2), 1).save(tmp_path / "masks" / "d.png")  # a mask of numbers
    Image.new("RGB", (2, 2), (1, 1, 1)).save(tmp_path / "masks" / "e.png")  # numbers, saved as RGB
    for name in ("d", "e"):
        Image.new("RGB", (2, 2)).save(tmp_path / "images" / f"{name}.png")
    data = open_segmentation(tmp_path)
    targets: list[Any] = [data.sample(n).target for n in range(5)]
    assert [np.unique(target).tolist() for target in targets] == [[0], [2], [1], [1], [1]]
