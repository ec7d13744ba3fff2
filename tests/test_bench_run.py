"""A benchmark of a toy model, from the library. Never a speed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benches import EAGER, SETTINGS
from hierax.benchmark import BenchReport, bench, measure
from hierax.benchmark.contenders import Subject, peak_memory, peak_resident_mib
from hierax.benchmark.results import Contender

pytest_plugins = ("benches", "command_line")
pytestmark = pytest.mark.usefixtures("small_and_private")


def test_a_run_measures_every_contender_in_every_cell(classifier_folder: str) -> None:
    told: list[tuple[str, float]] = []
    found = bench(
        classifier_folder,
        sizes=(64, "64x96"),
        batches=(1, 3),
        precisions=("fp32", "bf16"),
        backends=("torch",),
        seconds=0,
        rounds=2,
        threads=1,
        memory=False,
        progress=lambda text, done: told.append((text, done)),
    )
    assert [(cell.size, cell.batch, cell.rounds) for cell in found.cells] == [
        ((64, 64), 1, 2), ((64, 64), 3, 2), ((64, 96), 1, 2), ((64, 96), 3, 2)
    ]  # fmt: skip
    for cell in found.cells:
        assert [t.contender.precision for t in cell.timings] == ["fp32", "bf16", "fp32"]
        assert all(t.of_ceiling for t in cell.timings)
    assert found.cells[3].gmacs > found.cells[0].gmacs
    shares = [done for _, done in told]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    assert BenchReport.from_json(found.to_json()) == found


def test_a_mae_model_can_be_measured(mae_folder: str) -> None:
    (cell,) = bench(mae_folder, **SETTINGS).cells
    assert [t.contender.runtime for t in cell.timings] == ["torch", "eager"]


def test_the_weights_of_a_variant_are_the_same_every_time_and_leave_the_callers_draws_alone() -> None:
    state = torch.get_rng_state()
    one, other = (Subject("hiera_tiny_224", "64", 1).model() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.config.image_size == (64, 64)


def test_memory_is_that_of_a_process_of_its_own(classifier_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(classifier_folder).parent)
    ballast = torch.ones(100 << 20)  # 400 MiB here, which the other process must not be charged with
    subject = Subject(Path(classifier_folder).name, "", 1)
    found = peak_memory(Contender("hierax", "torch", "fp32"), subject, batch=2)
    assert 100 < found < peak_resident_mib() - ballast.numel() * 4 / 2**21


def test_memory_that_cannot_be_measured_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> float:
        raise RuntimeError("hierax eager fp32: killed")

    monkeypatch.setattr(measure, "peak_memory", failing)
    found, notes = measure._memory(Subject("m", "", 1), 1, [EAGER], lambda *_: None)
    assert found == {}
    assert notes == ["no memory: hierax eager fp32: killed"]


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"hierax eager fp32: .*nowhere"):
        peak_memory(EAGER, Subject("./nowhere", "", 1), batch=1)
