"""What a benchmark found, as data that survives JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hierax.engine.bench.settings import Settings


@dataclass(frozen=True)
class Contender:
    """Who is timed.

    Attributes:
        library: "hierax", or the name of a published implementation.
        runtime: the engine's backend, or "eager" for a model that is called as it is.
        precision: "fp32", "bf16" or "int8".
    """

    library: str
    runtime: str
    precision: str

    def __str__(self) -> str:
        return f"{self.library} {self.runtime} {self.precision}"

    @property
    def ceiling(self) -> str:
        """The precision of the matrix products it is held against: PyTorch has none in int8 to measure."""
        return "bf16" if self.precision == "int8" else self.precision


@dataclass(frozen=True)
class Ratio:
    """How many times faster than another contender: the median over rounds of its time / ours, and the quartiles."""

    to: Contender
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[float], to: Contender, theirs: Sequence[float]) -> Ratio:
        """The ratio of times that were taken in the same rounds."""
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
        of_ceiling: the fraction of the machine's matrix products (`Contender.ceiling`) that the model's multiply-
            accumulates per second at the median are, or None where those were not measured.
        peak_mib: most resident memory of a process that builds it and calls it three times, Python and libraries
            included, or None.
        against: the ratio to the fastest of those it is compared with, or None where there is none.
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
        rounds: calls of each.
        gmacs: multiply-accumulates per image, in 10^9.
        ceiling: 10^9 multiply-accumulates per second of the best of several 2048-cubed products, by precision.
        timings: in the order in which they are shown.
        notes: what was left out, and why.
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
    """Where it was measured."""

    processor: str
    threads: int
    memory_gib: float
    system: str

    def __str__(self) -> str:
        return f"{self.processor}, {self.threads} threads, {self.memory_gib:.0f} GiB, {self.system}"


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """A whole run: where, when, with what, and the cells."""

    date: str
    machine: Machine
    versions: Mapping[str, str]
    settings: Settings
    cells: tuple[Cell, ...]

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps({**dataclasses.asdict(self), "command": self.settings.command}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> BenchReport:
        """What `to_json` wrote."""
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


def summarise(
    times: Mapping[Contender, Sequence[float]],
    *,
    batch: int,
    gmacs: float,
    ceiling: Mapping[str, float],
    memory: Mapping[Contender, float | None],
    against_precision: str = "auto",
) -> tuple[Timing, ...]:
    """The numbers of a cell, from the seconds of each contender's calls, which belong together round by round."""
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
    """Whom a contender of ours is compared with: of the published ones in the same precision, the lowest median.

    "int8" is compared with "fp32": they have no int8. Where none of them takes part, our own eager model in float32
    takes their place. None for the others, and for that model itself.
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
