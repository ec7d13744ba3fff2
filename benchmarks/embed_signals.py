"""SIGINT and SIGTERM to `hierax embed` and all of its processes, at moments over its whole run.

    python benchmarks/embed_signals.py FOLDER --times 10

With 0, 1 and 2 processes that decode. A run that a signal ended has exit code 130 or 143 (one that had done all by then
0), writes no traceback and no fault of hierax, leaves no process behind, and the same command makes the rest: the
collection then equals one of an uninterrupted run, file by file. Writes into FOLDER, which may be deleted afterwards;
ends with 1 where something of this does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from embed_proofs import differences, small_model

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WORDS = ("Traceback", "fault of hierax", "Exception ignored", "Error")


def write_images(folder: Path, count: int) -> Path:
    """Small images that take some time to decode."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        if not (folder / f"{number:04}.png").exists():
            pixels = draw.integers(0, 256, (200, 300, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:04}.png")
    return folder


def command(sources: Path, out: Path, model: Path, workers: int) -> list[str]:
    """The command, in blocks of 16."""
    options = ["--batch-size", "1", "--workers", str(workers), "--backend", "torch", "--precision", "fp32"]
    return [sys.executable, "-m", "hierax", "embed", str(sources), "-o", str(out), "--model", str(model), *options]


def left_over(group: int) -> list[str]:
    """Processes of a session that are still there after a while; Linux."""
    end = time.monotonic() + 5
    while True:
        found = []
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, _, rest = place.read_text().rpartition(")")
            except OSError:
                continue
            if int(rest.split()[3]) == group and rest.split()[0] != "Z":
                found.append(name)
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


def interrupted(words: Sequence[str], number: int, seconds: float) -> tuple[int, str]:
    """Runs the command in a session of its own and sends the signal to all of it; returns its code and its fault."""
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    try:
        said, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return -1, f"hangs: {process.communicate()[0][-300:]}"
    fault = next((said[-800:] for word in _WORDS if word in said), "")
    if process.returncode not in (0, 128 + number):
        fault = fault or f"exit code {process.returncode}: {said[-300:]}"
    left = left_over(process.pid)
    return process.returncode, fault or (f"left over: {left}" if left else "")


def main(given: Sequence[str] | None = None) -> int:
    """Sends signals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=10, help="for each number of processes and each signal")
    parser.add_argument("--count", type=int, default=200, help="images")
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--from", type=float, default=0.05, dest="first", help="share of the run that is left alone")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(given)
    folder = arguments.folder.resolve()
    sources, model = write_images(folder / "images", arguments.count), small_model(folder / "small")
    draw, told, good = np.random.default_rng(arguments.seed), Counter[str](), True
    for workers in map(int, arguments.workers.split(",")):
        whole, out = folder / f"whole-{workers}", folder / "out"
        shutil.rmtree(whole, ignore_errors=True)
        start = time.monotonic()
        subprocess.run(command(sources, whole, model, workers), capture_output=True, check=True)
        length = time.monotonic() - start
        for number in _SIGNALS:
            shutil.rmtree(out, ignore_errors=True)
            for moment in draw.uniform(arguments.first, 0.95, arguments.times) * length:
                code, fault = interrupted(command(sources, out, model, workers), number, float(moment))
                told[f"{workers} processes, {number.name}: exit code {code}"] += 1
                if code in (0, 3):  # it had done all
                    shutil.rmtree(out, ignore_errors=True)
                if fault:
                    good = False
                    print(f"{workers} processes, {number.name} after {moment:.2f} of {length:.2f} s: {fault}")
            subprocess.run(command(sources, out, model, workers), capture_output=True, check=True)
            wrong = differences(whole, out)
            told[f"{workers} processes, {number.name}: differences at the end: {wrong or 'none'}"] += 1
            good = good and not wrong
    for text, count in sorted(told.items()):
        print(f"{count:4} x {text}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
