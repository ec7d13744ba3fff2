"""How fast `hierax embed` is: against its own engine on ready pixels, and against a plain loop over transformers.

    python benchmarks/embed_speed.py [--count 1024] [--rounds 5] [--json FILE]

Tiny with random, seeded weights, over JPEGs of 500 x 375 (crops of the photos that installed packages ship). In every
round each of these goes over all pictures once, in an order that turns from round to round:

- `engine`, `engine int8`: batches of 32 pixels that are ready; nothing is read or written.
- `embed`, `embed int8`: a new collection with default settings, from listing the files to the last shard on the disk.
  The model is loaded before, as are (by `prepare_processes`, as for a user while it loads) the modules of the processes
  that decode; they start anew every time.
- `transformers`: pictures opened with Pillow, its image processor (each backend that can be had; the faster one counts)
  and `HieraModel`, batches of 32, no gradients; nothing is written.

The table has medians over rounds, and medians with quartiles of the ratios within rounds. On a busy machine the ratios
mean little: processes that decode and those of others share the cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from embed_duplicates import tiny
from embed_pictures import crop, encoded, opened, place, shipped
from hierax.embedding import FeatureExtractor, embed
from hierax.embedding.processes import prepare_processes

BATCH = 32
SIZE = (500, 375)
BARS = {
    ("embed", "engine"): 0.9,
    ("embed", "transformers"): 2.2,
    ("embed int8", "transformers"): 3.0,
    ("embed int8", "engine int8"): None,
}
"""Ratios of pictures per second that are printed, and what they are to be."""


def write_jpegs(folder: Path, count: int, *, seed: int = 0) -> list[Path]:
    """Crops of photos, 500 x 375."""
    paths = [place(folder, number, ".jpg") for number in range(count)]
    for number, path in enumerate(paths):
        generator = np.random.default_rng([seed, number])
        source = opened(shipped()[generator.integers(len(shipped()))])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(crop(source, generator, SIZE), ".jpg", quality=90))
    return paths


def engine_alone(extractor: FeatureExtractor, count: int) -> Callable[[], object]:
    """The engine over as many pictures, from pixels that are ready."""
    pixels = torch.randn(BATCH, 3, *extractor.size)

    def run() -> None:
        for start in range(0, count, BATCH):
            extractor.engine(pixel_values=pixels[: min(BATCH, count - start)])

    return run


def embedding(extractor: FeatureExtractor, pictures: Path, place: Path) -> Callable[[], object]:
    """A new collection every time."""

    def run() -> None:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            report = embed([pictures], Path(folder) / "out", model=extractor)
            if report.errors or report.pending:
                raise RuntimeError(f"{report.errors} errors, {report.pending} pending")

    return run


def transformers_loops(model: Path, paths: Sequence[Path]) -> dict[str, Callable[[], object]]:
    """The loop that its documentation shows, for each backend of the image processor that is there."""
    import transformers

    transformers.logging.set_verbosity_error()
    network = transformers.HieraModel.from_pretrained(model).eval()  # type: ignore[union-attr]
    found: dict[str, Callable[[], object]] = {}
    for backend in ("pil", "torchvision"):
        processor = transformers.AutoImageProcessor.from_pretrained(model, backend=backend)
        name = "transformers" if type(processor).__name__.endswith("Pil") else "transformers (torchvision)"

        def run(processor: transformers.BaseImageProcessor = processor) -> None:
            for start in range(0, len(paths), BATCH):
                images = [Image.open(path).convert("RGB") for path in paths[start : start + BATCH]]
                with torch.inference_mode():
                    network(**processor(images=images, return_tensors="pt")).pooler_output.numpy()  # type: ignore[operator]

        found.setdefault(name, run)  # asked for torchvision without it, transformers takes the other
    return found


def measure(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each by round; the order turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        names = list(runs)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            runs[name]()
            times[name].append(time.perf_counter() - start)
            print(f"  round {turn + 1}, {name}: {times[name][-1]:.1f} s", flush=True)
    return times


def show(times: dict[str, list[float]], count: int) -> dict[str, float]:
    """Prints both tables; returns the medians of the ratios."""
    slow = [name for name in times if name.startswith("transformers")]
    best = min(slow, key=lambda name: statistics.median(times[name]))
    print("\n| | pictures/s |\n|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {count / statistics.median(seconds):.1f} |")
    print("\n| | ratio | quartiles | bar |\n|---|---|---|---|")
    found = {}
    for (one, other), bar in BARS.items():
        against = best if other == "transformers" else other
        if one not in times or against not in times:
            continue
        ratios = [theirs / mine for theirs, mine in zip(times[against], times[one], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        found[f"{one} / {against}"] = statistics.median(ratios)
        print(f"| {one} / {against} | {statistics.median(ratios):.2f} | {low:.2f} to {high:.2f} | {bar or '-'} |")
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Measures and prints; 0 where all bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1024, help="pictures in each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precisions", default="auto,int8")
    parser.add_argument("--size", type=int, help="side in pixels of what hierax sees, for trying the script out")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(given)
    warnings.simplefilter("ignore")
    prepare_processes()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model, paths = tiny(place / "model"), write_jpegs(place / "pictures", arguments.count)
        runs: dict[str, Callable[[], object]] = {}
        for precision in arguments.precisions.split(","):
            extractor = FeatureExtractor(str(model), precision=precision, size=arguments.size)
            suffix = "" if precision == "auto" else f" {precision}"
            print(f"{precision}: {extractor.engine}", flush=True)
            runs[f"engine{suffix}"] = engine_alone(extractor, arguments.count)
            runs[f"embed{suffix}"] = embedding(extractor, place / "pictures", place)
        runs |= transformers_loops(model, paths)
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.count} pictures", flush=True)
        for extractor_run in (name for name in runs if name.startswith("engine")):
            runs[extractor_run]()  # compiled and warm
        times = measure(runs, arguments.rounds)
    found = show(times, arguments.count)
    if arguments.json:
        arguments.json.write_text(json.dumps({"count": arguments.count, "seconds": times, "ratios": found}, indent=2))
    bars = {f"{one} / {other}": bar for (one, other), bar in BARS.items() if bar}
    return 0 if all(found.get(name, bar) >= bar for name, bar in bars.items()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
