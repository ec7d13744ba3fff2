"""Segmentation in engines and exports: their logits are those of the model, and the coarse ones are in the files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hierax
from exports import few, run_file
from hierax import Engine
from hierax.cli import main
from hierax.engine.signature import Program, Signature
from sam2_small import sam_config
from small import image_config, randomize, relative

SHALLOW: dict[str, Any] = {"depths": (1, 1, 1, 1), "segmentation_hidden_size": 16}
BACKENDS = ("torch", "openvino", "onnxruntime")
FORMATS = ("pt2", "onnx", "openvino")


def model(head: str = "fpn", config: Any = image_config, **changes: Any) -> Any:
    torch.manual_seed(0)
    made = hierax.HieraForSemanticSegmentation(config(**{**SHALLOW, **changes}, segmentation_head=head))
    return randomize(made, 0.1).eval()


def call(net: Any, x: Tensor, **options: Any) -> Any:
    with torch.no_grad():
        return net(x, **options)


def same_class(a: Tensor, b: Tensor) -> float:
    return float((a.argmax(1) == b.argmax(1)).float().mean())


@pytest.mark.parametrize("backend", [*BACKENDS[:2], pytest.param(BACKENDS[2], marks=pytest.mark.slow)])
@pytest.mark.parametrize("head", ["linear", "fpn"])
def test_engines_give_the_logits_of_every_pixel(backend: str, head: str) -> None:
    net = model(head)
    with Engine(net, backend=backend, precision="fp32", device="cpu", cache_dir=False, threads=1) as engine:
        for size in ((64, 64), (50, 37)):
            x = few(net, size=size)
            out = engine(pixel_values=x)
            assert type(out) is hierax.SemanticSegmentationOutput
            assert relative(out.logits, call(net, x).logits) < 1e-5
            assert relative(engine.coarse_logits(pixel_values=x), net.coarse_logits(x)) < 1e-5


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_an_engine_gives_the_maps_of_the_stages_too(backend: str) -> None:
    net = model()
    x = few(net)
    with Engine(net, backend=backend, precision="fp32", device="cpu", cache_dir=False, hidden_states=True) as engine:
        found: Any = engine(pixel_values=x)
        expected = call(net, x, output_hidden_states=True)
    assert relative(found.logits, expected.logits) < 1e-5
    for ours, theirs in zip(found.reshaped_hidden_states, expected.reshaped_hidden_states, strict=True):
        assert relative(ours, theirs) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_windows_and_the_trunk_of_sam_2_run_in_engines(backend: str) -> None:
    net = model(config=sam_config, global_blocks=(2,))
    x = few(net, size=(96, 64))
    with Engine(net, backend=backend, precision="fp32", device="cpu", cache_dir=False) as engine:
        assert relative(engine(pixel_values=x).logits, call(net, x).logits) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_bf16_names_nearly_the_same_classes(backend: str) -> None:
    net = model()
    x = few(net)
    with Engine(net, backend=backend, precision="bf16", device="cpu", cache_dir=False) as engine:
        assert same_class(engine(pixel_values=x).logits, call(net, x).logits) > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_int8_names_nearly_the_same_classes(backend: str) -> None:
    net = model()
    x = few(net, 64)
    options: dict[str, Any] = {"device": "cpu", "cache_dir": False, "calibration": x}
    with Engine(net, backend=backend, precision="int8", **options) as engine:
        assert same_class(engine(pixel_values=x[:8]).logits, call(net, x[:8]).logits) > 0.9


def test_coarse_logits_are_for_segmentation() -> None:
    net = hierax.HieraModel(image_config(depths=(1, 1, 1, 1)))
    wrong = pytest.raises(ValueError, match=r"coarse_logits is for task 'segmentation'; .* is features")
    with Engine(net, backend="torch", precision="fp32", device="cpu") as engine, wrong:
        engine.coarse_logits(pixel_values=torch.randn(1, 3, 64, 64))


def test_a_stream_gives_the_logits_of_each_image() -> None:
    net = model()
    x = few(net)
    with Engine(net, backend="torch", precision="fp32", device="cpu") as engine:
        found = list(engine.stream(list(x.split(1)), read=lambda item: item, batch_size=2))
    for one, expected in zip(found, call(net, x).logits, strict=True):
        torch.testing.assert_close(one.output.logits[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("format", ["pt2", pytest.param("onnx", marks=pytest.mark.slow), "openvino"])
def test_an_export_holds_coarse_logits_and_an_engine_enlarges_them(format: str, tmp_path: Path) -> None:
    net = model()
    x = few(net)
    report = hierax.export(net, tmp_path / "export", format=format, evaluate=x)
    assert report.passed
    assert (report.compared, report.cells) == ("logits", 3 * 16 * 16)
    assert "same class in 100.00 % of the cells" in str(report)
    assert relative(run_file(tmp_path / "export", format, x)[0], net.coarse_logits(x)) < 1e-4
    with Engine(tmp_path / "export") as engine:
        assert engine.task == "segmentation"
        assert relative(engine(pixel_values=x).logits, call(net, x).logits) < 1e-4
        assert relative(engine.coarse_logits(pixel_values=x), net.coarse_logits(x)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_exports_are_compared(format: str, tmp_path: Path) -> None:
    net = model("linear")
    x = few(net, 64)
    report = hierax.export(net, tmp_path / "export", format=format, precision="int8", calibration=x, evaluate=x[:8])
    assert report.agreements is not None
    assert report.cells == 8 * 16 * 16
    assert report.agreements / report.cells > 0.9


@pytest.mark.slow
def test_layouts_of_servers_state_the_coarse_logits(tmp_path: Path) -> None:
    net = model()
    hierax.export(net, tmp_path / "triton", layout="triton", evaluate=few(net))
    text = next((tmp_path / "triton").rglob("config.pbtxt")).read_text()
    assert 'name: "logits"' in text
    assert "dims: [ 5, 16, 16 ]" in text
    assert "label_filename" not in text  # labels of Triton are for one list of logits
    with Engine(tmp_path / "triton") as engine:
        assert engine(pixel_values=few(net)).logits.shape == (3, 5, 64, 64)


def test_the_layout_of_transformers_js_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the task of this model is segmentation"):
        hierax.export(model(), tmp_path / "js", layout="transformers.js")


@pytest.mark.slow
def test_the_commands_convert_and_export_a_segmentation_model(tmp_path: Path, capsys: Any) -> None:
    net = model(num_labels=3, id2label={0: "sky", 1: "sea", 2: "sand"})
    net.save_pretrained(tmp_path / "model")
    assert main(["convert", str(tmp_path / "model"), "-o", str(tmp_path / "again")]) == 0
    assert main(["export", str(tmp_path / "again"), "-o", str(tmp_path / "export"), "--format", "pt2"]) == 0
    x = few(net)
    with Engine(tmp_path / "export") as engine:
        assert relative(engine(pixel_values=x).logits, call(net, x).logits) < 1e-4
        assert engine.config.id2label == {0: "sky", 1: "sea", 2: "sand"}
    capsys.readouterr()


@pytest.mark.parametrize("to", ["timm", "official"])
def test_other_libraries_have_no_names_for_the_head(to: str, tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"the {to} format has no name for the tensor segmentation\."):
        hierax.convert(tmp_path / "model", tmp_path / "other", to=to)


def test_a_model_compiles_to_one_graph_with_its_loss() -> None:
    net, labels = model(), torch.randint(0, 5, (2, 50, 40))
    labels[0, :9] = 255
    x = few(net, 2, (50, 40))
    compiled: Any = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, labels).loss, net(x, labels).loss)


@pytest.mark.parametrize("size", [(64, 64), (50, 37)])
def test_a_model_is_exported_with_a_dynamic_batch(size: tuple[int, int]) -> None:
    net = model()
    program = torch.export.export(
        net, (few(net, 2, size),), dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1)}}
    )
    x = few(net, 5, size)
    torch.testing.assert_close(program.module()(x).logits, call(net, x).logits)


def test_the_program_of_an_engine_holds_no_full_logits() -> None:
    net = model()
    (coarse,) = Program(net, Signature.of(net))(few(net, 1))
    assert coarse.shape == (1, 5, 16, 16)


def test_a_model_card_names_the_task_and_the_class() -> None:
    from hierax.checkpoint.save import model_card

    card = model_card(model(), "me/sky")
    assert "pipeline_tag: image-segmentation" in card
    assert "from hierax import AutoImageProcessor, HieraForSemanticSegmentation" in card
