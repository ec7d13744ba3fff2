"""Two calls of `hierax.embed` into one folder at the same moment: nothing may be lost, whatever the order.

    python benchmarks/embed_races.py FOLDER --times 20

Each time two processes begin a new collection of different sources; then two others that stand at one moment add
different sources to it by `update`. A call either has all of its rows in the collection, or is refused with the reason.
Then a call is killed (SIGKILL) at a random moment and made again. Writes into FOLDER, which may be deleted afterwards,
and ends with 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pyarrow import parquet

from embed_proofs import small_model

_SERVER = """
import json, sys
from hierax.embedding import FeatureExtractor, embed
extractor = FeatureExtractor(sys.argv[1], precision="fp32", backend="torch", device="cpu", threads=1)
print("ready", flush=True)
for line in sys.stdin:
    call = json.loads(line)
    try:
        report = embed(call["sources"], call["out"], model=extractor, update=call["update"], workers=0,
                       batch_size=4, block_size=8)
        print(json.dumps({"rows": report.rows, "pending": report.pending}), flush=True)
    except Exception as error:
        print(json.dumps({"refused": f"{type(error).__name__}: {error}"}), flush=True)
"""


class Caller:
    """A process that calls `embed` as it is told."""

    def __init__(self, model: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def begin(self, sources: Sequence[Path], out: Path, *, update: bool = False) -> None:
        """Has it begin a call."""
        assert self._process.stdin is not None
        call = {"sources": [str(path) for path in sources], "out": str(out), "update": update}
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What came of the call."""
        return json.loads(self._line())

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.communicate()


def standing(out: Path) -> Counter[str]:
    """How often each file has a row that stands."""
    rows = parquet.read_table(out / "data", columns=["path", "status"]).to_pylist()
    return Counter(row["path"] for row in rows if row["status"] == "ok")


def lists(folder: Path, count: int) -> list[Path]:
    """Four lists of `count` small pictures each, no two of which share one."""
    draw, found = np.random.default_rng(0), []
    for name in "abcd":
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
        found.append(folder / f"{name}.txt")
        found[-1].write_text("".join(f"{name}/{number}.png\n" for number in range(count)))
    return found


def names_of(source: Path) -> Counter[str]:
    """The files that a list names, each once."""
    return Counter(str(source.parent / line) for line in source.read_text().split())


def race(callers: Sequence[Caller], sources: Sequence[Path], out: Path, *, update: bool, apart: float) -> list[Any]:
    """Both call at one moment, but for `apart` seconds; returns the answers."""
    for caller, source in zip(callers, sources, strict=True):
        caller.begin([source], out, update=update)
        time.sleep(apart)
    return [caller.answer() for caller in callers]


def lost(out: Path, sources: Sequence[Path], answers: Sequence[Any], before: Sequence[Path] = ()) -> str:
    """What is wrong with a collection after these answers to calls with these sources; "" for nothing."""
    kept = [source for source, answer in zip(sources, answers, strict=True) if "refused" not in answer]
    wanted: Counter[str] = Counter()
    for source in (*before, *kept):
        wanted += names_of(source)
    there, manifest = standing(out), json.loads((out / "manifest.json").read_text())
    hidden = [path.name for path in out.rglob(".*")]
    if there != wanted:
        return f"{there.total()} rows instead of {wanted.total()}"
    if set(manifest["inputs"]) != {str(source) for source in (*before, *kept)}:
        return f"inputs are {manifest['inputs']}"
    return f"left over: {hidden}" if hidden else "" if kept else "both were refused"


def killed(folder: Path, model: Path, source: Path, seconds: float) -> str:
    """Kills a call after so long, makes it again, and says what is wrong then."""
    out, caller = folder / "killed", Caller(model)
    shutil.rmtree(out, ignore_errors=True)
    caller.begin([source], out)
    time.sleep(seconds)
    caller.kill()
    again = Caller(model)
    again.begin([source], out)
    answer = again.answer()
    again.kill()
    return f"{answer['refused']}" if "refused" in answer else lost(out, [source], [answer])


def main(given: Sequence[str] | None = None) -> int:
    """Races, and kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--count", type=int, default=20, help="pictures in each list")
    arguments = parser.parse_args(given)
    folder = arguments.folder.resolve()
    sources, model, draw = lists(folder, arguments.count), small_model(folder / "small"), np.random.default_rng(1)
    callers, told = [Caller(model), Caller(model)], Counter[str]()
    for _ in range(arguments.times):
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        apart = float(draw.uniform(0, 0.02))
        answers = race(callers, sources[:2], out, update=False, apart=apart)
        told[f"new: {lost(out, sources[:2], answers) or 'nothing lost'}"] += 1
        kept = [source for source, answer in zip(sources[:2], answers, strict=True) if "refused" not in answer]
        told[f"new: {len(kept)} of 2 calls taken"] += 1
        answers = race(callers, sources[2:], out, update=True, apart=apart)
        told[f"update: {lost(out, sources[2:], answers, kept) or 'nothing lost'}"] += 1
        told[f"update: {sum('refused' not in answer for answer in answers)} of 2 calls taken"] += 1
    for caller in callers:
        caller.kill()
    for _ in range(arguments.kills):
        told[f"kill: {killed(folder, model, sources[0], float(draw.uniform(0, 0.3))) or 'nothing lost'}"] += 1
    for text, count in sorted(told.items()):
        print(f"{count:4} x {text}")
    good = told["new: nothing lost"] == told["update: nothing lost"] == arguments.times
    return 0 if good and told["kill: nothing lost"] == arguments.kills else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
