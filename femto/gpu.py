"""Trains femto on one GPU in minutes: an MAE, then the answers of an ImageNet teacher, then the 30 categories.

    python femto/pack.py PICTURES PACK
    python femto/teacher.py TEACHER --format half
    python femto/gpu.py PACK OUT --teacher TEACHER --checkpoints FOLDER --minutes 8.5
    python femto/gpu.py PACK OUT2 --teacher TEACHER --checkpoints FOLDER2 --minutes 8.5 --classes 1000 \\
        --student hiera_tiny_224 --width 48

All pictures are in the memory of the GPU, which makes the crops and runs the teacher. Each stage first measures the
speed of some steps, and then takes as many steps as fit its share of the minutes. FOLDER gets a checkpoint every
minute; after an interruption, the same command continues. OUT gets `mae/` and `classifier/` in half precision, for
femto/ship.py and femto/measure.py (also while they are trained), and `result.json` with what was measured on the
pictures that are held out. With `--classes 1000`, the classifier keeps the classes of the teacher. `--device cpu
--dry-run` tries everything with a few pictures and steps.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crops import Crops, Steps
from hierax.checkpoint.load import load
from hierax.model.config import HieraConfig, variant_config
from hierax.model.pretrained import Pretrained
from hierax.model.tasks import HieraForImageClassification, HieraForPreTraining
from hierax.processing import IMAGENET, Preprocessing
from hierax.train.callback import Callback
from hierax.train.checkpoints import Checkpoints
from hierax.train.class_weights import balanced_class_weights
from hierax.train.distillation import Distillation
from hierax.train.loop import Loop
from hierax.train.objective import Objective, Pretraining
from hierax.train.parallel import World
from hierax.train.progress import StepReport
from hierax.train.run_folder import RunRecorder
from hierax.train.settings import Recipe
from hierax.train.teacher import Teacher
from on_device import measured
from pack import Pack
from teacher import opened, record_at

BEGAN = time.monotonic()
LOADING, MEASURING = 15, 40  # seconds before BEGAN, and those that measuring takes at the end
MOST_BYTES = 16 * 2**20  # of a file in OUT
EVERY = 60  # seconds between checkpoints
PROBED = 24  # steps whose speed is measured; the first third is not counted
EPOCHS = 10  # of each stage, however long they are
PASSES = 60  # over the labeled pictures at most
DRY = {"pictures": 64, "steps": 3, "batch": 8}


@dataclass(frozen=True)
class Stage:
    """A part of the training: `share` of the time, and what differs in its recipe."""

    name: str
    folder: str  # in OUT
    share: float
    settings: dict[str, Any]


MAE = Stage("mae", "mae", 0.2, {
    "mode": "pretrain", "lr": 1.6e-3, "betas": (0.9, 0.95), "crop_scale": (0.1, 1.0), "mask_ratio": 0.6,
    "target": "pixels",
})  # fmt: skip
TAUGHT = Stage("distillation", "classifier", 0.7, {
    "mode": "finetune", "lr": 2e-3, "clip_grad": 1.0, "crop_scale": (0.2, 1.0), "mixup": 0.2, "label_weight": 0.0,
})  # fmt: skip
LABELED = Stage("categories", "classifier", 0.1, {
    "mode": "finetune", "lr": 5e-4, "clip_grad": 1.0, "crop_scale": (0.3, 1.0), "mixup": 0.2, "label_smoothing": 0.1,
    "layer_decay": 0.8, "drop_path": 0.1, "teacher_logits": 0.0, "class_weights": "balanced",
})  # fmt: skip


class Run:
    """Everything that the stages share."""

    def __init__(self, a: argparse.Namespace) -> None:
        self.a, self.device, self.pack = a, torch.device(a.device), Pack(a.pack)
        self.until = BEGAN - LOADING + 60 * a.minutes - MEASURING
        self.work = a.checkpoints or a.out / "checkpoints"
        self.stages = (MAE, TAUGHT, LABELED) if a.classes == 30 else (MAE, TAUGHT)
        self.crops = Crops(self.pack, side=a.side, device=self.device, most=DRY["pictures"] if a.dry_run else None)
        self.compile = a.compile and self.device.type == "cuda"
        self.teacher = self.open_teacher()
        self.record = record_at(a.side)

    def open_teacher(self) -> Teacher:
        """The teacher, with the mean and the spread of its features on crops of the pictures."""
        teacher = opened(self.a.teacher, side=self.a.side, device=self.device, compiled=self.compile)
        count = 16 if self.a.dry_run else 512
        shown = self.crops.batch(0, Recipe(name="shown", mode="finetune", batch_size=count), labeled=False).pixels
        zero, one = torch.zeros(1, device=self.device), torch.ones(1, device=self.device)
        features = teacher(shown, zero, one).features
        if features is not None:
            teacher.feature_mean, spread = features.mean(0), features.std(0, correction=0)
            teacher.feature_std = torch.where(spread > 1e-6 * spread.max(), spread, 1.0)
        return teacher

    def say(self, text: str) -> None:
        """Prints a line with the seconds since the start."""
        print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", file=sys.stderr, flush=True)

    def config(self, stage: Stage) -> HieraConfig:
        """The architecture of a stage."""
        changes: dict[str, Any] = {"image_size": (self.a.side,) * 2}
        if self.a.width:
            changes["embed_dim"] = self.a.width
        if stage is MAE:
            decoder = {"decoder_hidden_size": 128, "decoder_depth": 2, "decoder_num_heads": 4}
            changes |= {**decoder, "mask_ratio": 0.6, "normalize_pixel_loss": False}
            return variant_config(f"mae_{self.a.student}", **changes)
        names = self.pack.categories
        if stage is TAUGHT:
            names = self.teacher.classes or [f"LABEL_{i}" for i in range(self.teacher.logits)]
        return variant_config(self.a.student, num_labels=len(names), id2label=dict(enumerate(names)), **changes)

    def recipe(self, stage: Stage, steps: int, seconds: float = 1.0) -> tuple[Recipe, int]:
        """The recipe of a stage of about so many steps of so many seconds, and the steps of an epoch."""
        epochs = min(EPOCHS, steps)
        batch = DRY["batch"] if self.a.dry_run else self.a.batch
        recipe = Recipe(
            name=f"gpu_{stage.name}", model=self.a.student, image_size=(self.a.side,) * 2, epochs=epochs,
            warmup_epochs=epochs / 20, batch_size=batch, reference_batch=batch, ema=max(1 - 50 / steps, 0.9),
            precision=self.a.precision, compile=self.compile, seed=self.a.seed, weights="last", keep=1,
            checkpoint_every=1 if self.a.dry_run else max(int(EVERY / seconds), 1), **stage.settings,
        )  # fmt: skip
        return recipe, steps // epochs

    def model(self, stage: Stage, *, empty: bool) -> Pretrained:
        """The model of a stage: a new MAE, or a classifier that starts from the stage before."""
        config = self.config(stage)
        kind = HieraForPreTraining if stage is MAE else HieraForImageClassification
        if empty:
            with torch.device("meta"):
                return kind(config)
        if stage is MAE:
            return kind(config)
        before, reset = (MAE, ("norm",)) if stage is TAUGHT else (TAUGHT, ("head",))
        changes = {"num_labels": config.num_labels, "id2label": config.id2label}
        return kind.from_pretrained(self.work / before.name, reinit=reset, **changes)

    def objective(self, stage: Stage, recipe: Recipe, *, empty: bool) -> Objective:
        """What a stage minimizes; `empty` ones are on the meta device."""
        model = self.model(stage, empty=empty)
        mean, std = ([255 * value for value in values] for values in (IMAGENET.image_mean, IMAGENET.image_std))
        if stage is MAE:
            return Pretraining(model, recipe, mean=mean, std=std)
        labels = self.crops.labels[self.crops.labels >= 0].tolist()
        weights = balanced_class_weights(labels, len(self.pack.categories)) if stage is LABELED else None
        return Distillation(
            model, recipe, mean=mean, std=std, teacher=self.teacher, class_weights=weights, labeled=stage is LABELED,
            own_head=stage is TAUGHT,
        )  # fmt: skip

    def loop(self, stage: Stage, recipe: Recipe, per_epoch: int, until: float, callback: Callback | None) -> Loop:
        """The loop of a stage; without a callback, nothing is written."""
        torch.manual_seed(recipe.seed)
        total, labeled = recipe.epochs * per_epoch, stage is LABELED
        return Loop(
            recipe, self.objective(stage, recipe, empty=False).to(self.device), World(0, 1, self.device, "ddp"),
            make_meta_objective=lambda: self.objective(stage, recipe, empty=True),
            loader=lambda start: Steps(self.crops, recipe, range(start, total), labeled=labeled, until=until),  # type: ignore[arg-type,return-value]
            steps_per_epoch=per_epoch, samples=recipe.batch_size * per_epoch,
            checkpoints=Checkpoints(self.work / stage.name, keep=1) if callback else None, evaluate=None,
            callback=callback or Timer(),
        )  # fmt: skip


class Timer(Callback):
    """Keeps the seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step(self, report: StepReport) -> None:
        """See `Callback`."""
        self.seconds.append(report.seconds)


