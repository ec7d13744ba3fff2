"""The steps of a run: transformers' Trainer with our order of samples, our evaluation, and whole checkpoints."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hierax.atomic import sync_files
from hierax.data.order import random_stream
from hierax.detection.build import Detector, backbone_of
from hierax.detection.dataset import DetectionDataset
from hierax.detection.evaluate import DetectionEvaluation, evaluate_detection
from hierax.detection.recipes import DetectionRecipe
from hierax.detection.view import TrainingView, collate
from hierax.folders import atomic_folder
from hierax.processing import ImageError
from hierax.stopping import StopSignal
from hierax.train.checkpoints import write_text
from hierax.train.log import RunLog
from hierax.train.parallel import default_workers
from hierax.train.progress import StepReport, TrainingStopped

_ORDER = 0x0B0F  # the purpose of these random numbers
_TRIES = 20  # images in a row that cannot be read
_UNREADABLE = "unreadable.txt"
_WHOLE = "whole.json"
"""The file that is written into a checkpoint last: without it, the checkpoint is not used."""
_WEIGHTS = "weights.pt"
_FOLDER = re.compile(r"checkpoint-(\d+)")


class Samples(Dataset[dict[str, Any]]):
    """All samples of a run in their order, so that a resumed run only has to skip the first ones."""

    def __init__(self, data: DetectionDataset, view: TrainingView, total: int) -> None:
        self.data, self.view, self.total = data, view, total

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The sample with this number. Of an image that cannot be read, the next one in the order takes the place."""
        unreadable: list[str] = []
        for following in range(number, number + _TRIES):
            image = self.data.images[self._index(following)]
            try:
                sample = self.view.sample(image, number)
            except ImageError as error:
                unreadable.append(str(error))
                continue
            return {**sample, "unreadable": unreadable}
        raise TrainingStopped(f"{_TRIES} images in a row cannot be read; the first is {unreadable[0]}")

    def _index(self, number: int) -> int:
        """Every image once, in random order, then again in another order."""
        epoch, place = divmod(number, len(self.data))
        return int(random_stream(self.view.recipe.seed, _ORDER, epoch).permutation(len(self.data))[place])


