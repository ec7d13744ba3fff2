"""The log of a run: JSON Lines, TensorBoard scalars, a progress bar on the terminal, the remaining time."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from hierax.console import ProgressDisplay, quantity, say
from hierax.processing.paths import check_named
from hierax.train.checkpoints import write_text
from hierax.train.description import log_entry
from hierax.train.progress import WINDOW, StepReport

_MEASURED = (3, 10.0)  # the run's length is shown after this many steps, or after one step of this many seconds
_EVALUATION = 1 / 3  # share of the time of a step with as many samples: there is no backward pass
_NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_average_precision": "mean average precision",
    "agreement5": "agreement-5",
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "mean_accuracy": "mean accuracy",
}
_SEGMENTATION = ("mean_iou", "pixel_accuracy", "frequency_weighted_iou", "mean_accuracy")
_SHARES = ("top1", "top5", "balanced", "mean_average_precision", "agreement", "agreement5", *_SEGMENTATION)
_LESS = ("top5", "balanced", "agreement5", "frequency_weighted_iou", "mean_accuracy")  # not in a sentence


class RunLog:
    """Follows a run; when it is resumed, deletes the lines of later steps.

    Args:
        evaluated: evaluated samples per training sample.
        clock: returns the time in seconds.

    `log.jsonl` has one object a line: `{"step": …, "epoch": …, "loss": …, "lr": …, "images_per_second": …,
    "waited": …}` for steps, `{"step": …, "validation": {…}}` for evaluations.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total: int,
        quiet: bool = False,
        every: int = WINDOW,
        evaluated: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.path = folder, folder / "log.jsonl"
        self.total, self.every, self.quiet = total, every, quiet
        self._evaluated, self._clock, self._length_said = evaluated, clock, False
        self._file: TextIO | None = None
        self._recent: deque[StepReport] = deque(maxlen=every)
        self._losses: deque[float] = deque(maxlen=every)  # also of steps before the run was resumed
        self._display: ProgressDisplay | None = None
        self._board: Any = None
        self.seconds, self.waited, self.images = 0.0, 0.0, 0
        self._first = 0

    def start(self, step: int, evaluated: int, losses: Iterable[float] = ()) -> None:
        """Drops lines after `step`, and of evaluations those after `evaluated`; shows the progress bar. `losses` are
        those of the last steps.
        """
        self._losses.extend(losses)
        if self.path.exists():
            check_named(self.path)
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        lines = text.splitlines(keepends=True)
        write_text(self.path, "".join(line for line in lines if _is_kept(line, step, evaluated)))
        self._file = self.path.open("a")
        self._board = _board(self.folder, step)
        self._first = step
        self._display = ProgressDisplay("step", done=step, quiet=self.quiet, clock=self._clock)

    def step(self, report: StepReport) -> None:
        """Records one step."""
        self._recent.append(report)
        self._losses.append(report.loss)
        self.seconds += report.seconds
        self.waited += report.waited
        self.images += report.images
        if report.step % self.every == 0 or report.step == self.total or report.step <= 3:
            self._write(self._summary())
        self._say_length(report)
        if self._display is not None:
            self._display.update(report.step, self.total, self._shown(report))

    def _say_length(self, report: StepReport) -> None:
        """Shows how long the run will take, as soon as that is known; the first step is slower than others."""
        done, (enough, long) = report.step - self._first, _MEASURED
        if self._length_said or not (done > enough or report.seconds >= long):
            return
        self._length_said = True
        recent = list(self._recent)[1 if done > 1 else 0 :]
        each = sum(r.seconds for r in recent) / len(recent) * (1 + _EVALUATION * self._evaluated)
        left = self.total - report.step
        if left > 0:
            self.say(f"this takes {format_duration(left * each)}: {quantity(left, 'more step')} of {each:.2g} s")

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
        losses = [loss for loss in self._losses if math.isfinite(loss)]
        return {
            "step": last.step,
            "epoch": round(last.epoch, 4),
            "loss": sum(losses) / len(losses) if losses else None,
            "lr": last.lr,
            "gradient_norm": last.gradient_norm if math.isfinite(last.gradient_norm) else None,
            "images_per_second": round(sum(r.images for r in recent) / seconds, 2),
            "waited": round(sum(r.waited for r in recent) / seconds, 4),
        }

    def evaluated(self, step: int, metrics: dict[str, float], better: bool) -> None:
        """Records one evaluation."""
        self._write({"step": step, "validation": finite_or_none(metrics), "best": better})
        report = say if self._display is None else self._display.report
        if not self.quiet:
            report(f"step {step}: {' · '.join(format_metrics(metrics))}{' (best so far)' if better else ''}")

    def say(self, text: str) -> None:
        """Writes a line to the terminal, above the progress bar."""
        if not self.quiet:
            say(text)

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
        """Closes the progress bar and the files."""
        if self._display is not None:
            self._display.close()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def finite_or_none(metrics: dict[str, float]) -> dict[str, float | None]:
    """Metrics for JSON: None for values that are not finite."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _is_kept(line: str, step: int, evaluated: int) -> bool:
    """Whether a line of the log is from before the step that a run resumes from; a crash may truncate the last line."""
    if not line.endswith("\n"):
        return False
    entry = log_entry(line)
    return entry is not None and entry["step"] <= (evaluated if "validation" in entry else step)


def _board(folder: Path, step: int) -> Any:
    """TensorBoard's writer, or None if it is not installed; it hides earlier entries after `step`."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def format_metrics(metrics: Mapping[str, float | None], samples: int | None = None) -> list[str]:
    """Metrics as text. Fractions are in percent; the first one also has the number of `samples`."""
    found = []
    for name, value in metrics.items():
        if name == "score" or value is None:
            continue
        text = f"{100 * value:.1f} %" if name in _SHARES and math.isfinite(value) else f"{value:.4g}"
        count = f" ({round(value * samples):,} of {samples:,})" if name in ("top1", "agreement") and samples else ""
        found.append(f"{_NAMES.get(name, name)} {text}{count}")
    return found


def result_sentence(result: Mapping[str, Any], samples: int) -> str:
    """A sentence about the weights that a finished run has saved, from its run.json: step, scores, number
    of samples.
    """
    steps, best = result["steps"], result.get("best_step")
    last = best is None or result.get("weights") == "last"
    step, metrics = (steps, result.get("last") or {}) if last else (best, result.get("best_metrics") or {})
    scores = {name: metrics[name] for name in (*_SHARES, "cosine", "loss") if name in metrics}
    first = [name for name in scores if name not in _LESS]
    told = format_metrics({name: scores[name] for name in first}, samples - int(metrics.get("unreadable", 0)))
    count = f" on {quantity(samples, 'sample')}" if told and "(" not in told[0] else ""
    which = ["the last weights"] if last and steps else []
    return ", ".join([f"model: step {step:,} of {steps:,}", *told, *which]) + count


def format_duration(seconds: float) -> str:
    """A duration as text."""
    for unit, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= 1.5 * size:
            number = seconds / size
            text = f"{number:.0f}" if number >= 9.5 or unit == "minute" else f"{number:.1f}".removesuffix(".0")
            return f"about {text} {unit}s"
    return "about a minute" if seconds >= 50 else f"about {max(round(seconds), 1)} s"
