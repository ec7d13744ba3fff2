"""Times our eager models against transformers, timm and the official package, in one interleaved run.

    python benchmarks/against_peers.py [--models tiny,base] [--batches 1,8] [--tasks forward,backward,mae,maps]
        [--baseline hierax] [--size 224] [--json FILE]

Whatever of `transformers`, `timm` and `hiera` imports takes part. "inside" is hierax's model as a class of
transformers. "maps" is the backbone with the maps of all stages. All run the same architecture in float32 on the same
input with random weights, one call each in turn, so that a change of the machine's speed hits all alike. A round gives
one time per library; a cell shows each library's median time and the median over rounds of (its time / the time of the
baseline), and the fraction of this machine's matrix-product ceiling (best of 2048-cubed products in the same run) that
the baseline reaches. A library that refuses the input is named with its error.
"""

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hierax
from hierax.benchmark.contenders import multiply_accumulates
from hierax.benchmark.measure import matrix_rate
from hierax.benchmark.peers import PEERS
from hierax.model.config import variant_config

Call = Callable[[], Any]


STAGES = ["stage1", "stage2", "stage3", "stage4"]


def ours(name: str, task: str) -> nn.Module:
    """hierax's model."""
    if task == "maps":
        return hierax.HieraBackbone(variant_config(f"hiera_{name}_224"), out_features=STAGES)
    return hierax.create_model(f"{'mae_' if task == 'mae' else ''}hiera_{name}_224")


def inside(name: str, task: str) -> nn.Module:
    """hierax's model as a class of transformers."""
    from hierax.integrations import transformers as classes

    kinds = {"mae": classes.HieraxForPreTraining, "maps": classes.HieraxBackbone}
    return kinds.get(task, classes.HieraxForImageClassification).from_hierax(ours(name, task))


def peer(library: str) -> Callable[[str, str], nn.Module]:
    """A published implementation."""

    def build(name: str, task: str) -> nn.Module:
        if task != "maps":
            return PEERS[library](name, task == "mae")
        if library == "transformers":
            import transformers

            config: Any = PEERS[library](name, False).config
            config.set_output_features_output_indices(out_features=STAGES, out_indices=None)
            return transformers.HieraBackbone(config)
        if library == "timm":
            import timm  # pyright: ignore[reportMissingImports]

            return timm.create_model(f"hiera_{name}_224", features_only=True)
        raise ImportError("it has no backbone")

    return build


LIBRARIES = {"hierax": ours, "inside": inside, **{library: peer(library) for library in PEERS}}


def _first_tensor(out: Any) -> Tensor:
    while not isinstance(out, Tensor):
        out = out["loss"] if isinstance(out, dict) and "loss" in out else out[0]
    return out


def call(model: nn.Module, task: str, pixels: Tensor) -> Call:
    """What is timed: a forward pass without gradients; or a forward and backward pass, of the classifier or the MAE.

    No optimizer: it is PyTorch's and the same for all.
    """
    if task in ("forward", "maps"):
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


def work(name: str, task: str, size: tuple[int, int]) -> float:
    """Multiply-accumulates per image; a backward pass counts as two forward ones."""
    forward = multiply_accumulates(ours(name, task).eval(), (1, 3, *size))
    return forward * (1 if task in ("forward", "maps") else 3)


def taking_part(name: str, task: str, pixels: Tensor) -> dict[str, Call]:
    """The calls of the libraries that can be imported, have the task and take the input; each was made twice."""
    calls: dict[str, Call] = {}
    for library, build in LIBRARIES.items():
        try:
            made = call(build(name, task), task, pixels)
            made()
            made()
        except (ImportError, ValueError, RuntimeError, AssertionError) as error:
            print(f"  {library} is left out: {str(error).splitlines()[0]}", flush=True)
            continue
        calls[library] = made
    return calls


def measure(name: str, task: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """One cell: at least `options.rounds` rounds, and more until `options.seconds` have passed."""
    calls, baseline = taking_part(name, task, torch.randn(batch, 3, *options.size)), options.baseline
    times: dict[str, list[float]] = {library: [] for library in calls}
    peak, started, turn = matrix_rate(torch.float32), time.perf_counter(), 0
    while turn < options.rounds or time.perf_counter() - started < options.seconds:
        order = list(calls)
        for library in order[turn % len(order) :] + order[: turn % len(order)]:
            start = time.perf_counter()
            calls[library]()
            times[library].append(time.perf_counter() - start)
        turn += 1
    peak = max(peak, matrix_rate(torch.float32))
    medians = {library: statistics.median(t) for library, t in times.items()}
    ratios = {
        library: [theirs / mine for theirs, mine in zip(t, times[baseline], strict=True)]
        for library, t in times.items()
        if library != baseline
    }
    return {
        "model": name,
        "task": task,
        "batch": batch,
        "rounds": turn,
        "milliseconds": {library: 1000 * t for library, t in medians.items()},
        "ratio": {library: statistics.median(r) for library, r in ratios.items()},
        "quartiles": {library: statistics.quantiles(r, n=4, method="inclusive")[::2] for library, r in ratios.items()},
        "of_ceiling": work(name, task, options.size) * batch / medians[baseline] / peak,
    }


def show(cells: list[dict[str, Any]]) -> None:
    """Prints the table in Markdown."""
    libraries = list(LIBRARIES)
    print(f"| cell | {' | '.join(f'{library} ms' for library in libraries)} | against the fastest | of ceiling |")
    print("|---" * (len(libraries) + 3) + "|")
    for cell in cells:
        times = [f"{cell['milliseconds'][lib]:.1f}" if lib in cell["milliseconds"] else "-" for lib in libraries]
        others = {library: ratio for library, ratio in cell["ratio"].items() if library in PEERS}
        fastest = min(others, key=others.__getitem__, default=None)
        low, high = cell["quartiles"][fastest] if fastest else (0, 0)
        against = f"{cell['ratio'][fastest]:.2f}x {fastest} ({low:.2f} to {high:.2f})" if fastest else "-"
        label = f"{cell['model']} {cell['task']}, batch {cell['batch']}"
        print(f"| {label} | {' | '.join(times)} | {against} | {cell['of_ceiling']:.2f} |")
    peers = [[ratio for library, ratio in cell["ratio"].items() if library in PEERS] for cell in cells]
    worst = [min(ratios) for ratios in peers if ratios]
    if worst:
        print(f"\nagainst the fastest: minimum {min(worst):.2f}x, median over cells {statistics.median(worst):.2f}x")


def read_size(text: str) -> tuple[int, int]:
    """`text` as height and width."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def main(words: Sequence[str] | None = None) -> None:
    """Runs all cells."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--models", default="tiny,base")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--tasks", default="forward,backward,mae")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0, help="at least this long per cell")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--baseline", default="hierax", choices=("hierax", "inside"))
    parser.add_argument("--size", type=read_size, default=(224, 224), help="224, or height and width as 480x640")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {platform.machine()}, float32\n", flush=True)
    cells = []
    for task in arguments.tasks.split(","):
        for name in arguments.models.split(","):
            for batch in map(int, arguments.batches.split(",")):
                cells.append(measure(name, task, batch, arguments))
                milliseconds = {k: round(v, 1) for k, v in cells[-1]["milliseconds"].items()}
                ratios = {k: round(v, 3) for k, v in cells[-1]["ratio"].items()}
                print(f"  {name} {task} {batch}: {milliseconds} {ratios}", flush=True)
    print()
    show(cells)
    if arguments.json:
        arguments.json.write_text(json.dumps(cells, indent=2))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