class DetectionTrainer(Trainer):
    """transformers' Trainer for a run of detection."""

    def __init__(
        self,
        folder: Path,
        detector: Detector,
        recipe: DetectionRecipe,
        train: DetectionDataset,
        held: DetectionDataset | None,
        *,
        device: torch.device,
        log: RunLog,
        stop: StopSignal,
    ) -> None:
        assert recipe.steps is not None
        assert recipe.evaluate_every is not None
        self.detector, self.recipe, self.held, self.log_of_run = detector, recipe, held, log
        self.unreadable = _lines(folder / _UNREADABLE)
        self.best: tuple[float, int] | None = None
        self.last: DetectionEvaluation | None = None
        self.folder, self._before, self._waited = folder, time.monotonic(), 0.0
        self.samples = samples = Samples(train, TrainingView(recipe, detector.pixels), recipe.steps * recipe.batch_size)
        super().__init__(
            detector.model,
            _arguments(folder, recipe, device),
            data_collator=collate,
            train_dataset=samples,
            optimizers=_optimizer(detector, recipe),
            callbacks=[_Recorder(self, stop)],
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # pyright: ignore[reportArgumentType]

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        new = [text for text in inputs.pop("unreadable", ()) if text not in self.unreadable]
        if new:
            if not self.unreadable:
                self.log_of_run.say(f"{new[0]} (this and other images that cannot be read: {_UNREADABLE})")
            self.unreadable.update(dict.fromkeys(new))
            write_text(self.folder / _UNREADABLE, "".join(f"{text}\n" for text in self.unreadable))
        return super()._prepare_inputs(inputs)

    def resume(self, checkpoint: Path | None) -> None:
        """Trains from a checkpoint, or from the beginning.

        Raises:
            TrainingStopped: the checkpoint is damaged; or the run cannot continue.
        """
        with _damaged(checkpoint):
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    def restore(self, checkpoint: Path) -> None:
        """Loads the weights of a checkpoint after the last step."""
        with _damaged(checkpoint):
            self._load_from_checkpoint(str(checkpoint))
            self.state.global_step = self.recipe.steps or 0

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the weights of a checkpoint under the names that they have in the model.

        transformers renames some of them in its files, and Trainer, which reads these files without renaming, would
        leave these weights as they were when the run began, without an error.
        """
        folder = Path(output_dir or self.args.output_dir or "")
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.detector.model.state_dict(), folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        place = self.args.device
        state = torch.load(Path(resume_from_checkpoint, _WEIGHTS), map_location=place, weights_only=True)
        self.detector.model.load_state_dict(state)

    def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
        """The batch of a step; the time until it is there is measured."""
        started = time.monotonic()
        found = super().get_batch_samples(*arguments, **options)
        self._waited = time.monotonic() - started
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Records a step in the log of the run.

        Raises:
            TrainingStopped: the loss is not finite.
        """
        if "loss" not in logs:
            return
        step, now = self.state.global_step, time.monotonic()
        if not math.isfinite(logs["loss"]):
            raise TrainingStopped(
                f"the loss of step {step} is {logs['loss']}, so the run cannot continue; a lower lr may help"
            )
        batch = self.recipe.batch_size
        report = StepReport(
            step=step,
            epoch=step * batch / len(self.samples.data),
            loss=logs["loss"],
            lr=logs["learning_rate"],
            gradient_norm=logs.get("grad_norm", math.nan),
            seconds=now - self._before,
            waited=self._waited,
            images=batch,
        )
        self._before = now
        self.log_of_run.step(report)

    def measured(self) -> DetectionEvaluation:
        """The model, measured on the validation set."""
        assert self.held is not None
        found = evaluate_detection(self.held, model=self.detector, max_pixels=self.recipe.max_pixels)
        self.detector.model.train()
        return found

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Evaluates the model on the validation set, and keeps its weights if they are the best so far."""
        step = self.state.global_step
        found = self.measured()
        score = found.numbers["AP"] or 0.0
        better = self.best is None or score >= self.best[0]
        if better:
            self.best = (score, step)
            if self.recipe.weights == "best":
                write_model(self.detector, self.folder / "best")
        self.last = found
        metrics = {name: round(value, 4) for name, value in found.numbers.items() if value is not None}
        self.control.should_evaluate = False
        self.log_of_run.evaluated(step, metrics, better)
        self._before = time.monotonic()
        return {f"eval_{name}": value for name, value in metrics.items()}


@contextlib.contextmanager
def _damaged(checkpoint: Path | None) -> Iterator[None]:
    """Turns errors of a checkpoint that cannot be read into a `TrainingStopped` of one sentence."""
    try:
        yield
    except (pickle.UnpicklingError, EOFError, KeyError, zipfile.BadZipFile, json.JSONDecodeError) as e:
        if checkpoint is None:
            raise
        raise TrainingStopped(
            f"{checkpoint} is damaged ({type(e).__name__}: {str(e)[:100]}); delete this folder to resume from the "
            "checkpoint before"
        ) from e
    except RuntimeError as error:
        if checkpoint is None or "PytorchStreamReader" not in str(error):
            raise
        raise TrainingStopped(
            f"{checkpoint} is damaged ({str(error)[:100]}); delete this folder to resume from the checkpoint before"
        ) from error


def write_model(detector: Detector, folder: Path) -> None:
    """Writes the folder of a model completely or not at all."""
    with atomic_folder(folder, lambda: None) as part:
        detector.save(part)


def _arguments(folder: Path, recipe: DetectionRecipe, device: torch.device) -> TrainingArguments:
    assert recipe.steps is not None
    workers = recipe.workers if recipe.workers is not None else 0 if device.type == "cpu" else default_workers()
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        max_grad_norm=recipe.clip_grad,
        save_strategy="steps",
        save_steps=recipe.checkpoint_every or recipe.evaluate_every or recipe.steps,
        save_total_limit=recipe.keep,
        logging_strategy="steps",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
        bf16=recipe.precision == "bf16",
        dataloader_num_workers=workers,
        dataloader_pin_memory=device.type == "cuda",
        seed=recipe.seed,
        logging_nan_inf_filter=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # Trainer would copy the model to all of them
    return arguments


def _optimizer(detector: Detector, recipe: DetectionRecipe) -> tuple[Any, Any]:
    """AdamW with a learning rate for the head and one for the backbone; norms and biases are not decayed."""
    assert recipe.steps is not None
    inside = {id(parameter) for parameter in backbone_of(detector).parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in detector.model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in inside, parameter.ndim > 1), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "lr": recipe.backbone_lr if backbone else recipe.lr,
             "weight_decay": recipe.weight_decay if decayed else 0.0}
            for (backbone, decayed), parameters in sorted(groups.items())  # the log shows the rate of the first
        ]
    )  # fmt: skip
    steps, warmup = recipe.steps, recipe.warmup_steps

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / (warmup + 1)) * max(1 - step / steps, 0.0)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class _Recorder(TrainerCallback):
    """Decides at each step whether the run is evaluated, saved and ended, and marks checkpoints that are whole."""

    def __init__(self, trainer: DetectionTrainer, stop: StopSignal) -> None:
        self.trainer, self.stop = trainer, stop

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Asks for an evaluation and a checkpoint; after a signal, for a checkpoint and the end."""
        recipe, step = self.trainer.recipe, state.global_step
        assert recipe.evaluate_every is not None
        if self.stop.is_set() and step != recipe.steps:
            control.should_training_stop = control.should_save = True
        elif step % recipe.evaluate_every == 0 or step == recipe.steps:
            control.should_evaluate = self.trainer.held is not None
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Marks the checkpoint as whole."""
        mark_whole(Path(args.output_dir or "", f"checkpoint-{state.global_step}"), self.trainer.best)


def mark_whole(folder: Path, best: tuple[float, int] | None) -> None:
    """Writes a checkpoint to the disk, then its mark."""
    sync_files(folder)
    write_text(folder / _WHOLE, json.dumps({"best": best}) + "\n")


def last_whole(folder: Path) -> tuple[Path, int, tuple[float, int] | None] | None:
    """The last whole checkpoint of a run, its step, and the best score with its step; None if there is none."""
    found: list[tuple[int, Path]] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _FOLDER.fullmatch(path.name)
        if match and (path / _WHOLE).is_file():
            found.append((int(match[1]), path))
    for step, path in sorted(found, reverse=True):
        try:
            best = json.loads((path / _WHOLE).read_text(encoding="utf-8"))["best"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return path, step, (float(best[0]), int(best[1])) if best else None
    return None


def _lines(path: Path) -> dict[str, None]:
    """The lines of a text file, without repetitions; none if there is no file."""
    try:
        return dict.fromkeys(path.read_text(encoding="utf-8", errors="replace").splitlines())
    except FileNotFoundError:
        return {}
