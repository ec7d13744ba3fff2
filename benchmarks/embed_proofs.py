"""What `hierax embed` promises, measured: resuming after `kill -9`, memory, and planted duplicates.

    python benchmarks/embed_proofs.py pictures FOLDER --count 20000 --broken 200 --extra DRAWINGS
    python benchmarks/embed_proofs.py kills FOLDER --kills 10
    python benchmarks/embed_proofs.py memory FOLDER --rows 10000,200000
    python benchmarks/embed_proofs.py duplicates FOLDER --count 20000 --planted 500 --extra DRAWINGS

`pictures` writes real files (see embed_pictures.py) and broken ones of ten kinds. `kills` embeds them twice with the
command, once uninterrupted, once killed with SIGKILL at so many random moments and begun again each time, and compares
the shards byte by byte, the tables row by row, and the errors with the broken files. `memory` embeds collections of
64-pixel pictures and prints the peak of the command's resident memory, and of that of all its processes together
(proportional set size, twenty times a second; Linux). `duplicates` plants re-encoded, resized and slightly cropped
copies among pictures of which no two overlap, embeds all by random weights or those of `--model`, and prints recall and
precision of `hierax.collection.duplicates` over thresholds. Each writes into FOLDER, which may be deleted afterwards,
and ends with 1 where what is promised does not hold. Random weights are seeded, and small where only the bookkeeping
counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from embed_duplicates import found_again, tiny, write_planted
from embed_pictures import crop, encoded, opened, place, shipped, write_pictures
from hierax import HieraConfig, HieraModel, Preprocessing

LEAST_MB = 50  # that memory may grow by, beside a twentieth


def small_model(folder: Path) -> Path:
    """A narrow, shallow model of 64 x 64 pixels with random weights."""
    if not folder.exists():
        torch.manual_seed(0)
        model = HieraModel(HieraConfig(image_size=(64, 64), embed_dim=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)))
        model.preprocessing = Preprocessing().replace(size=72, crop_size=64)
        model.save_pretrained(folder)
    return folder


def command(sources: Path, out: Path, model: Path | str) -> list[str]:
    """`hierax embed` as a user types it."""
    return [sys.executable, "-m", "hierax", "embed", str(sources), "-o", str(out), "--model", str(model)]


def shards(out: Path) -> list[Path]:
    """Those of a collection, in their order."""
    return sorted((out / "data").glob("part-*.parquet"))


# -- kills --------------------------------------------------------------------------------------------------------


def run_killed(words: Sequence[str], out: Path, *, kills: int, blocks: int, seconds: float, seed: int) -> list[str]:
    """Runs the command, kills it `kills` times and has it end; says when each kill was.

    Kills are at random shares of the blocks, each later by up to half of the time that a block takes; where two
    shares are close together the process is killed while it starts.
    """
    generator, told = np.random.default_rng(seed), []
    for share in np.sort(generator.uniform(0, 0.95, kills)):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        start, before = time.monotonic(), len(shards(out))
        while len(shards(out)) < int(share * blocks) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(generator.uniform(0, seconds / blocks / 2))
        if process.poll() is not None:
            raise SystemExit(f"the run ended with {process.returncode} before it was to be killed")
        process.kill()  # SIGKILL, to the first process alone: those that decode must notice
        process.wait()
        told.append(f"{time.monotonic() - start:.1f} s after its start, at {len(shards(out))} blocks ({before} before)")
    subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return told


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two collections of the same sources; nothing where they are equal."""
    found = []
    names = [[path.name for path in shards(folder)] for folder in (one, other)]
    if names[0] != names[1]:
        return [f"{len(names[0])} and {len(names[1])} shards"]
    tables = [pa.concat_tables(map(parquet.read_table, shards(folder))) for folder in (one, other)]
    if not tables[0].equals(tables[1]):
        found.append("rows")
    found += [name for name in names[0] if (one / "data" / name).read_bytes() != (other / "data" / name).read_bytes()]
    if (one / "errors.parquet").read_bytes() != (other / "errors.parquet").read_bytes():
        found.append("errors.parquet")
    left = [p.name for folder in (one, other) for p in folder.rglob("*.part")]
    return [*found, *(f"{name} was left" for name in left)]


def kills(arguments: argparse.Namespace) -> bool:
    """Embeds with and without interruptions; returns whether the results are equal and complete."""
    folder = arguments.folder
    sources, model = folder / "pictures", small_model(folder / "small")
    broken = json.loads((folder / "broken.json").read_text())
    for name in ("whole", "killed"):
        shutil.rmtree(folder / name, ignore_errors=True)
    start = time.monotonic()
    code = subprocess.run(command(sources, folder / "whole", model), capture_output=True, text=True, check=False)
    seconds, blocks = time.monotonic() - start, len(shards(folder / "whole"))
    print(f"uninterrupted: exit code {code.returncode}, {blocks} shards, {seconds:.0f} s; {code.stderr.strip()[-200:]}")
    words = command(sources, folder / "killed", model)
    moments = run_killed(
        words, folder / "killed", kills=arguments.kills, blocks=blocks, seconds=seconds, seed=arguments.seed
    )
    for number, moment in enumerate(moments, start=1):
        print(f"  kill {number}: {moment}")
    wrong = differences(folder / "whole", folder / "killed")
    table = parquet.read_table(folder / "killed" / "data", columns=["path"])
    errors = {row["path"]: row["error"] for row in parquet.read_table(folder / "killed" / "errors.parquet").to_pylist()}
    unsaid = sorted(path for path in broken if not errors.get(path))
    besides = sorted(set(errors) - set(broken))
    print(f"{table.num_rows} rows, {len(errors)} errors; differences after {len(moments)} kills: {wrong or 'none'}")
    print(f"broken files not in the errors: {unsaid or 'none'}; others in the errors: {besides or 'none'}")
    for kind, count in Counter(broken.values()).items():
        reasons = Counter(errors.get(path, "-") for path, of in broken.items() if of == kind)
        print(f"  {count} x {kind}: {'; '.join(f'{reason[:90]} ({n})' for reason, n in reasons.most_common(2))}")
    return not (wrong or unsaid or besides)