class Recorder(RunRecorder):
    """Writes a run, and every minute the weights in half precision, so that an end without notice leaves some."""

    def __init__(self, folder: Path, record: Preprocessing, out: Path) -> None:
        super().__init__(folder, record, validation=None, quiet=True)
        self.out, self.written = out, time.monotonic()
        self.loop: Loop | None = None

    def on_step(self, report: StepReport) -> None:
        """See `Callback`."""
        super().on_step(report)
        if self.loop is None or time.monotonic() - self.written < EVERY:
            return
        objective = self.loop.make_meta_objective()
        objective.model.load_state_dict(self.loop.weights(), assign=True)
        model = objective.model_to_save()
        model.preprocessing = self.record
        write_half(model, self.out)
        self.written = time.monotonic()


def write_half(model: Pretrained, folder: Path) -> None:
    """Writes a model in half precision."""
    with torch.device("meta"):
        half = type(model)(model.config)
    half.load_state_dict({name: t.half().cpu() for name, t in model.state_dict().items()}, assign=True)
    half.preprocessing = model.preprocessing
    half.save_pretrained(folder)
    size = (folder / "model.safetensors").stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{folder} has {size} bytes of weights; at most {MOST_BYTES}. Choose a smaller --width")


def step_seconds(run: Run, stage: Stage) -> float:
    """The median time of a step of a stage. If PyTorch cannot compile it, the run goes on without compiling."""
    steps = DRY["steps"] if run.a.dry_run else PROBED
    while True:
        recipe, per_epoch = run.recipe(stage, steps)
        loop = run.loop(stage, recipe.replace(checkpoint_every=None), per_epoch, run.until, None)
        try:
            if not loop.fit():
                raise SystemExit("stopped; the same command continues")
        except Exception as error:
            if not run.compile:
                raise
            run.say(f"compiling fails ({str(error).splitlines()[0]:.200}); this run goes on without it")
            run.compile = False
            run.teacher = run.open_teacher()
            continue
        assert isinstance(loop.callback, Timer)
        counted = sorted(loop.callback.seconds[steps // 3 :]) or [1.0]
        return counted[len(counted) // 2]


def planned(run: Run, stage: Stage) -> dict[str, float]:
    """The steps of a stage and the seconds of one, kept in `plan.json` so that an interrupted stage keeps them."""
    path = run.work / "plan.json"
    plan = json.loads(path.read_text()) if path.exists() else {}
    if stage.name not in plan:
        seconds = step_seconds(run, stage)
        later = sum(each.share for each in run.stages[run.stages.index(stage) :])
        steps = max(int((run.until - time.monotonic()) * stage.share / later / seconds), EPOCHS)
        if stage is LABELED:
            pictures = int((run.crops.labels >= 0).sum())
            steps = min(steps, max(PASSES * pictures // run.a.batch, EPOCHS))
        plan[stage.name] = {"steps": DRY["steps"] if run.a.dry_run else steps, "seconds": seconds}
        path.write_text(json.dumps(plan, indent=1) + "\n")
    return plan[stage.name]


def train(run: Run, stage: Stage) -> dict[str, Any] | None:
    """Runs or continues a stage; None if it was interrupted, else what it did."""
    folder, done = run.work / stage.name, run.work / stage.name / "done.json"
    if done.exists():
        return json.loads(done.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    plan = planned(run, stage)
    recipe, per_epoch = run.recipe(stage, int(plan["steps"]), plan["seconds"])
    total, began = recipe.epochs * per_epoch, time.monotonic()
    run.say(f"{stage.name}: {total} steps of {recipe.batch_size} crops, {1 / plan['seconds']:.1f} steps/s")
    (folder / "run.json").write_text(json.dumps({"mode": recipe.mode, "recipe": recipe.to_dict()}) + "\n")
    later = run.stages[run.stages.index(stage) + 1 :]
    share = stage.share / (stage.share + sum(each.share for each in later))
    callback = Recorder(folder, run.record, run.a.out / stage.folder)
    loop = run.loop(stage, recipe, per_epoch, began + 1.1 * share * max(run.until - began, 60), callback)
    callback.loop = loop
    if loop.resume():
        run.say(f"{stage.name}: continues after step {loop.progress.step}")
    callback.start(loop, per_epoch)
    try:
        finished = loop.fit()
        callback.end(loop.progress, loop.total_steps, finished=finished)
    finally:
        callback.log.close()
    if not finished:
        run.say(f"{stage.name}: stopped after step {loop.progress.step}; the same command continues")
        return None
    model = load(folder)
    assert isinstance(model, Pretrained)
    write_half(model, run.a.out / stage.folder)
    found = {"steps": loop.progress.step, "planned": total, "crops": loop.progress.seen,
             "seconds": round(loop.progress.seconds, 1), "parameters": model.num_parameters()}  # fmt: skip
    done.write_text(json.dumps(found) + "\n")
    return found


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, help="the folder of femto/pack.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", type=Path, required=True, help="the folder or file of femto/teacher.py")
    parser.add_argument("--checkpoints", type=Path, help="folder of the unfinished run (default: OUT/checkpoints)")
    parser.add_argument("--minutes", type=float, default=8.5, help="of the whole command (default: 8.5)")
    parser.add_argument("--classes", type=int, choices=(30, 1000), default=30, help="of the classifier (default: 30)")
    parser.add_argument("--student", default="hiera_femto_160", help="an architecture (default: hiera_femto_160)")
    parser.add_argument("--width", type=int, help="channels of its first stage (default: its own)")
    parser.add_argument("--side", type=int, default=160, help="of its input in pixels, a multiple of 32 (default: 160)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=512, help="crops of a step (default: 512)")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--dry-run", action="store_true", help="a few pictures and steps")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(argv)
    if a.side % 32 or a.side < 32:
        parser.error(f"--side is {a.side}; expected a multiple of 32")
    if a.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU; --device cpu --dry-run tries the command without one")
    return a


def main(argv: Sequence[str] | None = None) -> int:
    """All stages, and the measurements."""
    a = parsed(argv)
    run = Run(a)
    run.work.mkdir(parents=True, exist_ok=True)
    run.say(f"{len(run.crops)} pictures, {run.crops.pixels.nbytes / 2**30:.2f} GiB on {a.device}; {run.teacher.note}")
    stages: dict[str, Any] = {}
    for stage in run.stages:
        found = train(run, stage)
        if found is None:
            return 0
        stages[stage.name] = found
    about = {"student": a.student, "width": a.width, "side": a.side, "classes": a.classes, "stages": stages,
             "device": torch.cuda.get_device_name() if run.device.type == "cuda" else a.device,
             "torch": torch.__version__, "compiled": run.compile}  # fmt: skip
    last = DRY["pictures"] if a.dry_run else None
    result = {**about, **measured(run.pack, run.work, run.teacher, run.device, labeled=a.classes == 30, most=last)}
    (a.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    run.say(f"{a.out / 'result.json'}: {json.dumps({k: v for k, v in result.items() if k not in about})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
