"""Images per second of `hierax pretrain` and of transformers' HieraForPreTraining in the plainest loop, data included.

    python benchmarks/training_loop.py [--data DIR] [--precision fp32,bf16] [--batch 8] [--rounds 20]

Both read the same folder of JPEGs (made of the demo's photo if none is given), with the same batch, precision, AdamW
and number of threads, each in a process of its own. The processes take turns of a few steps; all others and their
workers are halted meanwhile, so that a change of the machine's speed hits all alike. The plainest loop opens a batch
with Pillow, hands it to the image processor and takes a step; `+ workers` gives it a DataLoader with as many
processes as hierax takes. Ratios are medians over rounds, with quartiles.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import hierax
from hierax.benchmark.peers import PEERS
from hierax.train import pretrain
from hierax.train.log import RunLog
from hierax.train.progress import StepReport
from hierax.train.recipes import recipe

TURN = 3  # steps
WARM_UP = 2  # turns
WAYS = ("hierax", "transformers", "transformers + workers")


def make_pictures(folder: Path, count: int) -> Path:
    """JPEGs of the size that ImageNet's have: parts of the demo's photo."""
    folder.mkdir(parents=True)
    photo = Image.open(Path(hierax.__file__).parent / "assets" / "cat.jpg").convert("RGB").resize((1000, 750))
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


def plain_loop(data: Path, *, precision: str, batch: int, steps: int, workers: int) -> None:
    """The loop that everybody writes first, with transformers; prints a line after each step."""
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
    for _ in range(-(-steps * batch // len(files))):
        for pixels in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = model(pixel_values=pixels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            print(loss.item(), flush=True)


def our_loop(data: Path, *, precision: str, batch: int, steps: int, workers: int) -> None:
    """`hierax pretrain`, which prints the seconds of each step and those it waited."""
    files = len(list(data.rglob("*.jpg")))
    made = recipe("mae_tiny_small_data").replace(
        batch_size=batch, precision=precision, epochs=-(-steps * batch // files), warmup_epochs=0.0,
        validation_fraction=0.0, workers=workers,
    )  # fmt: skip
    step = RunLog.step

    def told(self: RunLog, report: StepReport) -> None:
        step(self, report)
        print(report.seconds, report.waited, flush=True)

    RunLog.step = told
    with tempfile.TemporaryDirectory() as folder:
        pretrain(data, out=Path(folder) / "run", recipe=made, device="cpu", quiet=True)


class Contestant:
    """A process that takes steps when it is its turn."""

    def __init__(self, way: str, arguments: argparse.Namespace, data: Path, precision: str) -> None:
        workers = 0 if way == "transformers" else arguments.workers
        steps = TURN * (WARM_UP + arguments.rounds + 1)
        command = [sys.executable, "-W", "ignore", __file__, "--way", way, "--data", str(data)]
        for name, value in (("precision", precision), ("batch", arguments.batch), ("workers", workers)):
            command += [f"--{name}", str(value)]
        self.process = subprocess.Popen(
            [*command, "--steps", str(steps)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True,  # so that its workers are halted with it
        )  # fmt: skip

    def turn(self) -> tuple[float, list[str]]:
        """Seconds of a turn, and what it said after each step; halted before and after."""
        assert self.process.stdout is not None
        start = time.perf_counter()
        os.killpg(self.process.pid, signal.SIGCONT)
        lines = [self.process.stdout.readline() for _ in range(TURN)]
        seconds = time.perf_counter() - start
        if not lines[-1]:
            raise RuntimeError(f"{self.process.args} ended")
        os.killpg(self.process.pid, signal.SIGSTOP)
        return seconds, lines

    def end(self) -> None:
        """Ends it and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@contextlib.contextmanager
def contestants(arguments: argparse.Namespace, data: Path, precision: str) -> Iterator[dict[str, Contestant]]:
    """Processes of all ways, warm and halted."""
    found: dict[str, Contestant] = {}
    try:
        for way in WAYS:
            found[way] = Contestant(way, arguments, data, precision)
            for _ in range(WARM_UP):
                found[way].turn()
        yield found
    finally:
        for contestant in found.values():
            contestant.end()


def compare(arguments: argparse.Namespace, data: Path, precision: str) -> dict[str, Any]:
    """All ways in every round."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    shares = []
    with contestants(arguments, data, precision) as running:
        for turn in range(arguments.rounds):
            for way in (*WAYS[turn % 3 :], *WAYS[: turn % 3]):
                taken, lines = running[way].turn()
                seconds[way].append(taken)
                if way == "hierax":  # the first step of a turn waited while it was halted
                    shares += [tuple(map(float, line.split())) for line in lines[1:]]
    cell: dict[str, Any] = {"precision": precision, "batch": arguments.batch, "rounds": arguments.rounds}
    cell["waited"] = sum(waited for _, waited in shares) / sum(total for total, _ in shares)
    images = TURN * arguments.batch
    cell["images_per_second"] = {way: images / statistics.median(times) for way, times in seconds.items()}
    for way in WAYS[1:]:
        ratios = [theirs / mine for mine, theirs in zip(seconds["hierax"], seconds[way], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        cell[f"against {way}"] = [middle, low, high]
    return cell


def main() -> None:
    """Runs the ways in turn, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="a folder of JPEGs")
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1, help="processes that decode (default: 1)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        loop = our_loop if arguments.way == "hierax" else plain_loop
        options = {name: getattr(arguments, name) for name in ("precision", "batch", "steps", "workers")}
        loop(arguments.data, **options)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # halted processes must not be left behind
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or make_pictures(Path(folder) / "pictures", 32 * arguments.batch)
        print(
            f"torch {torch.__version__}, {torch.get_num_threads()} threads, hiera_tiny_224, batch {arguments.batch}\n"
        )
        print(f"| precision | {' images/s | '.join(WAYS)} images/s | against it plain | with workers | waited |")
        print("|---" * 7 + "|")
        for precision in arguments.precision.split(","):
            cells.append(cell := compare(arguments, data, precision))
            speeds = " | ".join(f"{speed:.2f}" for speed in cell["images_per_second"].values())
            against = " | ".join("{:.2f}x ({:.2f} to {:.2f})".format(*cell[f"against {way}"]) for way in WAYS[1:])
            print(f"| {precision} | {speeds} | {against} | {cell['waited']:.1%} |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(cells, indent=2) + "\n")


if __name__ == "__main__":
    main()
