"""Times the whole process from start to an engine's first answer: import, load tiny from a folder, classify one photo.

    python benchmarks/engine_start.py [--runs 7] [--precision auto] [--backend auto]

Once with a cache of compiled models that is warm and once with an empty one, in turn, each in a process of its own with
the files in the page cache. `import torch` alone, in the same turns, says what part of it nobody can save. The medians
are held against bars: 3 s warm, 8 s cold; exit code 1 when one is missed.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from start_to_answer import prepare, run

BARS = {"warm": 3.0, "cold": 8.0}
PROGRAM = """
from hierax import Engine
engine = Engine({folder!r}, precision={precision!r}, backend={backend!r}, cache_dir={cache!r})
print(engine({photo!r}).logits.argmax().item())
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the rounds and prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--backend", default="auto")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill = {
            "folder": name,
            "photo": str(prepare(folder)),
            "precision": arguments.precision,
            "backend": arguments.backend,
        }

        def cold() -> str:
            return PROGRAM.format(cache=tempfile.mkdtemp(dir=folder), **fill)

        warm = PROGRAM.format(cache=str(folder / "warm"), **fill)
        programs: dict[str, Callable[[], str]] = {
            "warm": lambda: warm,
            "cold": cold,
            "import torch": lambda: "import torch; print()",
        }
        run(warm)  # fills the cache, and the page cache
        rows = [{what: run(program()) for what, program in programs.items()} for _ in range(arguments.runs)]
    answers = {row[what][2] for row in rows for what in BARS}
    assert len(answers) == 1, f"the answers differ: {answers}"
    print("| start | wall time, s (quartiles) | bar, s |\n|---|---|---|")
    medians = {}
    for what in programs:
        seconds = [row[what][0] for row in rows]
        low, medians[what], high = _quartiles(seconds)
        bar = f"{BARS[what]:.0f}" if what in BARS else ""
        print(f"| {what} | {medians[what]:.2f} ({low:.2f} to {high:.2f}) | {bar} |")
    missed = [what for what, bar in BARS.items() if medians[what] > bar]
    print(f"missed: {', '.join(missed)}" if missed else "both bars are met")
    return 1 if missed else 0


def _quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


if __name__ == "__main__":
    sys.exit(main())
