"""What the training loop tells of a run while it goes on."""

from __future__ import annotations

from hierax.model.pretrained import Pretrained
from hierax.train.objective import Objective
from hierax.train.progress import StepReport

Metrics = dict[str, float]
"""Metrics by name; a higher "score" is better."""


class Watcher:
    """Receives the events of the loop, on the first rank only."""

    def step(self, report: StepReport) -> None:
        """A step is done."""

    def unreadable(self, found: list[str]) -> None:
        """These samples could not be read for the first time: name and problem of each."""

    def evaluated(self, step: int, metrics: Metrics, better: bool, objective: Objective) -> None:
        """An evaluation is done, of `objective`."""

    def stopping(self, seconds: float | None) -> None:
        """The run was asked to stop, during a step that takes about this many seconds; called by a signal handler."""

    def export(self, model: Pretrained, *, last: bool = False) -> None:
        """These weights are the best so far, or the last if there are no best; with `last`, the last ones besides the
        best.
        """
