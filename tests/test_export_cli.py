"""`hierax export`, and its exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import hierax
from hierax import extras
from hierax.cli.export import size_text
from hierax.engine.export import parity

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)


def test_export_prints_the_report_and_what_it_wrote(run: Run, classifier_folder: str) -> None:
    command = ("export", classifier_folder, "-o", "out", "--format", "openvino", "--evaluate", "a")
    code, out, err = run(*command, "--size", "64x96")
    assert code == 0
    lines = out.splitlines()
    assert re.fullmatch(
        r"  stage maps max rel\. error \d\.\de-\d · logits cosine 1\.0000 \(worst 1\.0000\) · "
        r"top-1 agreement 1/1 on 1 images: within the tolerance",
        lines[0],
    )
    assert re.fullmatch(r"wrote out \(openvino, fp32\): [1-9][\d.]* (MB|kB)", lines[1])
    assert all(re.fullmatch(r"  \S+  [1-9][\d.]* (MB|kB|B)", line) for line in lines[2:])
    names = {"config.json", "export.json", "openvino_model.bin", "openvino_model.xml", "preprocessor_config.json"}
    assert {line.split()[0] for line in lines[2:]} == {f"out/{name}" for name in names}
    license, *steps = err.splitlines()
    assert license == f"hierax: {classifier_folder}: weights under CC-BY-NC-4.0 (not for commercial use)"
    assert steps[0] == "hierax: tracing the model"
    assert steps[-1] == "hierax: comparing with the model"
    record = json.loads(Path("out/export.json").read_text())
    assert (record["size"], record["batch"], record["task"]) == ([64, 96], None, "classification")
    assert record["weights"]["license"] == "CC-BY-NC-4.0"
    with hierax.Engine("out") as engine:
        assert engine("a/cat.jpg").logits.shape == (1, 5)  # type: ignore[attr-defined]
    code, _, err = run(*command)
    assert code == 2
    assert "out: is not empty; choose another folder, or overwrite it (--overwrite)" in err


def test_an_export_that_misses_its_bar_exits_with_2_and_leaves_nothing(
    run: Run, mae_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.LARGEST_ERROR, "fp32", -1.0)
    before = sorted(Path().iterdir())
    code, out, err = run("export", mae_folder, "-o", "out", "--format", "openvino", "--evaluate", "a")
    assert (code, out) == (2, "")
    assert "the fp32 export is outside its tolerance, so nothing is written: relative error of logits" in err
    assert sorted(Path().iterdir()) == before


def test_export_of_a_task_in_int8_says_what_it_is_calibrated_on(run: Run, classifier_folder: str) -> None:
    command = ("export", classifier_folder, "-o", "out", "--format", "openvino", "--precision", "int8")
    code, out, err = run(*command, "--task", "features", "--batch-size", "2", "--evaluate", "a")
    assert code == 0, err
    assert "pooled output cosine" in out
    assert "int8 is calibrated on crops of one photo; use --calibration DIR for images of your own" in err
    assert json.loads(Path("out/export.json").read_text())["batch"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "pt2", "--precision", "int8"), "format 'pt2' does not support precision 'int8'"),
        (("--format", "onnx", "--size", "big"), "argument --size: 'big' is not a size; expected 448, or 320x448"),
        (("--format", "onnx", "--model", "other"), "MODEL is given twice: nowhere and --model other"),
        (("--format", "onnx", "--batch-size", "2", "--dynamic-batch"), "not allowed with argument --batch-size"),
        (("--format", "tflite"), "'tflite' is not one of pt2, onnx, openvino"),
    ],
)
def test_what_cannot_be_exported_exits_with_2(run: Run, options: tuple[str, ...], message: str) -> None:
    code, _, err = run("export", "nowhere", "-o", "out", *options)
    assert code == 2
    assert message in err
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["m.onnx", "new/m.PT2", "m.xml"])
def test_an_output_that_looks_like_a_file_is_refused(run: Run, name: str) -> None:
    code, _, err = run("export", "nowhere", "-o", name, "--format", "onnx")
    assert code == 2
    assert f"{name}: looks like a file; expected a folder to write to, such as {Path(name).with_suffix('')}" in err


def test_the_model_may_be_named_by_an_option_and_an_export_is_none(run: Run, classifier_folder: str) -> None:
    code, _, err = run("export", "--model", classifier_folder, "-o", "out", "--format", "pt2", "--evaluate", "a")
    assert code == 0, err
    code, _, err = run("export", "out", "-o", "other", "--format", "pt2")
    assert code == 2
    assert "out is already an export; expected the model that it was made from" in err


def test_sizes_of_files_are_said_in_a_unit_in_which_they_are_no_zero() -> None:
    assert [size_text(n) for n in (12, 700, 9_400, 2_600_000)] == ["12 B", "700 B", "9.4 kB", "2.6 MB"]


def test_a_missing_package_exits_with_2_and_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    code, _, err = run("export", "nowhere", "-o", "out", "--format", "openvino")
    assert code == 2
    line = "pip install 'openvino>=2025.4' (part of hierax[openvino])"
    assert err == f"hierax: format 'openvino' needs the package openvino: {line}\n"
