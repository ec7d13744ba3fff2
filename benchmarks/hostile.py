"""Sends hostile requests to a server, and reports what was not as it must be.

    hierax serve --port 8765 --deadline 10 &
    python benchmarks/hostile.py 127.0.0.1:8765 --count 10000 --pid $! -o hostile.json

Every request is one of `KINDS`, drawn with a seed: damaged images, archives of zeros, forms without an end, deep JSON,
lying lengths, clients that leave, and so on. The server must answer each with a status below 500, or 503 or 504; it
must
never hang; its memory must not grow without bound; and after each thousand requests it must still answer a good one as
before.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from hostile_requests import KINDS
from hostile_sending import Address, Finding, good_answer

_ALLOWED = {503, 504}


class Watch:
    """The memory of a process and its children, read once a second."""

    def __init__(self, pid: int | None) -> None:
        self.pid, self.most, self.samples = pid, 0.0, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self.pid is not None and not self._stop.wait(1):
            self.samples.append(self.now())
            self.most = max(self.most, self.samples[-1])

    def now(self) -> float:
        """Megabytes; 0 if no process was named."""
        if self.pid is None:
            return 0.0
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(_resident(int(pid)) for pid in (self.pid, *children))

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()


def _resident(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS")), 0.0)


def attempt(address: Address, number: int, seed: int, kinds: list[str]) -> dict[str, Any]:
    """One hostile request: its kind, the statuses that came back, and what is wrong with them."""
    chance = random.Random(f"{seed}:{number}")
    kind = chance.choice(kinds)
    started = time.perf_counter()
    problem = ""
    statuses: list[int] = []
    try:
        statuses = KINDS[kind](address, chance)
    except Finding as finding:
        problem = str(finding)
    except TimeoutError:
        problem = "no answer"
    except OSError:
        statuses = [0]  # the server closed the connection
    seconds = time.perf_counter() - started
    wrong = [status for status in statuses if status >= 500 and status not in _ALLOWED]
    if wrong:
        problem = f"status {wrong[0]}"
    return {"kind": kind, "number": number, "statuses": statuses, "seconds": seconds, "problem": problem}


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="HOST:PORT of the server")
    parser.add_argument("--count", type=int, default=10_000, help="number of requests")
    parser.add_argument("--threads", type=int, default=8, help="clients at the same time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pid", type=int, help="process of the server, whose memory is watched")
    parser.add_argument("--kinds", help="only these kinds, with commas")
    parser.add_argument("-o", "--output", type=Path, help="JSON of all that was found")
    options = parser.parse_args()
    host, _, port = options.address.partition(":")
    address = Address(host, int(port))
    kinds = options.kinds.split(",") if options.kinds else sorted(KINDS)
    expected = good_answer(address)
    watch = Watch(options.pid)
    before = watch.now()
    results: list[dict[str, Any]] = []
    damaged = []
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(options.threads) as pool:
        for start in range(0, options.count, 1000):
            numbers = range(start, min(start + 1000, options.count))
            results += pool.map(lambda n: attempt(address, n, options.seed, kinds), numbers)
            if good_answer(address) != expected:
                damaged.append(start + 1000)
            print(f"{len(results):6} requests, {watch.now():.0f} MB", flush=True)
    seconds = time.perf_counter() - started
    time.sleep(3)
    watch.close()
    report = summary(results) | {
        "requests": len(results),
        "seconds": round(seconds),
        "memory": [round(before), round(watch.most), round(watch.now())],
        "wrong answers to good requests after": damaged,
    }
    print(json.dumps(report, indent=1))
    if options.output:
        options.output.write_text(json.dumps({"report": report, "results": results}))
    sys.exit(1 if report["problems"] or damaged else 0)


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by kind and status, the problems, and the slowest requests."""
    by_kind: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for result in results:
        for status in result["statuses"] or ["-"]:
            by_kind[result["kind"]][str(status)] += 1
    problems = [f"{r['kind']} #{r['number']}: {r['problem']}" for r in results if r["problem"]]
    slowest = sorted(results, key=lambda r: -r["seconds"])[:5]
    return {
        "statuses": {kind: dict(sorted(counts.items())) for kind, counts in sorted(by_kind.items())},
        "problems": problems[:50],
        "slowest": [f"{r['kind']} #{r['number']}: {r['seconds']:.1f} s" for r in slowest],
    }


if __name__ == "__main__":
    main()
