"""Signals to every command at many moments: each ends in order, leaves nothing behind, and the same command then makes
what one without interruption makes.

    python tests/signals_proof.py FOLDER --seed 0 --only embed,classify

Writes into FOLDER, prints a table with one line a case, and ends with 1 where something does not hold. A moment is an
event (a library is loaded, a line is said, a file appears) and a short, drawn delay after it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from hierax.atomic import PARTS

LONGEST = 180  # seconds until a command counts as one that hangs
NARROW = (
    "model=hiera_tiny_224", "embed_dim=8", "depths=[1,1,1,1]", "num_heads=[1,1,1,1]", "image_size=64", "epochs=3",
    "batch_size=4", "workers=0", "weights=last",
)  # fmt: skip
BAD = ("Traceback", "fault of hierax", "Exception ignored", "core dumped", "terminate called", "resource_tracker")


@dataclass(frozen=True)
class Command:
    """A command; `{in}` is the folder of what all read, `{out}` one of its own.

    Attributes:
        events: name and what to wait for: "maps TEXT" (a library is loaded), "line TEXT" (is said), "file PATTERN"
            (below `{out}`), "share X" (of the length of a whole run).
        compare: patterns of files below `{out}` that a run after an interruption makes alike, and "-" for stdout.
        lines: whether it writes several lines to stdout, so that a reader can leave after the first.
    """

    words: str
    events: tuple[str, ...]
    compare: tuple[str, ...] = ("-",)
    lines: bool = False
    again: str = ""
    name: str = ""

    @property
    def called(self) -> str:
        """As the table shows it."""
        return self.name or self.words.split()[0]


_LOADS = "maps libtorch_cpu"
_ENGINE = (_LOADS, "maps openvino", "line weights under")
_TRAIN = ("{in}/images -o {out}/run --device cpu " + " ".join(NARROW)).replace("workers=0", "workers=1")
COMMANDS = (
    Command(
        "classify {in}/images -o {out}/labels.csv --overwrite", (*_ENGINE, "share 0.9"), ("-", "labels.csv"), lines=True
    ),
    Command("features {in}/few -o {out}/maps --overwrite", (*_ENGINE, "file maps/*.npz"), ("maps/*.npz", "maps/*.png")),
    Command("reconstruct {in}/few -o {out}/r.png --overwrite", (*_ENGINE, "share 0.9"), ("r.png",)),
    Command(
        "embed {in}/images -o {out}/c --workers 1 --batch-size 2",
        (_LOADS, "file c/manifest.json", "file c/data/*", "share 0.9"),
        ("c/data/*", "c/listings/*"),
    ),
    Command(
        "embed {in}/images {in}/few -o {out}/c --update --workers 0",
        (_LOADS, "line weights under", "file c/listings/0001*", "share 0.9"),
        ("c/data/*", "c/listings/*"),
        again="embed {in}/images -o {out}/c --workers 0 --batch-size 2",
        name="embed --update",
    ),
    Command("search {in}/c {in}/few/a00.png", (_LOADS, "maps openvino", "share 0.8"), lines=True),
    Command(
        "duplicates {in}/c --threshold 0.5 --verify --html {out}/d.html --overwrite",
        ("share 0.3", "maps libarrow", "share 0.8", "file .*"),
        ("-", "d.html"),
        lines=True,
    ),
    Command(
        "outliers {in}/c --html {out}/o.html --overwrite",
        ("share 0.3", "maps libarrow", "share 0.8"),
        ("-", "o.html"),
        lines=True,
    ),
    Command("map {in}/c -o {out}/m.html --overwrite", ("share 0.3", "maps libarrow", "share 0.8"), ("m.html",)),
    Command("stats {in}/images", ("share 0.2", "share 0.5", "share 0.9"), lines=True),
    Command("demo {in}/few/a00.png -o {out}/demo", (_LOADS, "share 0.6", "share 0.9"), ("demo/sheet.png",)),
    Command("convert hierax/femto {out}/cv --to official --overwrite", (_LOADS, "share 0.7", "file cv"), ("cv/*",)),
    Command(
        "export {in}/small -o {out}/e --format pt2 --batch 1 --overwrite",
        (_LOADS, "share 0.5", "line comparing", "share 0.9"),
        ("e/preprocessor_config.json",),
    ),
    Command(
        "finetune {in}/images --from scratch -o {out}/run --device cpu " + " ".join(NARROW),
        (_LOADS, "file run/run.json", "file run/log.jsonl", "file run/checkpoints/*", "file run/model*"),
        ("run/model/*",),
    ),
    Command(
        f"pretrain --from scratch {_TRAIN} decoder_hidden_size=16 decoder_depth=1 decoder_num_heads=2".replace(
            "model=hiera", "model=mae_hiera"
        ),
        (_LOADS, "file run/run.json", "file run/log.jsonl", "file run/checkpoints/*"),
        ("run/model/*",),
    ),
    Command("evaluate {in}/images --model {in}/run --json", (_LOADS, "share 0.7", "share 0.9")),
    Command(
        "bench --model {in}/small --seconds 1 --rounds 2 --batch 1 -o {out}/b.json --overwrite",
        (_LOADS, "line batch 1", "share 0.9"),
        (),
    ),
    Command("doctor", ("share 0.3", "share 0.8"), (), lines=True),
    Command("models", ("share 0.5",), lines=True),
    Command("recipes", (_LOADS, "share 0.8"), lines=True),
)


@dataclass
class Case:
    """A command, a moment, and what is sent."""

    command: Command
    event: str
    sent: tuple[str, ...]
    delay: float
    problems: list[str] = field(default_factory=list)
    code: int | None = None
    last: str = ""


def write_inputs(folder: Path) -> None:
    """What commands read: images of two classes, a small model, a collection, a run."""
    draw = np.random.default_rng(0)
    for label, high in (("a", 120), ("b", 256)):
        for number in range(16):
            place = folder / "images" / label / f"{label}{number:02}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, high, (120, 160, 3), dtype=np.uint8)).save(place)
    (folder / "few").mkdir()
    for name in ("a00", "a01", "b00"):
        shutil.copy(folder / "images" / name[0] / f"{name}.png", folder / "few")
    made = "finetune {in}/images --from scratch -o {in}/run --device cpu", "embed {in}/images -o {in}/c --workers 0"
    done = _run([*made[0].split(), *NARROW], folder, folder)
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "run" / "model", folder / "small")
    done = _run(made[1].split(), folder, folder)
    assert done.returncode == 0, done.stderr


def _words(words: Sequence[str], given: Path, out: Path) -> list[str]:
    filled = [word.replace("{in}", str(given)).replace("{out}", str(out)) for word in words]
    return [sys.executable, "-m", "hierax", *filled]


def _environment(given: Path, out: Path) -> dict[str, str]:
    temporary = out / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    own = {
        "TMPDIR": str(temporary),
        "HIERAX_CACHE": str(given / "cache"),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return {**os.environ, **own}


def _run(words: Sequence[str], given: Path, out: Path) -> subprocess.CompletedProcess[str]:
    out.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        _words(words, given, out), capture_output=True, text=True, env=_environment(given, out), timeout=LONGEST
    )


def fingerprint(command: Command, out: Path, stdout: str) -> dict[str, str]:
    """What a command made: digests of files, by name, and of stdout."""
    found: dict[str, str] = {}
    for pattern in command.compare:
        if pattern == "-":
            found["stdout"] = stdout.replace(str(out), "OUT")
        for path in sorted(out.glob(pattern)) if pattern != "-" else ():
            if path.is_file() and not path.match(PARTS):
                found[str(path.relative_to(out))] = hashlib.sha256(_content(path, out)).hexdigest()
    return found


def _content(path: Path, out: Path) -> bytes:
    """A file's content without what differs between runs: the folder's name, and the order of notes in safetensors."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        end = 8 + int.from_bytes(content[:8], "little")
        content = json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]
    return content.replace(str(out).encode(), b"OUT")


