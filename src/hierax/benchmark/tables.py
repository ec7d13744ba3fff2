"""A report as text: the table of a cell, and the Markdown of `benchmarks/RESULTS.md`."""

from __future__ import annotations

from collections.abc import Iterator

from hierax.benchmark.results import BenchReport, Cell, Timing
from hierax.reprs.markup import Markup, card, table

COLUMNS = ("contender", "", "p50 ms", "p90 ms", "p99 ms", "images/s", "of ceiling", "MiB", "against")


def row(timing: Timing) -> tuple[str, ...]:
    """The row of one contender, one text per column."""
    contender = timing.contender
    fraction = "" if timing.of_ceiling is None else f"{timing.of_ceiling:.2f}"
    return (
        f"{contender.library} {contender.runtime}",
        contender.precision,
        *(short(value) for value in (timing.p50, timing.p90, timing.p99, timing.images_per_second)),
        f"{fraction}*" if fraction and contender.ceiling != contender.precision else fraction,
        "" if timing.peak_mib is None else f"{timing.peak_mib:.0f}",
        str(timing.against or ""),
    )


def legend(cell: Cell) -> Iterator[str]:
    """The caption of a cell: rounds, multiply-accumulates and ceiling."""
    rates = ", ".join(f"{rate:.0f} in {precision}" for precision, rate in cell.ceiling.items())
    yield f"{cell.rounds} rounds, {cell.gmacs:.2f} GMAC per image; ceiling {rates} GMAC/s"
    whom: dict[str, list[str]] = {}
    for timing in cell.timings:
        if timing.against is not None:
            whom.setdefault(str(timing.against.to), []).append(timing.contender.precision)
    if whom:
        pairs = (f"{' and '.join(dict.fromkeys(precisions))} with {name}" for name, precisions in whom.items())
        yield f"against: {'; '.join(pairs)}"
    yield from cell.notes


def columns_explained(report: BenchReport) -> Iterator[str]:
    """The explanation of the columns, before all cells."""
    timings = [timing for cell in report.cells for timing in cell.timings]
    yield "p50, p90, p99: percentiles of the time of a call. images/s: at the median."
    yield "of ceiling: of the multiply-accumulates per second of the best of several 2048-cubed products in the run."
    if any(t.of_ceiling is not None and t.contender.precision == "int8" for t in timings):
        yield "* of the ceiling in bf16."
    if any(timing.peak_mib is not None for timing in timings):
        yield "MiB: most memory of a process that builds the contender and calls it three times, Python included."
    if any(timing.against is not None for timing in timings):
        yield "against: median over rounds of the other's time / this one's, and quartiles; above 1 this one is faster."


def markdown(report: BenchReport) -> Iterator[str]:
    """The whole report as Markdown."""
    packages = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    yield f"{report.date}. {report.machine}; {packages};"
    yield f"`{report.settings.command}`."
    yield ""
    yield from columns_explained(report)
    for cell in report.cells:
        yield ""
        yield f"**{cell.title}** ({'; '.join(legend(cell))})"
        yield ""
        yield f"| {' | '.join(COLUMNS)} |"
        yield "|---" * len(COLUMNS) + "|"
        yield from (f"| {' | '.join(row(timing))} |" for timing in cell.timings)


def bench_report(report: BenchReport) -> str:
    """The report as HTML for a notebook: a table for each cell."""
    parts: list[Markup] = []
    for cell in report.cells:
        rows = [tuple(row(timing)) for timing in cell.timings]
        parts.append(Markup(card(cell.title, table(COLUMNS, rows), note="; ".join(legend(cell)))))
    return card(f"BenchReport of {report.date}", *parts, note=str(report.machine))


def short(value: float) -> str:
    """The number as text with at least three digits; more digits would only be noise."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"
