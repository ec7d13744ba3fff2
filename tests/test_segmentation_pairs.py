"""Folders of images and masks: which belong together, and what is said if they do not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hierax.data import open_segmentation, open_segmentation_splits
from hierax.notices import Notice
from samples import picture


def write_pair(folder: Path, image: str, mask: str, values: object = ((0, 1), (2, 1)), *, seed: int = 0) -> None:
    array = np.asarray(values, np.uint8)
    for name, content in ((image, picture(*array.shape[:2], seed=seed)), (mask, Image.fromarray(array))):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content.save(path)


def names(dataset: object) -> list[str]:
    return [Path(dataset.sample(i).name).name for i in range(len(dataset))]  # type: ignore[attr-defined, arg-type]


@pytest.mark.parametrize("images", ["images", "Images", "JPEGImages", "imgs"])
@pytest.mark.parametrize("masks", ["masks", "annotations", "SegmentationClass", "labels", "ground_truth"])
def test_two_folders_with_the_same_names_are_pairs(images: str, masks: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_pair(tmp_path, f"{images}/{name}.jpg", f"{masks}/{name}.png")
    data = open_segmentation(tmp_path)
    assert names(data) == ["a.jpg", "b.jpg"]
    assert data.classes == ("0", "1", "2")
    target = data.sample(0).target
    assert target is not None
    assert (target.dtype, target.tolist()) == (np.uint8, [[0, 1], [2, 1]])


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.jpg", "masks/{}_mask.png"),
        ("images/{}.jpg", "masks/mask_{}.png"),
        ("images/img_{}.jpg", "masks/mask_{}.png"),
        ("images/{}_sat.jpg", "masks/{}_mask.png"),
        ("images/{}.jpg", "masks/{}_L.png"),
        ("images/deep/er/{}.jpg", "masks/deep/er/{}.png"),
    ],
)
def test_usual_marks_and_subfolders_are_known(image: str, mask: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_pair(tmp_path, image.format(name), mask.format(name))
    assert len(open_segmentation(tmp_path)) == 2


@pytest.mark.parametrize(
    "layout",
    [
        ("images/training/{}.jpg", "annotations/training/{}.png", "images/validation/{}.jpg"),  # ADE20K
        ("train/images/{}.jpg", "train/masks/{}.png", "val/images/{}.jpg"),
        ("train/{}.jpg", "train_masks/{}.png", "val/{}.jpg"),
        ("train/{}.png", "trainannot/{}.png", "val/{}.png"),  # CamVid
        ("outer/images/train/{}.jpg", "outer/masks/train/{}.png", "outer/images/val/{}.jpg"),
    ],
)
def test_splits_are_folders_of_either_level(layout: tuple[str, str, str], tmp_path: Path) -> None:
    image, mask, held = layout
    held_mask = mask.replace("training", "validation").replace("train", "val")
    for name in ("a", "b", "c"):
        write_pair(tmp_path, image.format(name), mask.format(name))
    write_pair(tmp_path, held.format("d"), held_mask.format("d"))
    train, validation = open_segmentation_splits(tmp_path, fraction=0.5, seed=0)
    assert validation is not None
    assert (len(train), len(validation)) == (3, 1)
    assert train.classes == validation.classes == ("0", "1", "2")


def test_without_splits_a_fraction_is_drawn(tmp_path: Path) -> None:
    for name in "abcdefgh":
        write_pair(tmp_path, f"images/{name}.jpg", f"masks/{name}.png")
    train, validation = open_segmentation_splits(tmp_path, fraction=0.25, seed=0)
    assert validation is not None
    assert sorted(names(train) + names(validation)) == [f"{name}.jpg" for name in "abcdefgh"]
    assert len(validation) == 2
    assert open_segmentation_splits(tmp_path, fraction=0, seed=0)[1] is None


def test_missing_partners_are_counted_and_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_pair(tmp_path, f"images/{name}.jpg", f"masks/{name}.png")
    (tmp_path / "masks" / "b.png").rename(tmp_path / "masks" / "c.png")
    with pytest.warns(Notice) as found:
        assert names(open_segmentation(tmp_path)) == ["a.jpg"]
    told = [str(one.message) for one in found]
    assert f"1 of 2 images without mask, which are not used, such as {tmp_path}/images/b.jpg" in told
    assert f"1 of 2 masks without image, which are not used, such as {tmp_path}/masks/c.png" in told


def test_folders_whose_names_never_fit_are_refused_with_examples(tmp_path: Path) -> None:
    write_pair(tmp_path, "images/photo7.jpg", "masks/other9.png")
    with pytest.raises(ValueError, match=r"no file in .*masks has the name of an image .* other9.png and photo7.jpg"):
        open_segmentation(tmp_path)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "images/a.jpg", "masks/a.png")
    write_pair(tmp_path, "images/a.png", "masks/a.png")
    with pytest.raises(ValueError, match=r"a.jpg and .*a.png: two images of the same name; expected one"):
        open_segmentation(tmp_path)
    (tmp_path / "images" / "a.png").unlink()
    write_pair(tmp_path, "images/a.jpg", "masks/a.bmp")
    with pytest.raises(ValueError, match=r"a.bmp and .*a.png: two masks of the same name; expected one"):
        open_segmentation(tmp_path)


def test_a_split_is_opened_by_its_name(tmp_path: Path) -> None:
    write_pair(tmp_path, "images/train/a.jpg", "masks/train/a.png")
    write_pair(tmp_path, "images/val/b.jpg", "masks/val/b.png")
    assert names(open_segmentation(tmp_path)) == ["a.jpg"]
    assert names(open_segmentation(tmp_path, split="val")) == ["b.jpg"]
    with pytest.raises(ValueError, match="has no split 'test'; it has train, val"):
        open_segmentation(tmp_path, split="test")


def test_a_folder_without_masks_says_what_is_expected(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg")
    with pytest.raises(
        ValueError, match=r"holds images \(1\), but no masks beside images; expected folders of images and"
    ):
        open_segmentation(tmp_path)
    with pytest.raises(ValueError, match="missing: no file or folder of this name; expected folders"):
        open_segmentation(tmp_path / "missing")
