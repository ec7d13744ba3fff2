"""Draws all runs of hierax/femto in one plot: accuracy, and the loss on held-out images, by the crops seen so far.

    python femto/curve.py [--add NAME RUN CROPS_BEFORE] [-o docs/femto-runs.png]

The numbers are in femto/runs.csv, with columns run, crops, measure, value. `--add` first adds the losses of a run of
`hierax finetune` (the folder RUN), which began after CROPS_BEFORE crops.
"""

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib import pyplot

HERE = Path(__file__).parent
FILE = HERE / "runs.csv"
HEADER = ("run", "crops", "measure", "value")
TRAINING, HELD_OUT = "loss in training", "loss held out"
TEACHER = 71.9  # top-1 of the teacher of the categories on the test set
Row = tuple[str, int, str, float]


def read(path: Path) -> list[Row]:
    """All rows of the table."""
    with path.open(newline="") as file:
        return [(row["run"], int(row["crops"]), row["measure"], float(row["value"])) for row in csv.DictReader(file)]


def losses(name: str, run: Path, before: int) -> Iterator[Row]:
    """Rows of a run's losses: in training as the mean of each epoch, held out at each validation."""
    batch = int(json.loads((run / "run.json").read_text())["recipe"]["batch_size"])
    seen: list[float] = []
    for line in (run / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "validation" in entry:
            crops = before + entry["step"] * batch
            yield name, crops, HELD_OUT, round(entry["validation"]["loss"], 4)
            yield name, crops, TRAINING, round(sum(seen) / len(seen), 4)
            seen = []
        elif "loss" in entry:
            seen.append(entry["loss"])


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws the accuracies above, the losses below."""
    lines: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for run, crops, measure, value in rows:
        lines["" if not measure.startswith("loss") else run, measure].append((crops / 1e6, value))
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 7), layout="constrained")
    colors = {run: f"C{index}" for index, run in enumerate(dict.fromkeys(run for run, measure in lines if run))}
    for (run, measure), points in sorted(lines.items()):
        x, y = zip(*sorted(points), strict=True)
        if not run:
            above.plot(x, y, "o-", label=measure)
        else:
            style = "-" if measure == HELD_OUT else ":"
            below.plot(x, y, style, color=colors[run], label=f"{run}: {measure.removeprefix('loss ')}")
    above.axhline(TEACHER, color="gray", linestyle="--", label="the teacher, test")
    above.set_ylabel("right of 30 categories, %")
    below.set_ylabel("loss of distillation")
    below.set_xlabel("million crops with a teacher")
    for part in (above, below):
        part.grid(alpha=0.3)
        part.legend(fontsize=8)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})


def main(argv: Sequence[str] | None = None) -> int:
    """Adds a run, if asked to, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", nargs=3, metavar=("NAME", "RUN", "CROPS_BEFORE"))
    parser.add_argument("-o", "--out", type=Path, default=HERE.parent / "docs" / "femto-runs.png")
    a = parser.parse_args(argv)
    rows = read(FILE)
    if a.add:
        name, run, before = a.add
        rows = [row for row in rows if not (row[0] == name and row[2] in {TRAINING, HELD_OUT})]
        rows += losses(name, Path(run), int(before))
        with FILE.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows((HEADER, *rows))
    draw(rows, a.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
