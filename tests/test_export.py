"""Exports: what is in the folder, run by each format's own runtime, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import hierax
from hierax import Engine, HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel, ParityReport
from hierax.engine import export as export_module
from hierax.engine import formats, hardware, onnx_backend, parity
from hierax.engine.program import Program, Signature
from small import CONFIGS, image_config, pixels, randomise, relative

pytest_plugins = ("command_line",)

SHALLOW: dict[str, Any] = {  # tracing takes time by the block
    "depths": (1, 1),
    "num_heads": (1, 2),
    "masked_unit_attention": (True, False),
    "num_query_pool": 1,
    "decoder_depth": 1,
}
MODELS: dict[str, Callable[[], Any]] = {
    "classifier": lambda: HieraForImageClassification(image_config(**SHALLOW)),
    "mae": lambda: HieraForPreTraining(image_config(**SHALLOW, mask_ratio=0.5)),
    "video": lambda: hierax.HieraForVideoClassification(CONFIGS["video"](**SHALLOW)),
    "line": lambda: HieraModel(CONFIGS["line"](**SHALLOW)),
    "abs_win": lambda: HieraModel(CONFIGS["abs_win"](**SHALLOW)),
    "backbone": lambda: HieraBackbone(image_config(**SHALLOW, out_features=("stage1", "stage2"))),
}


def make(kind: str) -> Any:
    torch.manual_seed(0)
    return randomise(MODELS[kind]()).eval()


def few(model: Any, count: int = 3, size: Any = None) -> Tensor:
    return pixels(model.config, count, size, generator=torch.Generator().manual_seed(7))


Made = tuple[Any, Path, ParityReport]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Made]:
    """`exported(kind, format, precision)`: the model, the folder and the report; each is made once."""
    done: dict[tuple[str, ...], Made] = {}

    def once(kind: str, format: str, precision: str = "fp32") -> Made:
        key = (kind, format, precision)
        if key not in done:
            model, folder = make(kind), tmp_path_factory.mktemp("exports") / "-".join(key)
            crops = key[:2] == ("classifier", "openvino") and precision in ("fp32", "bf16")  # the others: quickly
            options: dict[str, Any] = {} if crops else {"evaluate": few(model)}
            if precision == "int8":
                options["calibration"] = few(model, 64)
            done[key] = model, folder, hierax.export(model, folder, format=format, precision=precision, **options)
        return done[key]

    return once


def run_file(folder: Path, format: str, *inputs: Tensor) -> list[Tensor]:
    """Outputs of an exported file, by its own runtime and nothing of ours."""
    if format == "pt2":
        with torch.no_grad():
            return list(torch.export.load(folder / "model.pt2").module()(*inputs))
    arrays = [tensor.numpy() for tensor in inputs]
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        found: Any = session.run(None, dict(zip(names, arrays, strict=True)))
    else:
        import openvino

        options = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled: Any = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", options)
        found = list(compiled(arrays).values())
    return [torch.from_numpy(np.array(array)) for array in found]


def engine_of(folder: Path, **options: Any) -> Any:
    return Engine(folder, **options)


def truth(model: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return Program(model, Signature.of(model))(*inputs)


# -- the file, by its own runtime -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("format", ["pt2", "onnx", "openvino"])
def test_each_format_gives_what_the_model_gives_for_any_batch(
    exported: Callable[..., Made], format: str, batch: int
) -> None:
    model, folder, _ = exported("classifier", format)
    x = few(model, batch)
    (found,) = run_file(folder, format, x)
    assert relative(found, truth(model, x)[0]) < 1e-5


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("format", ["pt2", "onnx", "openvino"])
def test_each_format_takes_the_visible_units_of_a_mae(exported: Callable[..., Made], format: str) -> None:
    model, folder, report = exported("mae", format)
    x, kept = few(model), torch.tensor([[0, 1], [1, 3], [0, 2]])
    (found,) = run_file(folder, format, x, kept)
    assert relative(found, truth(model, x, kept)[0]) < 1e-5
    assert report.compared == "logits"
    assert json.loads((folder / "export.json").read_text())["kept"] == 2


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("kind", "format"), [("video", "pt2"), ("video", "openvino"), ("line", "onnx")])
def test_clips_and_signals_are_exported(exported: Callable[..., Made], kind: str, format: str) -> None:
    model, folder, _ = exported(kind, format)
    x = few(model, 2)
    for found, expected in zip(run_file(folder, format, x), truth(model, x), strict=True):
        assert relative(found, expected) < 1e-5


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
def test_nothing_of_the_machine_that_exports_is_in_the_files(exported: Callable[..., Made], format: str) -> None:
    _, folder, _ = exported("classifier", format)
    here = str(Path(hierax.__file__).parents[1]).encode()
    assert [path.name for path in folder.iterdir() if here in path.read_bytes()] == []


def test_an_onnx_that_is_too_large_for_one_file_has_its_weights_beside_it(
    exported: Callable[..., Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    model, folder, _ = exported("classifier", "onnx")
    monkeypatch.setattr(onnx_backend, "_LARGEST", 0)
    onnx_backend.save_onnx(onnx.load(folder / "model.onnx"), tmp_path / "model.onnx")
    sizes = [path.stat().st_size for path in (tmp_path / "model.onnx.data", folder / "model.onnx")]
    assert (tmp_path / "model.onnx").stat().st_size + sizes[0] // 2 < sizes[1]
    x = few(model)
    assert relative(run_file(tmp_path, "onnx", x)[0], truth(model, x)[0]) < 1e-5


def test_taking_outputs_off_an_onnx_takes_off_what_only_they_needed(exported: Callable[..., Made]) -> None:
    import onnx

    _, folder, _ = exported("line", "onnx")
    proto = onnx.load(folder / "model.onnx")
    before = len(proto.graph.node), len(proto.graph.initializer)
    onnx_backend.only_outputs(proto, ["last_hidden_state"])
    assert [output.name for output in proto.graph.output] == ["last_hidden_state"]
    assert len(proto.graph.node) < before[0]
    assert len(proto.graph.initializer) < before[1]
    onnx.checker.check_model(proto)


# -- the report -------------------------------------------------------------------------------------------------------


class Altered:
    """A runner that gives the model's outputs, each changed by `change(name, tensor)`."""

    def __init__(self, model: Any, signature: Signature, change: Callable[[str, Tensor], Tensor]) -> None:
        self.program, self.change = Program(model, signature), change

    def __call__(self, pixels: Tensor, kept: Tensor | None) -> list[Tensor]:
        with torch.no_grad():
            outputs = self.program(pixels, kept)
        return [self.change(n, t) for n, t in zip(self.program.signature.outputs, outputs, strict=True)]

    def close(self) -> None:
        """Nothing to give back."""


