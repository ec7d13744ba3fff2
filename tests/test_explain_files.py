"""`hierax explain` and `hierax.explain`: what is written, and clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.predict.explain import explanations, open_explainer
from hierax.viz import heat_overlay, with_heat_bar
from small import image_config, randomize
from videos import video

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)


def arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


# -- the command ------------------------------------------------------------------------------------------------------


def test_explain_writes_the_heat_of_the_most_probable_label(run: Run, classifier_folder: str) -> None:
    code, out, err = run("explain", "a/cat.jpg", "-o", "out", "--model", classifier_folder)
    assert code == 0
    assert out.startswith("a/cat.jpg: out/cat.npz, out/cat.png   ")
    assert "fp32, torch on cpu" in err
    predictor = open_explainer(classifier_folder, device="cpu")
    pixels = hierax.AutoImageProcessor.from_pretrained(classifier_folder)("a/cat.jpg").pixel_values
    (expected,) = explanations(predictor, pixels)
    found = arrays("out/cat.npz")
    assert found["values"].dtype == np.float32
    np.testing.assert_allclose(found["values"], expected.values[None], atol=1e-5)
    assert found["labels"].tolist() == [expected.label]
    assert found["indices"].tolist() == [expected.index]
    assert found["probabilities"] == pytest.approx([expected.probability])
    assert found["stride"].tolist() == list(expected.stride)
    assert size_of("out/cat.png")[0] > 400


def test_labels_are_side_by_side_in_the_order_of_the_options(run: Run, classifier_folder: str) -> None:
    labels = ("--label", "Zebra", "--label", "0", "--label", "tench")
    assert run("explain", "a/cat.jpg", "-o", "three", "--model", classifier_folder, *labels)[0] == 0
    assert run("explain", "a/cat.jpg", "-o", "one", "--model", classifier_folder, "--label", "0")[0] == 0
    three, one = arrays("three/cat.npz"), arrays("one/cat.npz")
    assert three["labels"].tolist() == ["zebra", "tabby, tabby cat", "tench"]
    np.testing.assert_allclose(three["values"][1], one["values"][0], atol=1e-5)
    assert size_of("three/cat.png")[0] > size_of("one/cat.png")[0] + 400


def test_top_k_explains_the_most_probable_labels(run: Run, classifier_folder: str) -> None:
    code, out, _ = run("explain", "a", "-o", "out", "--model", classifier_folder, "--top-k", "9", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    for line in lines:
        chances = [label["probability"] for label in line["labels"]]
        assert len(chances) == 5  # the model has no more
        assert chances == sorted(chances, reverse=True)
        assert {*line} == {"path", "labels", "arrays", "image"}
        assert Path(line["arrays"]).is_file()
        assert Path(line["image"]).is_file()


def test_rollout_needs_no_classifier(run: Run, mae_folder: str) -> None:
    code, out, _ = run("explain", "a/cat.jpg", "-o", "out", "--model", mae_folder, "--method", "rollout", "--json")
    assert code == 0
    assert json.loads(out)["labels"] == []
    found = arrays("out/cat.npz")
    assert found["values"].shape == (1, 16, 16)
    assert found["labels"].shape == (0,)


def test_the_whole_image_keeps_its_shape(run: Run, classifier_folder: str) -> None:
    run("explain", "a/cat.jpg", "-o", "out", "--model", classifier_folder, "--whole", "--size", "128")
    found = arrays("out/cat.npz")
    _, rows, columns = found["values"].shape  # 80 x 100 pixels become 128 x 160
    assert [rows * int(found["stride"][0]), columns * int(found["stride"][1])] == [128, 160]


def test_images_that_cannot_be_read_are_named_and_the_others_are_explained(run: Run, classifier_folder: str) -> None:
    code, out, _ = run("explain", "notes.txt", "a/cat.jpg", "-o", "out", "--model", classifier_folder, "--json")
    lines = {line["path"]: line for line in map(json.loads, out.splitlines())}
    assert code == 3
    assert "error" in lines["notes.txt"]
    assert "labels" in lines["a/cat.jpg"]


def test_files_are_replaced_only_when_told_to(run: Run, classifier_folder: str) -> None:
    command = ("explain", "a/cat.jpg", "-o", "out", "--model", classifier_folder)
    assert run(*command)[0] == 0
    Path("out/cat.png").write_text("mine")
    code, _, err = run(*command)
    assert code == 2
    assert "would be replaced" in err
    assert Path("out/cat.png").read_text() == "mine"
    assert run(*command, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--label", "dragon"), "label is 'dragon'; expected one of the 5 labels, or an index from 0 to 4"),
        (("--label", "5"), "label is '5'; expected one of the 5 labels, or an index from 0 to 4"),
        (("--method", "rollout", "--label", "1"), "--label and --top-k are for --method gradcam"),
        (("--method", "rollout", "--top-k", "2"), "--label and --top-k are for --method gradcam"),
    ],
)
def test_wrong_labels_are_errors_before_anything_is_written(
    run: Run, classifier_folder: str, options: tuple[str, ...], message: str
) -> None:
    code, _, err = run("explain", "a/cat.jpg", "-o", "out", "--model", classifier_folder, *options)
    assert code == 2
    assert message in err
    assert not Path("out").exists()


def test_a_model_without_classes_is_refused(run: Run, mae_folder: str) -> None:
    code, _, err = run("explain", "a/cat.jpg", "-o", "out", "--model", mae_folder)
    assert code == 2
    assert "this model is for mae; gradcam needs a classifier" in err


def test_a_clip_is_explained_as_an_animation(run: Run, clips: str, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(video(90))
    code, out, err = run("explain", "film.mp4", "-o", "out", "--model", clips, "--top-k", "2")
    assert (code, out.count("\n")) == (0, 1), err
    values = arrays("out/film.npz")["values"]
    assert values.ndim == 4
    with Image.open("out/film.gif") as moving:
        assert getattr(moving, "n_frames", 1) == values.shape[1]


# -- in Python --------------------------------------------------------------------------------------------------------


def test_explain_takes_a_model_and_leaves_its_mode(here: Path) -> None:
    model: Any = randomize(hierax.HieraForImageClassification(image_config())).train()
    (found,) = hierax.explain("a/cat.jpg", "out", model=model, labels=[2, "label_4"])
    assert model.training
    assert [one.index for one in found.explanations] == [2, 4]
    assert found.image == Path("out/cat.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k is 0; expected a whole number, at least 1"),
        ({"labels": []}, "labels is empty"),
        ({"labels": 1, "method": "rollout"}, "labels is 1, but rollout explains no label"),
        ({"method": "shap"}, "method is 'shap'; expected gradcam or rollout"),
    ],
)
def test_wrong_arguments_are_clear_errors(here: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hierax.explain("a/cat.jpg", "out", **options)


def test_a_damaged_model_is_an_error_for_the_image(here: Path) -> None:
    model: Any = hierax.HieraForImageClassification(image_config()).eval()
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    (found,) = hierax.explain("a/cat.jpg", "out", model=model, labels=np.int64(0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"labels is 3.0; expected names or numbers of classes"):
        hierax.explain("a/cat.jpg", "other", model=model, labels=3.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="output is an empty path; expected a folder to write to"):
        hierax.explain("a/cat.jpg", "", model=model)
    assert "is not finite" in str(found.error)
    assert not Path("out").exists()


# -- drawing ----------------------------------------------------------------------------------------------------------


def test_heat_is_drawn_over_the_cells_that_have_it() -> None:
    gray = Image.new("RGB", (64, 32), (100, 100, 100))
    drawn = np.asarray(heat_overlay(gray, np.array([[0, 1]], np.float32)))
    assert drawn.shape == (32, 64, 3)
    assert (drawn[:, :32] == drawn[0, 0]).all()
    assert (drawn[:, 32:] == drawn[0, 63]).all()
    assert drawn[0, 63].sum() > drawn[0, 0].sum() + 200


def test_a_cell_that_the_edge_cuts_is_drawn_smaller() -> None:
    drawn = np.asarray(heat_overlay(Image.new("RGB", (40, 32)), np.array([[0, 1]], np.float32), stride=(32, 32)))
    assert (drawn[:, :32] == drawn[0, 0]).all()
    assert (drawn[:, 32:] != drawn[0, 0]).any()


def test_more_heat_is_always_brighter() -> None:
    """Also for readers who see no colors."""
    levels = np.linspace(0, 1, 64, dtype=np.float32)[None]
    drawn = heat_overlay(Image.new("RGB", (64, 4), (128, 128, 128)), levels).convert("L")
    assert (np.diff(np.asarray(drawn, np.int64)[0]) >= 0).all()


@pytest.mark.parametrize("values", [[[0.0, 1.5]], [[-0.1]], [0.5], [[float("nan")]]])
def test_values_that_are_no_heat_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match="values"):
        heat_overlay(Image.new("RGB", (8, 8)), np.array(values, np.float32))


def test_the_bar_is_below_the_image_and_keeps_its_width() -> None:
    image = Image.new("RGB", (224, 100), (1, 2, 3))
    with_bar = with_heat_bar(image)
    assert with_bar.width == 224
    assert with_bar.height > 110
    assert with_bar.getpixel((5, 50)) == (1, 2, 3)
