"""Annotated images: COCO files and YOLO folders, and the mistakes that are common in them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection_sets import IDS, NAMES, coco_values, drawn, one_file, polygon, write_coco, write_images, write_yolo
from hierax.data import open_segmentation
from hierax.detection import open_detection, open_detection_splits
from hierax.detection.dataset import DetectionDataset
from hierax.notices import Notice
from hierax.processing import ImageError


def splits(source: Path, **options: Any) -> tuple[DetectionDataset, DetectionDataset | None]:
    return open_detection_splits(source, **{"fraction": 0.0, "seed": 0, **options})


def annotation(place: int = 0, **changes: Any) -> dict[str, Any]:
    """A change of one annotation of a COCO file."""
    annotations = coco_values(4)["annotations"]
    annotations[place].update(changes)
    return {"annotations": annotations}


# -- COCO ------------------------------------------------------------------------------------------------------------


def test_a_coco_file_gives_images_boxes_and_classes(tmp_path: Path) -> None:
    found = open_detection(one_file(tmp_path))
    assert found.classes == NAMES
    assert found.category_ids == IDS
    for number, image in enumerate(found.images):
        expected = drawn(number)[1]
        assert [(list(o.box), o.label) for o in image.objects] == expected
        assert all(o.area == o.box[2] * o.box[3] and not o.crowd for o in image.objects)
        assert (image.width, image.height) == (80, 60)


def test_gaps_in_the_ids_of_categories_are_closed_and_remembered(tmp_path: Path) -> None:
    categories = [{"id": key, "name": str(key)} for key in (90, 1, 17, 3)]
    found = open_detection(one_file(tmp_path, categories=categories))
    assert found.classes == ("1", "3", "17", "90")
    assert found.category_ids == (1, 3, 17, 90)
    assert {o.label for image in found.images for o in image.objects} == {1, 2}


def test_images_without_annotations_stay(tmp_path: Path) -> None:
    found = open_detection(one_file(tmp_path))
    assert [len(image.objects) for image in found.images] == [0, 1, 2, 0]


def test_a_folder_of_coco_has_a_training_and_a_validation_set(tmp_path: Path) -> None:
    train, val = splits(write_coco(tmp_path / "set"))
    assert val is not None
    assert (len(train), len(val)) == (6, 3)
    assert {Path(image.path).parent.name for image in val.images} == {"val"}
    assert len(open_detection(tmp_path / "set")) == 3, "of two sets, the validation set is evaluated"


def test_exports_with_a_file_in_each_folder_are_found(tmp_path: Path) -> None:
    for name, first in (("train", 0), ("valid", 4)):
        write_images(tmp_path / name, 4, first=first)
        (tmp_path / name / "_annotations.coco.json").write_text(json.dumps(coco_values(4, first=first)))
    train, val = splits(tmp_path)
    assert val is not None
    assert [Path(image.path).name for image in val.images] == ["4.png", "5.png", "6.png", "7.png"]
    assert len(train) == 4


def test_files_of_coco_for_other_tasks_are_not_read(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "set")
    (source / "annotations" / "captions_train.json").write_text("{}")
    assert len(splits(source)[0]) == 6


def test_a_validation_set_is_drawn_by_image(tmp_path: Path) -> None:
    train, val = splits(one_file(tmp_path, count=10), fraction=0.2)
    assert val is not None
    assert (len(train), len(val)) == (8, 2)
    again = splits(tmp_path / "boxes.json", fraction=0.2)[1]
    assert again == val
    assert not {i.id for i in train.images} & {i.id for i in val.images}


def test_classes_of_the_validation_set_are_matched_by_name(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "set")
    file = source / "annotations" / "instances_val.json"
    other = [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}]
    changed = [{**a, "category_id": 1 if a["category_id"] == 17 else 2} for a in coco_values(3, first=6)["annotations"]]
    file.write_text(json.dumps(coco_values(3, first=6, categories=other, annotations=changed)))
    val = splits(source)[1]
    assert val is not None
    assert val.classes == NAMES
    assert [(list(o.box), o.label) for image in val.images for o in image.objects] == [
        found for number in range(6, 9) for found in drawn(number)[1]
    ]


def test_objects_of_a_class_that_training_lacks_are_refused(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "set")
    file = source / "annotations" / "instances_val.json"
    categories = [{"id": 3, "name": "red"}, {"id": 17, "name": "green"}]
    file.write_text(json.dumps(coco_values(3, first=6, categories=categories)))
    with pytest.raises(
        ValueError, match=r"validation does not fit the training set: .*'green', which is not among the"
    ):
        splits(source)


@pytest.mark.parametrize("name", ["images/{}", "/home/somebody/pictures/{}", "C:\\pictures\\{}", "../raw/{}"])
def test_images_are_found_by_their_names_without_the_folders_of_another_machine(name: str, tmp_path: Path) -> None:
    values = coco_values(4)
    for image in values["images"]:
        image["file_name"] = name.format(image["file_name"])
    write_images(tmp_path / "images", 4)
    (tmp_path / "boxes.json").write_text(json.dumps(values))
    assert [Path(i.path).name for i in open_detection(tmp_path / "boxes.json").images] == [f"{n}.png" for n in range(4)]


def test_images_of_one_name_in_several_folders_are_never_one_file(tmp_path: Path) -> None:
    values = coco_values(4)
    for camera, image in enumerate(values["images"]):
        image["file_name"] = f"camera{camera}/0.png"
    write_images(tmp_path / "images", 1)
    (tmp_path / "boxes.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"its images, such as camera0/0\.png, are not in"):
        open_detection(tmp_path / "boxes.json")
    with pytest.raises(ValueError, match="none of its 4 images is found"):
        open_segmentation(tmp_path / "boxes.json")
    for camera in (0, 2, 3):  # one camera is missing, and there is another image of this name
        (tmp_path / "images" / f"camera{camera}").mkdir()
        drawn(camera)[0].save(tmp_path / "images" / f"camera{camera}" / "0.png")
    with pytest.warns(Notice, match=r"1 of 4 images cannot be read and is left out, such as .*camera1"):
        data = open_detection(tmp_path / "boxes.json")
    assert [Path(image.path).parent.name for image in data.images] == ["camera0", "camera2", "camera3"]


def test_two_entries_of_one_file_are_refused(tmp_path: Path) -> None:
    values = coco_values(4)
    values["images"][3]["file_name"] = "1.png"
    with pytest.raises(ValueError, match=r"two images are the file .*1\.png, with the ids 1 and 3; expected one entry"):
        open_detection(one_file(tmp_path, **values))


def test_a_lone_set_that_is_not_for_training_is_told(tmp_path: Path) -> None:
    write_images(tmp_path / "set" / "valid", 4)
    (tmp_path / "set" / "valid" / "_annotations.coco.json").write_text(json.dumps(coco_values(4)))
    with pytest.warns(Notice, match="has no training set; its only set, valid, is trained on"):
        train, _ = open_detection_splits(tmp_path / "set", fraction=0, seed=0)
    assert len(train) == 4


def test_ids_that_are_texts_or_floats_are_whole_numbers(tmp_path: Path) -> None:
    values = coco_values(4)
    for image in values["images"]:
        image["id"] = str(image["id"])
    for found in values["annotations"]:
        found["image_id"] = float(found["image_id"])
    assert open_detection(one_file(tmp_path, **values)).objects == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "images is a NoneType, not a list; expected a COCO file with images, annotations and"),
        ({"annotations": {}}, "annotations is a dict, not a list"),
        ({"annotations": [3]}, r"annotations\[0\] is 3; expected an object"),
        ({"images": []}, "images is empty; expected at least one image"),
        ({"categories": []}, "categories is empty; expected at least one category"),
        ({"categories": [{"id": 3}]}, r"categories\[0\]: name is None; expected a text"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}, "two categories have the id 3, 'a' and 'b'"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 17, "name": "a"}]}, "two categories have the name 'a'"),
        ({"categories": [{"id": True, "name": "a"}]}, r"categories\[0\]: id is True; expected a whole number"),
        ({"images": [{"id": 0, "file_name": "0.png"}] * 2}, "two images have the id 0, 0.png and 0.png; expected one"),
        ({"images": [{"id": 0}]}, r"images\[0\]: file_name is None; expected the name of a file"),
        (annotation(image_id=99), r"annotations\[0\] \(id 0\): image_id is 99, but no image has this id"),
        (annotation(category_id=0), "category_id is 0, but no category has this id; there are 3, 17"),
        (annotation(bbox=[1, 2, 3]), r"bbox is \[1, 2, 3\]; expected \[x, y, width, height\] in pixels"),
        (annotation(bbox=[1, 2, 3, float("nan")]), r"bbox is \[1, 2, 3, nan\]"),
        (annotation(bbox=[1, 2, -3, 4]), "with no negative size"),
        (annotation(bbox=None), "bbox is None"),
        (annotation(bbox=[10**400, 1, 1, 1]), r"annotations\[0\] \(id 0\): bbox is \[1000"),
        (annotation(image_id="7" * 5000), "image_id is '777"),
        (annotation(iscrowd="yes"), "iscrowd is 'yes'; expected 0 or 1"),
    ],
)
def test_what_is_wrong_with_a_coco_file_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = one_file(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as raised:
        open_detection(file)
    assert str(raised.value).startswith(str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "a list, as results have it; expected a COCO file"),
        ("3", "its content is of the type int"),
        ("{}", "images is missing"),
        ("[" * 100_000, "not a JSON file"),
    ],
)
def test_a_file_that_is_not_coco_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_detection(tmp_path / "boxes.json")


# -- boxes -----------------------------------------------------------------------------------------------------------


def test_boxes_outside_of_the_image_are_cut_with_a_notice(tmp_path: Path) -> None:
    file = one_file(tmp_path, **annotation(bbox=[-10, 20, 30, 100]))
    with pytest.warns(Notice, match=r"1 box reaches outside of the image and is cut at its edges, first in .*1\.png"):
        found = open_detection(file)
    image = found.images[1]
    assert image.objects[0].box == (-10, 20, 30, 100), "evaluation compares with what the file states"
    assert image.objects[0].inside(image.width, image.height) == (0, 20, 20, 40)


@pytest.mark.parametrize("box", [[5, 5, 0, 10], [5, 5, 10, 0], [80, 10, 5, 5], [-9, 3, 9, 5]])
def test_boxes_without_area_are_not_learned_and_counted(box: list[int], tmp_path: Path) -> None:
    file = one_file(tmp_path, **annotation(bbox=box))
    with pytest.warns(Notice, match="1 box has no area inside of the image and is not used for training"):
        found = open_detection(file)
    image = found.images[1]
    assert image.objects[0].inside(image.width, image.height) is None


def test_boxes_that_a_tool_has_rounded_give_no_notice(tmp_path: Path) -> None:
    file = one_file(tmp_path, **annotation(bbox=[-0.4, 0, 80.6, 60.3]))
    assert open_detection(file).images[1].objects[0].inside(80, 60) == (0, 0, 80, 60)


def test_boxes_that_are_two_corners_are_refused(tmp_path: Path) -> None:
    values = coco_values(12)
    for found in values["annotations"]:
        x, y, w, h = found["bbox"]
        found["bbox"] = [x, y, x + w, y + h]
    with pytest.raises(ValueError, match="boxes reach outside of their images, and all fit as two corners x1, y1, x2"):
        open_detection(one_file(tmp_path, count=12, **values))


def test_boxes_that_are_relative_are_refused(tmp_path: Path) -> None:
    values = coco_values(4)
    for found in values["annotations"]:
        x, y, w, h = found["bbox"]
        found["bbox"] = [x / 80, y / 60, w / 80, h / 60]
    with pytest.raises(
        ValueError, match=r"all boxes lie between 0 and 1, .* COCO states x, y, width, height in pixels"
    ):
        open_detection(one_file(tmp_path, **values))


def test_crowds_are_not_objects_to_learn(tmp_path: Path) -> None:
    found = open_detection(one_file(tmp_path, **annotation(iscrowd=1)))
    assert found.objects == 2
    crowd = one_file(tmp_path / "only", annotations=[{**a, "iscrowd": 1} for a in coco_values(4)["annotations"]])
    with pytest.raises(ValueError, match=r"no objects to learn \(crowds are not learned\)"):
        splits(crowd)


def test_a_missing_area_is_that_of_the_box(tmp_path: Path) -> None:
    found = open_detection(one_file(tmp_path, **annotation(bbox=[1, 2, 30, 4], area=None)))
    assert found.images[1].objects[0].area == 120


# -- images ----------------------------------------------------------------------------------------------------------


def _turned(path: Path) -> None:
    """Stores an image lying on its side, with the EXIF tag that turns it upright."""
    with Image.open(path) as image:
        stored = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(path, exif=exif)


def test_annotations_of_upright_images_belong_to_upright_pixels(tmp_path: Path) -> None:
    file = one_file(tmp_path)
    before = np.asarray(open_detection(file).images[1].load())
    _turned(tmp_path / "1.png")
    image = open_detection(file).images[1]
    assert (image.width, image.height, image.as_stored) == (80, 60, False)
    np.testing.assert_array_equal(np.asarray(image.load()), before)


def test_annotations_of_stored_pixels_belong_to_these(tmp_path: Path) -> None:
    """The photo has an EXIF rotation, and the tool that made the annotations did not apply it."""
    values = coco_values(4)
    values["images"][1].update(width=60, height=80)
    file = one_file(tmp_path, **values)
    _turned(tmp_path / "1.png")
    with pytest.warns(
        Notice, match=r"1 image with an EXIF rotation that the annotations do not follow, such as .*1\.png"
    ):
        image = open_detection(file).images[1]
    assert (image.width, image.height, image.as_stored) == (60, 80, True)
    assert image.load().size == (60, 80)


def test_a_turned_tiff_has_the_size_of_its_upright_pixels(tmp_path: Path) -> None:
    """Pillow states the upright size of a TIFF file, and that of other files as it is stored."""
    source = write_yolo(tmp_path, train=3, val=2)
    plain = open_detection(source).images[1]
    pixels = np.asarray(plain.load())
    for path in (source / "images" / "val").iterdir():
        with Image.open(path) as image:
            stored = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6
        stored.save(path.with_suffix(".tif"), exif=exif)
        path.unlink()
    image = open_detection(source).images[1]
    assert (image.width, image.height, image.objects) == (plain.width, plain.height, plain.objects)
    np.testing.assert_array_equal(np.asarray(image.load()), pixels)


def test_an_image_that_has_changed_its_size_is_not_read(tmp_path: Path) -> None:
    image = open_detection(one_file(tmp_path)).images[1]
    Image.new("RGB", (60, 80)).save(image.path)
    with pytest.raises(ImageError, match="has 60 x 80 pixels; its annotations are for 80 x 60"):
        image.load()


@pytest.mark.parametrize("visible", [0, 1])
def test_key_points_of_poses_are_not_polygons(visible: int, tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "set")
    expected = [image.objects for image in open_detection(source).images]
    for file in (source / "labels").rglob("*.txt"):
        points = " 0.45 0.45 2 0.55 0.55 1" if visible else " 0.45 0.45 0.55 0.55"
        file.write_text("".join(f"{line}{points}\n" for line in file.read_text().splitlines() if line))
    description = (source / "data.yaml").read_text()
    (source / "data.yaml").write_text(f"{description}kpt_shape: [2, {2 + visible}]\n")
    assert [image.objects for image in open_detection(source).images] == expected
    with pytest.raises(ValueError, match="a box; instances need polygons"):
        open_detection(source, masks=True)
    (source / "data.yaml").write_text(f"{description}kpt_shape: 17\n")
    with pytest.raises(ValueError, match="kpt_shape is 17; expected the number of key points and of values of each"):
        open_detection(source)


def test_an_image_of_another_size_than_the_annotated_one_is_refused(tmp_path: Path) -> None:
    values = coco_values(4)
    values["images"][2].update(width=160, height=120)
    with pytest.raises(ValueError, match=r"image 2, .*2\.png, is 80 x 60 pixels, but .* in the file are 160 x 120"):
        open_detection(one_file(tmp_path, **values))


def test_a_size_that_is_not_stated_is_that_of_the_image(tmp_path: Path) -> None:
    values = coco_values(4)
    for image in values["images"]:
        del image["width"], image["height"]
    assert open_detection(one_file(tmp_path, **values)).images[0].width == 80


def test_images_that_are_missing_or_damaged_are_left_out_with_a_notice(tmp_path: Path) -> None:
    file = one_file(tmp_path)
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.warns(Notice, match=r"2 of 4 images cannot be read and are left out, such as .*1\.png: no such file"):
        found = open_detection(file)
    assert [image.id for image in found.images] == [0, 3]
    assert len(found.unreadable) == 2


def test_where_images_were_looked_for_is_said(tmp_path: Path) -> None:
    file = tmp_path / "set" / "boxes.json"
    file.parent.mkdir()
    file.write_text(json.dumps(coco_values(2)))
    with pytest.raises(ValueError, match=r"its images, such as 0\.png, are not in .*set, "):
        open_detection(file)


# -- masks -----------------------------------------------------------------------------------------------------------


def test_polygons_are_kept_for_instances_alone(tmp_path: Path) -> None:
    file = one_file(tmp_path)
    assert not open_detection(file).has_masks
    kept = open_detection(file, masks=True).images[1].objects[0]
    assert kept.segmentation == [polygon(drawn(1)[1][0][0])]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon has 7 numbers; expected x and y of each point, an even number"),
        ([["a"]], r"segmentation is \[\['a'\]\]; expected polygons"),
        ("mask.png", "segmentation is 'mask.png'; expected polygons"),
        ({"size": [60, 80], "counts": [1, 2]}, "the counts of the segmentation have 3 pixels; expected 60 x 80"),
        ({"size": [60], "counts": "abc"}, r"the segmentation has size \[60\] and counts 'abc'"),
        ({"size": [80, 60], "counts": [4800]}, r"has the size \[80, 60\]; expected \[height, width\] of the image"),
        ({"size": [60, 80], "counts": "abc"}, r"a mask of image 1, .*1\.png, has damaged run lengths \(RLE string is"),
        ({"size": [60, 80], "counts": "0"}, r"1\.png, has damaged run lengths \(.* expected 4800"),
        ([[0, 0, 1e12, 0, 9, 9]], r"1\.png, has a point at 1e\+12; expected pixels of the image, which has 80 x 60"),
    ],
)
def test_what_is_wrong_with_a_mask_is_named(segmentation: Any, message: str, tmp_path: Path) -> None:
    file = one_file(tmp_path, **annotation(segmentation=segmentation))
    with pytest.raises(ValueError, match=message):
        open_detection(file, masks=True)
    open_detection(file)  # boxes need no masks


def test_objects_without_a_mask_are_left_out_of_instances(tmp_path: Path) -> None:
    file = one_file(tmp_path, **annotation(segmentation=[]))
    with pytest.warns(
        Notice, match=r"1 of 3 annotations have no segmentation and are left out, such as annotations\[0"
    ):
        assert open_detection(file, masks=True).objects == 2
    none = one_file(tmp_path / "b", annotations=[{**a, "segmentation": []} for a in coco_values(4)["annotations"]])
    with pytest.raises(ValueError, match=r"no annotation has a segmentation; .*--task detect needs none"):
        open_detection(none, masks=True)


# -- YOLO ------------------------------------------------------------------------------------------------------------


def test_a_yolo_folder_gives_the_same_as_a_coco_file(tmp_path: Path) -> None:
    ours, theirs = splits(write_yolo(tmp_path / "yolo")), splits(write_coco(tmp_path / "coco"))
    for yolo, coco in zip(ours, theirs, strict=True):
        assert yolo is not None
        assert coco is not None
        assert yolo.classes == coco.classes
        for one, other in zip(yolo.images, coco.images, strict=True):
            assert (one.width, one.height) == (other.width, other.height)
            assert [o.label for o in one.objects] == [o.label for o in other.objects]
            np.testing.assert_allclose(
                [o.box for o in one.objects], [o.box for o in other.objects], atol=1e-3, err_msg=one.path
            )
    assert len(open_detection(tmp_path / "yolo" / "data.yaml")) == 3


def test_yolo_folders_without_a_description_are_found(tmp_path: Path) -> None:
    source = write_yolo(tmp_path)
    (source / "data.yaml").unlink()
    (source / "classes.txt").write_text("red\nblue\n")
    train, val = splits(source)
    assert val is not None
    assert (train.classes, len(train), len(val)) == (NAMES, 6, 3)
    (source / "classes.txt").unlink()
    with pytest.warns(Notice, match=r"no names of classes \(data.yaml or classes.txt\); their numbers are used"):
        assert splits(source)[0].classes == ("0", "1")


def test_exports_with_images_and_labels_in_each_set_are_found(tmp_path: Path) -> None:
    flat = write_yolo(tmp_path / "flat")
    for name in ("train", "val"):
        for kind in ("images", "labels"):
            shutil.copytree(flat / kind / name, tmp_path / "export" / name / kind)
    text = "train: ../train/images\nval: ../val/images\nnc: 2\nnames: ['red', 'blue']\n"
    (tmp_path / "export" / "data.yaml").write_text(text)
    train, val = splits(tmp_path / "export")
    assert val is not None
    assert (len(train), len(val), train.classes) == (6, 3, NAMES)
    shutil.copytree(tmp_path / "export" / "train", tmp_path / "train")  # of another data set beside this one
    assert Path(splits(tmp_path / "export")[0].images[0].path).is_relative_to(tmp_path / "export")


def test_lines_with_points_are_polygons(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, polygons=True)
    found = splits(source)[0].images[1].objects[0]
    box = drawn(1)[1][0][0]
    np.testing.assert_allclose(found.box, box, atol=1e-3)
    assert found.area == pytest.approx(box[2] * box[3], rel=1e-3)
    kept = splits(source, masks=True)[0].images[1].objects[0]
    np.testing.assert_allclose(kept.segmentation, [polygon(box)], atol=1e-3)


def test_images_without_a_label_file_are_background(tmp_path: Path) -> None:
    source = write_yolo(tmp_path)
    (source / "labels" / "train" / "1.txt").unlink()
    with pytest.warns(Notice, match="1 of 6 images without a label file, which are used as background"):
        train = splits(source)[0]
    assert train.images[1].objects == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", r"4 numbers; expected class x y width height, or class and the points x y of a polygon"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 numbers, as predictions with a score have them"),
        ("2 0.5 0.5 0.1 0.1", "class 2, but there are 2 names; expected 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "'0.5 0.5 0.5 0.1 0.1'; expected class"),
        ("-1 0.5 0.5 0.1 0.1", "'-1 0.5 0.5 0.1 0.1'; expected class"),
        ("red 0.5 0.5 0.1 0.1", "'red 0.5 0.5 0.1 0.1' is not a line of numbers"),
        ("0 320 240 64 64", "320 is far above 1, so it seems to be in pixels"),
        ("0 0.5 1.5 0.1 0.1", "the center of the box is at 0.5 1.5; expected numbers from 0 to 1"),
        ("0 0.5 0.5 -0.1 0.1", "a box of negative size, -0.1 x 0.1"),
        ("0 0.5 nan 0.1 0.1", "expected class"),
    ],
)
def test_what_is_wrong_with_a_label_file_is_named(line: str, message: str, tmp_path: Path) -> None:
    source = write_yolo(tmp_path)
    file = source / "labels" / "train" / "1.txt"
    file.write_text(f"0 0.5 0.5 0.1 0.1\n\n{line}\n")
    with pytest.raises(ValueError, match=message) as raised:
        splits(source)
    assert str(raised.value).startswith(f"{file}:3: ")


def test_boxes_alone_are_no_instances(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a box; instances need polygons"):
        splits(write_yolo(tmp_path), masks=True)


def test_a_line_that_stands_twice_counts_once(tmp_path: Path) -> None:
    source = write_yolo(tmp_path)
    file = source / "labels" / "train" / "1.txt"
    file.write_text(file.read_text() * 2)
    assert len(splits(source)[0].images[1].objects) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a, b]\n", "train is missing"),
        ("names: [a, b]\ntrain: nowhere\n", "train names nowhere, which does not exist"),
        ("names: [a, a]\ntrain: images/train\n", "two classes have the name 'a'"),
        ("names: {0: a, 2: b}\ntrain: images/train\n", "expected 0, 1, 2, … without gaps"),
        ("names: {0: a, b: c}\ntrain: images/train\n", "the numbers in names are 0, b; expected 0, 1, 2, … without"),
        ("names: [a, b]\nnc: 3\ntrain: images/train\n", "nc is 3, but there are 2 names"),
        ("names: 2\ntrain: images/train\n", "names is 2; expected the names of the classes"),
        ("names: [a\n", "not a YAML file"),
    ],
)
def test_what_is_wrong_with_a_description_is_named(text: str, message: str, tmp_path: Path) -> None:
    source = write_yolo(tmp_path)
    (source / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        splits(source)


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("names: [yes, no]\n", ("yes", "no")),
        ("names: {0: on, 1: 1.50}\nnc: 2\n", ("on", "1.50")),
        ("names: {'1': b, '0': a}\n", ("a", "b")),
    ],
)
def test_names_in_a_description_are_texts(text: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    """YAML takes some of them for numbers or for true and false."""
    source = write_yolo(tmp_path)
    (source / "data.yaml").write_text(f"train: images/train\nval: images/val\n{text}")
    assert open_detection(source).classes == classes


def test_names_in_another_encoding_than_unicode_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    source = write_yolo(tmp_path)
    (source / "data.yaml").unlink()
    names = source / "classes.txt"
    names.write_text("Löwe\nTür\n", "utf-16")
    assert open_detection(source).classes == ("Löwe", "Tür")
    names.write_bytes("Löwe\nTür\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes\.txt: not valid utf-8-sig text"):
        open_detection(source)


def test_a_list_of_images_may_hold_any_names_of_files(tmp_path: Path) -> None:
    source = write_yolo(tmp_path)
    (source / "val.txt").write_bytes("images/val/7.png\nimages/val/T\xfcr.png\n".encode("latin-1"))
    (source / "data.yaml").write_text("train: images/train\nval: val.txt\nnames: [a, b]\n")
    with pytest.warns(Notice, match="1 of 2 images cannot be read and is left out"):
        assert [Path(image.path).name for image in open_detection(source).images] == ["7.png"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("10000000000000 .5 .5 .5 .5", "class 10000000000000, and no names of classes; expected numbers below 100,000"),
        ("0 .5 .5 -7 .5 .9 .9", "-7 is far below 0; expected class x y width height"),
    ],
)
def test_absurd_numbers_in_a_label_file_are_refused(line: str, message: str, tmp_path: Path) -> None:
    source = write_yolo(tmp_path)
    (source / "data.yaml").unlink()
    file = source / "labels" / "val" / "7.txt"
    file.write_text(f"{line}\n")
    with pytest.raises(ValueError, match=rf"7\.txt:1: {message}"):
        open_detection(source)


# -- sources ---------------------------------------------------------------------------------------------------------


def test_sources_without_boxes_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 2)
    for source, message in (
        (tmp_path / "photos", "no annotations of boxes in this folder; expected a COCO file"),
        (tmp_path / "nowhere", "no such file or folder"),
        (tmp_path / "photos" / "0.png", "not a COCO file"),
        (tmp_path / "boxes.csv", "this kind of data has no boxes that are read"),
    ):
        with pytest.raises(ValueError, match=message):
            open_detection(source)


def test_several_files_without_a_training_set_are_refused(tmp_path: Path) -> None:
    for name in ("monday", "tuesday"):
        (tmp_path / f"{name}.json").write_text(json.dumps(coco_values(2)))
    with pytest.raises(ValueError, match=r"holds 2 JSON files, monday.json, tuesday.json; expected one COCO file, or"):
        open_detection(tmp_path)
