"""Exports: what is in the folder, run by each format's own runtime, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import hierax
from exports import Exported, copied, engine_of, few, make, run_file, truth
from hierax import extras
from hierax.engine.backends import onnx as onnx_backend
from hierax.engine.export import export as export_module
from hierax.engine.export import formats
from small import relative

pytest_plugins = ("exports",)


# -- the file, by its own runtime -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("format", ["pt2", "onnx", "openvino"])
def test_each_format_gives_what_the_model_gives_for_any_batch(exported: Exported, format: str, batch: int) -> None:
    model, folder, _ = exported("classifier", format)
    x = few(model, batch)
    (found,) = run_file(folder, format, x)
    assert relative(found, truth(model, x)[0]) < 1e-5


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("format", ["pt2", "onnx", "openvino"])
def test_each_format_takes_the_visible_units_of_a_mae(exported: Exported, format: str) -> None:
    model, folder, report = exported("mae", format)
    x, kept = few(model), torch.tensor([[0, 1], [1, 3], [0, 2]])
    (found,) = run_file(folder, format, x, kept)
    assert relative(found, truth(model, x, kept)[0]) < 1e-5
    assert report.compared == "logits"
    assert json.loads((folder / "export.json").read_text())["kept"] == 2


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("kind", "format"), [("video", "pt2"), ("video", "openvino"), ("line", "onnx")])
def test_clips_and_signals_are_exported(exported: Exported, kind: str, format: str) -> None:
    model, folder, _ = exported(kind, format)
    x = few(model, 2)
    for found, expected in zip(run_file(folder, format, x), truth(model, x), strict=True):
        assert relative(found, expected) < 1e-5


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_an_export_of_signals_keeps_their_mean_and_deviation(tmp_path: Path) -> None:
    model = make("line")
    mean = tuple(float(channel) for channel in range(8))
    model.preprocessing = hierax.Preprocessing(
        do_resize=False, do_center_crop=False, do_rescale=False, image_mean=mean, image_std=(2.0,) * 8
    )
    hierax.export(model, tmp_path / "out", format="pt2", evaluate=few(model, 2))
    record = hierax.Engine(tmp_path / "out").record
    assert record is not None
    assert (record.image_mean, record.image_std) == (mean, (2.0,) * 8)


@pytest.mark.parametrize(("kind", "size"), [("abs_win", (96, 64)), ("backbone", (70, 100)), ("classifier", 96)])
def test_another_size_is_baked_in(tmp_path: Path, kind: str, size: Any) -> None:
    model = make(kind)
    wanted = (size, size) if isinstance(size, int) else size
    x = few(model, 2, wanted)
    report = hierax.export(model, tmp_path / "out", format="openvino", size=size, evaluate=x)
    assert report.passed
    for found, expected in zip(run_file(tmp_path / "out", "openvino", x), truth(model, x), strict=True):
        assert relative(found, expected) < 1e-5
    record = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert (record["crop_size"]["height"], record["crop_size"]["width"]) == wanted
    assert hierax.HieraConfig.from_json_file(tmp_path / "out" / "config.json").image_size == wanted


@pytest.mark.parametrize("format", ["pt2", "openvino"])
def test_a_fixed_batch_is_what_the_file_takes_and_the_engine_takes_any(tmp_path: Path, format: str) -> None:
    model = make("classifier")
    x = few(model, 5)
    hierax.export(model, tmp_path / "out", format=format, batch=2, evaluate=x)
    with pytest.raises((RuntimeError, AssertionError)):
        run_file(tmp_path / "out", format, x)
    with engine_of(tmp_path / "out") as engine:
        assert relative(engine(x).logits, truth(model, x)[0]) < 1e-5


@pytest.mark.parametrize("format", ["pt2", "onnx", "openvino"])
def test_nothing_of_the_machine_that_exports_is_in_the_files(exported: Exported, format: str) -> None:
    _, folder, _ = exported("classifier", format)
    here = str(Path(hierax.__file__).parents[1]).encode()
    assert [path.name for path in folder.iterdir() if here in path.read_bytes()] == []


def test_an_onnx_that_is_too_large_for_one_file_has_its_weights_beside_it(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    model, folder, _ = exported("classifier", "onnx")
    monkeypatch.setattr(onnx_backend, "_LARGEST", 0)
    onnx_backend.save_onnx(onnx.load(folder / "model.onnx"), tmp_path / "model.onnx")
    sizes = [path.stat().st_size for path in (tmp_path / "model.onnx.data", folder / "model.onnx")]
    assert (tmp_path / "model.onnx").stat().st_size + sizes[0] // 2 < sizes[1]
    x = few(model)
    assert relative(run_file(tmp_path, "onnx", x)[0], truth(model, x)[0]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_model_that_is_too_large_for_one_file_is_exported_with_its_weights_beside_it(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graph and twin name the same file of weights, which is still there when the twin is gone."""
    model, folder = make("classifier"), tmp_path / "out"
    x = few(model)
    monkeypatch.setattr(onnx_backend, "_LARGEST", 10_000)
    report = hierax.export(model, folder, format="onnx", precision=precision, evaluate=x)
    assert report.passed
    assert set(json.loads((folder / "export.json").read_text())["files"]) >= {"model.onnx", "model.onnx.data"}
    bound = 1e-5 if precision == "fp32" else 1e-2
    assert relative(run_file(folder, "onnx", x)[0], truth(model, x)[0]) < bound
    with engine_of(folder, threads=1) as engine:
        assert relative(engine(x).logits, truth(model, x)[0]) < bound
    hierax.export(model, folder, format="onnx", precision=precision, evaluate=x, overwrite=True)


