"""A plot of a report: the throughput of every contender, with one panel per cell."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hierax.benchmark.results import BenchReport, Cell, Timing
from hierax.benchmark.tables import short
from hierax.extras import require
from hierax.viz.fonts import drawable_names, plot_font

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: str | os.PathLike[str]) -> None:
    """Raises the errors of `plot` before anything is measured.

    Raises:
        ValueError: the file is not PNG, SVG or PDF.
        ImportError: matplotlib is missing; names the extra.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"{os.fspath(path)}: a plot is one of {', '.join(FORMATS)}")
    require("a plot", "matplotlib")


def plot(report: BenchReport, path: str | os.PathLike[str]) -> None:
    """Draws images per second of every contender: one row of panels per model and size, one column per batch.

    Raises:
        ValueError: the file is not PNG, SVG or PDF.
        ImportError: matplotlib is missing; names the extra.
    """
    check_plot(path)
    from matplotlib.figure import Figure  # not pyplot, which keeps global state and may need a display

    models = list(dict.fromkeys((cell.model, cell.size) for cell in report.cells))
    batches = list(dict.fromkeys(cell.batch for cell in report.cells))
    bars = max(len(cell.timings) for cell in report.cells)
    width, height = 2.2 + 4.6 * len(batches), 1.5 + len(models) * (0.9 + 0.3 * bars)
    figure = Figure(figsize=(max(width, 7.5), height), dpi=150, layout="constrained")
    panels = figure.subplots(len(models), len(batches), squeeze=False)
    for cell in report.cells:
        row, column = models.index((cell.model, cell.size)), batches.index(cell.batch)
        _panel(panels[row][column], cell, names=column == 0)
    figure.suptitle(f"Throughput on {report.machine}\n{_packages(report)}", fontsize=9, x=0.01, ha="left")
    note = "Bars: at the median time of a call; thin lines end at the 90th percentile."
    to = [t.against.to for cell in report.cells for t in cell.timings if t.against]
    if to:
        whom = "the published one that it is compared with" if any(c.library != "hierax" for c in to) else str(to[0])
        note += f" In brackets: how many times as fast as {whom}."
    figure.supxlabel(note, fontsize=8, color=_QUIET, x=0.01, ha="left")
    figure.savefig(path)


_OURS, _EAGER, _OTHERS, _INK, _QUIET = "#1f6fb4", "#8dbbe0", "#b9b4ab", "#222222", "#666666"


def _panel(axes: Any, cell: Cell, *, names: bool) -> None:
    """The bars of one cell, grouped by precision; the first panel of a row has their names."""
    precisions = list(dict.fromkeys(timing.contender.precision for timing in cell.timings))
    timings = sorted(cell.timings, key=lambda timing: precisions.index(timing.contender.precision))
    places = [i + 0.5 * precisions.index(timing.contender.precision) for i, timing in enumerate(timings)]
    rates = [timing.images_per_second for timing in timings]
    axes.barh(places, rates, height=0.76, color=[_color(timing) for timing in timings])
    axes.hlines(places, [1000 * cell.batch / timing.p90 for timing in timings], rates, color=_INK, linewidth=1)
    for place, timing in zip(places, timings, strict=True):
        ratio = f"  ({timing.against.median:.2f}x)" if timing.against else ""
        text = f" {short(timing.images_per_second)}{ratio}"
        axes.text(timing.images_per_second, place, text, va="center", fontsize=8, color=_INK)
    axes.set_xlim(0, 1.3 * max(rates))  # room for the texts
    axes.set_yticks(places, [str(timing.contender) if names else "" for timing in timings], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    (title,) = drawable_names([cell.title], kind="model")
    axes.set_title(title, loc="left", **{**plot_font(title), "fontsize": 9})
    axes.set_xlabel("images per second", fontsize=8)


def _color(timing: Timing) -> str:
    if timing.contender.library != "hierax":
        return _OTHERS
    return _EAGER if timing.contender.runtime == "eager" else _OURS


def _packages(report: BenchReport) -> str:
    return f"{report.date}; {', '.join(f'{name} {version}' for name, version in report.versions.items())}"
