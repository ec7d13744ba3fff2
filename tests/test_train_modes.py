"""The table of modes: a new row with an objective and an evaluation is all that a new kind of training needs."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import hierax
from hierax.train.modes import MODES, EvaluationResult, Mode
from hierax.train.objective import Finetuning, Objective
from hierax.train.recipes import RECIPES, _all
from hierax.train.request import Request
from hierax.train.run import train
from training import toy

pytest_plugins = ("runs",)


class Ranking(Finetuning):
    """Learns the class as a number: the squared distance of the expected index from the label."""

    def forward(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """The loss."""
        indices = torch.arange(targets.shape[1], dtype=pixels.dtype)
        expected = self.model(pixels).logits.softmax(1) @ indices
        return (expected - targets @ indices).square().mean()


def _objective(recipe: Any, made: Any, model: Any, train: Any, cache: Any) -> Objective:
    return Ranking(model, recipe, mean=made.mean, std=made.std)


def _evaluate(
    objective: Objective, inputs: Any, here: Any, *, batch: int, workers: int, stop: Callable[[], bool]
) -> EvaluationResult:
    assert isinstance(objective, Ranking)
    return EvaluationResult({"distance": 0.5, "score": -0.5}, [])


@pytest.fixture
def ranking(monkeypatch: pytest.MonkeyPatch) -> Mode:
    """A mode that this test adds."""
    made = dataclasses.replace(MODES["finetune"], name="rank", objective=_objective, evaluate=_evaluate)
    monkeypatch.setitem(cast(dict[str, Mode], MODES), "rank", made)
    return made


def test_a_new_mode_leaves_the_recipes_as_they_are(ranking: Mode) -> None:
    assert {name: build().mode for name, build in _all().items()} == {n: b().mode for n, b in RECIPES.items()}


def test_a_new_mode_trains_evaluates_and_saves(ranking: Mode, data: Path, tmp_path: Path) -> None:
    recipe = toy("rank", validation_fraction=0.25, label_smoothing=0.0)
    train(Request(ranking, data, None, None, recipe, ()), tmp_path / "run", quiet=True)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["mode"] == "rank"
    assert run["result"]["last"]["distance"] == 0.5
    assert hierax.open_checkpoint(tmp_path / "run").task == "classification"


def test_a_finished_run_of_a_new_mode_is_found_again(ranking: Mode, data: Path, tmp_path: Path) -> None:
    recipe = toy("rank", validation_fraction=0.25, label_smoothing=0.0)
    for _ in range(2):
        train(Request(ranking, data, None, None, recipe, ()), tmp_path / "run", quiet=True)


def test_a_recipe_of_another_mode_is_refused(ranking: Mode, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="recipe toy is for finetune, not for rank"):
        train(Request(ranking, data, None, None, toy("finetune"), ()), tmp_path / "run", quiet=True)


def test_an_unknown_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match="mode is 'classify'; expected pretrain, finetune"):
        hierax.train.Recipe(name="own", mode="classify")


def test_every_row_names_recipes_of_its_own() -> None:
    for name, mode in MODES.items():
        assert mode.name == name
        assert {RECIPES[recipe]().mode for recipe in mode.recipes.values()} == {name}


def test_runs_that_call_the_mode_a_task_are_resumed(data: Path, tmp_path: Path) -> None:
    recipe = toy("finetune")
    out = hierax.train.finetune(data, out=tmp_path / "run", source=None, recipe=recipe, quiet=True)
    values = json.loads((out / "run.json").read_text())
    values["recipe"]["task"] = values["recipe"].pop("mode")
    values["task"] = values.pop("mode")
    (out / "run.json").write_text(json.dumps(values))
    assert hierax.train.finetune(data, out=out, source=None, recipe=recipe, quiet=True) == out
