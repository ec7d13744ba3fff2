"""What the tests of benchmarks share: settings at toy size, and a report with made up times. Never a speed.

Also a plugin: tests that name it in `pytest_plugins` have its fixtures.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hierax.benchmark import BenchReport, measure
from hierax.benchmark.results import Cell, Contender, Machine, summarize
from hierax.benchmark.settings import resolve

FP32, BF16, INT8 = (Contender("hierax", "openvino", precision) for precision in ("fp32", "bf16", "int8"))
EAGER = Contender("hierax", "eager", "fp32")
SLOW, FAST, FAST_BF16 = (
    Contender(*parts) for parts in (("a", "eager", "fp32"), ("b", "eager", "fp32"), ("b", "eager", "bf16"))
)
SETTINGS: dict[str, Any] = {
    "sizes": None, "batches": (2,), "precisions": ("fp32",), "backends": ("torch",), "against": (), "seconds": 0,
    "against_precision": "auto", "rounds": 2, "threads": 1, "memory": False, "calibration": None,
    "max_pixels": None,
}  # fmt: skip


@pytest.fixture
def small_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products for the ceiling that take no time, and compiled models that are kept where nobody else looks."""
    monkeypatch.setattr(measure, "_SIDE", 64)
    monkeypatch.setattr(measure, "_CEILING_SECONDS", 0.0)
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`script("gpu")` is `benchmarks/gpu.py` as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))

    def imported(name: str) -> ModuleType:
        return importlib.import_module(name)

    return imported


def settings(**changes: Any) -> Any:
    return resolve(["hiera_tiny_224"], **{**SETTINGS, **changes})


def report(**changes: Any) -> BenchReport:
    """A report with made up times, in which everything occurs."""
    times = {FP32: [0.2, 0.2, 0.4], BF16: [0.1] * 3, INT8: [0.05] * 3, SLOW: [1.0] * 3, FAST: [0.4] * 3}
    ceiling, memory = {"fp32": 100.0, "bf16": 200.0}, dict.fromkeys(times, 300.0)
    timings = summarize({**times, FAST_BF16: [0.3] * 3}, batch=4, gmacs=5.0, ceiling=ceiling, memory=memory)
    cells = [
        Cell(model="m", size=(64, 96), batch=batch, rounds=3, gmacs=5.0, ceiling=ceiling, timings=timings, notes=("n",))
        for batch in (1, 4)
    ]
    machine, versions = Machine("a processor", 2, 24.0, "Linux"), {"hierax": "1.0", "torch": "2.13"}
    made = BenchReport(
        date="2026-01-02", machine=machine, versions=versions, settings=settings(), cells=tuple(cells)
    )  # fmt: skip
    return dataclasses.replace(made, **changes)
