"""Annotations of Pascal VOC."""

from pathlib import Path

import pytest

from detection_sets import NAMES, drawn, voc_text, write_images, write_voc
from hierax.detection import open_detection, open_detection_splits
from hierax.detection.dataset import DetectionDataset
from hierax.notices import Notice

SORTED = tuple(sorted(NAMES))


def boxes(data: DetectionDataset) -> dict[str, list[tuple[list[float], str]]]:
    return {Path(i.path).stem: [(list(o.box), data.classes[o.label]) for o in i.objects] for i in data.images}


def expected(*numbers: int) -> dict[str, list[tuple[list[float], str]]]:
    return {str(n): [([float(v) for v in box], NAMES[label]) for box, label in drawn(n)[1]] for n in numbers}


def one_folder(folder: Path, count: int = 4) -> Path:
    write_images(folder, count)
    for number in range(count):
        (folder / f"{number}.xml").write_text(voc_text(number))
    return folder


def test_the_lists_of_image_sets_are_the_sets_and_boxes_are_those_that_were_drawn(tmp_path: Path) -> None:
    train, held = open_detection_splits(write_voc(tmp_path / "VOC2012"), fraction=0.0, seed=0)
    assert held is not None
    assert train.classes == held.classes == SORTED
    assert boxes(train) == expected(*range(6))
    assert boxes(held) == expected(6, 7, 8)


def test_of_2007_trainval_is_the_training_set(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "VOC2007")
    for name in ("train", "val"):
        (folder / "ImageSets" / "Main" / f"{name}.txt").unlink()
    assert boxes(open_detection(folder)) == expected(*range(9))


def test_files_beside_images_are_read_also_in_folders_of_sets(tmp_path: Path) -> None:
    assert boxes(open_detection(one_folder(tmp_path / "one"))) == expected(*range(4))
    one_folder(tmp_path / "two" / "train")
    one_folder(tmp_path / "two" / "valid", 2)
    train, held = open_detection_splits(tmp_path / "two", fraction=0.0, seed=0)
    assert held is not None
    assert (len(train), len(held)) == (4, 2)


def test_the_name_of_the_file_comes_before_the_stated_one(tmp_path: Path) -> None:
    folder = one_folder(tmp_path / "one")
    for number in (1, 2):  # as after renaming the files
        (folder / f"{number}.xml").write_text(voc_text(number).replace(f"{number}.png", "0.png"))
    assert boxes(open_detection(folder)) == expected(*range(4))
    (folder / "2.png").unlink()
    with pytest.raises(
        ValueError, match=r"2\.xml and .*0\.xml both are annotations of .*0\.png; expected one file for"
    ):
        open_detection(folder)


def test_corners_are_counted_from_0_if_one_of_them_is_0(tmp_path: Path) -> None:
    folder = one_folder(tmp_path)
    for number in range(4):
        (folder / f"{number}.xml").write_text(voc_text(number, first=0))
    corner = "<xmin>0</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax>"
    text = voc_text(0).replace(
        "</annotation>", f"<object><name>red</name><bndbox>{corner}</bndbox></object></annotation>"
    )
    (folder / "0.xml").write_text(text)
    found = boxes(open_detection(folder))
    assert found["0"] == [([0.0, 3.0, 20.0, 27.0], "red")]
    assert found["1"] == expected(1)["1"]


def test_an_image_is_found_without_its_stated_name(tmp_path: Path) -> None:
    folder = one_folder(tmp_path)
    file = folder / "1.xml"
    file.write_text(file.read_text().replace("1.png", "C:\\photos\\other.jpg"))
    assert boxes(open_detection(folder)) == expected(*range(4))


