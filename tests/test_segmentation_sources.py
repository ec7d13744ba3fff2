"""Data sets, lists, tables and COCO files as images whose pixels have classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax.data import open_dataset, open_segmentation, open_segmentation_splits
from hierax.data.segmentation.polygons import area_of, draw_outline, fill_polygon, read_runs
from hierax.notices import Notice
from samples import encoded, picture, write_parquet, write_pictures, write_tar

VALUES = [[0, 1], [2, 1]]


def save(folder: Path, name: str, values: Any = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture(2, 2) if values is None else Image.fromarray(np.asarray(values, np.uint8))).save(path)
    return path


def target(data: Any, index: int = 0) -> Any:
    return data.sample(index).target.tolist()


def names(data: Any) -> list[str]:
    return [Path(data.sample(i).name).name for i in range(len(data))]


# -- published layouts ------------------------------------------------------------------------------------------------


def test_pascal_voc_takes_the_names_of_its_lists(tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for stem in ("2007_1", "2007_2", "2007_3", "without"):
        save(base, f"JPEGImages/{stem}.jpg")
    for stem in ("2007_1", "2007_2", "2007_3"):
        save(base, f"SegmentationClass/{stem}.png", VALUES)
        save(base, f"SegmentationObject/{stem}.png", VALUES)
    (base / "Annotations").mkdir()
    (base / "Annotations" / "2007_1.xml").write_text("<annotation/>")
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_3\n2007_1\n")
    (lists / "val.txt").write_text("2007_2\n")
    (lists / "trainval.txt").write_text("2007_1\n2007_2\n2007_3\n")
    train, validation = open_segmentation_splits(tmp_path, fraction=0.5, seed=0)
    assert (names(train), names(validation)) == (["2007_3.jpg", "2007_1.jpg"], ["2007_2.jpg"])
    assert target(train) == VALUES
    (lists / "val.txt").write_text("2007_2\nwithout\n")
    with pytest.raises(ValueError, match=r"val.txt: no mask in .*SegmentationClass for 1 of 2 names, such as without"):
        open_segmentation_splits(tmp_path, fraction=0, seed=0)


def test_folders_beside_those_of_training_and_validation_are_left_out(tmp_path: Path) -> None:
    """Otherwise all of them would be one set, and images to validate on would be trained on."""
    for split in ("train", "val", "train_extra"):
        save(tmp_path, f"images/{split}/{split}.jpg")
        save(tmp_path, f"masks/{split}/{split}.png", VALUES)
    with pytest.warns(Notice, match="train_extra left out, beside train, val"):
        train, validation = open_segmentation_splits(tmp_path, fraction=0.5, seed=0)
    assert (names(train), names(validation)) == (["train.jpg"], ["val.jpg"])
    for parent in ("images", "masks"):  # kinds of vehicles, not sets
        (tmp_path / parent / "val").rename(tmp_path / parent / "bus")
    assert len(open_segmentation(tmp_path)) == 3


def cityscapes(folder: Path, *kinds: str) -> None:
    for split, city in (("train", "aachen"), ("val", "bochum")):
        save(folder, f"leftImg8bit/{split}/{city}/{city}_0_leftImg8bit.png")
        for kind in (*kinds, "color", "instanceIds"):
            values = [[0, 18], [255, 1]] if kind == "labelTrainIds" else [[7, 33], [1, 8]]
            save(folder, f"gtFine/{split}/{city}/{city}_0_gtFine_{kind}.png", values)


@pytest.mark.parametrize("kinds", [("labelIds", "labelTrainIds"), ("labelIds",)])
def test_cityscapes_has_its_19_classes_whichever_masks_there_are(kinds: tuple[str, ...], tmp_path: Path) -> None:
    cityscapes(tmp_path, *kinds)
    if len(kinds) == 1:
        with pytest.warns(Notice, match="_labelIds of Cityscapes are read as its 19 classes"):
            train, validation = open_segmentation_splits(tmp_path, fraction=0, seed=0)
    else:
        train, validation = open_segmentation_splits(tmp_path, fraction=0, seed=0)
    assert validation is not None
    assert (len(train), len(validation), len(train.classes)) == (1, 1, 19)
    assert (train.classes[0], train.classes[18]) == ("road", "bicycle")
    assert target(train) == [[0, 18], [255, 1]]
    assert train.palette[0].tolist() == [128, 64, 128]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("image", "mask"), [("{}.jpg", "{}_mask.png"), ("{}.jpg", "{}.png"), ("{}.png", "{}_L.png")])
def test_images_and_masks_may_lie_side_by_side(image: str, mask: str, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        for name in ("a", "b"):
            save(tmp_path / split, image.format(name))
            save(tmp_path / split, mask.format(name), VALUES)
    train, validation = open_segmentation_splits(tmp_path, fraction=0, seed=0)
    assert (len(train), len(validation or ())) == (2, 2)
    assert names(train) == [image.format(name) for name in ("a", "b")]
    assert len(open_segmentation(tmp_path / "train")) == 2


# -- lists ------------------------------------------------------------------------------------------------------------


def pairs(folder: Path, *names: str) -> None:
    for name in names:
        save(folder, f"photos here/{name}.jpg")
        save(folder, f"annotated/{name}_x.png", VALUES)


LISTS = {
    "list.csv": "image,mask\nphotos here/a.jpg,annotated/a_x.png\nphotos here/b.jpg,annotated/b_x.png\n",
    "semicolons.csv": "file;label\nphotos here/a.jpg;annotated/a_x.png\nphotos here/b.jpg;annotated/b_x.png\n",
    "list.tsv": "path\tsegmentation\nphotos here/a.jpg\tannotated/a_x.png\nphotos here/b.jpg\tannotated/b_x.png\n",
    "plain.txt": "photos here/a.jpg annotated/a_x.png\n/photos here/b.jpg /annotated/b_x.png\n",
    "plain.csv": "photos here/a.jpg,annotated/a_x.png\nphotos here/b.jpg,annotated/b_x.png\n",
    "list.jsonl": '{"file_name": "photos here/a.jpg", "mask_file_name": "annotated/a_x.png"}\n'
    '{"file_name": "photos here/b.jpg", "mask_file_name": "annotated/b_x.png"}\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_have_an_image_and_its_mask_in_each_row(name: str, tmp_path: Path) -> None:
    pairs(tmp_path, "a", "b")
    (tmp_path / name).write_text(LISTS[name])
    data = open_segmentation(tmp_path / name)
    assert names(data) == ["a.jpg", "b.jpg"]
    assert target(data, 1) == VALUES


def test_a_folder_with_a_list_named_metadata_is_that_list(tmp_path: Path) -> None:
    pairs(tmp_path, "a", "b")
    (tmp_path / "metadata.jsonl").write_text(LISTS["list.jsonl"])
    assert len(open_segmentation(tmp_path)) == 2


def test_a_column_may_name_the_split(tmp_path: Path) -> None:
    pairs(tmp_path, "a", "b")
    rows = LISTS["list.csv"].replace("mask\n", "mask,split\n").replace("a_x.png\n", "a_x.png,train\n")
    (tmp_path / "list.csv").write_text(rows.replace("b_x.png\n", "b_x.png,val\n"))
    train, validation = open_segmentation_splits(tmp_path / "list.csv", fraction=0, seed=0)
    assert (names(train), names(validation)) == (["a.jpg"], ["b.jpg"])
    assert names(open_segmentation(tmp_path / "list.csv", split="val")) == ["b.jpg"]


def test_other_names_of_columns_are_stated(tmp_path: Path) -> None:
    pairs(tmp_path, "a")
    (tmp_path / "list.csv").write_text("foto,maske\nphotos here/a.jpg,annotated/a_x.png\n")
    for columns in ({"path": "foto", "mask": "maske"}, {"path": "foto", "label": "maske"}):
        assert len(open_segmentation(tmp_path / "list.csv", columns=columns)) == 1
    with pytest.raises(ValueError, match="no column of images among foto, maske; expected one called image"):
        open_segmentation(tmp_path / "list.csv")
    with pytest.raises(ValueError, match="no column 'x'; there are: foto, maske"):
        open_segmentation(tmp_path / "list.csv", columns={"path": "x"})
    with pytest.raises(ValueError, match="columns names 'start'; expected one of path, mask, split"):
        open_segmentation(tmp_path / "list.csv", columns={"start": "foto"})
    save(tmp_path, "images/a.jpg")
    save(tmp_path, "masks/a.png", VALUES)
    with pytest.raises(ValueError, match="columns names path, but only lists and tables have columns"):
        open_segmentation(tmp_path, columns={"path": "foto"})


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ("image,width\na.jpg,3\n", "no column of masks among image, width; expected one called mask"),
        ("image,mask\na.jpg,a.png\na.jpg,b.png\n", "line 3: .*b.png is another mask of .*a.jpg, beside .*a.png"),
        ("a.jpg b.png\nc.jpg\n", "line 2: 'c.jpg'; expected an image and its mask"),
    ],
)
def test_lists_that_cannot_be_are_refused_with_their_line(rows: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(rows)
    with pytest.raises(ValueError, match=rf"list.csv[:,] {error}"):
        open_segmentation(tmp_path / "list.csv")


def test_rows_without_a_mask_are_counted(tmp_path: Path) -> None:
    pairs(tmp_path, "a", "b")
    (tmp_path / "list.csv").write_text(LISTS["list.csv"].replace("annotated/b_x.png", ""))
    with pytest.warns(Notice, match=r"list.csv: 1 of 2 rows without mask, which are not used"):
        assert names(open_segmentation(tmp_path / "list.csv")) == ["a.jpg"]
    (tmp_path / "list.csv").write_text("image,mask\na.jpg,\n")
    with pytest.raises(ValueError, match=r"list.csv: no row has a mask"):
        open_segmentation(tmp_path / "list.csv")


# -- tables -----------------------------------------------------------------------------------------------------------


def table(path: Path, column: str = "label", **options: Any) -> Path:
    import datasets

    mask = Image.frombytes("P", (2, 2), bytes([0, 1, 2, 255]))
    mask.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0] + [9] * 759)
    cells = [{"bytes": encoded(one), "path": None} for one in (picture(2, 2), mask)]
    features = {"image": datasets.Image(), column: datasets.Image()}
    write_parquet(path, {"image": [cells[0]] * 3, column: [cells[1]] * 3}, features)
    return path


@pytest.mark.parametrize("column", ["label", "annotation", "mask", "segmentation_mask"])
def test_tables_keep_the_indices_of_palettes(column: str, tmp_path: Path) -> None:
    path = table(tmp_path / "train-0.parquet", column)
    data = open_segmentation(path)
    assert (len(data), target(data)) == (3, [[0, 1], [2, 255]])
    assert data.sample(1).name == f"{path}[1]"
    assert data.palette.tolist() == [[0, 0, 0], [200, 0, 0], [0, 200, 0]]  # type: ignore[union-attr]


def test_names_of_classes_are_beside_tables(tmp_path: Path) -> None:
    table(tmp_path / "train-0.parquet")
    table(tmp_path / "validation-0.parquet")
    (tmp_path / "id2label.json").write_text(json.dumps({"0": "sky", "1": "sea", "2": "land"}))
    train, validation = open_segmentation_splits(tmp_path, fraction=0, seed=0)
    assert validation is not None
    assert train.classes == validation.classes == ("sky", "sea", "land")


def test_a_table_whose_labels_are_no_masks_says_so(tmp_path: Path) -> None:
    cell = {"bytes": encoded(picture()), "path": None}
    write_parquet(tmp_path / "x.parquet", {"image": [cell], "label": [3]})
    with pytest.raises(ValueError, match="the column label holds int64; expected images, the masks"):
        open_segmentation(tmp_path / "x.parquet")
    write_parquet(tmp_path / "x.parquet", {"image": [cell], "other": [3]})
    with pytest.raises(ValueError, match="no column of masks among image, other; expected one called mask, label"):
        open_segmentation(tmp_path / "x.parquet")


# -- COCO -------------------------------------------------------------------------------------------------------------


def coco(path: Path, *annotations: dict[str, Any], **changes: Any) -> Path:
    content = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "height": 8, "width": 10},
            {"id": 9, "file_name": "b.jpg", "height": 8, "width": 10},
        ],
        "annotations": list(annotations),
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}],  # ids with gaps
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def square(x: float, y: float, side: float, category: int = 3, image: int = 7) -> dict[str, Any]:
    points = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {"id": 1, "image_id": image, "category_id": category, "segmentation": [points], "iscrowd": 0}


def coco_photos(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a", "b"):
        picture(8, 10).save(folder / f"{name}.jpg")


def test_polygons_are_masks_with_smaller_objects_on_top_and_gaps_closed(tmp_path: Path) -> None:
    coco_photos(tmp_path / "val2017")
    path = coco(
        tmp_path / "annotations" / "instances_val2017.json",
        square(2, 2, 2, 90),
        square(1, 1, 5, 3),
        square(0, 0, 3, 3, 9),
    )
    data = open_segmentation(path)
    assert data.classes == ("background", "cat", "dog")
    expected = np.zeros((8, 10), int)
    expected[1:6, 1:6] = 1
    expected[2:4, 2:4] = 2
    assert target(data) == expected.tolist()
    assert open_segmentation(tmp_path).classes == data.classes  # the folder around it


def test_images_without_objects_are_background_and_counted(tmp_path: Path) -> None:
    coco_photos(tmp_path)
    with pytest.warns(Notice, match="1 of 2 images have no objects; all of their pixels are background"):
        data = open_segmentation(coco(tmp_path / "_annotations.coco.json", square(1, 1, 2)))
    assert not np.any(target(data, 1))


def test_given_classes_are_matched_with_categories_by_name(tmp_path: Path) -> None:
    coco_photos(tmp_path)
    path = coco(tmp_path / "x.json", square(0, 0, 2, 3), square(0, 0, 2, 90, 9))
    data = open_segmentation(path, classes=["background", "bird", "dog", "cat"])
    assert (target(data)[0][0], target(data, 1)[0][0]) == (3, 2)
    with pytest.raises(ValueError, match=r"x.json: the class 'dog' is none of background, cat"):
        open_segmentation(path, classes=["background", "cat"])


def test_splits_of_coco_need_the_same_categories(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        coco_photos(tmp_path / split)
        coco(tmp_path / split / "_annotations.coco.json", square(0, 0, 2), square(0, 0, 2, 90, 9))
    train, validation = open_segmentation_splits(tmp_path, fraction=0, seed=0)
    assert (len(train), len(validation or ())) == (2, 2)
    other = [{"id": 3, "name": "dog"}, {"id": 90, "name": "cat"}]
    coco(tmp_path / "valid" / "_annotations.coco.json", square(0, 0, 2), categories=other)
    with (
        pytest.raises(ValueError, match=r"has other categories than .*; expected the same in both"),
        pytest.warns(Notice),
    ):
        open_segmentation_splits(tmp_path, fraction=0, seed=0)


@pytest.mark.parametrize(
    ("annotation", "changes", "error"),
    [
        ({"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2]}, {}, "none of 1 annotations has an outline"),
        (square(0, 0, 2, 5), {}, "the annotation 1 names image 7 and category 5; expected an image and a category"),
        (square(0, 0, 2) | {"segmentation": [[1, 2, 3]]}, {}, r"a.jpg: a polygon \[1, 2, 3\]; expected x and y"),
        (
            square(0, 0, 2) | {"segmentation": {"size": [9, 9], "counts": [81]}},
            {},
            r"run lengths of size \[9, 9\]; expected \[8, 10\]",
        ),
        (square(0, 0, 2), {"images": [{"id": 7, "file_name": "lost.jpg"}]}, "none of its 1 image is found"),
        (square(0, 0, 2), {"images": [{"id": 7, "file_name": "a.jpg"}]}, "no height and width of the image"),
        (square(0, 0, 2), {"categories": [{"id": 3}]}, "an entry of categories is .*; expected id and name"),
        (square(0, 0, 2) | {"category_id": [3]}, {}, r"the annotation 1 names image 7 and category \[3\]; expected an"),
        (square(0, 0, 2) | {"segmentation": {"size": [8, 10], "counts": [0, 10**400]}}, {}, "int too large"),
        (
            square(0, 0, 2),
            {"images": [{"id": 7, "file_name": name, "height": 8, "width": 10} for name in ("a.jpg", "b.jpg")]},
            r"x\.json: two images have the id 7; expected one",
        ),
        (
            square(0, 0, 2),
            {"categories": [{"id": 3, "name": "cat"}, {"id": "3", "name": "dog"}]},
            r"x\.json: two categories have the id 3; expected one",
        ),
        (square(0, 0, 2), {"categories": 3}, "no COCO file; expected JSON with lists of images, annotations"),
    ],
)
def test_coco_files_that_cannot_be_are_refused(annotation: Any, changes: Any, error: str, tmp_path: Path) -> None:
    coco_photos(tmp_path)
    if not changes:
        changes = {"images": [{"id": 7, "file_name": "a.jpg", "height": 8, "width": 10}]}
    with pytest.raises(ValueError, match=error):
        open_segmentation(coco(tmp_path / "x.json", annotation, **changes))


def test_ids_as_text_a_single_polygon_and_polygons_without_area_are_taken(tmp_path: Path) -> None:
    """As in detection."""
    coco_photos(tmp_path)
    images = [{"id": 7, "file_name": "a.jpg", "height": 8, "width": 10}]
    plain = square(1, 1, 3)
    expected = target(open_segmentation(coco(tmp_path / "x.json", plain, images=images)))
    points = plain["segmentation"]
    for changes in (
        {"image_id": str(plain["image_id"]), "category_id": str(plain["category_id"])},
        {"segmentation": points[0]},
        {"segmentation": [*points, [1, 2, 3, 4]]},
    ):
        assert target(open_segmentation(coco(tmp_path / "x.json", plain | changes, images=images))) == expected


def test_a_polygon_covers_the_pixels_whose_centers_are_inside() -> None:
    """Against a test of each center with all edges."""
    random = np.random.default_rng(0)
    for _ in range(50):
        points = random.uniform(-5, 25, (int(random.integers(3, 9)), 2))
        y, x = np.mgrid[0:17, 0:20] + 0.5
        inside = np.zeros((17, 20), bool)
        for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
            crosses = (y1 <= y) != (y2 <= y)
            inside ^= crosses & (x > x1 + (y - y1) * (x2 - x1) / (y2 - y1))
        assert np.array_equal(fill_polygon(points, 17, 20), inside)


def test_run_lengths_go_down_the_columns_as_numbers_or_text() -> None:
    mask = np.zeros((4, 3), bool)
    mask[1:3, 1] = True
    assert np.array_equal(read_runs({"size": [4, 3], "counts": [5, 2, 5]}, 4, 3), mask)
    assert np.array_equal(read_runs({"size": [4, 3], "counts": "525"}, 4, 3), mask)
    for counts in ([5, 2], "5", [5, -2, 9], 3, "\x01"):
        with pytest.raises(ValueError, match="run lengths"):
            read_runs({"size": [4, 3], "counts": counts}, 4, 3)


def test_run_lengths_and_polygons_are_those_of_faster_coco_eval() -> None:
    mask = pytest.importorskip("faster_coco_eval.core.mask")
    random = np.random.default_rng(0)
    for _ in range(30):
        height, width = (int(n) for n in random.integers(1, 90, 2))
        values = np.asfortranarray(random.random((height, width)) > random.random(), np.uint8)
        assert np.array_equal(read_runs(mask.encode(values), height, width), values.astype(bool))
    corners = [10.2, 8, 60, 12.5, 70, 66, 20, 50]
    theirs = mask.decode(mask.merge(mask.frPyObjects([corners], 80, 80))).astype(bool)
    ours = np.zeros((80, 80), bool)
    draw_outline(ours, [corners], 1)
    assert abs(area_of([corners]) - ours.sum()) < 20
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.98  # theirs counts half pixels at edges


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_other_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x")
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 8, 8)))
    write_tar(tmp_path / "a.tar", {"a.txt": b"x"})
    write_pictures(tmp_path / "classes", "cats/a.jpg", "dogs/b.jpg")
    for source, text in (
        ("videos", r"holds videos \(1\), but no masks beside images; expected folders of images and of masks"),
        ("classes", r"holds images \(2\), but no masks beside images"),
        ("a.npy", "a .npy file; expected folders"),
        ("a.tar", "a .tar file; expected folders"),
        ("missing", "no file or folder of this name; expected"),
    ):
        with pytest.raises(ValueError, match=text):
            open_segmentation(tmp_path / source)


def test_the_folder_of_images_alone_says_where_the_masks_are(tmp_path: Path) -> None:
    save(tmp_path, "images/a.jpg")
    save(tmp_path, "masks/a.png", VALUES)
    with pytest.raises(ValueError, match=r"images: images without masks; pass .*, which holds masks/ too"):
        open_segmentation(tmp_path / "images")


@pytest.mark.parametrize("names", [("images", "masks"), ("labels", "imgs")])
def test_images_and_masks_are_noticed_when_they_are_opened_as_classes(names: tuple[str, str], tmp_path: Path) -> None:
    write_pictures(tmp_path, *(f"{name}/a.png" for name in names))
    with pytest.warns(Notice, match="are read as two classes of images; if they are images and masks, --task segment"):
        open_dataset(tmp_path)
