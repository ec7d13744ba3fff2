"""What a run writes beside its weights: JSON lines, TensorBoard scalars, a plot of the loss, a bar on the terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from hierax.train.progress import StepReport
from hierax.train.state import write_text

_SAY_EVERY = (10.0, 60.0)  # seconds between lines where there is no terminal for a bar: at first, and after an hour


class RunLog:
    """Follows a run; lines of steps beyond the one that is resumed from are taken back.

    `log.jsonl` has one object a line: `{"step": …, "epoch": …, "loss": …, "lr": …, "images_per_second": …,
    "waited": …}` for steps, `{"step": …, "validation": {…}}` for evaluations.
    """

    def __init__(self, folder: Path, *, total: int, quiet: bool = False, every: int = 10) -> None:
        self.folder, self.path = folder, folder / "log.jsonl"
        self.total, self.every, self.quiet = total, every, quiet
        self._file: TextIO | None = None
        self._recent: deque[StepReport] = deque(maxlen=every)
        self._bar: Any = None
        self._board: Any = None
        self.seconds, self.waited, self.images = 0.0, 0.0, 0
        self._first, self._started, self._said = 0, 0.0, 0.0

    def start(self, step: int, evaluated: int) -> None:
        """Drops lines after `step`, and of evaluations those after `evaluated`; shows the bar."""
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        lines = text.splitlines(keepends=True)
        write_text(self.path, "".join(line for line in lines if _stays(line, step, evaluated)))
        self._file = self.path.open("a")
        self._board = _board(self.folder, step)
        self._first, self._started = step, time.monotonic()
        self._said = self._started
        if not self.quiet and sys.stderr.isatty():
            self._bar = _bar(self.total, step)

    def step(self, report: StepReport) -> None:
        """Takes one step in."""
        self._recent.append(report)
        self.seconds += report.seconds
        self.waited += report.waited
        self.images += report.images
        if report.step % self.every == 0 or report.step == self.total or report.step <= 3:
            self._write(self._summary())
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=report.step, description=self._shown(report))
        elif not self.quiet:
            now = time.monotonic()
            spent, (shortest, longest) = now - self._started, _SAY_EVERY
            if now - self._said >= min(max(spent / 60, shortest), longest):
                self._said = now
                left = timedelta(seconds=round(spent / (report.step - self._first) * (self.total - report.step)))
                self.say(f"step {report.step:,} of {self.total:,} · {self._shown(report)} · {left} left")

    def _shown(self, report: StepReport) -> str:
        """Loss and learning rate; speed, and the share of the time without data, over the last steps."""
        recent = self._recent
        seconds = max(sum(r.seconds for r in recent), 1e-9)
        speed, waited = sum(r.images for r in recent) / seconds, sum(r.waited for r in recent) / seconds
        return (
            f"loss {report.loss:.4f} · lr {report.lr:.1e} · {speed:.1f} img/s · {100 * waited:.0f} % waiting for data"
        )

    def _summary(self) -> dict[str, Any]:
        last, recent = self._recent[-1], list(self._recent)
        seconds = max(sum(r.seconds for r in recent), 1e-9)
        finite = [r.loss for r in recent if math.isfinite(r.loss)]
        return {
            "step": last.step,
            "epoch": round(last.epoch, 4),
            "loss": sum(finite) / len(finite) if finite else None,
            "lr": last.lr,
            "gradient_norm": last.gradient_norm if math.isfinite(last.gradient_norm) else None,
            "images_per_second": round(sum(r.images for r in recent) / seconds, 2),
            "waited": round(sum(r.waited for r in recent) / seconds, 4),
        }

    def evaluated(self, step: int, metrics: dict[str, float], better: bool) -> None:
        """Takes one evaluation in."""
        self._write({"step": step, "validation": finite(metrics), "best": better})
        if not self.quiet:
            shown = " · ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name != "score")
            self.say(f"step {step}: {shown}{' (best so far)' if better else ''}")

    def say(self, text: str) -> None:
        """A line on the terminal, above the bar."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar[0].console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _write(self, entry: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in (entry.get("validation") or entry).items():
                if isinstance(value, (int, float)) and name != "step":
                    self._board.add_scalar(
                        ("validation/" if "validation" in entry else "train/") + name, value, entry["step"]
                    )

    def close(self) -> None:
        """Ends the bar and the files."""
        if self._bar is not None:
            self._bar[0].stop()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """Metrics as JSON holds them: None for what is no finite number."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _bar(total: int, step: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    progress.start()
    return progress, progress.add_task("", total=total, completed=step)


def _stays(line: str, step: int, evaluated: int) -> bool:
    """Whether a line of the log is from before the step that a run goes on from; a crash may cut the last one."""
    if not line.endswith("\n"):
        return False
    try:
        entry = json.loads(line)
        return entry["step"] <= (evaluated if "validation" in entry else step)
    except (ValueError, KeyError, TypeError):  # what a loss of power left of the file's end
        return False


def _board(folder: Path, step: int) -> Any:
    """TensorBoard's writer, where it is installed; it shows nothing after `step` of what was written before."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def plot_losses(folder: Path) -> Path | None:
    """`loss.png` of what `log.jsonl` holds; None without matplotlib (extra `train`)."""
    try:
        from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process
    except ImportError:
        return None
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    checks = [{"step": e["step"], **e["validation"]} for e in entries if "validation" in e]
    figure = Figure(figsize=(8, 4.5), dpi=120)
    axes = figure.subplots()
    _line(axes, [e for e in entries if e.get("loss") is not None], "loss", "training")
    _line(axes, [c for c in checks if c.get("loss") is not None], "loss", "validation")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    if axes.lines:
        axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    path = folder / "loss.png"
    figure.savefig(path)
    return path


def _line(axes: Any, entries: Sequence[dict[str, Any]], key: str, label: str) -> None:
    if entries:
        marker = "o" if len(entries) < 30 else None
        axes.plot([e["step"] for e in entries], [e[key] for e in entries], label=label, marker=marker, markersize=3)