def left_over(out: Path, group: int) -> list[str]:
    """Temporary files, shared memory, and processes of a session that are still there after a while; Linux."""
    files = [
        str(p.relative_to(out))
        for p in out.rglob("*")
        if p.name.startswith((".", "tmp")) and p.name not in ("tmp", ".metadata")
    ]
    kept = "torchinductor"  # PyTorch's own cache, which stays after every export
    files += [str(p.relative_to(out)) for p in (out / "tmp").rglob("*") if kept not in str(p)]
    memory = [p.name for p in Path("/dev/shm").glob(f"*_{group}_*")]
    end = time.monotonic() + 5
    while (alive := _processes(group)) and time.monotonic() < end:
        time.sleep(0.05)
    return [*files, *memory, *alive]


def _processes(group: int) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = place.read_text().rpartition(")")
            if int(rest.split()[3]) == group and rest.split()[0] != "Z":
                found.append(name)
    return found


class Running:
    """A command that runs in a session of its own, and what it said so far."""

    def __init__(self, words: Sequence[str], given: Path, out: Path, *, background: bool = False) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out = out
        self.said, self.told = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115  (as long as this object)
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            _words(words, given, out), stdout=self.told, stderr=self.said, env=_environment(given, out),
            start_new_session=True, stdin=subprocess.DEVNULL, preexec_fn=_ignore_interrupts if background else None,
        )  # fmt: skip

    def text(self) -> tuple[str, str]:
        """stdout and stderr so far."""
        return tuple(os.pread(f.fileno(), 1 << 22, 0).decode("utf-8", "replace") for f in (self.told, self.said))  # type: ignore[return-value]

    def has(self, event: str, length: float) -> bool:
        """Whether an event has come."""
        kind, _, what = event.partition(" ")
        if kind == "share":
            return time.monotonic() - self.began >= float(what) * length
        if kind == "line":
            return re.search(what, "".join(self.text())) is not None
        if kind == "file":
            return any(True for path in self.out.glob(what) if path.name != "tmp")
        with contextlib.suppress(OSError):
            return what in Path(f"/proc/{self.process.pid}/maps").read_text()
        return False

    def wait_for(self, event: str, length: float) -> bool:
        """Waits for an event; False if the command ended before."""
        while not self.has(event, length):
            if self.process.poll() is not None:
                return False
            time.sleep(0.002)
        return True

    def send(self, number: int, *, group: bool) -> None:
        """Sends a signal to the process, or as a terminal does to all of them."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, number)

    def close(self) -> None:
        """Forgets what it said."""
        self.said.close()
        self.told.close()

    def end(self) -> int | None:
        """The exit status; None where it hangs."""
        try:
            return self.process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL, group=True)
            self.process.wait()
            return None


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


CODES = {"INT": 130, "TERM": 143, "HUP": 129, "KILL": -9}


def try_case(case: Case, given: Path, out: Path, expected: dict[str, str], length: float) -> None:
    """Interrupts a command and runs it again; notes what is wrong."""
    shutil.rmtree(out, ignore_errors=True)
    command = case.command
    if command.again:
        done = _run(command.again.split(), given, out)
        assert done.returncode == 0, done.stderr
    words = command.words.split()
    if case.sent == ("pipe",):
        _closed_pipe(case, words, given, out)
    else:
        _signals(case, words, given, out, length)
    done = _run(words, given, out)
    if case.code == 0 and done.returncode == 2 and "would be replaced" in done.stderr:
        pass  # the signal came after the end, and nothing is replaced without being told
    elif done.returncode != 0:
        case.problems.append(f"again: {done.returncode}: {done.stderr[-300:]}")
    elif (found := fingerprint(command, out, done.stdout)) != expected:
        different = [n for n in {**found, **expected} if found.get(n) != expected.get(n)]
        if different != ["stdout"] or case.code != 0:
            case.problems.append(f"again, other results: {different}")
    hidden = left_over(out, -1)
    if case.code == -9:  # nobody can remove what a process was writing when it was killed
        hidden = [name for name in hidden if not PurePath(name).match(PARTS)]
    if hidden:
        case.problems.append(f"left over at the end: {hidden}")


def _signals(case: Case, words: Sequence[str], given: Path, out: Path, length: float) -> None:
    background = case.sent == ("INT background",)
    running = Running(words, given, out, background=background)
    came = running.wait_for(case.event, length)
    time.sleep(case.delay)
    stopped = False
    for number, name in enumerate(case.sent):
        if number:
            time.sleep(0.15)
        if name == "TSTP":
            running.send(signal.SIGTSTP, group=True)
            time.sleep(0.3)
            running.send(signal.SIGCONT, group=True)
            stopped = True
            continue
        running.send(signal.Signals[f"SIG{name.split()[0]}"], group=name != "TERM one")
    case.code = running.end()
    told, said = running.text()
    codes = [CODES[name.split()[0]] for name in case.sent if name in CODES or name == "TERM one"]
    wanted = [] if background or stopped or not came else codes
    lines = [line for line in said.strip().splitlines() if line]
    case.last = lines[-1] if lines else ""
    if case.code is None:
        case.problems.append(f"hangs: {said[-300:]}")
    elif case.code not in (*wanted, 0):
        case.problems.append(f"exit code {case.code}: {said[-600:]}")
    elif case.code not in (0, -9) and not re.search("interrupted|terminated|terminal was closed|resume", case.last):
        case.problems.append(f"last line: {case.last[-200:]}")
    case.problems += [f"{word}: {said[-600:]}" for word in BAD if word in said + told][:1]
    running.close()
    left = left_over(out, running.process.pid)
    if left and case.code != -9:
        case.problems.append(f"left over: {left}")


def _closed_pipe(case: Case, words: Sequence[str], given: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            _words(words, given, out), stdout=subprocess.PIPE, stderr=said, env=_environment(given, out),
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        case.code = process.wait(LONGEST)
        text = os.pread(said.fileno(), 1 << 20, 0).decode()
    case.last = text.strip().splitlines()[-1] if text.strip() else ""
    if case.code not in (0, 141):
        case.problems.append(f"exit code {case.code}: {text[-300:]}")
    case.problems += [f"{word}: {text[-600:]}" for word in BAD if word in text][:1]
    if left := left_over(out, process.pid):
        case.problems.append(f"left over: {left}")


def cases(draw: random.Random, each: int) -> Iterator[Case]:
    """So many cases a command, or as many as it has events; kinds of signals go round."""
    turn = 0
    for command in COMMANDS:
        for number in range(each if len(command.events) > 1 else 1):
            sent = SENT[turn % len(SENT)]
            turn += 1
            yield Case(command, command.events[number % len(command.events)], sent, draw.uniform(0, 0.2))
        if command.lines:
            yield Case(command, "first line is read", ("pipe",), 0)


SENT: tuple[tuple[str, ...], ...] = (
    ("INT",), ("TERM",), ("HUP",), ("INT", "INT"), ("TERM one",), ("KILL",), ("INT",), ("TERM",), ("INT background",),
    ("HUP",), ("TSTP",), ("INT", "INT", "INT"), ("TERM", "INT"),
)  # fmt: skip


def main(given: Sequence[str] | None = None, tell: Callable[[str], object] = print) -> int:
    """Tries all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=3, help="cases a command, closed pipes besides")
    parser.add_argument("--only", default="", help="commands, with commas between")
    arguments = parser.parse_args(given)
    folder = arguments.folder.resolve()
    inputs, out = folder / "in", folder / "out"
    if not inputs.exists():
        inputs.mkdir(parents=True)
        write_inputs(inputs)
    only = arguments.only.split(",") if arguments.only else []
    expected: dict[str, tuple[dict[str, str], float]] = {}
    bad = count = 0
    for case in cases(random.Random(arguments.seed), arguments.each):
        command = case.command
        if only and command.called not in only:
            continue
        if command.words not in expected:
            expected[command.words] = _whole(command, inputs, out)
        try_case(case, inputs, out, *expected[command.words])
        count, bad = count + 1, bad + bool(case.problems)
        problem = "; ".join(case.problems).replace("\n", " | ")
        shown = f"{command.called:15} {'+'.join(case.sent):14} {case.event:24} +{case.delay:.2f}"
        tell(f"{shown}  {case.code!s:>4}  {f'BAD {problem}' if problem else case.last[:90]}")
    tell(f"{count} cases, {bad} bad")
    return 1 if bad else 0


def _whole(command: Command, given: Path, out: Path) -> tuple[dict[str, str], float]:
    """What an uninterrupted run makes, and its length in seconds."""
    shutil.rmtree(out, ignore_errors=True)
    if command.again:
        _run(command.again.split(), given, out)
    start = time.monotonic()
    done = _run(command.words.split(), given, out)
    length = time.monotonic() - start
    assert done.returncode == 0, (command.words, done.stderr)
    return fingerprint(command, out, done.stdout), length


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    raise SystemExit(main())