def measured(model: Any, change: Callable[[str, Tensor], Tensor], x: Tensor, precision: str = "fp32") -> ParityReport:
    runners = [Altered(model, Signature.of(model, hidden_states=states), change) for states in (False, True)]
    batches = [(part,) for part in x.split(2)]
    return parity.measure(model, runners[0], runners[1], batches, precision=precision, kind="inputs")


def test_the_numbers_of_a_report_are_those_of_the_definition() -> None:
    model = make("classifier")
    x = few(model, 5)
    factors = {"logits": 1.0, **{f"reshaped_hidden_states.{i}": 1 + 0.1 * i for i in range(3)}}
    report = measured(model, lambda name, t: t * factors[name] + (name == "logits") * t.abs().flip(-1), x)
    logits = truth(model, x)[0]
    changed = logits + logits.abs().flip(-1)
    cosines = (logits * changed).sum(1) / logits.norm(dim=1) / changed.norm(dim=1)
    assert report.maps == pytest.approx({name: f - 1 for name, f in factors.items() if name != "logits"}, abs=1e-6)
    assert report.outputs == pytest.approx({"logits": relative(changed, logits)}, rel=1e-5)
    assert (report.cosine, report.worst_cosine) == pytest.approx((float(cosines.mean()), float(cosines.min())))
    assert report.agreements == int((changed.argmax(1) == logits.argmax(1)).sum())
    assert (report.inputs, report.twin) == (5, 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_numbers_that_are_none_miss_every_bar(precision: str) -> None:
    model = make("classifier")
    report = measured(model, lambda _, t: t * torch.nan, few(model), precision)
    assert not report.passed


def test_a_report_is_written_and_read_without_loss(exported: Callable[..., Made]) -> None:
    _, folder, report = exported("classifier", "openvino")
    stated = json.loads((folder / "export.json").read_text())["parity"]
    assert ParityReport.from_dict(stated) == report
    assert stated["passed"] is True


def test_a_report_reads_as_one_line(exported: Callable[..., Made]) -> None:
    _, _, report = exported("classifier", "openvino")
    assert report.inputs == 200
    error = f"{report.largest_error:.1e}".replace("e-0", "e-")
    assert str(report) == (
        f"stage maps max rel. error {error} · logits cosine 1.0000 (worst 1.0000) · "
        "top-1 agreement 200/200 on 200 pictures: within the bar"
    )


def test_the_report_of_an_export_is_what_its_engine_gives(exported: Callable[..., Made]) -> None:
    model = make("classifier")
    _, folder, report = exported("classifier", "openvino", "bf16")
    processor = hierax.HieraImageProcessor(hierax.Preprocessing.read(folder))
    _, batches = parity.evaluation_inputs(None, config=model.config, processor=processor, masked=False)
    x = torch.cat([pixels for (pixels,) in batches])
    with engine_of(folder) as engine:
        found = torch.cat([engine(part).logits for part in x.split(8)])
    expected = truth(model, x)[0]
    assert relative(found, expected) == pytest.approx(report.outputs["logits"], rel=1e-4)
    assert float(torch.cosine_similarity(found.double(), expected.double()).min()) == pytest.approx(report.worst_cosine)


@pytest.mark.parametrize(("format", "precision"), [("openvino", "int8"), ("openvino", "fp16"), ("pt2", "bf16")])
def test_lower_precisions_are_within_their_bar_and_not_exact(
    exported: Callable[..., Made], format: str, precision: str
) -> None:
    _, folder, report = exported("classifier", format, precision)
    assert report.passed
    assert report.largest_error > 1e-4  # it is not float32 under another name
    with engine_of(folder) as engine:
        assert (engine.precision, engine.backend) == (precision, "torch" if format == "pt2" else "openvino")


def test_a_model_that_takes_no_pictures_is_compared_on_noise_and_the_report_says_so(tmp_path: Path) -> None:
    report = hierax.export(make("line"), tmp_path / "out", format="openvino")
    assert str(report).endswith("on 16 random inputs: within the bar")
    assert "top-1" not in str(report)


def test_ones_own_pictures_are_taken_whole(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (50 + number, 90), (90 * number, 40, 99)).save(tmp_path / f"{number}.png")
    model = make("classifier")
    report = hierax.export(model, tmp_path / "out", format="openvino", evaluate=tmp_path)
    assert (report.inputs, report.kind) == (3, "pictures")


# -- bars -------------------------------------------------------------------------------------------------------------


def test_a_missed_bar_writes_nothing_and_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parity.LARGEST_ERROR, "fp32", 1e-12)
    model = make("classifier")
    with pytest.raises(hierax.ParityError, match=r"relative error of logits .* is above 1e-12") as raised:
        hierax.export(model, tmp_path / "out", format="openvino", evaluate=few(model))
    assert not raised.value.report.passed
    assert list(tmp_path.iterdir()) == []


