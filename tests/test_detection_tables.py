"""Annotated images of tables: parquet files and saved folders, with the columns that data sets of the Hub have."""

import io
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from detection_sets import NAMES, drawn, polygon
from hierax.detection import open_detection, open_detection_splits
from hierax.detection.dataset import DetectionDataset
from hierax.notices import Notice


def png(number: int, **options: Any) -> dict[str, Any]:
    content = io.BytesIO()
    drawn(number)[0].save(content, "PNG", **options)
    return {"bytes": content.getvalue(), "path": None}


def table(count: int, *, first: int = 0, labels: Any = None, form: str = "lists") -> datasets.Dataset:
    """A table as `cppe-5` on the Hub has it: objects are a dict of lists. Or a list of dicts; or with names."""
    rows = []
    for number in range(first, first + count):
        objects = [
            {
                "bbox": [float(v) for v in box],
                "category": NAMES[k] if form == "names" else k,
                "segmentation": [polygon(box)],
            }
            for box, k in drawn(number)[1]
        ]
        rows.append({"image": png(number), "width": 80, "height": 60, "objects": objects})
    label = datasets.Value("string") if form == "names" else labels or datasets.ClassLabel(names=list(NAMES))
    each = {
        "bbox": datasets.List(datasets.Value("float32")),
        "category": label,
        "segmentation": datasets.List(datasets.List(datasets.Value("float32"))),
    }
    objects_feature: Any = datasets.List(each)
    if form == "lists":
        objects_feature = {name: datasets.List(feature) for name, feature in each.items()}
        rows = [{**row, "objects": {name: [o[name] for o in row["objects"]] for name in each}} for row in rows]
    sizes = {"width": datasets.Value("int32"), "height": datasets.Value("int32")}
    features = datasets.Features({"image": datasets.Image(), **sizes, "objects": objects_feature})
    return datasets.Dataset.from_list(rows, features=features)


def boxes(data: DetectionDataset) -> list[list[tuple[list[float], str]]]:
    return [[(list(o.box), data.classes[o.label]) for o in image.objects] for image in data.images]


def expected(*numbers: int) -> list[list[tuple[list[float], str]]]:
    return [[([float(v) for v in box], NAMES[label]) for box, label in drawn(n)[1]] for n in numbers]


@pytest.mark.parametrize("form", ["lists", "dicts", "names"])
def test_objects_are_read_in_every_form(form: str, tmp_path: Path) -> None:
    table(5, form=form).to_parquet(tmp_path / "boxes.parquet")
    found = open_detection(tmp_path / "boxes.parquet")
    assert boxes(found) == expected(*range(5))
    assert set(found.classes) == set(NAMES)
    for number, image in enumerate(found.images):
        np.testing.assert_array_equal(np.asarray(image.load()), np.asarray(drawn(number)[0]))


def test_splits_of_parquet_files_and_of_saved_folders_are_the_sets(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    parts = datasets.DatasetDict({"train": table(6), "validation": table(3, first=6)})
    for name, part in parts.items():
        part.to_parquet(tmp_path / "files" / f"{name}-00000-of-00001.parquet")
    parts.save_to_disk(tmp_path / "saved")
    for place in ("files", "saved"):
        train, held = open_detection_splits(tmp_path / place, fraction=0.0, seed=0)
        assert held is not None
        assert (boxes(train), boxes(held)) == (expected(*range(6)), expected(6, 7, 8))


def test_masks_are_the_segmentation_and_images_travel_to_other_processes(tmp_path: Path) -> None:
    table(3).to_parquet(tmp_path / "a.parquet")
    found = open_detection(tmp_path / "a.parquet", masks=True)
    assert found.images[1].objects[0].segmentation == [[float(v) for v in polygon(drawn(1)[1][0][0])]]
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(np.asarray(again.images[2].load()), np.asarray(drawn(2)[0]))


def test_numbers_without_names_are_the_names(tmp_path: Path) -> None:
    table(4, labels=datasets.Value("int64")).to_parquet(tmp_path / "a.parquet")
    with pytest.warns(Notice, match="no names of classes; their numbers are used"):
        assert open_detection(tmp_path / "a.parquet").classes == ("0", "1")


def changed(row: int, **cells: Any) -> datasets.Dataset:
    rows: Any = table(4, form="names").cast_column("image", datasets.Image(decode=False))
    return datasets.Dataset.from_list([{**one, **(cells if n == row else {})} for n, one in enumerate(rows)])


OBJECT = {"bbox": [1.0, 2.0, 30.0, 40.0], "category": "red"}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            {"objects": [{**OBJECT, "bbox": [1.0, 2.0]}]},
            r"a\.parquet\[2\]: bbox is \[1.0, 2.0\]; expected \[x, y, width",
        ),
        ({"objects": [{**OBJECT, "category": ""}]}, r"category is ''; expected names, or numbers from 0"),
        ({"objects": [{**OBJECT, "category": None}]}, r"category is None; expected names, or numbers from 0"),
        ({"width": 81}, r"a\.parquet\[2\], is 80 x 60 pixels, but its width and height in the file are 81 x 60"),
    ],
)
def test_a_damaged_row_is_named(cells: dict[str, Any], message: str, tmp_path: Path) -> None:
    changed(2, **cells).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        open_detection(tmp_path / "a.parquet")


def with_objects(folder: Path, **changes: Any) -> Path:
    """A table of one image, whose two objects have other values."""
    objects = [{"bbox": [float(v) for v in box], **changes} for box, _ in drawn(2)[1]]
    path = folder / "a.parquet"
    datasets.Dataset.from_list([{"image": png(2), "objects": objects}]).cast_column(
        "image", datasets.Image()
    ).to_parquet(path)
    return path


def test_categories_that_are_lists_or_far_too_large_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"category is \[0\]; expected names, or numbers from 0"):
        open_detection(with_objects(tmp_path, category=[0]))
    with pytest.raises(ValueError, match=r"category is 10000000000000, and no names of classes; .* below 100,000"):
        open_detection(with_objects(tmp_path, category=10**13))


def test_the_stated_area_of_an_object_counts(tmp_path: Path) -> None:
    """By it, COCO's evaluation tells small from large objects; a mask is smaller than its box."""
    data = open_detection(with_objects(tmp_path, category="red", area=7.5))
    assert [o.area for o in data.images[0].objects] == [7.5, 7.5]
    data = open_detection(with_objects(tmp_path, category="red"))
    assert [o.area for o in data.images[0].objects] == [box[2] * box[3] for box, _ in drawn(2)[1]]


def test_an_image_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    changed(1, image={"bytes": b"no image", "path": None}).to_parquet(tmp_path / "a.parquet")
    with pytest.warns(Notice, match=r"1 of 4 images cannot be read and is left out, such as .*a\.parquet\[1\]"):
        assert boxes(open_detection(tmp_path / "a.parquet")) == expected(0, 2, 3)


def test_a_table_without_objects_is_refused(tmp_path: Path) -> None:
    table(3).remove_columns("objects").to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column 'objects'; there are: image, width, height"):
        open_detection(tmp_path / "a.parquet")
    table(1).to_parquet(tmp_path / "b.parquet")  # its image has no object
    with pytest.raises(ValueError, match="none of 1 rows has an object in column objects"):
        open_detection(tmp_path / "b.parquet")
