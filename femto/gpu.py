"""Trains femto on one GPU, where a thousand classes are within reach: MAE, then the answers of an ImageNet teacher.

    python femto/teacher.py teacher --format pt2
    python femto/gpu.py PICTURES OUT --teacher teacher/teacher.pt2

PICTURES is the folder of femto/pictures.py. All pictures lie decoded in the GPU's memory, crops are made there and the
teacher runs there too: tens of millions of crops, for which a CPU needs weeks. OUT gets `mae/` and `classifier/`, each
with checkpoints and `model/`; the same command goes on after an interruption. `--device cpu --steps 2` tries it.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from hierax.checkpoint.load import load
from hierax.data.loader import Batch
from hierax.data.sources import open_dataset
from hierax.data.view import EvaluationView
from hierax.model.config import variant_config
from hierax.model.tasks import HieraForImageClassification, HieraForPreTraining
from hierax.processing import IMAGENET, Preprocessing
from hierax.train.checkpoints import Checkpoints
from hierax.train.distillation import Distillation
from hierax.train.loop import Loop
from hierax.train.objective import Objective, Pretraining
from hierax.train.parallel import World
from hierax.train.run_folder import RunRecorder
from hierax.train.settings import Recipe
from hierax.train.teacher import Teacher, open_teacher

STORED = 320  # pixels of a side in memory; the aspect ratio is kept beside
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Crops:
    """Pictures in a device's memory, and batches of random crops of them that depend on the step alone."""

    def __init__(self, folder: Path, *, side: int, device: torch.device) -> None:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise SystemExit(f"{folder} holds no pictures; femto/pictures.py makes them")
        with ThreadPoolExecutor() as pool:
            read = list(pool.map(_stored, paths))
        self.pixels = torch.from_numpy(np.stack([pixels for pixels, _ in read])).to(device)  # uint8 [N, S, S, 3]
        self.aspect = torch.tensor([aspect for _, aspect in read], device=device)
        self.side, self.device = side, device

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, step: int, count: int, *, seed: int, scale: tuple[float, float], color: float, units: int) -> Batch:
        """`count` crops; `color` is how far brightness, contrast and saturation go."""
        draw = torch.Generator(self.device).manual_seed(seed * 2**32 + step)
        uniform = lambda *shape: torch.rand(*shape, generator=draw, device=self.device)  # noqa: E731
        index = torch.randint(len(self), (count,), generator=draw, device=self.device)
        grid = self._grid(self.aspect[index], uniform(4, count), scale)
        whole = self.pixels[index].movedim(-1, 1).float()
        parts = F.avg_pool2d(F.grid_sample(whole, grid, padding_mode="reflection", align_corners=False), 2)
        if color:
            parts = _colored(parts, 1 + color * (2 * uniform(3, count) - 1))
        noise = uniform(count, units) if units else None
        return Batch(parts.round().clamp(0, 255).byte(), None, noise, index.cpu())

    def _grid(self, aspect: Tensor, random: Tensor, scale: tuple[float, float]) -> Tensor:
        """Where crops are sampled, at twice their side: shares of `scale` of the area, aspect ratios of 3/4 to 4/3."""
        area = scale[0] + (scale[1] - scale[0]) * random[0]
        ratio = torch.exp(np.log(4 / 3) * (2 * random[1] - 1)) / aspect  # in the stored, squashed picture
        width = (area * ratio).sqrt().clamp(max=1)
        height = (area / ratio).sqrt().clamp(max=1)
        left, top = (1 - width) * random[2], (1 - height) * random[3]
        line = (torch.arange(2 * self.side, device=aspect.device) + 0.5) / (2 * self.side)
        mirrored = torch.where(random[0] * 1e4 % 1 < 0.5, -1.0, 1.0)[:, None]  # a bit of its own, far below the area
        x = 2 * (left[:, None] + width[:, None] * (0.5 + mirrored * (line - 0.5))) - 1
        y = 2 * (top[:, None] + height[:, None] * line) - 1
        shape = (len(aspect), 2 * self.side, 2 * self.side)
        return torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], -1)


def _stored(path: Path) -> tuple[np.ndarray, float]:
    """A picture squashed into a square, and its aspect ratio."""
    picture = Image.open(path).convert("RGB")
    square = picture.resize((STORED, STORED), Image.Resampling.BICUBIC, reducing_gap=3)
    return np.asarray(square), picture.width / picture.height


def _colored(pixels: Tensor, factors: Tensor) -> Tensor:
    """Pixels with another brightness, contrast and saturation: `factors` `[3, B]`."""
    brightness, contrast, saturation = factors[:, :, None, None, None]
    pixels = pixels * brightness
    middle = pixels.mean((1, 2, 3), keepdim=True)
    pixels = middle + contrast * (pixels - middle)
    gray = pixels.mean(1, keepdim=True)
    return (gray + saturation * (pixels - gray)).clamp(0, 255)


class Steps:
    """What the loop reads: one batch a step, made when it is asked for."""

    def __init__(self, crops: Crops, recipe: Recipe, start: int, *, total: int, units: int) -> None:
        self.crops, self.recipe, self.start, self.total, self.units, self.waited = (
            crops,
            recipe,
            start,
            total,
            units,
            0.0,
        )

    def __iter__(self) -> Iterator[list[Batch]]:
        recipe = self.recipe
        for step in range(self.start, self.total):
            begin = time.perf_counter()
            made = self.crops.batch(
                step, recipe.batch_size, seed=recipe.seed, scale=recipe.crop_scale or (1.0, 1.0),
                color=0.0 if recipe.mode == "pretrain" else 0.4, units=self.units,
            )  # fmt: skip
            self.waited += time.perf_counter() - begin
            yield [made]


