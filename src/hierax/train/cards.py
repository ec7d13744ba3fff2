"""Evaluations in a notebook: metrics, and the classes that are found worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hierax.console import quantity
from hierax.reprs.markup import Cell, Markup, bar, card, table

if TYPE_CHECKING:
    from hierax.train.evaluation import Evaluation
    from hierax.train.segmentation_evaluation import SegmentationEvaluation


def evaluation(found: Evaluation) -> str:
    """The metrics, and samples, recall and precision of each class."""
    return _card(found, quantity(found.count, "sample"), "recall", ("recall", "precision", "samples"))


def segmentation_evaluation(found: SegmentationEvaluation) -> str:
    """The metrics, and IoU, recall, precision and pixels of each class."""
    return _card(found, quantity(found.count, "image"), "iou", ("iou", "recall", "precision", "pixels"))


def _card(found: Evaluation | SegmentationEvaluation, count: str, by: str, names: Sequence[str]) -> str:
    classes = sorted(found.per_class, key=lambda row: math.inf if row[by] is None else row[by])
    rows = [(row["label"], bar(row[by] or 0.0, width=100), *(_number(row[name]) for name in names)) for row in classes]
    worst = f"the lowest {_words(by)} first" if rows else ""
    title = f"{type(found).__name__} of {count}"
    return card(
        title, metrics_table(found.metrics), table(("class", "", *map(_words, names)), rows) if rows else "", note=worst
    )


def metrics_table(metrics: Mapping[str, Any]) -> Markup:
    """Metrics with bars, for those from 0 to 1 that are better if they are higher."""
    rows: list[tuple[Cell, ...]] = []
    for name, value in metrics.items():
        if name != "score":
            rows.append((_words(name), "" if name == "loss" else bar(value), _number(value)))
    return table((), rows)


def _words(name: str) -> str:
    return {"top1": "top-1", "top5": "top-5"}.get(name, name.replace("_", " ").replace("iou", "IoU"))


def _number(value: float | None) -> str | int:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return value if isinstance(value, int) else f"{value:.3f}"