def test_where_files_have_no_second_name_the_weights_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(formats.os, "link", refuse)
    (tmp_path / "a").write_bytes(b"weights")
    formats.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"weights"


def test_inputs_have_the_name_that_everyone_gives_them_and_the_former_one_is_read(
    exported: Exported, tmp_path: Path
) -> None:
    import onnx

    model, folder, _ = exported("classifier", "onnx")
    proto = onnx.load(folder / "model.onnx")
    assert [entry.name for entry in proto.graph.input] == ["pixel_values"]
    assert json.loads((folder / "export.json").read_text())["inputs"] == ["pixel_values"]
    proto.graph.input[0].name = "pixels"
    for node in proto.graph.node:
        node.input[:] = ["pixels" if name == "pixel_values" else name for name in node.input]
    onnx.save_model(proto, tmp_path / "old.onnx")
    x = few(model)
    (found,) = onnx_backend.OnnxRunner(tmp_path / "old.onnx", threads=1)(x, None)
    assert relative(found, truth(model, x)[0]) < 1e-5


def test_taking_outputs_off_an_onnx_takes_off_what_only_they_needed(exported: Exported) -> None:
    import onnx

    _, folder, _ = exported("line", "onnx")
    proto = onnx.load(folder / "model.onnx")
    before = len(proto.graph.node), len(proto.graph.initializer)
    onnx_backend.only_outputs(proto, ["last_hidden_state"])
    assert [output.name for output in proto.graph.output] == ["last_hidden_state"]
    assert len(proto.graph.node) < before[0]
    assert len(proto.graph.initializer) < before[1]
    onnx.checker.check_model(proto)


# -- what is refused, and where it is written -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "format is 'tflite'; expected pt2, onnx, openvino"),
        ({"format": "pt2", "precision": "int4"}, "precision is 'int4'; expected fp32"),
        ({"format": "pt2", "precision": "int8"}, "format 'pt2' does not support precision 'int8'"),
        ({"format": "onnx", "precision": "bf16"}, "no bf16 convolution"),
        ({"format": "pt2", "batch": 0}, "batch is 0"),
        ({"format": "pt2", "size": (64, 64, 64)}, "expected 2 sizes in pixels"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hierax.export(make("classifier"), tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_mae_is_refused_at_a_size_that_is_not_whole_units(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="masked image modeling expects multiples of 32x32"):
        hierax.export(make("mae"), tmp_path / "out", format="pt2", size=70)


def test_pictures_for_a_model_of_signals_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="evaluate names images"):
        hierax.export(make("line"), tmp_path / "out", format="pt2", evaluate=tmp_path)


@pytest.mark.parametrize("option", ["evaluate", "calibration"])
def test_images_that_are_missing_are_an_error_before_the_model_is_converted(option: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"format": "openvino", "precision": "int8"}
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("text")
    for given, message in (
        ("nothing", "nothing: no such file"),
        ("empty", "empty: no images"),
        ("notes.txt", r"notes\.txt: not an image"),
    ):
        with pytest.raises(ValueError, match=message):  # no model of this name exists
            hierax.export("no/model", tmp_path / "out", **{option: tmp_path / given}, **options)


@pytest.mark.parametrize(
    ("format", "precision", "package", "extra"),
    [
        ("onnx", "fp32", "onnxscript", "onnx"), ("openvino", "fp32", "openvino", "openvino"),
        ("openvino", "int8", "nncf", "openvino"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, precision: str, package: str, extra: str
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda name: name != package)
    with pytest.raises(ImportError, match=rf"package {package}: pip install '.*' \(part of hierax\[{extra}\]\)"):
        hierax.export(make("classifier"), tmp_path / "out", format=format, precision=precision)


def test_a_folder_that_is_not_empty_is_left_alone(exported: Exported, tmp_path: Path) -> None:
    model = make("classifier")
    options: dict[str, Any] = {"format": "openvino", "evaluate": few(model)}
    folder = copied(exported("classifier", "openvino")[1], tmp_path / "copy")
    before = (folder / "export.json").read_text()
    with pytest.raises(ValueError, match="is not empty"):
        hierax.export(model, folder, **options)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not an export, it holds notes\.txt"):
        hierax.export(model, folder, **options, overwrite=True)
    assert (folder / "export.json").read_text() == before
    (folder / "notes.txt").unlink()
    hierax.export(model, folder, **options, overwrite=True)
    assert json.loads((folder / "export.json").read_text())["parity"]["inputs"] == 3
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failure_leaves_the_export_that_was_there(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(exported("classifier", "openvino")[1], tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(export_module, "write_json", fail)
    model = make("classifier")
    with pytest.raises(OSError, match="no space left"):
        hierax.export(model, folder, format="openvino", evaluate=few(model), overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]
