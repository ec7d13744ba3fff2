"""The base class of objects that receive the events of the training loop."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hierax.model.pretrained import Pretrained
from hierax.train.objective import Objective
from hierax.train.progress import StepReport

Metrics = dict[str, float]
"""Metrics by name; a higher "score" is better."""


class Callback:
    """Receives the events of the training loop, on rank 0 only. Each method here does nothing."""

    def on_step(self, report: StepReport) -> None:
        """Called after a step."""

    def on_unreadable(self, found: list[str]) -> None:
        """Called with the name and problem of each sample that turned out to be unreadable."""

    def on_evaluation(self, step: int, metrics: Metrics, better: bool, objective: Objective) -> None:
        """Called after an evaluation of `objective`. `better` is True if its weights are the best so far."""

    def on_stop_signal(self, seconds: float | None) -> None:
        """Called by the signal handler when the run is asked to stop, with the seconds that a step takes, if known."""

    def save_adapter(self, state: Mapping[str, Tensor], *, last: bool = False) -> None:
        """Called after `save_model` in a run with an adapter, with the state of the model that has its matrices."""

    def save_model(self, model: Pretrained, *, last: bool = False) -> None:
        """Called with a model to save: the best weights so far, or the last weights if there are no best ones. With
        `last`, these are the last weights, which are saved in addition to the best.
        """
