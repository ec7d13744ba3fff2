"""What `hierax embed` promises of videos, measured: memory, the same result twice, and after `kill -9`.

    python benchmarks/video_proofs.py FOLDER [--minutes 30] [--kills 3]

A synthetic video of so many minutes (and one of a tenth of it) is written into FOLDER and embedded by a small model
with random weights: peaks of memory are printed, then whether a second run, and one that was killed so many times,
wrote the same bytes. Ends with 1 where they did not, or where the long video took more than 50 MB more than the short.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
from pyarrow import parquet

from embed_proofs import LEAST_MB, command, peak, run_killed, shards
from hierax import HieraModel
from hierax.model.config import variant_config
from hierax.processing import KINETICS

RATE, HEIGHT, WIDTH = 30, 240, 320


def small_model(folder: Path) -> Path:
    """A narrow model of clips of 8 frames of 64 x 64 pixels, with random weights, seeded."""
    if not folder.exists():
        torch.manual_seed(0)
        config = variant_config(
            "hiera_base_16x224", image_size=(8, 64, 64), embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 4)
        )
        model = HieraModel(config)
        model.preprocessing = KINETICS.replace(size=72, crop_size=64, num_frames=8)
        model.save_pretrained(folder)
    return folder


def write_video(path: Path, *, seconds: int, seed: int = 0) -> None:
    """A video of blocks that wander over each other, H.264 with a key frame every two seconds."""
    random = np.random.default_rng(seed)
    ground = random.integers(0, 256, (12, 16, 3), np.uint8).repeat(HEIGHT // 12, 0).repeat(WIDTH // 16, 1)
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "g": str(2 * RATE)})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number in range(seconds * RATE):
            frame = np.roll(ground, (number // 2 % HEIGHT, number % WIDTH), (0, 1))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        out.mux(stream.encode())


def same(one: Path, other: Path) -> bool:
    """Whether two collections have the same shards, byte by byte."""
    names = [[path.name for path in shards(folder)] for folder in (one, other)]
    bytes_ = [[path.read_bytes() for path in shards(folder)] for folder in (one, other)]
    return names[0] == names[1] and bytes_[0] == bytes_[1]


def main(given: Sequence[str] | None = None) -> int:
    """Runs the proof."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kills", type=int, default=3)
    arguments = parser.parse_args(given)
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    model, peaks = small_model(folder / "model"), []
    for name, minutes in (("short", arguments.minutes / 10), ("long", arguments.minutes)):
        path = folder / f"{name}-{minutes:g}.mp4"
        if not path.exists():
            write_video(path, seconds=round(60 * minutes))
        out = folder / name
        shutil.rmtree(out, ignore_errors=True)
        seconds, own, together = peak(command(path, out, model))
        table = parquet.read_table(out / "data", columns=["start", "end"])
        last = table.column("end").to_pylist()[-1]
        print(
            f"{minutes:g} minutes: {table.num_rows} windows to {last:.2f} s in {seconds:.0f} s, "
            f"peak {own:.0f} MB, with its processes {together:.0f} MB", flush=True,
        )  # fmt: skip
        peaks.append(own)
    again, killed = folder / "again", folder / "killed"
    for place in (again, killed):
        shutil.rmtree(place, ignore_errors=True)
    start = time.monotonic()
    peak(command(path, again, model))
    seconds = time.monotonic() - start
    blocks = len(shards(again))
    told = run_killed(
        command(path, killed, model), killed, kills=arguments.kills, blocks=blocks, seconds=seconds, seed=0
    )
    for moment in told:
        print(f"  killed {moment}")
    equal = [same(folder / "long", place) for place in (again, killed)]
    print(f"a second run wrote the same bytes: {equal[0]}; one that was killed {len(told)} times: {equal[1]}")
    return 0 if all(equal) and peaks[1] <= peaks[0] + LEAST_MB else 1


if __name__ == "__main__":
    sys.exit(main())
