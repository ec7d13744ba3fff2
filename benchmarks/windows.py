"""Times the trunks of SAM 2 against transformers, timm and the official package, and against classic Hiera.

    python benchmarks/windows.py [--models tiny,base_plus] [--size 1024] [--rounds 5] [--no-engine] [--no-memory]

Whatever of `transformers`, `timm` and `sam2` imports takes part, with random weights. All run on one image in turn, so
that a change of the machine's speed hits all alike. A row shows the multiply-accumulates of hierax's model, the median
time, the median over rounds of (time / time of the eager windowed model of hierax), and the peak memory of a process
that builds the model and calls it twice. "engine" is `hierax.Engine` in bfloat16, all others run in float32 without
compilation.
"""

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import hierax
from hierax.benchmark.contenders import multiply_accumulates
from hierax.model.config import variant_config

STAGES = ("stage1", "stage2", "stage3", "stage4")
OFFICIAL = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}


def windowed(name: str, size: int) -> Any:
    """hierax's trunk of SAM 2."""
    return hierax.HieraBackbone(
        variant_config(f"sam2_hiera_{name}", image_size=(size, size)), out_features=STAGES
    ).eval()


def classic(name: str, size: int) -> Any:
    """hierax's classic model of the same size."""
    return hierax.HieraBackbone(
        variant_config(f"hiera_{name}_224", image_size=(size, size)), out_features=STAGES
    ).eval()


def engine(name: str, size: int) -> Any:
    """hierax's engine in bfloat16."""
    return hierax.Engine(windowed(name, size), precision="bf16")


def of_transformers(name: str, size: int) -> Any:
    """transformers' trunk."""
    from transformers import Sam2HieraDetConfig, Sam2HieraDetModel

    ours = windowed(name, size).config
    config = Sam2HieraDetConfig(
        hidden_size=ours.embed_dim,
        image_size=[size, size],
        embed_dim_per_stage=list(ours.dims),
        blocks_per_stage=list(ours.depths),
        num_attention_heads_per_stage=list(ours.num_heads),
        window_size_per_stage=list(ours.window_sizes),
        global_attention_blocks=list(ours.global_blocks),
        window_positional_embedding_background_size=list(ours.global_position_size),
    )
    return Sam2HieraDetModel(config).eval()


def of_timm(name: str, size: int) -> Any:
    """timm's trunk."""
    import timm  # pyright: ignore[reportMissingImports]

    model = timm.create_model(f"sam2_hiera_{name}", num_classes=0).eval()
    return lambda pixels: model.forward_intermediates(pixels, intermediates_only=True)


def official(name: str, size: int) -> Any:
    """The trunk of the sam2 package."""
    from sam2.build_sam import build_sam2  # pyright: ignore[reportMissingImports]

    return build_sam2(f"configs/sam2.1/sam2.1_hiera_{OFFICIAL[name]}.yaml", device="cpu").image_encoder.trunk.eval()


BUILDERS: dict[str, Callable[[str, int], Any]] = {
    "hierax windowed": windowed,
    "hierax classic": classic,
    "hierax engine bf16": engine,
    "transformers": of_transformers,
    "timm": of_timm,
    "sam2": official,
}


def taking_part(name: str, size: int, *, with_engine: bool) -> dict[str, Any]:
    """The models that can be built."""
    models = {}
    for label, build in BUILDERS.items():
        if with_engine or "engine" not in label:
            with contextlib.suppress(ImportError):
                models[label] = build(name, size)
    return models


def measure(name: str, size: int, rounds: int, *, with_engine: bool) -> dict[str, list[float]]:
    """Seconds of each call."""
    pixels = torch.randn(1, 3, size, size)
    models = taking_part(name, size, with_engine=with_engine)
    times: dict[str, list[float]] = {label: [] for label in models}
    with torch.inference_mode():
        for model in models.values():
            model(pixels)
        for turn in range(rounds):
            order = list(models)
            for label in order[turn % len(order) :] + order[: turn % len(order)]:
                start = time.perf_counter()
                models[label](pixels)
                times[label].append(time.perf_counter() - start)
    return times


def peak_memory(label: str, name: str, size: int) -> float:
    """GiB of a process that builds the model and calls it twice."""
    words = [sys.executable, __file__, "--child", label, "--models", name, "--size", str(size)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1]) / 2**20  # kilobytes on Linux


def child(label: str, name: str, size: int) -> None:
    """Prints the peak memory of this process."""
    with torch.inference_mode():
        model = BUILDERS[label](name, size)
        for _ in range(2):
            model(torch.randn(1, 3, size, size))
    # not getrusage, which counts the memory of the process that started this one
    print(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def main(words: Sequence[str] | None = None) -> None:
    """Prints a table per model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--models", default="tiny,base_plus")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-engine", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        child(arguments.child, arguments.models, arguments.size)
        return
    for name in arguments.models.split(","):
        size = arguments.size
        times = measure(name, size, arguments.rounds, with_engine=not arguments.no_engine)
        print(f"\n**{name}, {size} px, {arguments.rounds} rounds, {arguments.threads} threads**\n")
        print("| model | GMAC | ms | of hierax windowed | peak memory |\n|---|---|---|---|---|")
        for label, seconds in times.items():
            ratio = statistics.median(t / mine for t, mine in zip(seconds, times["hierax windowed"], strict=True))
            model = {"hierax windowed": windowed, "hierax classic": classic}.get(label)
            gmac = "" if model is None else f"{multiply_accumulates(model(name, size), (1, 3, size, size)) / 1e9:.1f}"
            memory = "" if arguments.no_memory else f"{peak_memory(label, name, size):.2f} GiB"
            print(
                f"| {label} | {gmac} | {1000 * statistics.median(seconds):.0f} | {ratio:.2f} | {memory} |", flush=True
            )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
