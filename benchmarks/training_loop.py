"""Images per second of `hierax pretrain` and of transformers' HieraForPreTraining in the plainest loop, data included.

    python benchmarks/training_loop.py [--data DIR] [--precision fp32,bf16] [--batch 8] [--rounds 6]

Both read the same folder of JPEGs (made of the demo's photo if none is given), with the same batch, precision, AdamW
and number of threads, each in a process of its own, one after the other in every round; only the last ten steps of a
process count. The plainest loop opens a batch with Pillow, hands it to the image processor and takes a step;
`+ workers` gives it a DataLoader with as many processes as hierax takes. Ratios are medians over rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import hierax
from hierax.engine.bench.peers import PEERS
from hierax.train import pretrain
from hierax.train.recipes import recipe

COUNTED = 10  # steps, the last of a process
WAYS = ("hierax", "transformers", "transformers + workers")


def make_pictures(folder: Path, count: int) -> Path:
    """JPEGs of the size that ImageNet's have: parts of the demo's photo."""
    folder.mkdir(parents=True)
    photo = Image.open(next((Path(hierax.__file__).parent / "assets").glob("*.jpg"))).convert("RGB").resize((1000, 750))
    random = np.random.default_rng(0)
    for number in range(count):
        left, top = (int(random.integers(extent)) for extent in (500, 375))
        photo.crop((left, top, left + 500, top + 375)).save(folder / f"{number:05}.jpg", quality=90)
    return folder


class Opened(torch.utils.data.Dataset[Any]):
    """Pixels of files, by the image processor of transformers."""

    def __init__(self, files: list[Path], processor: Any) -> None:
        self.files, self.processor = files, processor

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        picture = Image.open(self.files[index]).convert("RGB")
        return self.processor(images=picture, return_tensors="pt")["pixel_values"][0]


def plain_loop(data: Path, *, precision: str, batch: int, steps: int, workers: int) -> dict[str, float]:
    """The loop that everybody writes first, with transformers."""
    from transformers.models.bit import BitImageProcessor

    processor = BitImageProcessor(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    model: Any = PEERS["transformers"]("tiny", True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05)
    files = sorted(data.rglob("*.jpg"))
    loader = torch.utils.data.DataLoader(
        Opened(files, processor), batch_size=batch, shuffle=True, drop_last=True, num_workers=workers
    )
    times, done, start = [], 0, time.perf_counter()
    while done < steps:
        for pixels in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = model(pixel_values=pixels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            done, now = done + 1, time.perf_counter()
            times.append(now - start)
            start = now
            if done == steps:
                break
    return {"images_per_second": batch * COUNTED / sum(times[-COUNTED:])}


def our_loop(data: Path, *, precision: str, batch: int, steps: int, workers: int) -> dict[str, float]:
    """`hierax pretrain`, with what its log says."""
    files = len(list(data.rglob("*.jpg")))
    epochs = -(-steps // (files // batch))
    made = recipe("mae_tiny_small_data").replace(
        batch_size=batch, precision=precision, epochs=epochs, warmup_epochs=0.0, validation_fraction=0.0,
        workers=workers,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = pretrain(data, out=Path(folder) / "run", recipe=made, device="cpu", quiet=True)
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    last = next(line for line in lines if line["step"] == steps and "waited" in line)  # over the last ten steps
    return {name: last[name] for name in ("images_per_second", "waited")}


def timed(way: str, arguments: argparse.Namespace, data: Path, precision: str) -> dict[str, float]:
    """One process that runs one way."""
    workers = 0 if way == "transformers" else arguments.workers
    command = [sys.executable, "-W", "ignore", __file__, "--way", way, "--data", str(data), "--precision", precision]
    for name, value in (("batch", arguments.batch), ("steps", arguments.steps), ("workers", workers)):
        command += [f"--{name}", str(value)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def compare(arguments: argparse.Namespace, data: Path) -> list[dict[str, Any]]:
    """All ways in every round, per precision."""
    cells = []
    for precision in arguments.precision.split(","):
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        waited = []
        for turn in range(arguments.rounds):
            for way in (*WAYS[turn % 3 :], *WAYS[: turn % 3]):
                result = timed(way, arguments, data, precision)
                found[way].append(result["images_per_second"])
                waited += [result["waited"]] if "waited" in result else []
        cell = {"precision": precision, "batch": arguments.batch, "waited": statistics.median(waited)}
        cell["images_per_second"] = {way: statistics.median(values) for way, values in found.items()}
        for way in WAYS[1:]:
            ratios = sorted(mine / theirs for mine, theirs in zip(found["hierax"], found[way], strict=True))
            cell[f"against {way}"] = [statistics.median(ratios), ratios[0], ratios[-1]]
        cells.append(cell)
        speeds = " | ".join(f"{speed:.1f}" for speed in cell["images_per_second"].values())
        against = " | ".join("{:.2f}x ({:.2f} to {:.2f})".format(*cell[f"against {way}"]) for way in WAYS[1:])
        print(f"| {precision} | {speeds} | {against} | {cell['waited']:.1%} |", flush=True)
    return cells


def main() -> None:
    """Runs the ways in turn, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="a folder of JPEGs")
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="of a process, a multiple of 10")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--workers", type=int, default=1, help="processes that decode (default: 1)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        loop = our_loop if arguments.way == "hierax" else plain_loop
        options = {name: getattr(arguments, name) for name in ("precision", "batch", "steps", "workers")}
        print(json.dumps(loop(arguments.data, **options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or make_pictures(Path(folder) / "pictures", arguments.batch * arguments.steps)
        print(
            f"torch {torch.__version__}, {torch.get_num_threads()} threads, hiera_tiny_224, batch {arguments.batch}\n"
        )
        print(f"| precision | {' images/s | '.join(WAYS)} images/s | against it plain | with workers | waited |")
        print("|---" * 7 + "|")
        cells = compare(arguments, data)
    if arguments.json:
        arguments.json.write_text(json.dumps(cells, indent=2) + "\n")


if __name__ == "__main__":
    main()
