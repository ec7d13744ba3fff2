"""The script that measures explanations, at toy size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest_plugins = ("benches", "command_line")
pytestmark = pytest.mark.usefixtures("small_and_private")


def test_explanations_are_measured(
    script: Any, here: Any, classifier_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    script("explanations").main(["b", "--model", classifier_folder, "--count", "2", "--json", "found.json"])
    out = capsys.readouterr().out
    assert out.count("\n  gradcam ") == 4 + 4  # two curves, two replacements; four models with random weights
    assert "deletion, blur: area (95 %)" in out


@pytest.mark.parametrize(("best", "deletion", "insertion"), [(True, 0.05, 0.95), (False, 0.95, 0.05)])
def test_a_cell_that_matters_makes_small_areas_when_it_goes_first(
    script: Any, best: bool, deletion: float, insertion: float
) -> None:
    """A model that looks at one cell of 16, and knows its class only while this cell is white."""
    explanations = script("explanations")

    def model(pixels: Tensor) -> Any:
        white = (pixels[:, :, 16:32, 32:48] > 0.99).all(3).all(2).all(1)
        return SimpleNamespace(logits=torch.stack([40.0 * white, 40.0 * ~white], 1))

    pixels = torch.zeros(1, 3, 64, 64)
    pixels[:, :, 16:32, 32:48] = 1
    heat = torch.zeros(16)
    heat[4 + 2] = 1 if best else -1
    order = explanations.orders(heat, torch.Generator().manual_seed(0))
    for (_, what), curve in explanations.curves(model, pixels, 0, order).items():
        assert curve[0] == pytest.approx(float(what == "deletion"), abs=1e-6)
        assert explanations.area(curve) == pytest.approx(deletion if what == "deletion" else insertion, abs=1e-6)


def test_equal_cells_are_in_random_order(script: Any) -> None:
    orders, generator = script("explanations").orders, torch.Generator().manual_seed(0)
    first, second = (orders(torch.zeros(50), generator).tolist() for _ in range(2))
    assert sorted(first) == list(range(50))
    assert first != second


def test_ranks_of_equal_values_are_equal(script: Any) -> None:
    explanations = script("explanations")
    assert explanations.ranks(torch.tensor([3.0, 1.0, 1.0, 2.0])).tolist() == [3, 0.5, 0.5, 2]
    values = torch.randn(20)
    assert explanations.correlation(values, values**3) == pytest.approx(1)
    assert explanations.correlation(values, -values) == pytest.approx(-1)
    assert explanations.correlation(values, torch.zeros(20)) == 0


def test_the_interval_of_equal_values_is_a_point(script: Any) -> None:
    assert script("explanations").interval(np.full(5, 0.25)) == (0.25, 0.25, 0.25)
