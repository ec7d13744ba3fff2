"""The report of an export: its numbers are true, and what misses a bar is found out."""

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
from exports import Exported, engine_of, few, make, truth
from hierax import ParityReport
from hierax.engine.export import formats, parity
from hierax.engine.signature import Program, Signature
from small import relative

pytest_plugins = ("exports",)


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


def test_a_report_is_written_and_read_without_loss(exported: Exported) -> None:
    _, folder, report = exported("classifier", "openvino")
    stated = json.loads((folder / "export.json").read_text())["parity"]
    assert ParityReport.from_dict(stated) == report
    assert stated["passed"] is True


def test_a_report_reads_as_one_line(exported: Exported) -> None:
    _, _, report = exported("classifier", "openvino")
    assert report.inputs == 200
    error = f"{report.largest_error:.1e}".replace("e-0", "e-")
    assert str(report) == (
        f"stage maps max rel. error {error} · logits cosine 1.0000 (worst 1.0000) · "
        "top-1 agreement 200/200 on 200 images: within the tolerance"
    )


def test_the_report_of_an_export_is_what_its_engine_gives(exported: Exported) -> None:
    model = make("classifier")
    _, folder, report = exported("classifier", "openvino", "bf16")
    processor = hierax.HieraImageProcessor(hierax.Preprocessing.read(folder))
    _, batches = parity.evaluation_inputs(None, config=model.config, processor=processor, masked=False)
    x = torch.cat([pixels for (pixels,) in batches])
    with engine_of(folder) as engine:
        found = torch.cat([engine(part).logits for part in x.split(8)])
    expected = truth(model, x)[0]
    assert relative(found, expected) == pytest.approx(report.outputs["logits"], rel=1e-4, abs=1e-7)
    assert float(torch.cosine_similarity(found.double(), expected.double()).min()) == pytest.approx(report.worst_cosine)


@pytest.mark.slow
@pytest.mark.parametrize(("format", "precision"), [("openvino", "int8"), ("openvino", "fp16"), ("pt2", "bf16")])
def test_lower_precisions_are_within_their_bar_and_not_exact(exported: Exported, format: str, precision: str) -> None:
    _, folder, report = exported("classifier", format, precision)
    assert report.passed
    assert report.largest_error > 1e-4  # it is not float32 under another name
    with engine_of(folder) as engine:
        assert (engine.precision, engine.backend) == (precision, "torch" if format == "pt2" else "openvino")


def test_a_model_that_takes_no_pictures_is_compared_on_noise_and_the_report_says_so(tmp_path: Path) -> None:
    report = hierax.export(make("line"), tmp_path / "out", format="openvino")
    assert str(report).endswith("on 16 random inputs: within the tolerance")
    assert "top-1" not in str(report)


def test_ones_own_pictures_are_taken_whole(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (50 + number, 90), (90 * number, 40, 99)).save(tmp_path / f"{number}.png")
    model = make("classifier")
    report = hierax.export(model, tmp_path / "out", format="openvino", evaluate=tmp_path)
    assert (report.inputs, report.kind) == (3, "images")


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

    baked, model = formats.for_size, make("classifier")
    monkeypatch.setattr(formats, "for_size", shifted)
    with pytest.raises(hierax.ParityError, match=r"reshaped_hidden_states\.0"):
        hierax.export(model, tmp_path / "out", format="openvino", evaluate=few(model))


def test_a_quantization_that_went_wrong_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def signs(model: Any, _: Any) -> Any:
        from openvino import opset13

        for node in model.get_ops():
            weight = node.input_value(1).get_node() if node.get_type_name() == "MatMul" else node
            if weight is not node and weight.get_type_name() == "Constant":
                node.input(1).replace_source_output(opset13.constant(np.sign(weight.data) * 0.05).output(0))
        return model

    monkeypatch.setattr(formats, "quantize", signs)
    model = make("classifier")
    with pytest.raises(hierax.ParityError, match=r"least cosine of logits .* is below 0.995"):
        hierax.export(model, tmp_path / "out", format="openvino", precision="int8", evaluate=few(model))
