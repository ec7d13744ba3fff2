"""What the first rank writes into a run's folder as it goes: log, list of bad samples, model, pictures, result."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from hierax.pretrained import Pretrained
from hierax.processing import Preprocessing
from hierax.train.log import RunLog, finite, plot_losses
from hierax.train.loop import Loop, Metrics, Watcher
from hierax.train.objective import Objective
from hierax.train.panel import Panel, is_due
from hierax.train.progress import Progress, StepReport
from hierax.train.state import write_json, write_text


class Witness(Watcher):
    """Writes a run's folder, on the first rank."""

    def __init__(self, folder: Path, record: Preprocessing, *, quiet: bool) -> None:
        self.folder, self.record, self.quiet = folder, record, quiet
        self.panel: Panel | None = None
        self.bad: dict[str, None] = {}
        self.steps_per_epoch, self.epochs = 1, 1
        self.log = RunLog(folder, total=0, quiet=quiet)

    def start(self, loop: Loop, steps_per_epoch: int) -> None:
        """Goes on with the log after what is done."""
        self.steps_per_epoch, self.epochs = steps_per_epoch, loop.recipe.epochs
        self.log = RunLog(self.folder, total=loop.total_steps, quiet=self.quiet)
        self.log.start(loop.progress.step, loop.progress.evaluated)
        self.bad = dict.fromkeys(loop.progress.bad.values())

    def step(self, report: StepReport) -> None:
        """See `Watcher`."""
        self.log.step(report)

    def unreadable(self, found: list[str]) -> None:
        """Lists samples in `unreadable.txt`, and says so of the first."""
        new = [text for text in dict.fromkeys(found) if text not in self.bad]
        if new and not self.bad:
            self.log.say(f"{new[0]} (this and other samples that cannot be read: {self.folder / 'unreadable.txt'})")
        if new:
            self.bad.update(dict.fromkeys(new))
            write_text(self.folder / "unreadable.txt", "".join(f"{text}\n" for text in self.bad))

    def evaluated(self, step: int, metrics: Metrics, better: bool, objective: Objective) -> None:
        """See `Watcher`."""
        self.log.evaluated(step, metrics, better)
        if self.panel is not None and is_due(step // self.steps_per_epoch, self.epochs):
            self.panel.draw(objective, step)

    def export(self, model: Pretrained) -> None:
        """Writes `model/`, in float32."""
        with torch.device("meta"):
            plain = type(model)(model.config)
        plain.load_state_dict({name: t.float().cpu() for name, t in model.state_dict().items()}, assign=True)
        plain.preprocessing = self.record
        plain.save_pretrained(self.folder / "model")

    def end(self, progress: Progress, total: int, *, finished: bool) -> None:
        """Says how the run ended, and marks it finished if it did."""
        log, folder = self.log, self.folder
        if self.bad:
            log.say(f"{len(self.bad)} samples could not be read: {folder / 'unreadable.txt'}")
        if progress.skipped:
            log.say(f"{progress.skipped} steps were skipped, whose loss or gradient was not finite")
        drawn = plot_losses(folder)
        if not finished:
            log.say(f"stopped after step {progress.step} of {total}; the same command goes on from there")
            return
        result = {
            "steps": progress.step,
            "seconds": round(progress.seconds, 1),
            "best": progress.best if progress.best_step else None,
            "best_step": progress.best_step or None,
            "last": finite(progress.last) or None,
            "skipped": progress.skipped,
            "unreadable": len(self.bad),
            "images_per_second": round(log.images / log.seconds, 2) if log.seconds else None,
            "waited": round(log.waited / log.seconds, 4) if log.seconds else None,
        }
        values = json.loads((folder / "run.json").read_text())
        write_json(folder / "run.json", {**values, "finished": True, "result": result})
        early = f" after {progress.step} of {total} steps, without a better score" if progress.step < total else ""
        waited = 100 * (result["waited"] or 0)
        speed = f"{result['images_per_second']} images/s, {waited:.1f} % of the time waiting for data"
        plot = "" if drawn else "; loss.png needs the extra: hierax[train]"
        log.say(f"done{early}: {folder / 'model'} ({speed}){plot}")
