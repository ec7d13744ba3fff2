"""`hierax bench`: what it prints and writes, and its errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hierax.benchmark import BenchReport

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("benches", "command_line")
pytestmark = pytest.mark.usefixtures("small_and_private")


def test_the_command_prints_a_table_and_writes_numbers_and_a_plot(run: Run, classifier_folder: str) -> None:
    code, out, err = run(
        "bench", "--model", classifier_folder, "--batch-size", "1", "--precision", "fp32", "--seconds", "0",
        "--rounds", "2", "--threads", "1", "--against", "transformers", "-o", "new/found.json", "--plot", "found.png",
    )  # fmt: skip
    assert code == 0, err
    found = BenchReport.from_json(Path("new/found.json").read_text())
    (cell,) = found.cells
    assert [str(t.contender) for t in cell.timings] == ["hierax openvino fp32", "hierax eager fp32"]
    assert all(t.peak_mib and t.peak_mib > 100 for t in cell.timings)
    assert out.index("p50, p90, p99: percentiles") < out.index(cell.title)  # the legend stands before the tables
    assert cell.title in out
    assert "hierax openvino  fp32" in out
    assert "not among what transformers build by name" in out
    assert all(len(line) <= 100 for line in out.splitlines() if line.startswith("  hierax"))
    assert Path("found.png").read_bytes().startswith(b"\x89PNG")
    assert err.endswith("wrote found.png\n")


def test_the_command_prints_markdown(run: Run, classifier_folder: str) -> None:
    code, out, _ = run(
        "bench", "--model", classifier_folder, "--batch", "2", "--precision", "fp32", "--backend", "torch",
        "--seconds", "0", "--rounds", "2", "--threads", "1", "--no-memory", "--markdown",
    )  # fmt: skip
    assert code == 0
    assert "| hierax torch | fp32 |" in out


def test_the_command_prints_json_alone_where_that_is_asked_for(run: Run, classifier_folder: str) -> None:
    code, out, _ = run(
        "bench", "--model", classifier_folder, "--batch", "1", "--precision", "fp32", "--backend", "torch",
        "--seconds", "0", "--rounds", "2", "--threads", "1", "--no-memory", "--json",
    )  # fmt: skip
    assert code == 0
    assert len(BenchReport.from_json(out).cells) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch-size", "0"), "'0' is not a whole number above 0"),
        (("--batch-size", "1,,2"), "'1,,2' is not a list separated by commas"),
        (("--backend", "tensorrt"), "backend is 'tensorrt'"),
        (("--precision", "fp8"), "precision is 'fp8'"),
        (("--against", "jax"), "against is 'jax'"),
        (("--model", "hiera_minute_224"), "hiera_minute_224"),
        (("--plot", "found.txt"), "a plot is one of .png, .svg, .pdf"),
    ],
)
def test_errors_of_the_command_are_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run("bench", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_the_command_names_the_extra_that_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else real(name, *a))
    code, _, err = run("bench", "--plot", "found.png")
    line = "pip install 'matplotlib>=3.8' (part of hierax[plot])"
    assert (code, err) == (2, f"hierax: a plot needs the package matplotlib: {line}\n")
