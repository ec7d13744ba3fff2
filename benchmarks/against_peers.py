"""Times our eager models against transformers, timm and the official package, in one interleaved run.

    python benchmarks/against_peers.py [--models tiny,base] [--batches 1,8] [--tasks forward,backward,mae] [--json FILE]

Whatever of `transformers`, `timm` and `hiera` imports takes part. All run the same architecture in float32 on the same
input with random weights, one call each in turn, so that a change of the machine's speed hits all alike. A round gives
one time per library; a cell shows each library's median time and the median over rounds of (its time / our time), and
the fraction of this machine's matrix-product ceiling (best of 2048-cubed products in the same run) that we reach.
"""

import argparse
import contextlib
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hierax
from hierax.benchmark.contenders import multiply_accumulates
from hierax.benchmark.measure import matrix_rate
from hierax.benchmark.peers import PEERS

Call = Callable[[], Any]


def ours(name: str, mae: bool) -> nn.Module:
    """hierax's model."""
    return hierax.create_model(f"{'mae_' if mae else ''}hiera_{name}_224")


LIBRARIES = {"hierax": ours, **PEERS}


def _first_tensor(out: Any) -> Tensor:
    while not isinstance(out, Tensor):
        out = out["loss"] if isinstance(out, dict) and "loss" in out else out[0]
    return out


def call(model: nn.Module, task: str, pixels: Tensor) -> Call:
    """What is timed: a forward pass without gradients; or a forward and backward pass, of the classifier or the MAE.

    No optimizer: it is PyTorch's and the same for all.
    """
    if task == "forward":
        model.eval()

        def forward() -> None:
            with torch.inference_mode():
                model(pixels)

        return forward
    model.train()

    def step() -> None:
        loss = _first_tensor(model(pixels))
        (loss if loss.ndim == 0 else loss.float().square().mean()).backward()
        model.zero_grad()

    return step


def work(name: str, task: str) -> float:
    """Multiply-accumulates per image; a backward pass counts as two forward ones."""
    forward = multiply_accumulates(ours(name, task == "mae").eval(), (1, 3, 224, 224))
    return forward * (1 if task == "forward" else 3)


def measure(name: str, task: str, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    """One cell: at least `rounds` rounds, and more until `seconds` have passed."""
    pixels = torch.randn(batch, 3, 224, 224)
    calls: dict[str, Call] = {}
    for library, build in LIBRARIES.items():
        with contextlib.suppress(ImportError):
            calls[library] = call(build(name, task == "mae"), task, pixels)
    for run in calls.values():
        run()
        run()
    times: dict[str, list[float]] = {library: [] for library in calls}
    peak, started, turn = matrix_rate(torch.float32), time.perf_counter(), 0
    while turn < rounds or time.perf_counter() - started < seconds:
        order = list(calls)
        for library in order[turn % len(order) :] + order[: turn % len(order)]:
            start = time.perf_counter()
            calls[library]()
            times[library].append(time.perf_counter() - start)
        turn += 1
    peak = max(peak, matrix_rate(torch.float32))
    medians = {library: statistics.median(t) for library, t in times.items()}
    ratios = {
        library: [theirs / mine for theirs, mine in zip(t, times["hierax"], strict=True)]
        for library, t in times.items()
        if library != "hierax"
    }
    return {
        "model": name,
        "task": task,
        "batch": batch,
        "rounds": turn,
        "milliseconds": {library: 1000 * t for library, t in medians.items()},
        "ratio": {library: statistics.median(r) for library, r in ratios.items()},
        "quartiles": {library: statistics.quantiles(r, n=4, method="inclusive")[::2] for library, r in ratios.items()},
        "of_ceiling": work(name, task) * batch / medians["hierax"] / peak,
    }


def show(cells: list[dict[str, Any]]) -> None:
    """Prints the table in Markdown."""
    libraries = list(LIBRARIES)
    print(f"| cell | {' | '.join(f'{library} ms' for library in libraries)} | against the fastest | of ceiling |")
    print("|---" * (len(libraries) + 3) + "|")
    for cell in cells:
        times = [f"{cell['milliseconds'][lib]:.1f}" if lib in cell["milliseconds"] else "-" for lib in libraries]
        fastest = min(cell["ratio"], key=cell["ratio"].get, default=None)
        low, high = cell["quartiles"][fastest] if fastest else (0, 0)
        against = f"{cell['ratio'][fastest]:.2f}x {fastest} ({low:.2f} to {high:.2f})" if fastest else "-"
        label = f"{cell['model']} {cell['task']}, batch {cell['batch']}"
        print(f"| {label} | {' | '.join(times)} | {against} | {cell['of_ceiling']:.2f} |")
    worst = [min(cell["ratio"].values()) for cell in cells if cell["ratio"]]
    if worst:
        print(f"\nagainst the fastest: minimum {min(worst):.2f}x, median over cells {statistics.median(worst):.2f}x")


def main() -> None:
    """Runs all cells."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--models", default="tiny,base")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--tasks", default="forward,backward,mae")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0, help="at least this long per cell")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {platform.machine()}, float32\n", flush=True)
    cells = []
    for task in arguments.tasks.split(","):
        for name in arguments.models.split(","):
            for batch in map(int, arguments.batches.split(",")):
                cells.append(measure(name, task, batch, arguments.rounds, arguments.seconds))
                milliseconds = {k: round(v, 1) for k, v in cells[-1]["milliseconds"].items()}
                ratios = {k: round(v, 3) for k, v in cells[-1]["ratio"].items()}
                print(f"  {name} {task} {batch}: {milliseconds} {ratios}", flush=True)
    print()
    show(cells)
    if arguments.json:
        arguments.json.write_text(json.dumps(cells, indent=2))


if __name__ == "__main__":
    main()
