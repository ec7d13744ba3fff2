"""`finetune(task="segment")` on drawn shapes: from `hierax/femto`, from random weights, and with a frozen encoder.

    python benchmarks/segmentation_toys.py [--starts femto,scratch,frozen] [--seeds 0,1,2] [--epochs 3] [--images 400]
        [--json FILE] [key=value ...]

Circles, squares and triangles on noise, 128 pixels wide: 400 images to train, 80 held out, four classes with the
background. The recipes are those that the command chooses on a CPU, and for "frozen" the one for a frozen encoder. With
batches of 8, three epochs are 150 steps. Further settings are given to all runs. Mean IoU is that of the last weights.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hierax.train import finetune
from toy_shapes import draw

STARTS: dict[str, dict[str, Any]] = {
    "femto": {},
    "scratch": {"source": None, "settings": ["model=hiera_femto_160"]},
    "frozen": {"source": "hierax/femto", "recipe": "segment_tiny_small_data_frozen_cpu"},
}


def write_shapes(folder: Path, *, images: int = 400, held_out: int = 80) -> Path:
    """A folder of drawings and their masks, to train on and to validate on."""
    for split, count, seed in (("train", images, 0), ("val", held_out, 1)):
        random = np.random.RandomState(seed)
        for place in ("images", "masks"):
            (folder / place / split).mkdir(parents=True)
        for number in range(count):
            shapes = draw(random)
            shapes.image.save(folder / "images" / split / f"{number:03}.png")
            shapes.mask.save(folder / "masks" / split / f"{number:03}.png")
    return folder


def train(data: Path, start: str, *, seed: int, settings: Sequence[str], out: Path) -> dict[str, Any]:
    """Trains one model; its metrics on the held-out drawings, and the seconds of the run."""
    how = dict(STARTS[start])
    own = [f"seed={seed}", "weights=last", "workers=0", *how.pop("settings", ()), *settings]
    run = finetune(data, out=out, task="segment", settings=own, device="cpu", quiet=True, **how)
    result = json.loads((run / "run.json").read_text())["result"]
    return {**result["last"], "steps": result["steps"], "seconds": result["seconds"]}


def main(given: Sequence[str] | None = None) -> None:
    """Trains all models, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--starts", default=",".join(STARTS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    settings = [f"epochs={arguments.epochs}", *arguments.settings]
    found: dict[str, list[dict[str, Any]]] = {}
    print("| start | seed | steps | mean IoU | pixel accuracy | loss | s |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        data = write_shapes(Path(place, "shapes"), images=arguments.images, held_out=max(arguments.images // 5, 1))
        for start in arguments.starts.split(","):
            for seed in map(int, arguments.seeds.split(",")):
                began = time.perf_counter()
                one = train(data, start, seed=seed, settings=settings, out=Path(place, f"{start}-{seed}"))
                found.setdefault(start, []).append({"seed": seed, **one})
                shown = [f"{one[name]:.3f}" for name in ("mean_iou", "pixel_accuracy", "loss")]
                cells = [start, seed, one["steps"], *shown, f"{time.perf_counter() - began:.0f}"]
                print("|", " | ".join(map(str, cells)), "|", flush=True)
    for start, runs in found.items():
        print(f"{start}: mean IoU {statistics.mean(run['mean_iou'] for run in runs):.3f} over {len(runs)} seeds")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
