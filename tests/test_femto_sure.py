"""When the demonstration may be sure: the numbers of femto/sure.py, on made probabilities."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FEMTO = Path(__file__).parents[1] / "femto"


@pytest.fixture
def sure(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`femto/sure.py` as a module."""
    monkeypatch.syspath_prepend(str(FEMTO))
    return importlib.import_module("sure")


def answered(sure: Any, probabilities: np.ndarray, labels: list[int]) -> Any:
    found = object.__new__(sure.Answered)
    found.probabilities, found.labels = probabilities, np.array(labels)
    return found


def test_the_threshold_is_the_smallest_one_with_enough_right_answers(sure: Any) -> None:
    confidence = np.array([0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    right = np.array([False, False, True, False, True, True])
    assert sure.smallest_threshold(confidence, right, 0.5) == 0
    assert sure.smallest_threshold(confidence, right, 0.75) == 0.31  # three of four above 0.3
    assert sure.smallest_threshold(confidence, right, 1) == 0.51
    assert sure.smallest_threshold(confidence, ~right & (confidence < 0), 0.5) == 1


def test_shares_are_of_the_chosen_pictures_and_lie_in_their_intervals(sure: Any) -> None:
    chance = np.linspace(0.5, 0.99, 50)
    found = answered(sure, np.stack([chance, 1 - chance], 1), [0] * 40 + [1] * 10)
    whole = sure.answered_share(found, np.ones(50, bool), 0.745)
    assert (whole["answered"][0], whole["right"][0]) == (50, 60)
    assert all(low < value < high for value, low, high in (whole["answered"], whole["right"]))
    part = sure.answered_share(found, np.arange(50) < 40, 0.745)
    assert (part["pictures"], part["right"]) == (40, [100, 100, 100])


def test_the_calibration_error_is_the_gap_between_confidence_and_right_answers(sure: Any) -> None:
    probabilities = np.tile([0.75, 0.25], (100, 1))
    assert sure.calibration_error(probabilities, np.array([0] * 75 + [1] * 25)) == 0
    assert sure.calibration_error(probabilities, np.array([0] * 50 + [1] * 50)) == 25


def test_the_best_temperature_undoes_a_wrong_one(sure: Any) -> None:
    probabilities = np.tile([0.8, 0.2], (100, 1))
    labels = [0] * 80 + [1] * 20
    assert sure.best_temperature(answered(sure, probabilities, labels)) == 1
    np.testing.assert_allclose(sure.heated(sure.heated(probabilities, 0.5), 2), probabilities)
    assert sure.best_temperature(answered(sure, sure.heated(probabilities, 0.5), labels)) == 2
