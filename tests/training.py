"""What the tests of training share: toy data, toy recipes, a loop without data, and looking into a run's folder."""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from hierax.data.loader import Batch
from hierax.train import Recipe
from hierax.train.callback import Callback
from hierax.train.checkpoints import Checkpoints
from hierax.train.loop import Loop
from hierax.train.objective import Finetuning, HogPretraining, Objective, Pretraining
from hierax.train.parallel import World
from small import image_config, narrow

TINY = narrow(depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), decoder=(1, 2))
ALONE = World(0, 1, torch.device("cpu"), "ddp")


def pictures(folder: Path, *, classes: int = 2, each: int = 8, seed: int = 0) -> Path:
    """A folder of class folders with noise, whose brightness tells the class."""
    random = np.random.default_rng(seed)
    for label in range(classes):
        place = folder / f"class{label}"
        place.mkdir(parents=True)
        for number in range(each):
            low = 200 * label // classes
            pixels = random.integers(low, low + 56, (70, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def toy(mode: str = "pretrain", **changes: Any) -> Recipe:
    """Two epochs of four steps or so at 64 pixels."""
    settings: dict[str, Any] = {
        "name": "toy",
        "mode": mode,
        "model": "mae_hiera_tiny_224" if mode == "pretrain" else "hiera_tiny_224",
        "overrides": TINY,
        "image_size": (64, 64),
        "epochs": 2,
        "warmup_epochs": 0.5,
        "batch_size": 4,
        "lr": 1e-3,
        "scale_lr": False,
        "crop_scale": (0.5, 1.0),
        "workers": 0,
    }
    return Recipe(**{**settings, **changes})


def held(task: str = "pretrain", **changes: Any) -> Recipe:
    """`toy` with a quarter of the samples held out."""
    return toy(task, validation_fraction=0.25, **changes)


class Steps:
    """A loader of random batches that depend on the step alone, shared by ranks and parts as the real one does."""

    def __init__(self, recipe: Recipe, start: int, *, total: int, parts: int, poison: Callable[[int], bool]) -> None:
        self.recipe, self.start, self.total, self.parts, self.poison = recipe, start, total, parts, poison
        self.waited = 0.0

    def __iter__(self) -> Iterator[list[Batch]]:
        size = self.recipe.batch_size // self.parts
        for step in range(self.start, self.total):
            draw = torch.Generator().manual_seed(1000 + step)
            count = self.recipe.batch_size
            pixels: Tensor = torch.randint(0, 256, (count, 3, 64, 64), generator=draw, dtype=torch.uint8)
            if self.poison(step):
                pixels = pixels.float() * torch.nan
            labels, noise = torch.randint(0, 5, (count,), generator=draw), torch.rand(count, 4, generator=draw)
            shares = [slice(i * size, (i + 1) * size) for i in range(self.parts)]
            yield [Batch(pixels[s], labels[s], noise[s], torch.arange(count)[s]) for s in shares]


def toy_loop(
    recipe: Recipe,
    *,
    folder: Path | None = None,
    steps_per_epoch: int = 5,
    parts: int = 1,
    poison: Callable[[int], bool] = lambda _: False,
    callback: Callback | None = None,
    evaluate: Any = None,
    **config: Any,
) -> Loop:
    """A loop over random batches of a small model."""
    from hierax import HieraForImageClassification, HieraForPreTraining

    torch.manual_seed(recipe.seed)
    changes: dict[str, Any] = {"drop_path_rate": recipe.drop_path or 0.0, "dropout": recipe.dropout or 0.0, **config}
    kind: Any = HogPretraining if recipe.target == "hog" else Pretraining
    maker, shape = (HieraForPreTraining, image_config(num_query_pool=2, **changes))
    if recipe.mode == "finetune":
        kind, maker, shape = Finetuning, HieraForImageClassification, image_config(**changes)

    def objective(model: Any) -> Objective:
        made = kind(model, recipe, mean=(120.0, 120.0, 120.0), std=(60.0, 60.0, 60.0))
        return made.double() if recipe.precision == "fp64" else made

    def make_meta_objective() -> Objective:
        with torch.device("meta"):
            model = maker(shape)
        return objective(model)

    total = recipe.epochs * steps_per_epoch
    loader: Any = lambda start: Steps(recipe, start, total=total, parts=parts, poison=poison)  # noqa: E731
    return Loop(
        recipe,
        objective(maker(shape)),
        ALONE,
        make_meta_objective=make_meta_objective,
        loader=loader,
        steps_per_epoch=steps_per_epoch,
        samples=recipe.batch_size * steps_per_epoch,
        checkpoints=None if folder is None else Checkpoints(folder, keep=recipe.keep),
        evaluate=evaluate,
        callback=callback,
    )


class Losses(Callback):
    """Keeps the reports of all steps; asks the loop to stop after some step."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.reports: list[Any] = []
        self.metrics: list[tuple[int, dict[str, float], bool]] = []
        self.exports = 0
        self.stop_after, self.loop = stop_after, None

    @property
    def losses(self) -> list[float]:
        return [report.loss for report in self.reports]

    def on_step(self, report: Any) -> None:
        self.reports.append(report)
        if report.step == self.stop_after:
            assert self.loop is not None
            self.loop.stop.set()

    def on_evaluation(self, step: int, metrics: dict[str, float], better: bool, objective: Objective) -> None:
        self.metrics.append((step, metrics, better))

    def save_model(self, model: Any, *, last: bool = False) -> None:
        self.exports += not last


def weights(run: Path) -> dict[str, Tensor]:
    """What a run exported."""
    return load_file(run / "model" / "model.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether these are the same tensors, bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def unfinished(run: Path) -> Path:
    """The folder of a finished run, made one that was killed before it could say so."""
    path = run / "run.json"
    values = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("finished", "result")}
    path.write_text(json.dumps(values))
    return run


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}


def started(code: str, *, ranks: int = 1, port: int = 0, folder: Path = Path()) -> "subprocess.Popen[str]":
    """A process that runs `code`; or several ranks, which find it in a file in `folder`."""
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(port)]
        script = folder / f"ranks-{port}.py"
        script.write_text(code)
        command.append(str(script))
    else:
        command += ["-c", code]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, env=environment(), **pipes)


def stepwise_pretraining(data: Path, out: Path) -> "subprocess.Popen[str]":
    """A process that pretrains as `held` does with a worker; before each step it prints "step" and waits for a line, or
    for the end of its input.
    """
    return started(
        "import sys; sys.path.insert(0, 'tests')\n"
        "import training, hierax.train.loop as loop\n"
        "from hierax.train import pretrain\n"
        "quick = loop.Loop._step\n"
        "def step(self, *a):\n"
        "    print('step', flush=True); sys.stdin.readline(); return quick(self, *a)\n"
        "loop.Loop._step = step\n"
        "recipe = training.toy(validation_fraction=0.25, workers=1)\n"
        f"pretrain({str(data)!r}, out={str(out)!r}, recipe=recipe, device='cpu')\n"
    )


def wrapped(error: Exception) -> Any:
    """A failure of a rank as torch.distributed.checkpoint hands it on."""
    return error, traceback.extract_stack()[-1:]