def recipes(a: argparse.Namespace) -> tuple[Recipe, Recipe]:
    """Of both stages; an epoch is a thousand steps here."""
    common = {"batch_size": a.batch, "reference_batch": a.batch, "seed": a.seed, "precision": a.precision,
              "compile": a.compile, "image_size": (a.side, a.side)}  # fmt: skip
    mae = Recipe(
        name="femto_mae_gpu", mode="pretrain", model="mae_hiera_femto_160", epochs=max(a.mae_steps // 1000, 1),
        warmup_epochs=2, lr=1.6e-3, betas=(0.9, 0.95), crop_scale=(0.1, 1.0), mask_ratio=0.6, target="pixels", **common,
    )  # fmt: skip
    taught = Recipe(
        name="femto_in1k_gpu", mode="finetune", model="hiera_femto_160", epochs=max(a.steps // 1000, 1),
        warmup_epochs=2, lr=2e-3, layer_decay=0.8, clip_grad=1.0, crop_scale=(0.02, 1.0), mixup=0.8, label_weight=0.0,
        ema=0.9998, **common,
    )  # fmt: skip
    return mae, taught


def objective(recipe: Recipe, out: Path, teacher: Teacher, *, empty: bool) -> Objective:
    """The MAE with fresh weights, or the classifier that starts from it; `empty` ones lie on the meta device."""
    mean, std = ([255 * value for value in values] for values in (IMAGENET.image_mean, IMAGENET.image_std))
    size = {"image_size": recipe.image_size}
    if recipe.mode == "pretrain":
        config = variant_config(recipe.model, **size, mask_ratio=0.6, normalize_pixel_loss=False)
        with torch.device("meta" if empty else "cpu"):
            mae = HieraForPreTraining(config)
        return Pretraining(mae, recipe, mean=mean, std=std)
    names = teacher.classes or tuple(f"LABEL_{i}" for i in range(teacher.logits))
    config = variant_config(recipe.model, **size, num_labels=len(names), id2label=dict(enumerate(names)))
    if empty:
        with torch.device("meta"):
            model = HieraForImageClassification(config)
    else:
        changes = {"num_labels": len(names), "id2label": config.id2label}
        model = HieraForImageClassification.from_pretrained(out / "mae", reinit=("norm",), **changes)
    return Distillation(model, recipe, mean=mean, std=std, teacher=teacher, labeled=False, own_head=True)


def record_of(side: int) -> Preprocessing:
    """How whole pictures are shown."""
    return IMAGENET.replace(size={"shortest_edge": side * 256 // 224}, crop_size={"height": side, "width": side})


def train(recipe: Recipe, crops: Crops, out: Path, teacher: Teacher, *, steps: int) -> bool:
    """Runs or goes on with a stage; whether it reached its end."""
    folder = out / ("mae" if recipe.mode == "pretrain" else "classifier")
    if (folder / "run.json").exists() and json.loads((folder / "run.json").read_text()).get("finished"):
        return True
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"mode": recipe.mode, "recipe": recipe.to_dict()}) + "\n")
    torch.manual_seed(recipe.seed)
    side, record = crops.side, record_of(crops.side)
    made = objective(recipe, out, teacher, empty=False).to(crops.device)
    units = (side // 32) ** 2 if recipe.mode == "pretrain" else 0
    per_epoch = max(steps // recipe.epochs, 1)
    total = recipe.epochs * per_epoch
    callback = RunRecorder(folder, record, validation=None, quiet=False)
    loop = Loop(
        recipe, made, World(0, 1, crops.device, "ddp"),
        make_meta_objective=lambda: objective(recipe, out, teacher, empty=True),
        loader=lambda start: Steps(crops, recipe, start, total=total, units=units),  # type: ignore[arg-type,return-value]
        steps_per_epoch=per_epoch, samples=recipe.batch_size * per_epoch,
        checkpoints=Checkpoints(folder, keep=1), evaluate=None, callback=callback,
    )  # fmt: skip
    loop.resume()
    callback.start(loop, per_epoch)
    finished = loop.fit()
    callback.end(loop.progress, loop.total_steps, finished=finished)
    return finished


def main(argv: Sequence[str] | None = None) -> int:
    """Both stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", type=Path, required=True, help="a .pt2 file, as femto/teacher.py writes it")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--mae-steps", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=60_000, help="of distillation: crops are --batch times as many")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(argv)
    device = torch.device(a.device)
    if device.type == "cpu":
        a.compile = False
    crops = Crops(a.pictures / "unlabeled", side=a.side, device=device)
    teacher = open_teacher(a.teacher, size=(a.side, a.side), device=device)
    teacher.measure(
        EvaluationView(open_dataset(a.pictures / "unlabeled", labels=False), record_of(a.side), size=(a.side,) * 2)
    )
    print(f"{len(crops)} pictures in {crops.pixels.nbytes / 2**30:.1f} GiB; {teacher.note}", file=sys.stderr)
    for recipe, steps in zip(recipes(a), (a.mae_steps, a.steps), strict=True):
        if not train(recipe, crops, a.out, teacher, steps=steps):
            return 0  # interrupted; the same command goes on
    print(f"{a.out / 'classifier' / 'model'}: {load(a.out / 'classifier').num_parameters():,} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
