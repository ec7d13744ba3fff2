"""What is asked of one model: in order, in batches, whoever else is in the batch; on checkpoints and exports."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import hierax
from hierax.predict.classify import Classification
from hierax.predict.features import output_names
from hierax.predict.inputs import joined, stream
from hierax.predict.predictor import open_predictor, record_at
from hierax.predict.tables import SUFFIXES, write_table
from hierax.processing import ImageError, Preprocessing

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
EXACT: dict[str, Any] = {"precision": "fp32", "backend": "torch"}


# -- reading ahead, in batches


def read(path: Path) -> torch.Tensor:
    number = int(path.name)
    if number % 4 == 3:
        raise ImageError(path.name, "is a three")
    if number == 8:
        raise OSError(5, "Input/output error", path.name)
    return torch.full((1, 1, 2, 2 + (number >= 10)), float(number))


@pytest.mark.parametrize("batch", [1, 2, 5, 32])
def test_answers_are_in_order_and_every_call_has_the_same_shape(batch: int) -> None:
    shapes = []

    def ask(pixels: torch.Tensor) -> Sequence[float]:
        shapes.append(tuple(pixels.shape))
        return pixels[:, 0, 0, 0].tolist()

    answers = list(stream([Path(str(n)) for n in range(13)], read, ask, batch_size=batch))
    assert [answer.path.name for answer in answers] == [str(n) for n in range(13)]
    assert {int(a.path.name): a.error.problem for a in answers if a.error} == {
        3: "is a three", 7: "is a three", 11: "is a three", 8: "Input/output error",
    }  # fmt: skip
    assert all(a.result == float(a.path.name) for a in answers if a.error is None)
    assert {shape[0] for shape in shapes} == {batch}


def test_no_more_is_read_ahead_than_was_agreed() -> None:
    seen: list[str] = []

    def noted(path: Path) -> torch.Tensor:
        seen.append(path.name)
        return torch.zeros(1, 1, 1, 1)

    answers = stream([Path(str(n)) for n in range(100)], noted, list, batch_size=1)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert len(seen) <= 8


def test_what_is_no_fault_of_a_file_is_raised() -> None:
    def fails(_: Path) -> torch.Tensor:
        raise MemoryError("no more")

    with pytest.raises(MemoryError):
        list(stream([Path("1")], fails, list, batch_size=1))


# -- classify


def test_what_is_found_does_not_depend_on_the_other_images(here: Path, classifier_folder: str) -> None:
    paths = ["a/cat.jpg", "b/cat.jpg", "b/dog.png", "b/deep/owl.webp"]
    for batch in (1, 3):
        options: dict[str, Any] = {"model": classifier_folder, "batch_size": batch, **EXACT}
        alone = [next(hierax.classify(path, **options)) for path in paths]
        assert list(hierax.classify(paths, **options)) == alone
        assert list(hierax.classify(paths[::-1], **options)) == alone[::-1]


def test_an_engine_and_a_model_answer_as_their_checkpoint(here: Path, classifier_folder: str) -> None:
    model = hierax.HieraForImageClassification.from_pretrained(classifier_folder)
    engine = hierax.Engine(classifier_folder, **EXACT)
    found = [next(hierax.classify("a/cat.jpg", model=m)) for m in (model, engine)]
    for one in found:
        wanted = next(hierax.classify("a/cat.jpg", model=classifier_folder, **EXACT))
        for ours, theirs in zip(one.predictions, wanted.predictions, strict=True):
            assert ours.index == theirs.index
            assert math.isclose(ours.probability, theirs.probability, rel_tol=1e-4)


def test_a_model_keeps_its_mode(here: Path, classifier_folder: str) -> None:
    model = hierax.load(classifier_folder).train()
    model.get_submodule("encoder.blocks.1").eval()  # as a frozen block
    modes = [module.training for module in model.modules()]
    one, two = (list(hierax.classify("a/cat.jpg", model=model)) for _ in range(2))
    assert one == two == list(hierax.classify("a/cat.jpg", model=hierax.load(classifier_folder)))
    assert next(hierax.features("a/cat.jpg", "features", model=model)).error is None
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("function", ["classify", "features", "segment", "reconstruct"])
def test_a_function_passes_the_number_of_its_images_so_that_few_run_on_pytorch(
    function: str,
    here: Path,
    classifier_folder: str,
    mae_folder: str,
    segmenter_folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def noted(inputs: int, *_: object, **__: object) -> str:
        asked.append(inputs)
        return "torch"

    monkeypatch.setattr("hierax.predict.predictor.backend_for", noted)
    model = {"reconstruct": mae_folder, "segment": segmenter_folder}.get(function, classifier_folder)
    output = ("out",) if function == "features" else ()
    list(getattr(hierax, function)(["a/cat.jpg", "b/dog.png"], *output, model=model))
    list(
        getattr(hierax, function)(
            ["a/cat.jpg"], *output, model=model, backend="torch", **{"overwrite": True} if output else {}
        )
    )
    assert asked == [2]


def test_a_command_passes_the_number_of_its_images(run: Run, classifier_folder: str) -> None:
    code, _, err = run("classify", "a", "--model", classifier_folder, "--device", "cpu")
    assert code == 0
    assert "torch on cpu" in err


@pytest.mark.parametrize("views", [5, (0, 1), (1,), ("5", "3")])
def test_wrong_views_are_refused_before_the_model_is_opened(views: Any) -> None:
    with pytest.raises(ValueError, match=r"views is .*; expected the numbers of clips and crops"):
        hierax.classify("clip.mp4", model="no/such", views=views)


def test_the_precision_and_the_backend_are_said(run: Run, classifier_folder: str) -> None:
    exact = ("--precision", "fp32", "--backend", "torch", "--device", "cpu")
    _, _, err = run("classify", "a", "--model", classifier_folder, *exact)
    assert err.endswith("; fp32, torch on cpu\n")


@pytest.mark.parametrize(("size", "seen"), [("96", (96, 96)), ("64x96", (64, 96)), ("96X64", (96, 64))])
def test_a_size_is_a_side_or_rows_and_columns(
    here: Path, classifier_folder: str, size: str, seen: tuple[int, int]
) -> None:
    from hierax.cli.loading import pixel_size

    opened = open_predictor(classifier_folder, size=pixel_size(size), **EXACT)
    assert tuple(opened.processor()("a/cat.jpg").pixel_values.shape) == (1, 3, *seen)  # type: ignore[operator]


@pytest.mark.parametrize("size", ["0", "x", "320x", "-3", "3.5", "big"])
def test_what_is_no_size_is_refused(run: Run, size: str) -> None:
    code, _, err = run("classify", "a", f"--size={size}")
    assert (code, err.count("\n")) == (2, 1)
    assert "expected 448, or 320x448" in err


def test_a_rectangle_sees_as_much_of_an_image_as_the_square(here: Path) -> None:
    square = Preprocessing().replace(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64})
    record = record_at(square, size=(128, 192))
    assert (record.size, record.crop_size) == ({"shortest_edge": 216}, {"height": 128, "width": 192})
    with pytest.raises(ValueError, match="the shorter side"):
        record_at(square, size=(128, 192), whole=True)


def test_the_limit_of_pixels_is_an_option(run: Run, classifier_folder: str) -> None:
    command = ("classify", "a", "--model", classifier_folder, "--backend", "torch", "--max-pixels")
    code, _, err = run(*command, "7999")  # the image has 8000
    assert (code, "100 x 80 pixels" in err) == (2, True)
    assert run(*command, "8000")[0] == 0


# -- tables


def test_labels_are_written_as_csv(run: Run, classifier_folder: str) -> None:
    command = ("classify", "a", "notes.txt", "--model", classifier_folder, "--top-k", "2", "-o", "labels.csv")
    code, out, err = run(*command)
    assert (code, out) == (3, "")
    assert err.splitlines()[-1] == "hierax: wrote labels.csv: 2 rows"
    with open("labels.csv", newline="") as file:
        good, bad = csv.DictReader(file)
    assert list(good) == ["path", "label", "probability", "label2", "probability2", "error"]
    assert (good["path"], good["error"]) == ("a/cat.jpg", "")
    assert 0 < float(good["probability2"]) <= float(good["probability"]) < 1
    assert (bad["path"], bad["label"], "not an image" in bad["error"]) == ("notes.txt", "", True)
    code, _, err = run(*command)
    assert (code, err) == (2, "hierax: labels.csv would be replaced; choose another name, or pass --overwrite\n")
    assert run(*command, "--overwrite")[0] == 3


def test_json_lines_and_parquet_hold_the_same(run: Run, classifier_folder: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    _, out, _ = run("classify", "a", "notes.txt", "--model", classifier_folder, "--json", "-o", "x/labels.jsonl")
    assert Path("x/labels.jsonl").read_text() == out
    run("classify", "a", "notes.txt", "--model", classifier_folder, "-o", "labels.parquet")
    good, bad = parquet.read_table("labels.parquet").to_pylist()
    first = json.loads(out.splitlines()[0])["predictions"][0]
    assert (good["label"], good["probability"]) == (first["label"], first["probability"])
    assert (bad["path"], bad["label"]) == ("notes.txt", None)


def test_names_that_are_no_text_are_written_in_every_format(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    error = ImageError(name, f"no such file; it is a link to {name}")
    for kind in SUFFIXES:
        write_table([Classification(Path(name), error=error)], tmp_path / f"labels{kind}")
    (row,) = pq.read_table(tmp_path / "labels.parquet").to_pylist()
    assert (row["path"], row["error"]) == (r"caf\xe9.jpg", r"no such file; it is a link to caf\xe9.jpg")
    assert (tmp_path / "labels.csv").read_bytes().endswith(b",,,no such file; it is a link to caf\xe9.jpg\r\n")


@pytest.mark.parametrize(("name", "said"), [("labels.txt", "is not the name of a table"), ("x.csv", "is a folder")])
def test_an_output_that_does_not_fit_is_refused_before_anything_is_read(run: Run, name: str, said: str) -> None:
    Path("x.csv").mkdir()
    code, _, err = run("classify", "a", "-o", name)
    assert (code, err.count("\n"), said in err) == (2, 1, True)


def test_a_table_that_cannot_be_finished_leaves_the_former_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("labels.csv").write_text("mine")
    monkeypatch.setattr("hierax.predict.tables.row", lambda _: {}[0])
    with pytest.raises(KeyError):
        write_table([hierax.predict.classify.Classification(Path("x"))], "labels.csv", overwrite=True)  # type: ignore[attr-defined]
    assert Path("labels.csv").read_text() == "mine"
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []


# -- features and reconstruct


@pytest.mark.parametrize("name", ["out.png", "out.npz", "notes.txt"])
def test_features_are_written_to_a_folder(run: Run, name: str) -> None:
    code, _, err = run("features", "a", "-o", name)
    assert (code, err.count("\n")) == (2, 1)
    assert "expected a folder to write to" in err


def test_a_name_as_long_as_file_systems_allow_is_no_obstacle(run: Run, classifier_folder: str) -> None:
    Path("long").mkdir()
    for name in ("a.jpg", "b" * 251 + ".jpg", "ü" * 125 + ".jpg", "c.jpg"):
        Image.new("RGB", (70, 70)).save(f"long/{name}")
    code, out, err = run("features", "long", "-o", "out", "--model", classifier_folder)
    assert (code, len(out.splitlines())) == (0, 4), err
    assert len(list(Path("out").iterdir())) == 8


def test_long_names_stay_different() -> None:
    names = output_names([Path("x" * 240 + end) for end in ("1.jpg", "2.jpg")])
    assert len(set(names)) == 2
    assert all(len(name) < 210 for name in names)


def test_reconstruct_replaces_a_file_only_when_told_to(run: Run, mae_folder: str) -> None:
    command = ("reconstruct", "a", "-o", "sheet.png", "--model", mae_folder)
    assert run(*command)[0] == 0
    code, _, err = run(*command)
    assert (code, "sheet.png would be replaced" in err) == (2, True)
    assert run(*command, "--overwrite")[0] == 0


def test_reconstructions_do_not_depend_on_the_batch(here: Path, mae_folder: str) -> None:
    one, three = (
        list(hierax.reconstruct(["a/cat.jpg", "b/dog.png"], model=mae_folder, batch_size=n, **EXACT)) for n in (1, 3)
    )
    for ours, theirs in zip(one, three, strict=True):
        a, b = (np.asarray(x.tiles[2].picture, np.int16) for x in (ours, theirs))
        assert abs(a - b).max() <= 1


# -- exports as models


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, classifier_folder: str, mae_folder: str) -> Path:
    place = tmp_path_factory.mktemp("exports")
    hierax.export(hierax.load(classifier_folder), place / "classes", format="pt2")
    hierax.export(hierax.load(mae_folder), place / "mae", format="pt2")
    stages = ("stage1", "stage3")
    maps = hierax.HieraBackbone.from_pretrained(classifier_folder, out_features=stages)
    hierax.export(maps, place / "maps", format="pt2")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("file", ["", "/model.pt2"])
def test_an_export_classifies_as_its_model(run: Run, exports: Path, classifier_folder: str, file: str) -> None:
    code, out, err = run("classify", "a", "b", "--model", f"{exports}/classes{file}", "--json")
    assert code == 0, err
    wanted = run("classify", "a", "b", "--model", classifier_folder, "--json", "--precision", "fp32")[1]
    for ours, theirs in zip(out.splitlines(), wanted.splitlines(), strict=True):
        pairs = zip(json.loads(ours)["predictions"], json.loads(theirs)["predictions"], strict=True)
        assert all(math.isclose(a["probability"], b["probability"], abs_tol=1e-4) for a, b in pairs)
        assert json.loads(ours)["predictions"][0]["label"] == json.loads(theirs)["predictions"][0]["label"]


@pytest.mark.slow
def test_an_export_gives_the_maps_that_it_holds(run: Run, exports: Path) -> None:
    code, _, err = run("features", "a", "-o", "out", "--model", str(exports / "maps"))
    assert code == 0, err
    with np.load("out/cat.npz") as found:
        assert set(found) == {"stage1", "stage3"}


@pytest.mark.slow
def test_an_export_of_a_mae_reconstructs(run: Run, exports: Path) -> None:
    code, _, err = run("reconstruct", "a", "-o", "sheet.png", "--model", str(exports / "mae"))
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "model", "said"),
    [
        ("features a -o out", "classes", "is for classification and returns no feature maps; expected a checkpoint"),
        ("features a -o out --attention", "maps", "attention was requested, but engines and exports do not return it"),
        ("reconstruct a -o x.png", "classes", "is for classification; reconstruct needs an MAE model"),
        ("classify a", "maps", "is for backbone; classify needs a classifier"),
        ("classify a --size 96", "classes", "was exported for 64x64 alone"),
        ("classify a --precision bf16", "classes", "is an export for the CPU"),
    ],
)
def test_what_an_export_lacks_is_said(run: Run, exports: Path, command: str, model: str, said: str) -> None:
    code, out, err = run(*command.split(), "--model", str(exports / model))
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]


# -- licenses


def test_nothing_is_said_of_the_license_of_a_run_of_ones_own(run: Run, mae_folder: str) -> None:
    run_folder = Path("run")
    run_folder.mkdir()
    (run_folder / "run.json").write_text("{}")
    hierax.load(mae_folder).save_pretrained(run_folder / "model")
    _, _, err = run("reconstruct", "a", "-o", "x.png", "--model", "run/model")
    assert "license" not in err
    assert err.startswith("hierax: run/model: ")


# -- threads


@pytest.mark.parametrize(
    ("inputs", "size", "model", "small"),
    [(1, None, "hierax/femto", False), (2, None, "hierax/femto", True), (2, 800, "hierax/femto", False)],
)
def test_a_small_model_leaves_cores_to_the_threads_that_read(
    inputs: int, size: int | None, model: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr("hierax.predict.predictor.reading_threads", lambda: 3)
    predictor = open_predictor(model, inputs=inputs, size=size, device="cpu", precision="fp32")
    assert predictor.engine is not None
    assert (predictor.engine.backend, predictor.engine.threads) == ("torch", 5 if small else None)


def test_a_backend_by_name_keeps_all_threads() -> None:
    predictor = open_predictor("hierax/femto", inputs=60, device="cpu", **EXACT)
    assert predictor.engine is not None
    assert predictor.engine.threads is None


def test_images_are_joined_as_torch_does_without_its_helpers() -> None:
    parts = [torch.rand(count, 3, 8, 6) for count in (1, 2, 1)]
    assert torch.equal(joined(parts), torch.cat(parts))
    levels = [torch.randint(0, 256, (1, 3, 8, 6), dtype=torch.uint8) for _ in range(2)]
    assert torch.equal(joined(levels), torch.cat(levels))
    assert joined(levels).dtype == torch.uint8
    assert joined(parts[:1]) is parts[0]
