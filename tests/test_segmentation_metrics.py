"""Metrics of a segmentation: worked out by hand, and equal to those of torchmetrics."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

import hierax
from hierax.train import evaluate_segmentation
from hierax.train.segmentation_metrics import SegmentationMatrix, count_pixels

TARGET = torch.tensor([[0, 0, 1], [1, 2, 255]])
SAID = torch.tensor([[0, 1, 1], [1, 0, 2]])


def drawn(classes: int = 5, *, seed: int = 0, absent: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps of random classes, of which some pixels are ignored, and the `absent` classes are nowhere."""
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (3, 17, 23), generator=draw)
    said = torch.where(torch.rand(target.shape, generator=draw) < 0.6, target, (target + 1) % classes)
    for index in absent:
        target[target == index] = (index + 1) % classes
        said[said == index] = (index + 1) % classes
    target[torch.rand(target.shape, generator=draw) < 0.2] = 255
    return said, target


def test_the_matrix_and_its_metrics_are_worked_out_by_hand() -> None:
    found = SegmentationMatrix(count_pixels(SAID, TARGET, 3))
    assert found.counts.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert found.iou.tolist() == pytest.approx([1 / 3, 2 / 3, 0])
    assert found.pixels == 5
    assert found.metrics() == pytest.approx(
        {
            "mean_iou": (1 / 3 + 2 / 3) / 3,
            "frequency_weighted_iou": 2 / 5 / 3 + 2 / 5 * 2 / 3,
            "pixel_accuracy": 3 / 5,
            "mean_accuracy": (1 / 2 + 1) / 3,
            "score": 1 / 3,
        }
    )


def test_a_class_that_neither_occurs_nor_is_predicted_is_left_out_of_the_mean() -> None:
    found = SegmentationMatrix(count_pixels(SAID, TARGET, 9))
    assert found.iou[3:].isnan().all()
    assert found.metrics() == pytest.approx(SegmentationMatrix(count_pixels(SAID, TARGET, 3)).metrics())
    assert [row["label"] for row in found.per_class(tuple("abcdefghi"))] == ["a", "b", "c"]


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    found = SegmentationMatrix(count_pixels(torch.tensor([0, 1]), torch.tensor([0, 0]), 2))
    assert found.metrics()["mean_iou"] == pytest.approx(0.25)
    assert found.per_class(("a", "b"))[1] == {"label": "b", "iou": 0, "recall": None, "precision": 0, "pixels": 0}


def test_without_a_pixel_that_counts_every_metric_is_nan() -> None:
    found = SegmentationMatrix(count_pixels(SAID, torch.full_like(TARGET, 255), 3))
    assert all(map(math.isnan, found.metrics().values()))


def test_a_label_beyond_the_classes_is_an_error() -> None:
    with pytest.raises(ValueError, match="a pixel has the label 2; expected 0 to 1, or 255 for pixels to ignore"):
        count_pixels(SAID, TARGET, 2)
    with pytest.raises(ValueError, match="a pixel has the label -1; expected 0 to 2"):
        count_pixels(SAID, TARGET - 1, 300)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 5, 19])
def test_iou_is_that_of_torchmetrics(classes: int, seed: int) -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    said, target = drawn(classes, seed=seed)
    found = SegmentationMatrix(count_pixels(said, target, classes))
    for average, mine in (("none", found.iou), ("macro", found.iou.mean())):
        theirs = classification.MulticlassJaccardIndex(num_classes=classes, ignore_index=255, average=average)
        torch.testing.assert_close(theirs(said, target).double(), mine, rtol=1e-6, atol=1e-6)
    weighted = classification.MulticlassJaccardIndex(num_classes=classes, ignore_index=255, average="weighted")
    assert found.metrics()["frequency_weighted_iou"] == pytest.approx(float(weighted(said, target)), abs=1e-6)


def test_of_absent_classes_torchmetrics_has_zero_where_there_is_no_iou() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    said, target = drawn(5, absent=(2,))
    theirs = classification.MulticlassJaccardIndex(num_classes=5, ignore_index=255, average="none")(said, target)
    mine = SegmentationMatrix(count_pixels(said, target, 5)).iou
    assert mine[2].isnan()
    torch.testing.assert_close(theirs.double()[[0, 1, 3, 4]], mine[[0, 1, 3, 4]], rtol=1e-6, atol=1e-6)


def test_masks_without_a_class_are_an_error_not_numbers(tmp_path: Path) -> None:
    for folder, mode, value in (("images", "RGB", "gray"), ("masks", "L", 255)):
        (tmp_path / folder).mkdir()
        Image.new(mode, (40, 30), value).save(tmp_path / folder / "a.png")
    model = hierax.HieraForSemanticSegmentation(
        hierax.HieraConfig(embed_dim=8, depths=(1, 1, 1, 1), num_labels=3, image_size=(32, 32))
    )
    with pytest.raises(ValueError, match="no pixel of the masks has a class, so there is nothing to measure"):
        evaluate_segmentation(tmp_path, model=model, device="cpu")
