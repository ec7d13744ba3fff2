"""Calls one engine a thousand times from eight threads, sizes and batches mixed, and watches its memory and answers.

    python benchmarks/engine_soak.py [--model hiera_tiny_224] [--calls 1000] [--precision auto] [--backend auto]

Bars: no error; resident memory after the last call at most 2 % above that after a fifth of them; every answer the one
that the same engine gave to the same pixels when it was called from one thread (fp32: within 1e-4 of its norm; bf16:
cosine of at least 0.9995). Exit code 1 when one is missed. There are more sizes than an engine keeps compiled, some
asked for often and some seldom, so that compiled ones come and go.
"""

import argparse
import gc
import os
import random
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

import hierax
from hierax.benchmark.contenders import Subject

# height and width as parts of the native size, the often asked for first
SHAPES = [(1, 1), (1, 1.25), (1.25, 1), (0.5, 1), (1, 0.5), (0.75, 1.3), (1.3, 1.1), (0.9, 0.7), (1.5, 1), (1, 1.5)]
BATCHES = (1, 2, 3, 4)
RELATIVE, COSINE = 1e-4, 0.9995


def resident_mib() -> float:
    """Resident memory of this process now; where the system does not say, the most so far."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Soak:
    """An engine, the inputs it is called with, and what it answered in one thread."""

    def __init__(self, engine: hierax.Engine, seed: int = 0) -> None:
        self.engine, self.draw = engine, random.Random(seed)
        height, width = engine.config.image_size
        generator = torch.Generator().manual_seed(seed)
        self.inputs = {
            (shape, batch): torch.randn(
                batch, engine.config.num_channels, int(shape[0] * height), int(shape[1] * width), generator=generator
            )
            for shape in SHAPES
            for batch in BATCHES
        }
        self.serial = {key: self.answer(pixels) for key, pixels in self.inputs.items()}
        self.errors: list[str] = []
        self.distances: list[float] = []

    def answer(self, pixels: Tensor) -> Tensor:
        """The first tensor of the engine's answer."""
        out = self.engine(pixel_values=pixels)
        return next(value for value in vars(out).values() if isinstance(value, Tensor))

    def plan(self, calls: int) -> list[tuple[tuple[float, float], int]]:
        """Which inputs to call it with."""
        weights = [1 / (place + 1) for place in range(len(SHAPES))]
        shapes = self.draw.choices(SHAPES, weights, k=calls)
        return [(shape, self.draw.choice(BATCHES)) for shape in shapes]

    def call(self, key: tuple[tuple[float, float], int]) -> None:
        """One call; what goes wrong is kept."""
        try:
            found = self.answer(self.inputs[key])
        except Exception as error:
            self.errors.append(f"{key}: {type(error).__name__}: {error}")
            return
        self.distances.append(distance(found, self.serial[key], self.engine.precision))


def distance(found: Tensor, expected: Tensor, precision: str) -> float:
    """How far an answer is from the expected one, in units of what is allowed."""
    if precision == "fp32":
        return float((found - expected).norm() / expected.norm()) / RELATIVE
    cosine = torch.cosine_similarity(found.double(), expected.double(), dim=-1).min()
    return float(1 - cosine) / (1 - COSINE)


def main(argv: list[str] | None = None) -> int:
    """Runs the calls and prints the numbers; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="hiera_tiny_224", help="a variant, or a folder or file with pictures' model")
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--callers", type=int, default=8, help="threads that call")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int, help="of the engine")
    parser.add_argument("--growth", type=float, default=0.02, help="of memory that is allowed (default: 0.02)")
    arguments = parser.parse_args(argv)
    model = Subject(arguments.model, "", arguments.threads or torch.get_num_threads()).model()
    started = time.perf_counter()
    with (
        hierax.Engine(
            model, precision=arguments.precision, backend=arguments.backend, threads=arguments.threads, device="cpu"
        ) as engine,
        ThreadPoolExecutor(arguments.callers) as pool,
    ):
        print(f"{engine}, {arguments.callers} threads calling", flush=True)
        soak, early = Soak(engine), max(arguments.calls // 5, 1)
        list(pool.map(soak.call, soak.plan(early)))
        before = resident_mib()
        list(pool.map(soak.call, soak.plan(arguments.calls - early)))
        after = resident_mib()
    worst = max(soak.distances, default=float("inf"))
    bar = f"relative {RELATIVE}" if engine.precision == "fp32" else f"cosine {COSINE}"
    print(f"{arguments.calls} calls in {time.perf_counter() - started:.0f} s, {len(soak.errors)} errors")
    print(f"resident after call {early}: {before:.0f} MiB, after call {arguments.calls}: {after:.0f} MiB "
          f"({after / before - 1:+.1%}; allowed {arguments.growth:+.0%})")  # fmt: skip
    print(f"answers: the worst is at {worst:.2f} of what is allowed ({bar})")
    for error in soak.errors[:3]:
        print(error)
    missed = [name for name, bad in (("errors", bool(soak.errors)), ("memory", after > (1 + arguments.growth) * before), ("answers", worst > 1)) if bad]  # noqa: E501  # fmt: skip
    print(f"missed: {', '.join(missed)}" if missed else "all bars are met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
