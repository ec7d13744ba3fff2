"""The results of a benchmark, as values that JSON can represent."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hierax.benchmark.settings import Settings
from hierax.console import quantity
from hierax.reprs.markup import html_repr
from hierax.reprs.text import short_repr


@dataclass(frozen=True)
class Contender:
    """An implementation that is timed.

    Attributes:
        library: "hierax", or the name of a published implementation.
        runtime: the engine's backend, or "eager" for a model that is called directly.
        precision: "fp32", "bf16" or "int8".
    """

    library: str
    runtime: str
    precision: str

    def __str__(self) -> str:
        return f"{self.library} {self.runtime} {self.precision}"

    @property
    def ceiling(self) -> str:
        """The precision of the matrix products of its ceiling; PyTorch has no such products in int8."""
        return "bf16" if self.precision == "int8" else self.precision


@dataclass(frozen=True)
class Ratio:
    """The speed relative to another contender: the median over rounds of its time / ours, and the quartiles."""

    to: Contender
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[float], to: Contender, theirs: Sequence[float]) -> Ratio:
        """The ratio of times of the same rounds."""
        low, median, high = np.percentile(np.divide(theirs, ours), (25, 50, 75)).tolist()
        return cls(to, median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One contender in one cell.

    Attributes:
        p50, p90, p99: percentiles of the time of one call, in milliseconds.
        images_per_second: at the median.
        of_ceiling: multiply-accumulates per second at the median, as a share of those of the machine's matrix products
            (`Contender.ceiling`); None if these were not measured.
        peak_mib: peak resident memory in MiB of a process that builds it and calls it three times, with Python and
            libraries, or None.
        against: the ratio to the fastest contender that it is compared with, or None.
    """

    contender: Contender
    p50: float
    p90: float
    p99: float
    images_per_second: float
    of_ceiling: float | None = None
    peak_mib: float | None = None
    against: Ratio | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """All contenders at one model, size and batch, timed in turn.

    Attributes:
        rounds: number of calls of each contender.
        gmacs: multiply-accumulates per image, in 10^9.
        ceiling: 10^9 multiply-accumulates per second of the best of several 2048-cubed products, by precision.
        timings: one per contender, in the order in which they are shown.
        notes: which contenders were left out, and why.
    """

    model: str
    size: tuple[int, ...]
    batch: int
    rounds: int
    gmacs: float
    ceiling: Mapping[str, float]
    timings: tuple[Timing, ...]
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The model, the size in pixels and the batch."""
        return f"{self.model}, {'x'.join(map(str, self.size))} pixels, batch {self.batch}"


@dataclass(frozen=True)
class Machine:
    """The machine that was measured."""

    processor: str
    threads: int
    memory_gib: float
    system: str

    def __str__(self) -> str:
        return f"{self.processor}, {quantity(self.threads, 'thread')}, {self.memory_gib:.0f} GiB, {self.system}"


@short_repr()
@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """The report of a whole run: machine, date, versions, and the cells."""

    date: str
    machine: Machine
    versions: Mapping[str, str]
    settings: Settings
    cells: tuple[Cell, ...]

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.benchmark.tables import bench_report

        return bench_report(self)

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps({**dataclasses.asdict(self), "command": self.settings.command}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> BenchReport:
        """The report that `to_json` wrote."""
        fields = json.loads(text)
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["settings"].items()}
        return cls(
            date=fields["date"],
            machine=Machine(**fields["machine"]),
            versions=fields["versions"],
            settings=Settings(**settings),
            cells=tuple(_cell(cell) for cell in fields["cells"]),
        )


def _cell(fields: dict[str, Any]) -> Cell:
    timings = []
    for timing in fields.pop("timings"):
        against, contender = timing.pop("against"), Contender(**timing.pop("contender"))
        ratio = None if against is None else Ratio(Contender(**against.pop("to")), **against)
        timings.append(Timing(contender=contender, against=ratio, **timing))
    size, notes = tuple(fields.pop("size")), tuple(fields.pop("notes"))
    return Cell(size=size, notes=notes, timings=tuple(timings), **fields)


def summarize(
    times: Mapping[Contender, Sequence[float]],
    *,
    batch: int,
    gmacs: float,
    ceiling: Mapping[str, float],
    memory: Mapping[Contender, float | None],
    against_precision: str = "auto",
) -> tuple[Timing, ...]:
    """The numbers of a cell, from the seconds of each contender's calls, one per round."""
    timings = []
    for contender, seconds in times.items():
        p50, p90, p99 = (1000 * np.percentile(seconds, (50, 90, 99))).tolist()
        rate, peak = 1000 * batch / p50, ceiling.get(contender.ceiling)
        reference = fastest_other(contender, times, against_precision)
        timings.append(
            Timing(
                contender=contender,
                p50=p50,
                p90=p90,
                p99=p99,
                images_per_second=rate,
                of_ceiling=rate * gmacs / peak if peak else None,
                peak_mib=memory.get(contender),
                against=None if reference is None else Ratio.of(seconds, reference, times[reference]),
            )
        )
    return tuple(timings)


def fastest_other(
    ours: Contender, times: Mapping[Contender, Sequence[float]], against_precision: str = "auto"
) -> Contender | None:
    """The contender that one of ours is compared with: the published one of the same precision with the lowest median.

    "int8" is compared with "fp32", because the published ones have no int8. If none of them takes part, our eager model
    in float32 replaces them. None for the published ones and for that model itself.
    """
    if ours.library != "hierax":
        return None
    wanted = ours.precision if against_precision == "auto" else against_precision
    wanted = "fp32" if wanted == "int8" else wanted
    others = [c for c in times if c.library != "hierax" and c.precision == wanted]
    if others:
        return min(others, key=lambda c: float(np.median(times[c])))
    eager = Contender("hierax", "eager", "fp32")
    return eager if eager in times and eager != ours and not any(c.library != "hierax" for c in times) else None
