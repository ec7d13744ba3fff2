"""Images per second of a training step in bf16 on a CPU, of this source and of another, in processes that take turns.

    python benchmarks/training_step.py [--against OTHER/src] [--models femto,tiny,mae] [--steps 6] [--rounds 7]

`femto` classifies 1000 classes at 128 px with 64 images per step, `tiny` (hiera_tiny_224) with 8, and `mae` is the
pretraining of mae_hiera_tiny_224 with 8. A step is forward pass, backward pass, clipping and AdamW, in one thread, as
in the processes of a run. Ratios are medians over rounds of CPU seconds, so that other work on the machine matters
less; `--wall` compares the time on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODELS = {
    "femto": ("hiera_femto_160", 128, 64),
    "tiny": ("hiera_tiny_224", 224, 8),
    "mae": ("mae_hiera_tiny_224", 224, 8),
}


def one(name: str, steps: int) -> dict[str, float]:
    """Takes steps, and returns images per second on the clock and per second of the CPU."""
    import contextlib

    import torch
    from torch import nn

    from hierax import create_model, memory

    torch.set_num_threads(1)
    torch.manual_seed(0)
    variant, side, batch = MODELS[name]
    options: dict[str, Any] = {} if name == "mae" else {"num_labels": 1000}
    model: Any = create_model(variant, image_size=side, **options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    pixels, labels = torch.randn(batch, 3, side, side), torch.randint(0, 1000, (batch,))
    noise = torch.rand(batch, (side // 32) ** 2)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            inputs = {"noise": noise} if name == "mae" else {"labels": labels}
            loss = model(pixels, **inputs).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    kept = getattr(memory, "freed_memory_kept", contextlib.nullcontext)  # older sources have no such function
    with kept():
        for _ in range(3):
            step()
        clock, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        return {
            "wall": steps * batch / (time.perf_counter() - clock),
            "cpu": steps * batch / (time.process_time() - cpu),
        }


def measured(source: Path, name: str, steps: int) -> dict[str, float]:
    """The same in a process of its own, with the package of a source."""
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", name, "--steps", str(steps)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--models", default="femto,tiny,mae")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.steps)))
        return
    sources = [Path(__file__).parent.parent / "src", *([options.against] if options.against else [])]
    kind = "wall" if options.wall else "cpu"
    for name in options.models.split(","):
        rounds = [[measured(source, name, options.steps)[kind] for source in sources] for _ in range(options.rounds)]
        rates = [statistics.median(found) for found in zip(*rounds, strict=True)]
        text = f"{name}: {rates[0]:.1f} images/s ({kind})"
        if len(sources) > 1:
            ratios = sorted(ours / theirs for ours, theirs in rounds)
            text += f"; the other {rates[1]:.1f}; ratio {statistics.median(ratios):.2f} "
            text += f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(text, flush=True)


if __name__ == "__main__":
    main()
