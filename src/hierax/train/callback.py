"""The events of the training loop, and what receives them."""

from __future__ import annotations

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
        """Called after an evaluation of `objective`; `better` says whether its weights are the best so far."""

    def on_stop_signal(self, seconds: float | None) -> None:
        """Called by the signal handler when the run is asked to stop, with the seconds that a step takes, if known."""

    def save_model(self, model: Pretrained, *, last: bool = False) -> None:
        """Called with weights to save: the best so far, or the last ones if none are the best. With `last`, these are
        the last weights, to be saved beside the best.
        """
