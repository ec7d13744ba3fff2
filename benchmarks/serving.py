"""Times `hierax serve` on loopback: throughput, latency, overload, and other servers of the same model.

    python benchmarks/serving.py all        [--litserve PYTHON]      # everything below, in about 8 minutes
    python benchmarks/serving.py saturation [--rounds 3 --seconds 10 --connections 16]
    python benchmarks/serving.py latency    [--rounds 3 --seconds 10]
    python benchmarks/serving.py overload   [--overload-seconds 60 --times 10]
    python benchmarks/serving.py beside     [--rounds 3 --seconds 10] [--litserve PYTHON]

The model is hiera_tiny_224 with random weights, the images are JPEGs of 500 x 375 pixels, and the load comes from a
second process (serving_load.py). The engine of the comparison is measured in a process of its own, on ready pixels,
with the batch that is fastest for it; server and engine take turns, and a ratio is the median of the rounds. Nothing
else should run on the machine. `--litserve` names a Python that has litserve and hierax.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENGINE = """
import json, sys, time, torch, hierax
engine = hierax.Engine(sys.argv[1], precision=sys.argv[2], max_shapes=16)
pixels = torch.randn(64, 3, 224, 224)
batches = (1, 2, 4, 8, 16, 32)
engine.warm_up(batches=batches)
def measure(batch, seconds, pause=0):
    times, begin = [], time.perf_counter()
    while time.perf_counter() - begin < seconds:
        time.sleep(pause)
        start = time.perf_counter()
        engine(pixel_values=pixels[:batch])
        times.append(time.perf_counter() - start)
    return len(times) * batch / sum(times), sorted(times)[len(times) // 2]
print(json.dumps({"how": f"{engine.precision} {engine.backend}, {engine.threads} threads"}), flush=True)
for line in sys.stdin:
    batch, seconds, pause = json.loads(line)
    if batch == 0:
        best = max((measure(b, seconds / 6) + (b,) for b in batches), key=lambda found: found[0])
        print(json.dumps(best), flush=True)
    else:
        print(json.dumps(measure(batch, seconds, pause)), flush=True)
"""


def make_inputs(folder: Path, count: int = 16) -> tuple[Path, list[Path]]:
    """The model and the images, in a folder."""
    import torch
    from PIL import Image

    import hierax
    import hierax.demo

    model = folder / "hiera_tiny_224"
    torch.manual_seed(0)
    hierax.create_model("hiera_tiny_224").save_pretrained(model)
    photos = sorted((Path(hierax.__file__).parent / "assets").rglob("*.jpg"))
    images = []
    for number in range(count):
        with Image.open(photos[number % len(photos)]) as photo:
            wide = photo.convert("RGB").resize((550, 413))
        left, top = number * 3 % 50, number * 2 % 38
        images.append(folder / f"image{number:02}.jpg")
        buffer = io.BytesIO()
        wide.crop((left, top, left + 500, top + 375)).save(buffer, "JPEG", quality=90)
        images[-1].write_bytes(buffer.getvalue())
    return model, images


@contextlib.contextmanager
def serving(command: Sequence[str], log: Path, **environment: str) -> Iterator[tuple[int, int]]:
    """A server in a process: its port and its process id. It prints the address `http://127.0.0.1:PORT` when ready."""
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | environment)
    try:
        while "http://127.0.0.1:" not in (text := log.read_text()):
            if process.poll() is not None:
                raise SystemExit(text)
            time.sleep(0.1)
        port = int(text.partition("http://127.0.0.1:")[2].split()[0].split("/")[0])
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def hierax_serve(model: Path, options: argparse.Namespace) -> list[str]:
    """The command of our server."""
    command = [sys.executable, "-m", "hierax", "serve", "--model", str(model), "--port", "0"]
    return [*command, "--precision", options.precision, *options.serve]


@contextlib.contextmanager
def engine_process(model: Path, precision: str) -> Iterator[Any]:
    """A function `(batch, seconds, pause)` that measures the engine in a process: images/s, and seconds per call."""
    command = [sys.executable, "-W", "ignore", "-c", ENGINE, str(model), precision]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print("engine:", json.loads(process.stdout.readline())["how"], flush=True)

        def ask(batch: int, seconds: float, pause: float = 0.0) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([batch, seconds, pause]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        try:
            yield ask
        finally:
            process.stdin.close()


def load(port: int, images: Sequence[Path], kind: str, seconds: float, **options: Any) -> dict[str, Any]:
    """What came of a load from a second process."""
    command = [sys.executable, str(HERE / "serving_load.py"), str(port), kind, *map(str, images)]
    command += ["--seconds", str(seconds)]
    for name, value in options.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    for text in found["wrong"][:5]:
        print("WRONG:", text)
    return found


def answered(found: dict[str, Any], seconds: float) -> float:
    """Images per second that were answered, without the first and last tenth of the time."""
    first, last = seconds * 0.1, seconds * 0.9
    return sum(first <= start + took < last and status == 200 for start, took, status, _ in found["rows"]) / (
        last - first
    )


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile of values, the larger neighbor."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def latencies(found: dict[str, Any], *, status: int = 200) -> list[float]:
    """Milliseconds of the answers with a status."""
    return [took * 1000 for _, took, code, _ in found["rows"] if code == status]


def saturation(options: argparse.Namespace, folder: Path) -> None:
    """Images per second at saturation, and those of the engine."""
    model, images = make_inputs(folder)
    ratios = []
    with (
        engine_process(model, options.precision) as engine,
        serving(hierax_serve(model, options), folder / "log.txt") as (port, _),
    ):
        load(port, images, "closed", 3, connections=options.connections)
        for number in range(options.rounds):
            own, _, batch = engine(0, options.seconds)
            found = load(port, images, "closed", options.seconds, connections=options.connections)
            served = answered(found, options.seconds)
            ratios.append(served / own)
            print(f"round {number + 1}: engine {own:.1f}/s (batch {batch}), server {served:.1f}/s: {ratios[-1]:.3f}")
    print(f"throughput at saturation / engine: median {statistics.median(ratios):.3f}")


def latency(options: argparse.Namespace, folder: Path) -> None:
    """Latency of a lone client beside the engine's, and at half load.

    Between two requests of a lone client, the threads of the engine sleep; so it is also measured with pauses of 5 ms.
    """
    model, images = make_inputs(folder)
    differences, rested_differences, shares = [], [], []
    with (
        engine_process(model, options.precision) as engine,
        serving(hierax_serve(model, options), folder / "log.txt") as (port, _),
    ):
        load(port, images, "closed", 3, connections=options.connections)
        most = answered(load(port, images, "closed", options.seconds, connections=options.connections), options.seconds)
        for number in range(options.rounds):
            own = engine(1, options.seconds / 4)[1] * 1000
            rested = engine(1, options.seconds / 4, 0.005)[1] * 1000
            alone = latencies(load(port, images, "closed", options.seconds / 2, connections=1))
            half = latencies(load(port, images, "open", options.seconds, rate=most / 2))
            middle, p50, p99 = quantile(alone, 0.5), quantile(half, 0.5), quantile(half, 0.99)
            differences.append(middle - own)
            rested_differences.append(middle - rested)
            shares.append(p99 / p50)
            print(
                f"round {number + 1}: engine {own:.1f} ms, after pauses {rested:.1f} ms, lone p50 {middle:.1f} ms; "
                f"at {most / 2:.0f}/s p50 {p50:.1f} ms, p99 {p99:.1f} ms ({p99 / p50:.2f}x)"
            )
    print(f"lone p50 - engine's p50: median {statistics.median(differences):.1f} ms")
    print(f"lone p50 - engine's p50 after pauses: median {statistics.median(rested_differences):.1f} ms")
    print(f"p99 / p50 at half load: median {statistics.median(shares):.2f}")


def overload(options: argparse.Namespace, folder: Path) -> None:
    """Many times more requests than can be answered."""
    model, images = make_inputs(folder)
    with serving(hierax_serve(model, options), folder / "log.txt") as (port, pid):
        load(port, images, "closed", 5, connections=options.connections)
        most = answered(load(port, images, "closed", 10, connections=options.connections), 10)
        load(port, images, "open", 10, rate=most * options.times)  # memory of the queue that is full
        with memory(pid) as sizes:
            found = load(port, images, "open", options.overload_seconds, rate=most * options.times, check=True)
    refused = [took for status in (429, 503) for took in latencies(found, status=status)]
    good = answered(found, options.overload_seconds)
    sent = len(found["rows"]) / options.overload_seconds
    first, last = statistics.median(sizes[: len(sizes) // 10 + 1]), statistics.median(sizes[-(len(sizes) // 10 + 1) :])
    codes = {code: sum(row[2] == code for row in found["rows"]) for code in sorted({row[2] for row in found["rows"]})}
    print(f"saturation {most:.1f}/s; sent {sent:.0f}/s ({sent / most:.1f}x; {found['unsent']} not sent); {codes}")
    print(f"answered {good:.1f}/s: {good / most:.3f} of saturation; wrong or lost: {len(found['wrong'])}")
    print(
        f"refused: p50 {quantile(refused, 0.5):.1f} ms, p99 {quantile(refused, 0.99):.1f}, most {max(refused):.1f} ms"
    )
    print(f"answers: p50 {quantile(latencies(found), 0.5):.0f} ms, p99 {quantile(latencies(found), 0.99):.0f} ms")
    slow = sorted(
        (round(start, 1), round(took, 2)) for start, took, code, _ in found["rows"] if code == 429 and took > 0.05
    )
    print(f"refused later than 50 ms: {len(slow)} of {len(refused)}; the first: {slow[:5]}")
    print(f"memory: {first:.0f} -> {last:.0f} MiB ({last / first - 1:+.1%}), most {max(sizes):.0f}")


@contextlib.contextmanager
def memory(pid: int) -> Iterator[list[float]]:
    """MiB of a process, every half second."""
    sizes: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.5):
            text = Path(f"/proc/{pid}/status").read_text()
            sizes.append(int(text.partition("VmRSS:")[2].split()[0]) / 1024)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sizes
    finally:
        done.set()
        thread.join()


def beside(options: argparse.Namespace, folder: Path) -> None:
    """Other servers of the same model; all run at once, and the load goes to one after another."""
    model, images = make_inputs(folder)
    others = {"FastAPI and transformers": [sys.executable, str(HERE / "serving_peers.py"), str(model)]}
    if options.litserve:
        others["LitServe, hierax engine"] = [options.litserve, str(HERE / "serving_litserve.py"), str(model)]
    commands = {"hierax serve": hierax_serve(model, options), **others}
    rates: dict[str, list[float]] = {name: [] for name in commands}
    with contextlib.ExitStack() as stack:
        ports = {
            name: stack.enter_context(serving(command, folder / f"{number}.txt"))[0]
            for number, (name, command) in enumerate(commands.items())
        }
        for port in ports.values():
            load(port, images, "closed", 3, connections=options.connections)
        for _ in range(options.rounds):
            for name, port in ports.items():
                found = load(port, images, "closed", options.seconds, connections=options.connections)
                rates[name].append(answered(found, options.seconds))
    for name, found in rates.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(rates["hierax serve"], found, strict=True))
        print(f"{name}: {statistics.median(found):.1f}/s; hierax serve has {ratio:.2f} times as many")


MEASURES = {"saturation": saturation, "latency": latency, "overload": overload, "beside": beside}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("all", *MEASURES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--times", type=float, default=10.0)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--litserve")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="more options of hierax serve")
    options = parser.parse_args()
    for name in MEASURES if options.what == "all" else [options.what]:
        print(f"\n{name}: {' '.join(sys.argv)}")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            MEASURES[name](options, Path(folder))


if __name__ == "__main__":
    main()
