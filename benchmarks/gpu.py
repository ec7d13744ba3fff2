"""Times engines and the MAE training step on a CUDA device against timm and the official package.

    python benchmarks/gpu.py [--models tiny,base] [--batches 1,2,4,…,256] [--train-batch 64] [--json FILE]

Inference in bf16 at 224 pixels: our engine (captured as CUDA graphs, and through `torch.compile`) and our eager model;
the others eagerly and through `torch.compile` (default mode: no max-autotune). At each batch all are called in turn;
a cell is images per second at the median over rounds, and everyone is judged at the batch that is best for them. Pixels
are on the device already: in bf16 for the others, in float32 for our engine, whose call casts them. The ceiling is the
best of several 8192-cubed products in bf16 in the same run. A training step is a forward and a backward pass under
autocast to bf16, without an optimizer. Who is not installed, or does not fit into memory at a batch, is left out.

`--device cpu --tiny-run` goes through the same code with toy models in everyone's place: its numbers mean nothing.
"""

import argparse
import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import hierax
from hierax.benchmark.contenders import multiply_accumulates, randomize
from hierax.benchmark.peers import PEERS, version_of

Call = Callable[[], Any]
TOY: dict[str, Any] = {"image_size": 64, "embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
TOY_DECODER: dict[str, Any] = {"decoder_hidden_size": 16, "decoder_depth": 1, "decoder_num_heads": 2}
OTHERS = ("official", "timm", "transformers")
ENGINES = {"engine (graphs)": "torch", "engine (compile)": "compile"}


class Bench:
    """The device, and what is decided once for a run."""

    def __init__(self, device: str, *, toy: bool, seconds: float, rounds: int) -> None:
        self.device, self.toy, self.seconds, self.rounds = torch.device(device), toy, seconds, rounds
        self.side, self.product, self.turn = (64, 128, 0.0) if toy else (224, 8192, 0.05)

    def ours(self, name: str, mae: bool = False) -> Any:
        """hierax's model with random weights."""
        toy = {**TOY, **(TOY_DECODER if mae else {})} if self.toy else {}
        return randomize(hierax.create_model(f"{'mae_' if mae else ''}hiera_{name}_224", **toy))

    def theirs(self, name: str, mae: bool = False) -> dict[str, nn.Module]:
        """The same of the other libraries that are installed and have it."""
        found = {library: self._built(library, name, mae) for library in OTHERS}
        return {library: model for library, model in found.items() if model is not None}

    def _built(self, library: str, name: str, mae: bool) -> nn.Module | None:
        try:
            if not self.toy:
                return PEERS[library](name, mae)
            if mae and library == "timm":
                raise ImportError("timm has no MAE")
        except ImportError as error:
            print(f"  {library} is left out: {error}", flush=True)
            return None
        return self.ours(name, mae)

    def time(self, call: Call, repeats: int) -> float:
        """Seconds per call of `repeats` calls in a row: on CUDA by the device's own clock."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            return (time.perf_counter() - start) / repeats
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000 / repeats

    def interleaved(self, calls: dict[str, Call]) -> dict[str, list[float]]:
        """Seconds per call of everyone, round by round; who cannot is left out.

        A turn is as many calls as take a twentieth of a second, so that the queue of the device is full.
        """
        repeats: dict[str, int] = {}
        for who, call in calls.items():
            if self.runs(who, lambda call=call: [self.time(call, 1) for _ in range(3)]):
                repeats[who] = min(max(math.ceil(self.turn / self.time(call, 2)), 1), 50)
        times: dict[str, list[float]] = {who: [] for who in repeats}
        started, turn = time.perf_counter(), 0
        while repeats and (turn < self.rounds or time.perf_counter() - started < self.seconds):
            first, order = turn % len(repeats), list(repeats)
            for who in order[first:] + order[:first]:
                times[who].append(self.time(calls[who], repeats[who]))
            turn += 1
        return times

    def runs(self, who: str, action: Call) -> bool:
        """Does something; whether it worked, which it does not where memory is short or a compiler gives up."""
        try:
            action()
        except RuntimeError as error:  # torch.OutOfMemoryError too
            reason = "out of memory" if isinstance(error, torch.OutOfMemoryError) else str(error).strip().split("\n")[0]
            print(f"  {who} is left out: {reason}", flush=True)
            self.tidy()
            return False
        return True

    def tidy(self) -> None:
        """Gives cached memory back to the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def ceiling(self) -> float:
        """Multiply-accumulates per second of the best of several products in bf16."""
        a, b = (torch.randn(self.product, self.product, device=self.device).bfloat16() for _ in range(2))
        self.time(lambda: torch.mm(a, b), 2)
        return self.product**3 / min(self.time(lambda: torch.mm(a, b), 5) for _ in range(5))


# -- inference --------------------------------------------------------------------------------------------------------


class Lineup:
    """Everyone's model of one architecture in bf16, and their calls at a batch."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench = bench
        model = bench.ours(name).eval()
        self.engines = {
            f"hierax {label}": hierax.Engine(
                model, device=bench.device, precision="bf16", backend=backend, cache_dir=False
            )
            for label, backend in ENGINES.items()
        }
        self.eager = {"hierax": bench.ours(name), **bench.theirs(name)}
        for one in self.eager.values():
            one.eval().to(bench.device, torch.bfloat16)

    def calls(self, batch: int) -> Iterator[tuple[str, Call]]:
        """Who, and a call on a batch."""
        side, device = self.bench.side, self.bench.device
        pixels = torch.randn(batch, 3, side, side, device=device)
        for who, engine in self.engines.items():
            yield who, functools.partial(engine, pixel_values=pixels)
        narrow = pixels.bfloat16()
        for library, model in self.eager.items():
            yield f"{library} eager", functools.partial(_forward, model, narrow)
        for library in ("timm", "official"):
            if library in self.eager:
                compiled = torch.compile(self.eager[library], dynamic=False)
                yield f"{library} compiled", functools.partial(_forward, compiled, narrow)

    def close(self) -> None:
        """Gives back memory."""
        for engine in self.engines.values():
            engine.close()
        self.eager.clear()
        self.bench.tidy()


def _forward(model: Callable[..., Any], pixels: torch.Tensor) -> None:
    with torch.inference_mode():
        model(pixels)


def inference(bench: Bench, name: str, batches: list[int]) -> dict[str, Any]:
    """Images per second of everyone by batch, and their best as a fraction of the ceiling."""
    rates: dict[str, dict[int, float]] = {}
    lineup, ceiling = Lineup(bench, name), bench.ceiling()
    for batch in batches:
        # PyTorch compiles one model for eight shapes and then gives up: everyone is compiled anew for this one
        torch.compiler.reset()
        times = bench.interleaved(dict(lineup.calls(batch)))
        for who, seconds in times.items():
            rates.setdefault(who, {})[batch] = batch / statistics.median(seconds)
        print(f"  {name}, batch {batch}: {_rounded({who: rates[who][batch] for who in times})} images/s", flush=True)
    ceiling = max(ceiling, bench.ceiling())
    work = multiply_accumulates(bench.ours(name).eval(), (1, 3, bench.side, bench.side))
    lineup.close()
    best = {who: max(found, key=lambda batch: found[batch]) for who, found in rates.items()}
    return {
        "model": name,
        "rates": rates,
        "best_batch": best,
        "best_rate": {who: rates[who][batch] for who, batch in best.items()},
        "of_ceiling": {who: rates[who][batch] * work / ceiling for who, batch in best.items()},
        "ceiling_tmacs": ceiling / 1e12,
    }


# -- training ---------------------------------------------------------------------------------------------------------


def training(bench: Bench, name: str, batch: int) -> dict[str, Any]:
    """Milliseconds of everyone's MAE step, eagerly, and the ratios of those of a round; halves a batch too large."""
    models = {"hierax": bench.ours(name, mae=True), **bench.theirs(name, mae=True)}
    for model in models.values():
        model.train().to(bench.device)
    while True:
        pixels = torch.randn(batch, 3, bench.side, bench.side, device=bench.device)
        times = bench.interleaved({who: functools.partial(_step, model, pixels) for who, model in models.items()})
        if len(times) == len(models) or batch == 1:
            break
        batch //= 2
    ratios = {
        who: np.percentile(np.divide(seconds, times["hierax"]), (25, 50, 75)).tolist()
        for who, seconds in times.items()
        if who != "hierax" and "hierax" in times
    }
    milliseconds = {who: 1000 * statistics.median(seconds) for who, seconds in times.items()}
    print(f"  {name}, training, batch {batch}: {_rounded(milliseconds)} ms", flush=True)
    del models
    bench.tidy()
    return {"model": name, "batch": batch, "milliseconds": milliseconds, "ratio": ratios}


def _step(model: nn.Module, pixels: torch.Tensor) -> None:
    with torch.autocast(pixels.device.type, torch.bfloat16):
        out = model(pixels)
    loss = out[0] if isinstance(out, tuple) else out.loss
    loss.backward()
    model.zero_grad()


# -- tables -----------------------------------------------------------------------------------------------------------


def show_inference(found: dict[str, Any], batches: list[int]) -> None:
    """Images per second by batch, everyone's best, and ours against the best of the others."""
    others = {who: rate for who, rate in found["best_rate"].items() if not who.startswith("hierax")}
    fastest = max(others, key=lambda who: others[who], default=None)
    print(f"\n**{found['model']}, bf16, images per second** (ceiling {found['ceiling_tmacs']:.0f} TMAC/s)\n")
    print(
        f"| | {' | '.join(f'batch {b}' for b in batches)} | best batch | images/s | of ceiling | against the fastest |"
    )
    print("|---" * (len(batches) + 5) + "|")
    for who, rates in found["rates"].items():
        cells = [f"{rates[batch]:.0f}" if batch in rates else "-" for batch in batches]
        rate = found["best_rate"][who]
        against = f"{rate / others[fastest]:.2f}x {fastest}" if fastest and who not in others else ""
        best = f"{found['best_batch'][who]} | {rate:.0f} | {found['of_ceiling'][who]:.2f} | {against}"
        print(f"| {who} | {' | '.join(cells)} | {best} |")


def show_training(found: list[dict[str, Any]]) -> None:
    """Milliseconds of a step, and the ratios."""
    print("\n**MAE step, forward and backward, autocast to bf16, eager**\n")
    print("| model | batch | who | ms | time / hierax's (quartiles) |\n|---|---|---|---|---|")
    for cell in found:
        for who, milliseconds in cell["milliseconds"].items():
            quartiles = cell["ratio"].get(who)
            against = "{1:.2f}x ({0:.2f} to {2:.2f})".format(*quartiles) if quartiles else ""
            print(f"| {cell['model']} | {cell['batch']} | {who} | {milliseconds:.1f} | {against} |")


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {who: round(value, 1) for who, value in values.items()}


def main(argv: list[str] | None = None) -> None:
    """Runs all cells."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--models", default="tiny,base")
    parser.add_argument("--batches", default="1,2,4,8,16,32,64,128,256")
    parser.add_argument("--train-batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0, help="at least this long per cell")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny-run", action="store_true", help="toy models: goes through the code, measures nothing")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    bench = Bench(arguments.device, toy=arguments.tiny_run, seconds=arguments.seconds, rounds=arguments.rounds)
    batches = [int(batch) for batch in arguments.batches.split(",")]
    cuda = bench.device.type == "cuda"
    where = f"{torch.cuda.get_device_name(bench.device)}, CUDA {torch.version.cuda}" if cuda else str(bench.device)
    packages = {library: version_of(library) for library in ("hierax", *OTHERS)}
    print(f"{where}; torch {torch.__version__}, {', '.join(f'{n} {v}' for n, v in packages.items())}", flush=True)
    torch.manual_seed(0)
    cells, steps = [], []
    for name in arguments.models.split(","):
        cells.append(inference(bench, name, batches))
        steps.append(training(bench, name, arguments.train_batch))
    for cell in cells:
        show_inference(cell, batches)
    show_training(steps)
    if arguments.json:
        arguments.json.write_text(json.dumps({"where": where, "inference": cells, "training": steps}, indent=2))


if __name__ == "__main__":
    main()
