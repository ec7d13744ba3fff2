"""Plots of a run as files: its loss and scores, and a confusion matrix. They need matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hierax.atomic import atomic_write
from hierax.extras import require
from hierax.train.description import log_entry
from hierax.viz.fonts import drawable_names, plot_font

SCORES = {
    "top1": "top-1",
    "balanced": "balanced",
    "mean_average_precision": "mean average precision",
    "agreement": "agreement with the teacher",
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
}
"""Metrics that are plotted besides the loss: shares, of which higher is better."""
_NUMBERS = 40  # most classes for which the matrix shows its numbers


def read_log(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of steps and those of evaluations in a run's `log.jsonl`; a line that is damaged is left out."""
    steps: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    path = folder / "log.jsonl"
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        entry = log_entry(line)
        if entry is None:
            continue
        step = entry["step"]
        if isinstance(entry.get("validation"), Mapping):
            checks.append({"step": step, **entry["validation"]})
        else:
            steps.append(entry)
    return steps, checks


def curve(entries: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Step and value of the entries that have a number under this name."""
    return [(e["step"], float(e[name])) for e in entries if isinstance(e.get(name), (int, float))]


def plot_losses(folder: Path) -> Path | None:
    """Draws `loss.png` with the losses and scores of `log.jsonl`; returns None without matplotlib."""
    try:
        from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process
    except ImportError:
        return None
    steps, checks = read_log(folder)
    scores = {label: curve(checks, name) for name, label in SCORES.items() if curve(checks, name)}
    figure = Figure(figsize=(12 if scores else 8, 4.5), dpi=120)
    panels = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    _draw(panels[0], {"training": curve(steps, "loss"), "validation": curve(checks, "loss")}, "loss")
    if scores:
        _draw(panels[1], {k: [(x, 100 * y) for x, y in v] for k, v in scores.items()}, "validation, %")
        panels[1].set_ylim(0, 102)
    title = folder.resolve().name
    figure.suptitle(*drawable_names([title], kind="run"), **plot_font(title))
    figure.tight_layout()
    path = folder / "loss.png"
    with atomic_write(path) as part:
        figure.savefig(part)
    return path


def _draw(axes: Any, curves: Mapping[str, list[tuple[int, float]]], label: str) -> None:
    for name, points in curves.items():
        if points:
            marker = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=3)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    if axes.lines:
        axes.legend()
    axes.grid(alpha=0.3)


def draw_confusion(table: np.ndarray, labels: Sequence[str], path: Path, *, pixels: bool = False) -> Path:
    """An image of a confusion matrix of counts `[true, predicted]`, colored by the share of the true class. The numbers
    in it are counts of samples, or for `pixels` the shares in percent.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require("an image of the confusion matrix", "matplotlib")
    from matplotlib.figure import Figure

    shares = table / table.sum(1, keepdims=True).clip(1)
    side = min(max(4.5, 0.4 * len(labels) + 2.5), 28)
    figure = Figure(figsize=(side + 1, side), dpi=110)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    right, count = int(table.trace()), int(table.sum())
    share = f"{100 * right / max(count, 1):.1f} %"
    told = f"{share} of {count:,} pixels right" if pixels else f"{right:,} of {count:,} right ({share})"
    axes.set_title(f"Confusion matrix: {told}")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(labels) <= 60:
        names = drawable_names(labels, kind="class", first=0)
        axes.set_xticks(range(len(labels)), names, rotation=90)
        axes.set_yticks(range(len(labels)), names)
        for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            tick.set(**plot_font(tick.get_text()))
    if len(labels) <= _NUMBERS:
        for (true, said), number in np.ndenumerate(table):
            if number:
                color = "white" if shares[true, said] > 0.5 else "black"
                text = f"{100 * shares[true, said]:.1f}" if pixels else f"{number:,}"
                axes.text(said, true, text, ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, label="share of the true class", fraction=0.046, pad=0.04)
    figure.tight_layout()
    with atomic_write(path) as part:
        figure.savefig(part)
    return path