def test_an_image_that_is_missing_is_left_out_with_a_notice(tmp_path: Path) -> None:
    folder = one_folder(tmp_path)
    (folder / "1.png").unlink()
    with pytest.warns(Notice, match=r"1 of 4 images cannot be read and is left out, such as .*1\.png: no such file"):
        assert boxes(open_detection(folder)) == expected(0, 2, 3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", r"2\.xml: not an XML file \(.*\); expected <annotation> with <filename>"),
        ("annotation>", "html>", r"2\.xml: its root is <html>; expected <annotation>"),
        ("<name>red</name>", "", r"2\.xml: object 1 has no name"),
        ("<xmax>", "<right>", r"2\.xml: not an XML file"),
        ("<ymin>", "<ymin>a", r"2\.xml: object 1: ymin is 'a\d+'; expected a number of pixels"),
        ("<xmin>", "<xmin>999", r"2\.xml: object 1: xmin, ymin, xmax, ymax are .*; expected the smaller first"),
        ("<width>80", "<width>81", r"2\.png, is 80 x 60 pixels, but its width and height in the file are 81 x 60"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(old: str, new: str, message: str, tmp_path: Path) -> None:
    folder = one_folder(tmp_path)
    file = folder / "2.xml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        open_detection(folder)


def test_a_list_that_names_a_missing_file_is_an_error(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "set")
    (folder / "Annotations" / "3.xml").unlink()
    with pytest.raises(ValueError, match=r"train\.txt: 3 is in the list, but .*3\.xml does not exist"):
        open_detection(folder)


def test_masks_and_files_without_objects_are_errors(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "set")
    with pytest.raises(ValueError, match="annotations of Pascal VOC have boxes alone"):
        open_detection(folder, masks=True)
    one_folder(tmp_path / "empty", 1)
    with pytest.raises(ValueError, match="none of 1 XML files has an object"):
        open_detection(tmp_path / "empty")


@pytest.mark.parametrize("encoding", ["gb2312", "shift_jis", "utf-16", "latin-1"])
def test_files_are_read_in_the_encoding_that_they_state(encoding: str, tmp_path: Path) -> None:
    """The parser of Python does not know those with several bytes for a character by itself."""
    folder = one_folder(tmp_path, 2)
    text = voc_text(1).replace(f">{NAMES[0]}<", ">人<" if encoding != "latin-1" else ">é<")
    text = text.replace(f">{NAMES[1]}<", ">人<" if encoding != "latin-1" else ">é<")
    (folder / "1.xml").write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding))
    assert open_detection(folder).classes == ("é" if encoding == "latin-1" else "人",)


def test_an_unknown_encoding_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = one_folder(tmp_path, 2)
    (folder / "1.xml").write_text(f'<?xml version="1.0" encoding="nonsense"?>{voc_text(1)}')
    with pytest.raises(ValueError, match=r"1\.xml: not an XML file \(unknown encoding: nonsense\)"):
        open_detection(folder)


def test_names_in_a_list_may_have_spaces(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "set")
    for place, suffix in (("Annotations", "xml"), ("JPEGImages", "png")):
        (folder / place / f"2.{suffix}").rename(folder / place / f"my photo 2.{suffix}")
    lists = folder / "ImageSets" / "Main"
    (lists / "train.txt").write_text("0\n1 -1\n")
    (lists / "val.txt").write_text("my photo 2\n4 1\n")
    assert [Path(image.path).stem for image in open_detection(folder).images] == ["my photo 2", "4"]


def test_without_a_list_for_training_it_is_trained_on_what_is_not_for_validation(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "set")
    (folder / "ImageSets" / "Main" / "train.txt").unlink()
    train, val = open_detection_splits(folder, fraction=0.2, seed=0)
    assert val is not None
    assert ([Path(i.path).stem for i in train.images], [Path(i.path).stem for i in val.images]) == (
        ["0", "1", "2", "3", "4", "5"],
        ["6", "7", "8"],
    )
    (folder / "ImageSets" / "Main" / "trainval.txt").unlink()
    (folder / "ImageSets" / "Main" / "test.txt").write_text("2\n2008_000001\n")
    train, val = open_detection_splits(folder, fraction=0.2, seed=0)
    assert [Path(i.path).stem for i in train.images] == ["0", "1", "3", "4", "5"]
    assert val is not None
    assert [Path(i.path).stem for i in val.images] == ["6", "7", "8"]
