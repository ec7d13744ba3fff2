"""The files that the first rank writes into a run's folder: log, list of bad samples, model, images, result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hierax.console import quantity
from hierax.data.dataset import Dataset
from hierax.model.pretrained import Pretrained
from hierax.processing import Preprocessing
from hierax.train.adapters import RunAdapter
from hierax.train.callback import Callback, Metrics
from hierax.train.checkpoints import write_json, write_text
from hierax.train.description import DESCRIPTION, read_description
from hierax.train.log import RunLog, finite_or_none, format_duration, result_sentence
from hierax.train.loop import Loop
from hierax.train.objective import Objective
from hierax.train.overlays import OverlaySheet
from hierax.train.plots import plot_losses
from hierax.train.predictions import Predictions
from hierax.train.progress import Progress, StepReport
from hierax.train.reconstructions import ReconstructionSheet, is_due
from hierax.train.report import keep_matrix, keep_predictions, write_report
from hierax.train.segmentation import SegmentationResult


class RunRecorder(Callback):
    """Writes the files of a run, on rank 0."""

    def __init__(
        self,
        folder: Path,
        record: Preprocessing,
        *,
        validation: Dataset | None,
        quiet: bool,
        adapter: RunAdapter | None = None,
    ) -> None:
        self.folder, self.record, self.validation, self.quiet, self.adapter = folder, record, validation, quiet, adapter
        self._saved: Pretrained | None = None
        self.reconstructions: ReconstructionSheet | None = None
        self.overlays: OverlaySheet | None = None
        self.predictions: Predictions | SegmentationResult | None = None  # of the last evaluation
        self.unreadable_samples: dict[str, None] = {}
        self.steps_per_epoch, self.epochs, self.last = 1, 1, False
        self.log = RunLog(folder, total=0, quiet=quiet)

    def start(self, loop: Loop, steps_per_epoch: int) -> None:
        """Starts the log, or continues it after the steps that are done."""
        self.steps_per_epoch, self.epochs = steps_per_epoch, loop.recipe.epochs
        self.last = loop.recipe.weights == "last"
        evaluated = len(self.validation or ()) / (loop.recipe.evaluate_every * loop.samples)
        self.log = RunLog(self.folder, total=loop.total_steps, quiet=self.quiet, evaluated=evaluated)
        self.log.start(loop.progress.step, loop.progress.evaluated, loop.progress.losses)
        self.unreadable_samples = dict.fromkeys(loop.progress.bad.values())

    def on_step(self, report: StepReport) -> None:
        """See `Callback`."""
        self.log.step(report)

    def on_unreadable(self, found: list[str]) -> None:
        """Adds samples to `unreadable.txt`, and prints the first one."""
        new = [text for text in dict.fromkeys(found) if text not in self.unreadable_samples]
        if new and not self.unreadable_samples:
            self.log.say(f"{new[0]} (this and other samples that cannot be read: {self.folder / 'unreadable.txt'})")
        if new:
            self.unreadable_samples.update(dict.fromkeys(new))
            write_text(self.folder / "unreadable.txt", "".join(f"{text}\n" for text in self.unreadable_samples))

    def on_evaluation(self, step: int, metrics: Metrics, better: bool, objective: Objective) -> None:
        """See `Callback`."""
        self.log.evaluated(step, metrics, better)
        if self.predictions is not None and (better or self.last or not (self.folder / "validation.json").exists()):
            if isinstance(self.predictions, SegmentationResult):
                keep_matrix(self.folder, step, self.predictions.matrix)
            else:
                keep_predictions(self.folder, step, self.predictions)
            if self.overlays is not None:
                self.overlays.draw(objective, step)
        if self.reconstructions is not None and is_due(step // self.steps_per_epoch, self.epochs):
            self.reconstructions.draw(objective, step)

    def on_stop_signal(self, seconds: float | None) -> None:
        """See `Callback`. It bypasses Python's buffers, because the signal may have interrupted a write to them."""
        if not self.quiet:
            long = f", which takes {format_duration(seconds)}" if seconds is not None and seconds >= 2 else ""
            text = f"\nhierax: stopping after this step{long}; Ctrl-C again ends at once\n"
            os.write(2, text.encode())

    def save_model(self, model: Pretrained, *, last: bool = False) -> None:
        """Writes `model/` in float32; with `last`, the last weights to `model-last/`, beside the best ones."""
        with torch.device("meta"):
            plain = type(model)(model.config)
        plain.load_state_dict({name: t.float().cpu() for name, t in model.state_dict().items()}, assign=True)
        plain.preprocessing = self.record
        plain.save_pretrained(self.folder / ("model-last" if last else "model"))
        self._saved = plain

    def save_adapter(self, state: Mapping[str, Tensor], *, last: bool = False) -> None:
        """Writes `adapter/`; with `last`, `adapter-last/`."""
        assert self.adapter is not None
        assert self._saved is not None
        self.adapter.save(self.folder / ("adapter-last" if last else "adapter"), state, self._saved)

    def end(self, progress: Progress, total: int, *, finished: bool) -> None:
        """Prints how the run ended. If it is finished, writes its result and its report."""
        log, folder = self.log, self.folder
        if self.unreadable_samples:
            count = quantity(len(self.unreadable_samples), "sample")
            log.say(f"{count} could not be read: {folder / 'unreadable.txt'}")
        if progress.skipped:
            skipped = "1 step was" if progress.skipped == 1 else f"{progress.skipped:,} steps were"
            log.say(f"{skipped} skipped because the loss or a gradient was not finite")
        if not finished:
            plot_losses(folder)
            log.say(f"stopped after step {progress.step} of {total}; the same command resumes it")
            return
        description = read_description(folder / DESCRIPTION)
        result = {
            "steps": progress.step,
            "seconds": round(progress.seconds, 1),
            "best": progress.best if progress.best_step else None,
            "best_step": progress.best_step or None,
            "best_metrics": finite_or_none(progress.best_metrics) or None,
            "weights": "best" if progress.best_step and description["recipe"].get("weights") != "last" else "last",
            "last": finite_or_none(progress.last) or None,
            "skipped": progress.skipped,
            "unreadable": len(self.unreadable_samples),
            "images_per_second": round(log.images / log.seconds, 2) if log.seconds else None,
            "waited": round(log.waited / log.seconds, 4) if log.seconds else None,
        }
        # finished only with its report: if it is killed here, or the disk is full, the next command finishes the run
        write_json(folder / DESCRIPTION, {**description, "result": result})
        drawn = plot_losses(folder)
        report = write_report(folder, self.validation)
        write_json(folder / DESCRIPTION, {**description, "finished": True, "result": result})
        validation = len(self.validation or ())
        if validation and not progress.best_step and progress.evaluated:
            log.say("warning: no evaluation gave a finite loss, so no weights are the best; model/ holds the last ones")
        log.say(result_sentence(result, validation))
        if result["weights"] == "best" and progress.best_step < progress.step:
            log.say(f"the last weights are in {folder / 'model-last'}")
        early = f" after {progress.step} of {total} steps, without a better score" if progress.step < total else ""
        waited = 100 * (result["waited"] or 0)
        speed = f"{result['images_per_second']} images/s, {waited:.1f} % of the time waiting for data"
        plot = "" if drawn else "; loss.png needs matplotlib"
        adapter = "" if self.adapter is None else f", adapter: {folder / 'adapter'}"
        log.say(f"done{early}: {folder / 'model'}{adapter}, report: {report} ({speed}){plot}")
