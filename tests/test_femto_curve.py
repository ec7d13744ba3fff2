"""The plot of all runs of hierax/femto: losses are read from a run, and drawn."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest_plugins = ("femto_scripts",)


def test_the_losses_of_a_run_are_added_once_and_drawn(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = script("curve")
    table = tmp_path / "runs.csv"
    table.write_text("run,crops,measure,value\nfirst,1000,test,42.6\nfirst,1000,loss held out,3\n")
    monkeypatch.setattr(curve, "FILE", table)
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"recipe": {"batch_size": 64}}))
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "validation": {"loss": 1.25}},
             {"step": 3, "loss": 0.5}, {"step": 4, "validation": {"loss": 1.0}}]  # fmt: skip
    (run / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for _ in range(2):
        assert curve.main(["--add", "next", str(run), "1000", "-o", str(tmp_path / "plot.png")]) == 0
    assert curve.read(table) == [
        ("first", 1000, "test", 42.6),
        ("first", 1000, "loss held out", 3.0),
        ("next", 1128, "loss held out", 1.25),
        ("next", 1128, "loss in training", 1.5),
        ("next", 1256, "loss held out", 1.0),
        ("next", 1256, "loss in training", 0.5),
    ]
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.size == (800, 700)