# -- memory -------------------------------------------------------------------------------------------------------


def write_links(folder: Path, count: int, *, distinct: int = 1000, seed: int = 0) -> None:
    """`count` names for `distinct` pictures of 64 x 64 pixels."""
    generator, sources = np.random.default_rng(seed), shipped()
    pools = [folder.parent / f"{folder.name}.pool" / f"{i}.jpg" for i in range(distinct)]
    pools[0].parent.mkdir(parents=True)
    for path in pools:
        source = opened(sources[generator.integers(len(sources))])
        path.write_bytes(encoded(crop(source, generator, (64, 64)), ".jpg"))
    for number in range(count):
        path = place(folder, number, ".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(pools[number // 1000 % len(pools)], path)


def _tree(root: int) -> list[int]:
    """A process and those it started, and these."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def _held(process: int) -> float:
    """Proportional set size in megabytes; 0 of a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def peak(words: Sequence[str]) -> tuple[float, float, float]:
    """Seconds that a command took, the peak of its own resident memory and that of all its processes, in megabytes."""
    start = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most, done = [0.0], threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], sum(map(_held, _tree(process.pid))))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    done.set()
    thread.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return time.monotonic() - start, usage.ru_maxrss / 1024, most[0]


def memory(arguments: argparse.Namespace) -> bool:
    """Embeds few and many rows; returns whether the peaks of the latter are within the bar."""
    model, found = small_model(arguments.folder / "small"), []
    for rows in map(int, arguments.rows.split(",")):
        sources, out = (arguments.folder / f"{name}-{rows}" for name in ("links", "rows"))
        for old in (sources, sources.with_name(f"{sources.name}.pool"), out):
            shutil.rmtree(old, ignore_errors=True)
        write_links(sources, rows, seed=arguments.seed)
        seconds, own, together = peak(command(sources, out, model))
        written = sum(parquet.read_metadata(path).num_rows for path in shards(out))
        print(f"{written} rows: {seconds:.0f} s, peak {own:.1f} MB, with its processes {together:.1f} MB", flush=True)
        found.append((own, together))
        if written != rows:
            return False
    bars = [1.05 * few + LEAST_MB for few in found[0]]
    print(f"bars (1.05 x the first + {LEAST_MB} MB): {bars[0]:.1f} and {bars[1]:.1f} MB")
    return all(value <= bar for peaks in found[1:] for value, bar in zip(peaks, bars, strict=True))


# -- the commands -------------------------------------------------------------------------------------------------


def pictures(arguments: argparse.Namespace) -> bool:
    """Writes `pictures/` and `broken.json`."""
    folder = arguments.folder / "pictures"
    if folder.exists():
        raise SystemExit(f"{folder} is there already")
    broken = write_pictures(
        folder, arguments.count, broken=arguments.broken, extra=arguments.extra, seed=arguments.seed
    )
    (arguments.folder / "broken.json").write_text(json.dumps(broken, indent=1))
    print(f"wrote {arguments.count} pictures and {len(broken)} files that are none into {folder}")
    return True


def duplicates(arguments: argparse.Namespace) -> bool:
    """Plants duplicates, embeds all and finds them again."""
    planted = arguments.folder / "planted"
    if not planted.exists():
        write_planted(
            planted, arguments.count, arguments.planted, extra=arguments.extra, seed=arguments.seed,
            photos=arguments.photos,
        )  # fmt: skip
    model = tiny(arguments.folder / "tiny") if arguments.tiny else small_model(arguments.folder / "small")
    if arguments.model:
        model = arguments.model
    out = arguments.folder / f"features-{Path(model).name}-{arguments.layer}"
    words = [*command(planted / "pictures", out, model), "--layer", arguments.layer]
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    return found_again(planted, out)


def main(given: Sequence[str] | None = None) -> int:
    """Runs a proof."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands: Any = parser.add_subparsers(dest="proof", required=True)
    extra = {"type": Path, "nargs": "*", "default": [], "help": "folders of pictures beside those that packages ship"}
    options: dict[str, dict[str, dict[str, Any]]] = {
        "pictures": {"--count": {"type": int, "default": 20_000}, "--broken": {"type": int, "default": 200},
                     "--extra": extra},
        "kills": {"--kills": {"type": int, "default": 10}},
        "memory": {"--rows": {"default": "10000,200000"}},
        "duplicates": {"--count": {"type": int, "default": 20_000}, "--planted": {"type": int, "default": 500},
                       "--extra": extra, "--tiny": {"action": "store_true", "help": "Tiny at 224 pixels, not 64"},
                       "--photos": {**extra, "help": "folders of large photos, to cut into parts and use alone"},
                       "--model": {"help": "trained weights, such as hierax/femto"}, "--layer": {"default": "pooled"}},
    }  # fmt: skip
    for name, own in options.items():
        some = commands.add_parser(name)
        some.add_argument("folder", type=Path)
        some.add_argument("--seed", type=int, default=0)
        for option, settings in own.items():
            some.add_argument(option, **settings)
    arguments = parser.parse_args(given)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    arguments.folder = arguments.folder.resolve()
    good = {"pictures": pictures, "kills": kills, "memory": memory, "duplicates": duplicates}[arguments.proof](
        arguments
    )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