def test_a_graph_with_another_position_embedding_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(*arguments: Any, **options: Any) -> Any:
        made: Any = baked(*arguments, **options)
        made.encoder.pos_embed.value.mul_(1.1)
        return made

    baked, model = formats.baked, make("classifier")
    monkeypatch.setattr(formats, "baked", shifted)
    with pytest.raises(hierax.ParityError, match=r"reshaped_hidden_states\.0"):
        hierax.export(model, tmp_path / "out", format="openvino", evaluate=few(model))


def test_a_quantisation_that_went_wrong_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def signs(model: Any, _: Any) -> Any:
        from openvino import opset13

        for node in model.get_ops():
            weight = node.input_value(1).get_node() if node.get_type_name() == "MatMul" else node
            if weight is not node and weight.get_type_name() == "Constant":
                node.input(1).replace_source_output(opset13.constant(np.sign(weight.data) * 0.05).output(0))
        return model

    monkeypatch.setattr(formats, "quantise", signs)
    model = make("classifier")
    with pytest.raises(hierax.ParityError, match=r"least cosine of logits .* is below 0.995"):
        hierax.export(model, tmp_path / "out", format="openvino", precision="int8", evaluate=few(model))


# -- the engine on an export ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["pt2", "onnx", "openvino"])
def test_an_engine_runs_an_export_on_pictures_and_pixels(exported: Callable[..., Made], format: str) -> None:
    model, folder, _ = exported("classifier", format)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    with engine_of(folder, threads=1) as engine:
        x = engine.processor([picture, picture]).pixel_values
        assert x.shape[2:] == model.config.image_size
        expected = truth(model, x)[0]
        assert relative(engine([picture, picture]).logits, expected) < 1e-5
        assert relative(engine(x).logits, expected) < 1e-5
        assert engine.config.id2label == model.config.id2label


def test_an_engine_of_a_mae_export_gives_loss_and_mask(exported: Callable[..., Made]) -> None:
    model, folder, _ = exported("mae", "openvino")
    x, noise = few(model), torch.rand(3, 4)
    with engine_of(folder) as engine, torch.no_grad():
        found, expected = engine(x, noise=noise), model(x, noise=noise)
        assert relative(found.logits, expected.logits) < 1e-5
        assert found.loss == pytest.approx(float(expected.loss), rel=1e-5)
        assert torch.equal(found.bool_masked_pos, expected.bool_masked_pos)
        with pytest.raises(ValueError, match=r"1 mask units are visible; .* was exported for 2 alone"):
            engine(x, keep=torch.eye(4, dtype=torch.bool)[:3])


