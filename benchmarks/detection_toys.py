"""Toy shapes as COCO files, and the commands that train, measure and use a model of detection on them.

    python benchmarks/detection_toys.py FOLDER [--task detect] [--steps 600] [--seed 0] [--head rt-detr]

The images are those of `dense_toys.py`: circles, squares and triangles on noise, 128 pixels wide, 400 to train on and
80 to measure on. The numbers of the categories have gaps.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from hierax.cli import main as hierax

SIZE = 128
NAMES, IDS = ("circle", "square", "triangle"), (2, 5, 11)


def polygon(kind: int, box: tuple[int, int, int, int]) -> list[float]:
    """The outline of a shape."""
    left, top, right, bottom = box
    if kind == 0:
        turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        xs, ys = (
            (left + right) / 2 + np.cos(turns) * (right - left) / 2,
            (top + bottom) / 2 + np.sin(turns) * (bottom - top) / 2,
        )
        return np.stack([xs, ys], 1).reshape(-1).round(2).tolist()
    if kind == 1:
        return [left, top, right, top, right, bottom, left, bottom]
    return [left + (right - left) // 2, top, left, bottom, right, bottom]


def draw(random: np.random.RandomState) -> tuple[Image.Image, list[tuple[int, tuple[int, int, int, int]]]]:
    """One to three shapes of random colors on noise, as in `dense_toys.py`, and their classes and corners."""
    coarse = np.kron(random.rand(8, 8, 3), np.ones((SIZE // 8, SIZE // 8, 1)))
    image = Image.fromarray((127 * (coarse + random.rand(SIZE, SIZE, 3))).astype(np.uint8))
    pen, shapes = ImageDraw.Draw(image), []
    for _ in range(random.randint(1, 4)):
        kind, side = random.randint(3), random.randint(20, 50)
        x, y = random.randint(0, SIZE - side, 2)
        box = (int(x), int(y), int(x + side), int(y + side))
        fill = tuple(map(int, random.randint(0, 255, 3)))
        if kind == 2:
            pen.polygon(polygon(2, box), fill=fill)
        else:
            (pen.ellipse, pen.rectangle)[kind](box, fill=fill)
        shapes.append((int(kind), box))
    return image, shapes


def write(folder: Path, name: str, *, count: int, seed: int) -> None:
    """`annotations/instances_NAME.json` and the images in `NAME/`."""
    random = np.random.RandomState(seed)
    (folder / name).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number in range(count):
        image, shapes = draw(random)
        image.save(folder / name / f"{number:04}.png")
        images.append({"id": number, "file_name": f"{number:04}.png", "width": SIZE, "height": SIZE})
        for kind, (left, top, right, bottom) in shapes:
            wide, high = right - left, bottom - top
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": IDS[kind], "iscrowd": 0,
                "bbox": [left, top, wide, high], "area": wide * high,
                "segmentation": [polygon(kind, (left, top, right, bottom))],
            })  # fmt: skip
    categories = [{"id": key, "name": shape} for key, shape in zip(IDS, NAMES, strict=True)]
    values = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{name}.json").write_text(json.dumps(values))


def main(words: Sequence[str] | None = None) -> None:
    """Draws, trains and measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", choices=("detect", "instances"), default="detect")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*", help="other settings of the run, key=value")
    arguments = parser.parse_intermixed_args(words)
    data, run = arguments.folder / "shapes", arguments.folder / f"{arguments.task}-{arguments.seed}"
    if not data.exists():
        write(data, "train", count=400, seed=0)
        write(data, "val", count=80, seed=1)
    started = time.perf_counter()
    settings = [f"steps={arguments.steps}", f"seed={arguments.seed}", "image_size=128", *arguments.settings]
    hierax(["finetune", str(data), "-o", str(run), "--task", arguments.task, *settings])
    print(f"{time.perf_counter() - started:.0f} s")
    hierax(["evaluate", str(data), "--model", str(run)])
    hierax(["detect", str(data / "val" / "0000.png"), "--model", str(run), "-o", str(run / "seen"), "--overwrite"])


if __name__ == "__main__":
    main()
