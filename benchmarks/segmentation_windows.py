"""Sliding windows of `hierax segment` at 2048x1536 pixels: seams, memory, time, and the same classes from engines.

    python benchmarks/segmentation_windows.py [--steps 400] [--size 1536x2048] [--rounds 3] [--model FOLDER]
        [--output DIR] [--parts seams,times,memory,engines]

`hierax/femto` learns drawn shapes in crops of 160 pixels; `--model` takes the folder of an earlier call instead. Then
it segments one large drawing without resizing: as a whole ("plain"), and in windows with several overlaps.

- seams: a pixel is near a seam if it is at most 8 pixels from a border of a window that lies inside of the image.
  "differs" is the share of pixels that have another class than in the plain call, near seams and elsewhere. "false
  edges" is the share of neighboring pixels of different classes, where the drawing has one class: across the middles
  of overlaps (where two windows weigh the same), there in the plain call, and anywhere.
- memory: the peak of a process that segments one image, minus that of a process that only opens it and the model; for
  a model with 150 classes too.
- time: medians of interleaved calls, and the median of their ratios to the plain call.
- engines: the share of pixels with the same class as from PyTorch.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

import hierax
from hierax.predict.predictor import Predictor
from hierax.predict.segment import open_segmenter, segmentations
from hierax.predict.sliding import axis

CROP, CLASSES, NEAR = 160, ("background", "circle", "square", "triangle"), 8
WINDOWS = ((320, 0.0), (320, 0.25), (320, 0.5), (160, 0.25), (640, 0.25))
WHOLE = 1 << 20  # a window that holds every image
_MEASURED = """
import sys
from pathlib import Path
from hierax.benchmark.contenders import peak_resident_mib
from hierax.predict.segment import open_segmenter, segmentations
from hierax.processing import load_image
folder, path, window = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
predictor = open_segmenter(folder, full_size=True, precision="fp32", backend="torch", device="cpu")
if window:
    assert next(segmentations(predictor, [path], window=window))[0].error is None
else:
    load_image(path)
