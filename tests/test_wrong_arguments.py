"""Arguments of the wrong type or value in Python: one error that names the argument, its value and what is expected."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.cli import main
from small import image_config

ASKED = {
    "classify": lambda images, **o: list(hierax.classify(images, **o)),
    "features": lambda images, **o: list(hierax.features(images, "maps", **o)),
    "reconstruct": lambda images, **o: list(hierax.reconstruct(images, **o)),
}
EVERY = pytest.mark.parametrize("ask", ASKED.values(), ids=list(ASKED))


@EVERY
@pytest.mark.parametrize("images", [None, 3, b"a.jpg", Image.new("RGB", (8, 8))])
def test_what_is_no_path_is_named_by_its_type(ask: Any, images: Any) -> None:
    with pytest.raises(TypeError, match=rf"^images is a {type(images).__name__}; expected paths of images"):
        ask(images)


@EVERY
@pytest.mark.parametrize("image", [None, 3, b"a.jpg", Image.new("RGB", (8, 8)), np.zeros((8, 8, 3)), ["a.jpg"]])
def test_one_of_several_that_is_no_path_is_named_by_its_place(ask: Any, image: Any) -> None:
    with pytest.raises(TypeError, match=rf"^images\[1\] is a {type(image).__name__}; expected paths of images"):
        ask(["a.jpg", image])


@EVERY
@pytest.mark.parametrize(("images", "name"), [("", "images"), (["a.jpg", ""], r"images\[1\]")])
def test_an_empty_path_is_not_the_current_folder(ask: Any, images: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is an empty path"):
        ask(images)


@EVERY
@pytest.mark.parametrize("value", [0, -1, "a", 1.5, True, 10**20])
def test_a_batch_size_that_is_none_is_refused(ask: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^batch_size is .*; expected a whole number from 1 to 65,536"):
        ask([], batch_size=value)


@EVERY
@pytest.mark.parametrize("value", [0, -1, "224", 1.5, True, (1, 2, 3), (64, 0), (64, "64"), [], None.__class__])
def test_a_size_that_is_none_is_refused(ask: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^size is .*; expected one number, or rows and columns"):
        ask([], model=hierax.HieraForImageClassification(image_config()), size=value)


@EVERY
def test_a_size_of_more_pixels_than_any_image_is_refused_before_memory_runs_out(ask: Any) -> None:
    with pytest.raises(ValueError, match=r"^size is 10000000 x 10000000 pixels; expected at most 178,956,970"):
        ask([], model=hierax.HieraForImageClassification(image_config()), size=10**7)


@pytest.mark.parametrize("value", [0, -1, "x", 1.5, True])
def test_a_number_of_classes_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^top_k is .*; expected a whole number, at least 1"):
        list(hierax.classify([], model=hierax.HieraForImageClassification(image_config()), top_k=value))


@pytest.mark.parametrize("source", [None, 3, b"x", [], {}])
@pytest.mark.parametrize("taking", [hierax.inflate, hierax.FeatureExtractor])
def test_a_source_that_is_no_name_is_named_by_its_type(taking: Any, source: Any) -> None:
    with pytest.raises(TypeError, match=rf"^the checkpoint is a {type(source).__name__}; expected a name"):
        taking(source)


@pytest.mark.parametrize("taking", [hierax.Index, hierax.duplicates, hierax.outliers])
def test_a_folder_that_is_no_path_is_named_by_its_type(taking: Any) -> None:
    for folder in (None, 3, b"x"):
        with pytest.raises(TypeError, match=rf"^folder is a {type(folder).__name__}; expected the path"):
            taking(folder)
    with pytest.raises(TypeError, match=r"^folder contains a NoneType; expected paths of collections"):
        taking([None])
    for folder in ("", [""]):
        with pytest.raises(ValueError, match=r"^folder is an empty path; expected the path of a collection"):
            taking(folder)


@pytest.mark.parametrize("name", [None, 3, [], {}])
def test_a_variant_that_is_no_text_is_named_by_its_type(name: Any) -> None:
    with pytest.raises(TypeError, match=rf"^name is a {type(name).__name__}; expected the name of a variant"):
        hierax.create_model(name)


@pytest.mark.parametrize("record", [3, "hierax/femto", {}, []])
@pytest.mark.parametrize("processor", [hierax.HieraImageProcessor, hierax.HieraVideoProcessor])
def test_a_record_of_another_type_is_named(processor: Any, record: Any) -> None:
    with pytest.raises(TypeError, match=rf"^record is a {type(record).__name__}; expected a Preprocessing"):
        processor(record)


@pytest.mark.parametrize("labels", [1, "cat", [1], np.array([1])])
def test_labels_that_are_no_tensor_are_named(labels: Any) -> None:
    model = hierax.HieraForImageClassification(image_config())
    with pytest.raises(TypeError, match=rf"^labels is a {type(labels).__name__}; expected a tensor"):
        model(torch.zeros(1, 3, *model.config.image_size), labels=labels)


def test_a_label_that_is_none_is_named_beside_labels_that_do_not_count() -> None:
    model = hierax.HieraForImageClassification(image_config())
    with pytest.raises(ValueError, match="labels holds 9; expected 0 to 4"):
        model(torch.zeros(2, 3, 64, 64), labels=torch.tensor([-100, 9]))


@pytest.mark.parametrize("noise", [[[0.1, 0.2, 0.3, 0.4]], np.zeros((1, 4)), 0.5])
def test_noise_that_is_no_tensor_is_named(noise: Any) -> None:
    with pytest.raises(TypeError, match=rf"^noise is a {type(noise).__name__}; expected a tensor \[1, 4\]"):
        hierax.HieraModel(image_config())(torch.zeros(1, 3, 64, 64), noise=noise)


@pytest.mark.parametrize("ratio", ["0.5", [0.5], float("nan"), 60, -0.1])
def test_a_mask_ratio_that_is_none_is_named(ratio: Any) -> None:
    with pytest.raises(ValueError, match=r"^mask_ratio is .*; expected a number from 0 to below 1"):
        hierax.HieraModel(image_config())(torch.zeros(1, 3, 64, 64), mask_ratio=ratio)


@pytest.mark.parametrize("name", ["out_features", "out_indices"])
@pytest.mark.parametrize("value", ["stage2", [], ()])
def test_maps_that_are_no_list_of_names_are_refused(name: str, value: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"^{name} is .*; expected a list of at least one of stem, stage1, stage2"
    ) as e:
        hierax.HieraBackbone(image_config(), **{name: value})
    assert repr(value) in str(e.value)
    with pytest.raises(ValueError, match=rf"{name} is .*; expected a list of at least one of stem"):
        hierax.load("hierax/femto", task="backbone", **{name: value})


def test_replicas_of_data_parallel_are_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    copying = lambda tensors, devices, detach=False: [list(tensors) for _ in devices]  # noqa: E731
    monkeypatch.setattr(sys.modules["torch.nn.parallel.replicate"], "_broadcast_coalesced_reshape", copying)
    with pytest.raises(RuntimeError, match="start one process per GPU with torchrun"):
        torch.nn.parallel.replicate(hierax.HieraModel(image_config()), [0, 1])


@pytest.mark.parametrize("tensor", [torch.zeros(3, 8, 8, device="meta"), torch.zeros(3, 8, 8).to_sparse()])
def test_a_tensor_whose_values_cannot_be_read_is_no_image(tensor: torch.Tensor) -> None:
    with pytest.raises(
        hierax.ImageError, match=r"^image: a tensor with values that cannot be read; expected a dense one"
    ):
        hierax.HieraImageProcessor()(tensor)


def test_an_empty_path_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(hierax.ImageError, match=r"an empty path; expected the path of an image"):
        hierax.HieraImageProcessor()("")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with photos in a folder."""
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        ["features", "photos", "-o", "photos"],
        ["features", "photos/a.png", "-o", "./photos/../photos"],
        ["features", ".", "-o", "photos"],
        ["reconstruct", "photos/a.png", "-o", "photos/a.png"],
        ["reconstruct", "photos", "-o", "photos/b.png"],
    ],
)
def test_no_output_replaces_an_input_even_where_files_may_be_overwritten(
    photos: Path, line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    assert main([*line, "--overwrite"]) == 2
    assert "is one of the inputs and would be replaced; choose another place for the output" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "reconstruct a.png -o r.png --seed x",
            "argument --seed: 'x' is not a seed; expected a whole number from 0 to",
        ),
        ("reconstruct a.png -o r.png --seed 99999999999999999999", "is not a seed; expected a whole number from 0 to"),
        ("reconstruct a.png -o r.png --seed -1", "argument --seed: '-1' is not a seed"),
        ("stats a.png --workers -1", "argument --workers: '-1' is not a whole number, 0 or more"),
        ("evaluate data --workers 1.5", "argument --workers: '1.5' is not a whole number, 0 or more"),
    ],
)
def test_numbers_of_the_command_line_say_what_is_expected(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", ["classify", "features", "reconstruct"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_damaged_model_is_an_error_of_each_file_and_no_answer(photos: Path, kind: str, value: float) -> None:
    made = hierax.HieraForPreTraining if kind == "reconstruct" else hierax.HieraForImageClassification
    model = made(image_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    found = ASKED[kind](sorted((photos / "photos").glob("*.png")), model=model)
    assert [str(one.error) for one in found] == [
        f"{photos}/photos/{name}.png: the output of the model is not finite (is the model damaged?)" for name in "ab"
    ]
    assert not list(photos.glob("maps/*"))