def test_an_engine_refuses_sizes_that_were_not_exported(exported: Callable[..., Made]) -> None:
    model, folder, _ = exported("classifier", "openvino")
    with engine_of(folder) as engine:
        with pytest.raises(ValueError, match=r"pixels are 96x64; .* was exported for 64x64 alone"):
            engine(few(model, 1, (96, 64)))
        assert engine(few(model)).logits.shape == (3, 5)


@pytest.mark.parametrize(
    "asked",
    [
        {"precision": "int8"}, {"backend": "torch"}, {"task": "features"}, {"hidden_states": True},
        {"device": "cuda"}, {"out_features": ("stage1",)},
    ],
)  # fmt: skip
def test_an_engine_refuses_what_an_export_is_not(exported: Callable[..., Made], asked: dict[str, Any]) -> None:
    _, folder, _ = exported("classifier", "openvino")
    with pytest.raises(ValueError, match=rf"{next(iter(asked))} is .* is an export for the CPU \(openvino, fp32"):
        Engine(folder, **asked)


def test_an_engine_takes_what_an_export_is(exported: Callable[..., Made]) -> None:
    _, folder, _ = exported("classifier", "openvino")
    Engine(folder, precision="fp32", backend="openvino", task="classification", device="cpu").close()


# -- damage -----------------------------------------------------------------------------------------------------------


def copied(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize("name", ["openvino_model.bin", "openvino_model.xml", "config.json"])
@pytest.mark.parametrize("damage", ["missing", "short", "altered"])
def test_a_damaged_export_names_the_file(exported: Callable[..., Made], tmp_path: Path, name: str, damage: str) -> None:
    folder = copied(exported("classifier", "openvino")[1], tmp_path / "copy")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] if damage == "short" else bytes([content[0] ^ 1]) + content[1:])
    if damage == "missing":
        (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"copy/{name}: is (missing|not what was exported)"):
        Engine(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "format": "tflite"}', "\x00"])
def test_a_record_that_is_none_is_named(exported: Callable[..., Made], tmp_path: Path, text: str) -> None:
    folder = copied(exported("classifier", "openvino")[1], tmp_path / "copy")
    (folder / "export.json").write_text(text)
    with pytest.raises(ValueError, match=r"export\.json: is no record of an export"):
        Engine(folder)


def test_a_record_of_a_later_version_is_refused(exported: Callable[..., Made], tmp_path: Path) -> None:
    folder = copied(exported("classifier", "openvino")[1], tmp_path / "copy")
    values = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps({**values, "version": 99}))
    with pytest.raises(ValueError, match="version 99 was written by a later hierax"):
        Engine(folder)


# -- what is refused, and where it is written -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "format is 'tflite'; allowed: pt2, onnx, openvino"),
        ({"format": "pt2", "precision": "int4"}, "precision is 'int4'; allowed: fp32"),
        ({"format": "pt2", "precision": "int8"}, "precision is 'int8', which pt2 has not"),
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
    with pytest.raises(ValueError, match="masked image modelling takes multiples of 32x32"):
        hierax.export(make("mae"), tmp_path / "out", format="pt2", size=70)


def test_pictures_for_a_model_of_signals_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="evaluate names pictures"):
        hierax.export(make("line"), tmp_path / "out", format="pt2", evaluate=tmp_path)


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
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(ImportError, match=rf"needs the package {package}: pip install 'hierax\[{extra}\]'"):
        hierax.export(make("classifier"), tmp_path / "out", format=format, precision=precision)


def test_a_folder_that_is_not_empty_is_left_alone(exported: Callable[..., Made], tmp_path: Path) -> None:
    model = make("classifier")
    options: dict[str, Any] = {"format": "openvino", "evaluate": few(model)}
    folder = copied(exported("classifier", "openvino")[1], tmp_path / "copy")
    before = (folder / "export.json").read_text()
    with pytest.raises(ValueError, match="is not empty"):
        hierax.export(model, folder, **options)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is no export, it holds notes\.txt"):
        hierax.export(model, folder, **options, overwrite=True)
    assert (folder / "export.json").read_text() == before
    (folder / "notes.txt").unlink()
    hierax.export(model, folder, **options, overwrite=True)
    assert json.loads((folder / "export.json").read_text())["parity"]["inputs"] == 3
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failure_leaves_the_export_that_was_there(
    exported: Callable[..., Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(exported("classifier", "openvino")[1], tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(export_module, "_write_json", fail)
    model = make("classifier")
    with pytest.raises(OSError, match="no space left"):
        hierax.export(model, folder, format="openvino", evaluate=few(model), overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]