print(peak_resident_mib())
"""


def scene(height: int, width: int, seed: int) -> tuple[Image.Image, np.ndarray]:
    """Shapes of random colors on noise, and the class of each pixel; a later shape covers an earlier one."""
    random = np.random.RandomState(seed)
    cells = np.kron(random.rand(-(-height // 16), -(-width // 16), 3), np.ones((16, 16, 1)))[:height, :width]
    image = Image.fromarray((127 * (cells + random.rand(height, width, 3))).astype(np.uint8))
    mask = Image.new("L", (width, height))
    for _ in range(max(1, height * width // 6000)):
        kind, side = random.randint(1, len(CLASSES)), int(random.randint(20, 60))
        x, y = int(random.randint(-10, width - 10)), int(random.randint(-10, height - 10))
        box, color = (x, y, x + side, y + side), tuple(int(level) for level in random.randint(0, 256, 3))
        for target, fill in ((image, color), (mask, kind)):
            pen = ImageDraw.Draw(target)
            if kind == 3:
                pen.polygon([(x + side // 2, y), (x, y + side), (x + side, y + side)], fill=fill)
            else:
                (pen.ellipse if kind == 1 else pen.rectangle)(box, fill=fill)
    return image, np.asarray(mask)


def trained(folder: Path, steps: int) -> None:
    """Fine-tunes femto on crops of drawings, and saves it."""
    torch.manual_seed(0)
    model = hierax.HieraForSemanticSegmentation.from_pretrained(
        "hierax/femto", num_labels=len(CLASSES), id2label=dict(enumerate(CLASSES)), image_size=CROP
    )
    record = hierax.Preprocessing().at(CROP).whole(CROP)
    processor = hierax.HieraImageProcessor(record.replace(do_resize=False))
    scenes = [scene(512, 512, seed) for seed in range(1, 25)]
    random = np.random.RandomState(0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        images, masks = [], []
        for _ in range(8):
            image, mask = scenes[random.randint(len(scenes))]
            x, y = (int(n) for n in random.randint(0, 512 - CROP, 2))
            images.append(image.crop((x, y, x + CROP, y + CROP)))
            masks.append(torch.from_numpy(mask[y : y + CROP, x : x + CROP].astype(np.int64)))
        loss = model(processor(images).pixel_values, labels=torch.stack(masks)).loss
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
    model.preprocessing = record
    model.eval().save_pretrained(folder)


def classes_of(predictor: Predictor, path: Path, window: int, overlap: float = 0.25) -> np.ndarray:
    """The mask of an image."""
    found, _ = next(segmentations(predictor, [path], window=window, overlap=overlap))
    assert found.mask is not None, found.error
    return found.mask


# -- seams


def borders(length: int, window: int, overlap: float) -> tuple[list[int], list[int]]:
    """Along an axis: the borders of windows inside of the image, and the middles of overlaps."""
    found = axis(length, stride=4, window=window, overlap=overlap)
    pairs = list(zip(found.starts[1:], (start + found.side for start in found.starts), strict=False))
    return [place for pair in pairs for place in pair], [(start + stop) // 2 for start, stop in pairs]


def near_seams(shape: Sequence[int], window: int, overlap: float) -> np.ndarray:
    """The pixels near a border of a window, as booleans."""
    near = np.zeros(shape, bool)
    for place in borders(shape[0], window, overlap)[0]:
        near[max(place - NEAR, 0) : place + NEAR] = True
    for place in borders(shape[1], window, overlap)[0]:
        near[:, max(place - NEAR, 0) : place + NEAR] = True
    return near


def false_edges(mask: np.ndarray, truth: np.ndarray, window: int, overlap: float) -> tuple[float, float]:
    """The share of false edges across the middles of overlaps, and anywhere."""
    at, anywhere = [], []
    for side in (0, 1):
        ours, real = (np.moveaxis(array, side, 0) for array in (mask, truth))
        wrong, plain = ours[1:] != ours[:-1], real[1:] == real[:-1]
        middles = [place - 1 for place in borders(mask.shape[side], window, overlap)[1]]
        at.append((int((wrong & plain)[middles].sum()), int(plain[middles].sum())))
        anywhere.append((int((wrong & plain).sum()), int(plain.sum())))
    return tuple(sum(a for a, _ in pairs) / max(sum(b for _, b in pairs), 1) for pairs in (at, anywhere))  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """The mean intersection over union."""
    count = len(CLASSES)
    table = np.bincount(truth.ravel().astype(np.int64) * count + mask.ravel(), minlength=count**2).reshape(count, count)
    hit = table.diagonal()
    return float((hit / (table.sum(0) + table.sum(1) - hit)).mean())


# -- the parts of the report


def seams(predictor: Predictor, path: Path, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Prints the seams of every choice of windows; returns masks to look at."""
    plain = classes_of(predictor, path, WHOLE)
    columns = ("windows, px", "overlap", "mean IoU", "differs near seams", "elsewhere")
    print(f"\n| {' | '.join((*columns, 'false edges at overlaps', 'plain there', 'anywhere'))} |")
    print("|---|---|---|---|---|---|---|---|")
    print(f"| plain | | {iou(plain, truth):.3f} | | | | | {false_edges(plain, truth, 320, 0.25)[1]:.3%} |")
    shown = {"truth": truth, "plain": plain}
    for window, overlap in WINDOWS:
        mask = classes_of(predictor, path, window, overlap)
        shown[f"{window} px, overlap {overlap:g}"] = mask
        near, other = near_seams(mask.shape, window, overlap), mask != plain
        if not near.any():
            continue  # the image is not larger than the window
        edges = false_edges(mask, truth, window, overlap)
        seam, elsewhere = other[near].mean(), other[~near].mean()
        there = false_edges(plain, truth, window, overlap)[0]
        shares = f"{seam:.2%} | {elsewhere:.2%} | {edges[0]:.3%} | {there:.3%} | {edges[1]:.3%}"
        print(f"| {window} | {overlap:g} | {iou(mask, truth):.3f} | {shares} |", flush=True)
    return shown


def times(predictor: Predictor, path: Path, rounds: int) -> None:
    """Prints the times of the plain call and of windows."""
    choices = {"plain": (WHOLE, 0.25), **{f"{w} px, overlap {o:g}": (w, o) for w, o in WINDOWS}}
    found: dict[str, list[float]] = {name: [] for name in choices}
    for _ in range(rounds):
        for name, (window, overlap) in choices.items():
            start = time.perf_counter()
            classes_of(predictor, path, window, overlap)
            found[name].append(time.perf_counter() - start)
    print("\n| call | seconds | of the plain call |\n|---|---|---|")
    for name, seconds in found.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, found["plain"], strict=True))
        print(f"| {name} | {statistics.median(seconds):.2f} | {ratio:.2f} |", flush=True)


def peak(folder: Path, path: Path, window: int) -> float:
    """MiB of the peak memory of a process that segments an image; window 0 only opens it and the model."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, folder, path, str(window)], check=True, capture_output=True, text=True
    )
    return float(done.stdout.splitlines()[-1])


def memory(folders: dict[str, Path], path: Path, larger: Path) -> None:
    """Prints the memory of calls, for models and two sizes of images; the larger one in windows alone."""
    print("\n| model | image, px | plain, MiB | windows of 320 px, MiB | all logits at that size alone, MiB |")
    print("|---|---|---|---|---|")
    for name, folder in folders.items():
        labels = hierax.HieraConfig.from_pretrained(folder).num_labels
        for one in (path, larger):
            width, height = Image.open(one).size
            base = peak(folder, one, 0)
            plain = f"{peak(folder, one, WHOLE) - base:.0f}" if one == path else ""
            cut, full = peak(folder, one, 320) - base, labels * width * height * 4 / 2**20
            print(f"| {name} | {width}x{height} | {plain} | {cut:.0f} | {full:.0f} |", flush=True)


def engines(folder: Path, path: Path, place: Path) -> None:
    """Prints how many pixels have the same class from engines and exports as from PyTorch."""
    wanted = {
        name: classes_of(_opened(folder, backend="torch", precision="fp32"), path, window)
        for name, window in (("plain", WHOLE), ("windows", 320))
    }
    print("\n| engine | same class, plain | windows of 320 px |\n|---|---|---|")
    for name, source, options in _engines(folder, place):
        predictor = _opened(source, **options)
        exported = predictor.engine is not None and predictor.engine.exported is not None
        same = [
            "" if exported and key == "plain" else f"{(classes_of(predictor, path, window) == wanted[key]).mean():.3%}"
            for key, window in (("plain", WHOLE), ("windows", 320))
        ]
        print(f"| {name} | {same[0]} | {same[1]} |", flush=True)


def _engines(folder: Path, place: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Names, sources and arguments of engines. Exports are for windows of 320 pixels alone."""
    for backend, precision in (
        ("torch", "bf16"), ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"),
    ):  # fmt: skip
        yield f"{backend}, {precision}", folder, {"backend": backend, "precision": precision}
    for format in ("onnx", "openvino", "pt2"):
        hierax.export(folder, place / format, format=format, size=320)
        yield f"hierax export --format {format}", place / format, {}


def _opened(source: Path, **options: Any) -> Predictor:
    return open_segmenter(source, full_size=True, device="cpu", **options)


def draw(image: Image.Image, masks: dict[str, np.ndarray], file: Path) -> None:
    """Writes the masks over a part of the image around crossing seams, side by side."""
    from hierax.viz import Tile, overlay, sheet

    side = min(480, *image.size)
    left, top = min(440, image.width - side), min(440, image.height - side)
    part = image.crop((left, top, left + side, top + side))
    tiles = [Tile(part, "image")]
    for name, mask in masks.items():
        tiles.append(Tile(overlay(part, mask[top : top + side, left : left + side], opacity=1), name))
    sheet([tiles[i : i + 4] for i in range(0, len(tiles), 4)], heading=f"{side} pixels from ({left}, {top})").save(file)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--size", default="1536x2048", help="rows x columns")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--parts", default="seams,times,memory,engines", help="what to run (default: all)")
    parser.add_argument("--output", type=Path, default=Path("segmentation-windows"))
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    folder = arguments.model or arguments.output / "model"
    if arguments.model is None:
        trained(folder, arguments.steps)
    height, width = (int(n) for n in arguments.size.split("x"))
    image, truth = scene(height, width, 0)
    path, larger = arguments.output / "scene.png", arguments.output / "larger.png"
    image.save(path)
    image.resize((2 * width, 2 * height)).save(larger)
    predictor = _opened(folder, backend="torch", precision="fp32")
    parts = arguments.parts.split(",")
    if "seams" in parts:
        draw(image, seams(predictor, path, truth), arguments.output / "seams.png")
    if "times" in parts:
        times(predictor, path, arguments.rounds)
    many = hierax.HieraForSemanticSegmentation.from_pretrained(folder, num_labels=150)
    with tempfile.TemporaryDirectory() as place:
        many.save_pretrained(Path(place, "many"))
        if "memory" in parts:
            memory({"4 classes": folder, "150 classes": Path(place, "many")}, path, larger)
        if "engines" in parts:
            engines(folder, path, Path(place))


if __name__ == "__main__":
    main()
